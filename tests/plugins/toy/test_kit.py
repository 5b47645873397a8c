"""What the author of the toy runs in a repository of their own."""

from thaw_toy_backend import ToyBackend

from thaw.testing import BackendTests


class TestToy(BackendTests):
    def make_backend(self):
        return ToyBackend()

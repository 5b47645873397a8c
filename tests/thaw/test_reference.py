"""The reference backend passes the kit that it defines."""

import pytest
import torch

from thaw.plugins.reference import ReferenceBackend
from thaw.testing import BackendTests


class TestReference(BackendTests):
    def make_backend(self) -> ReferenceBackend:
        return ReferenceBackend()


class TestReferenceInSmallPieces(BackendTests):
    """Pieces smaller than a chunk, of an odd size."""

    def make_backend(self) -> ReferenceBackend:
        return ReferenceBackend(threads=2, piece_nbytes=10_007)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestReferenceOnCuda(BackendTests):
    device = "cuda"

    def make_backend(self) -> ReferenceBackend:
        return ReferenceBackend()

import thaw
from thaw.plugins.reference import ReferenceBackend


@thaw.hookimpl
def thaw_register_backends():
    return [ReferenceBackend()]

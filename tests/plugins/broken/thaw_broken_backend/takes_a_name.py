import thaw
from thaw.reference import ReferenceBackend


@thaw.hookimpl
def thaw_register_backends():
    return [ReferenceBackend()]

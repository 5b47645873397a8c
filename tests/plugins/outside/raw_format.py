"""A format of one tensor without a header: what the author of a format writes."""

from pathlib import Path

import torch

import thaw


class RawFormat(thaw.Format):
    name = "raw"
    description = "bytes, and nothing else"
    suffixes = (".raw",)

    def recognizes(self, path, head):
        return path.name.endswith(".raw")

    def open(self, place):
        assert not isinstance(place, Path)
        spec = thaw.TensorSpec(torch.uint8, (place.nbytes,), (1,), 0, 0)
        snapshot = thaw.Snapshot(
            path=place.path,
            format=self.name,
            sources=(place,),
            storages=(thaw.Storage(0, place.nbytes),),
            tensors={"bytes": spec},
            digests=(None,),
        )
        return (snapshot,)

    def verify(self, snapshot, progress):
        return 0


@thaw.hookimpl
def thaw_register_formats():
    return [RawFormat()]

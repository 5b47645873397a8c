"""A toy backend: one piece at a time through a bytearray."""

import ctypes

import google_crc32c
import torch

import thaw


class ToyBackend(thaw.Backend):
    name = "toy"

    def probe(self, device):
        if device.type != "cpu":
            return thaw.Support(False, "the toy plays on the CPU")
        return thaw.Support(True, "it is a toy", "toy-bytearray")

    def read(self, source, plan, *, progress=None):
        checked = 0
        for index in self._touched(plan):
            start, end = plan.digests.chunks.span(index)
            data = self._load(source, start, end)
            if google_crc32c.value(bytes(data)) != plan.digests.values[index]:
                raise thaw.ChecksumError(
                    "a chunk is damaged", code="chunk-checksum", rule="PAY-1", offset=start
                )
            checked += 1
        for extent in plan.extents:
            data = self._load(source, extent.offset, extent.end)
            extent.memory.copy_(torch.frombuffer(data, dtype=torch.uint8))
            if progress:
                progress(extent.nbytes)
        return thaw.Transfer("toy-bytearray", chunks_checked=checked)

    def write(self, target, plan, *, progress=None):
        payload = torch.zeros(plan.chunks.nbytes, dtype=torch.uint8)
        for extent in plan.extents:
            start = extent.offset - plan.chunks.offset
            payload[start : start + extent.nbytes] = extent.memory
        data = bytearray(payload.numpy().tobytes())
        if data:
            target.write_from(plan.chunks.offset, [_buffer(data)])
        step = plan.chunks.chunk_nbytes
        digests = [
            google_crc32c.value(bytes(data[i : i + step])) for i in range(0, len(data), step)
        ]
        return thaw.Transfer("toy-bytearray", digests=tuple(digests))

    def _touched(self, plan):
        if plan.digests is None:
            return []
        chunks = plan.digests.chunks
        return sorted(
            {
                index
                for extent in plan.extents
                for index in range(
                    (extent.offset - chunks.offset) // chunks.chunk_nbytes,
                    (extent.end - 1 - chunks.offset) // chunks.chunk_nbytes + 1,
                )
            }
        )

    def _load(self, source, start, end):
        data = bytearray(end - start)
        source.read_into(start, [_buffer(data)])
        return data


def _buffer(data):
    return (ctypes.c_ubyte * len(data)).from_buffer(data)


@thaw.hookimpl
def thaw_register_backends():
    return [ToyBackend()]

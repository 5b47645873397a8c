"""A backend that moves a chunk at a time through Python: what the author of a backend writes."""

import ctypes

import torch

import thaw


class SlowBackend(thaw.Backend):
    name = "slow"

    def probe(self, device):
        if device.type != "cpu":
            return thaw.Support(False, "it moves memory of the host alone")
        return thaw.Support(True, "a chunk at a time, by Python", "slowly")

    def read(self, source, plan, *, progress=None):
        checked = 0
        for start, end, expected in self._spans(plan):
            data = torch.empty(end - start, dtype=torch.uint8, device="cpu")
            source.read_into(start, [_buffer(data)])
            if expected is not None:
                if thaw.crc32c(_buffer(data)) != expected:
                    raise thaw.format_error(
                        "chunk-checksum", "a chunk is damaged", path=source.path, offset=start
                    )
                checked += 1
            for extent in plan.extents:
                first, last = max(start, extent.offset), min(end, extent.end)
                if first < last:
                    part = extent.memory[first - extent.offset : last - extent.offset]
                    part.copy_(data[first - start : last - start])
                    if progress:
                        progress(last - first)
        return thaw.Transfer("slowly", chunks_checked=checked)

    def write(self, target, plan, *, progress=None):
        digests = []
        for index in range(len(plan.chunks)):
            start, end = plan.chunks.span(index)
            data = torch.zeros(end - start, dtype=torch.uint8, device="cpu")
            for extent in plan.extents:
                first, last = max(start, extent.offset), min(end, extent.end)
                if first < last:
                    part = extent.memory[first - extent.offset : last - extent.offset]
                    data[first - start : last - start] = part.cpu()
            digests.append(thaw.crc32c(_buffer(data)))
            target.write_from(start, [_buffer(data)])
        return thaw.Transfer("slowly", digests=tuple(digests))

    def _spans(self, plan):
        if plan.digests is None:
            return [(extent.offset, extent.end, None) for extent in plan.extents]
        chunks = plan.digests.chunks
        spans = [(*chunks.span(i), value) for i, value in enumerate(plan.digests.values)]
        return [
            span
            for span in spans
            if any(each.offset < span[1] and each.end > span[0] for each in plan.extents)
        ]


def _buffer(data):
    buffer = (ctypes.c_ubyte * data.numel()).from_address(data.data_ptr())
    buffer._owner = data
    return buffer


@thaw.hookimpl
def thaw_register_backends():
    return [SlowBackend()]

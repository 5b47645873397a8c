"""When a transfer may begin, seen from the streams of a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack

import torch


def wait_for_caller(devices: Iterable[torch.device]) -> None:
    """Wait until the caller's current stream of each CUDA device has done what it was given.

    New memory, and bytes that are still to be made, are that stream's by torch's rules; whoever
    uses others orders them with it. They are not waited for, and go on meanwhile.
    """
    for device in set(devices):
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()


def as_of_now(
    devices: Iterable[torch.device],
) -> Callable[[], AbstractContextManager[object]]:
    """Remember the caller's current stream of each CUDA device.

    Returns:
        What makes them those of another thread, for a block.
    """
    streams = [torch.cuda.current_stream(each) for each in set(devices) if each.type == "cuda"]

    def enter() -> ExitStack:
        stack = ExitStack()
        for stream in streams:
            stack.enter_context(torch.cuda.stream(stream))
        return stack

    return enter

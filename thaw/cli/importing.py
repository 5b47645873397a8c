"""Torch, which takes seconds to import, is imported only for commands that need it."""

from __future__ import annotations

import os
import signal
import sys

from .errors import INTERRUPTION, report


def import_torch() -> None:
    """Import torch; meanwhile Ctrl-C ends the process at once, as in `thaw_command`."""
    # Not where it was imported already, perhaps by a program of which this is a part.
    if "torch" in sys.modules:
        return
    before = signal.getsignal(signal.SIGINT)
    # A shell's job in the background may ignore it.
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    import torch  # noqa: F401

    signal.signal(signal.SIGINT, before)


def _end(number: int, frame: object) -> None:
    """End at once: an exception amid an import may become another, or get lost."""
    report(INTERRUPTION, as_json="--json" in sys.argv)
    os._exit(INTERRUPTION.status)

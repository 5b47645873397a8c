"""The `thaw` command from its first moment: Ctrl-C is seen to before what takes time is imported.

A module of its own, since importing anything from a package imports the package first.
"""

import os
import signal
import sys

_MESSAGE = b"thaw: interrupted\n"
_DOCUMENT = (
    b'{"code": "interrupted", "rule": null, "message": "interrupted", "path": null, '
    b'"offset": null}\n'
)
_STATUS = 130


def main() -> None:
    """Run the command line."""
    before = signal.getsignal(signal.SIGINT)
    # A shell's job in the background may ignore it.
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from thaw.cli import main as run

    signal.signal(signal.SIGINT, before)
    run()


def _end(number: int, frame: object) -> None:
    """End at once: an exception amid an import may become another, or get lost."""
    os.write(2, _DOCUMENT if "--json" in sys.argv else _MESSAGE)
    os._exit(_STATUS)

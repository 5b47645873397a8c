"""Run an interactive session that a document shows: `session.py FILE`."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path
from typing import Any


def main(path: str) -> None:
    names: dict[str, Any] = {}
    shown: list[str] = []
    sys.displayhook = lambda value: shown.append(repr(value))
    for example in doctest.DocTestParser().get_examples(Path(path).read_text()):
        print(f">>> {example.source}", end="", flush=True)
        shown.clear()
        exec(compile(example.source, path, "single"), names)
        if example.want and shown != [example.want.strip()]:
            sys.exit(f"expected {example.want}got {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])

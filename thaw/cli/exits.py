"""Exit codes, and the codes of errors that are not a format's."""

from __future__ import annotations

from collections.abc import Mapping

OK, FAILED, USAGE, UNAVAILABLE, INTERRUPTED, CLOSED = 0, 1, 2, 3, 130, 141

EXIT_CODES: Mapping[int, str] = {
    OK: "done, and everything checked was right",
    FAILED: "invalid or mismatched data, an I/O error, a difference (`diff`, `bench`), or a "
    "failure of vLLM or of the launcher",
    USAGE: "wrong usage, or a backend that does not exist",
    UNAVAILABLE: "the backend cannot serve here, or vLLM is not installed",
    INTERRUPTED: "interrupted by Ctrl-C",
    CLOSED: "the reader of standard output has gone",
}

ERROR_CODES: Mapping[str, str] = {
    "mismatch": "the file is fine, but does not fit what was asked: a name or a rank is missing",
    "unsupported": "the destination's format cannot hold these tensors",
    "backend-unknown": "no backend has this name",
    "backend-unavailable": "the backend cannot serve here",
    "backend": "the backend failed",
    "transfer": "the backend could not move the bytes",
    "engine": "vLLM failed; what it says stands above",
    "engine-missing": "vLLM is not installed",
    "launcher": "no launcher runs, it cannot start, or it ended before its child",
    "io": "the operating system refused: no such file, no permission, no space",
    "usage": "the command was used wrongly",
    "interrupted": "Ctrl-C",
}

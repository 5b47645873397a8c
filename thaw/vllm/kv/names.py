"""From the name that a user gives a session to that of its file."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from thaw_format import ThawError, place_of

SUFFIX = ".thaw"
MAX_NBYTES = 255
_ALLOWED = (
    f"a session's name is text of 1 to {MAX_NBYTES - len(SUFFIX)} bytes in UTF-8, without '/', "
    "'\\' and control characters, that begins with no dot, neither begins nor ends with a space, "
    "and has the ending of no format beside its own"
)
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def safe_name(name: object) -> str:
    """Name the file, inside of a folder of sessions, of a session that a user names.

    Args:
        name: "alice", or "alice.thaw" for the same; it may be anyone's, as of a request.

    Raises:
        ThawError: it is no name of a session; the message says what is.
    """
    if not isinstance(name, str):
        raise ThawError(f"{_ALLOWED}; found {type(name).__name__}")
    stem = name.removesuffix(SUFFIX)
    if why := _fault(stem):
        raise ThawError(f"{name[:40]!a} {why}: {_ALLOWED}")
    return stem + SUFFIX


def path_of(name: str, folder: str | os.PathLike[str], *, any_path: bool = False) -> Path:
    """Find the file of a session that a user names: by a name, or by a path in the folder.

    Args:
        folder: that of the sessions.
        any_path: whether the path may be one outside of the folder.

    Raises:
        ThawError: it is none in the folder, or its name is no session's.
        ValueError, OSError: it is no path.
    """
    whole = Path(folder).resolve()
    if os.sep not in name:
        return whole / safe_name(name)
    path = place_of(name)
    if not any_path and path.parent != whole:
        raise ThawError(
            f"{name} is not in {whole}: requests name sessions of that folder, unless the "
            "connector's any_path is set"
        )
    return path.parent / safe_name(path.name)


def _fault(stem: str) -> str | None:
    if not stem:
        return "is empty"
    if stem != stem.strip() or stem.startswith("."):
        return "begins with a dot, or begins or ends with a space"
    if "/" in stem or "\\" in stem:
        return "has a separator of folders"
    if any(unicodedata.category(each) in _UNSAFE for each in stem):
        return "has a control character, or half of one"
    if len(os_name := f"{stem}{SUFFIX}".encode()) > MAX_NBYTES:
        return f"has {len(os_name) - len(SUFFIX)} bytes"
    return _foreign_ending(stem)


def _foreign_ending(stem: str) -> str | None:
    # Formats are plugins, which take long to load.
    from ...plugins.endings import find_ending

    found = find_ending(Path(stem)) or find_ending(Path(stem.lower()))
    return f"ends like a file of the format {found.name!r}" if found else None

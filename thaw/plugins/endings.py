"""What the name of a destination says of its format."""

from __future__ import annotations

from pathlib import Path

from thaw_format import ThawError

from ..seam.format import Format
from .host import registry


def find_ending(destination: Path) -> Format | None:
    """Find the format that a name ends like; None if it ends like none."""
    for each in registry().formats.values():
        if destination.name.endswith(each.suffixes):
            return each
    return None


def choose_format(destination: Path, name: str | None) -> Format:
    """Find the format to write: the one of a name, or the one that the destination ends like.

    Raises:
        ThawError: there is no such format, the ending says nothing, or it says another.
    """
    formats = registry().formats
    if name is None:
        found = find_ending(destination)
        if found is None:
            raise ThawError(f"the format of {destination} is not plain from its name; say format=")
        return found
    if name not in formats:
        raise ThawError(f"there is no format {name!r}; known here: {', '.join(formats)}")
    check_ending(destination, name)
    return formats[name]


def check_ending(destination: Path, name: str) -> None:
    """Make sure that a destination does not end like another format than the one to write.

    Raises:
        ThawError: it does.
    """
    found = find_ending(destination)
    if found is not None and found.name != name:
        suffixes = " or ".join(registry().formats[name].suffixes)
        raise ThawError(
            f"{destination} ends like the format {found.name!r}, but {name!r} is what would be "
            f"written: let it end in {suffixes}, or use `thaw convert` to write {found.name!r}"
        )

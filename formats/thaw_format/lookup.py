"""Names of a package that are looked up when they are used: what a module imports may take long."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import TypeAlias

Places: TypeAlias = Mapping[str, tuple[str, str]]
"""For each name its module and what it is called there."""


def places_of(package: str, names: Mapping[str, str], **renamed: tuple[str, str]) -> Places:
    """Say where each name of a package is.

    Args:
        names: for each module, which is one of the package where it begins with a dot, the names
            in it, divided by spaces.
        renamed: names that are others in their module, with that module and the other name.
    """
    found = {name: (module, name) for module, listed in names.items() for name in listed.split()}
    return {
        name: (f"{package}{module}" if module.startswith(".") else module, attribute)
        for name, (module, attribute) in (found | renamed).items()
    }


def look_up(
    package: str, places: Places, name: str, before: Mapping[str, str] | None = None
) -> object:
    """Import what a name of a package is, and keep it there.

    Args:
        before: names that others had before, which go on for a release.

    Raises:
        AttributeError: the package has no such name.

    Warns:
        DeprecationWarning: it is one of before.
    """
    owner = sys.modules[package]
    if before and name in before:
        warnings.warn(
            f"{package}.{name} is called {before[name]} now", DeprecationWarning, stacklevel=3
        )
        return getattr(owner, before[name])
    if name not in places:
        message = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=owner)
    module, attribute = places[name]
    value = getattr(import_module(module), attribute)
    setattr(owner, name, value)
    return value

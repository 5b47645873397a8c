"""Names of a package that are looked up when they are used: what a module imports may take long."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
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


def looked_up(
    package: str, places: Places, before: Mapping[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package whose names are looked up.

    A name is imported when it is first asked for, and kept. Others raise an `AttributeError`; one
    of before goes on for a release, with a `DeprecationWarning`.

    Args:
        before: names that others had before.
    """
    owner, former = sys.modules[package], before or {}

    def look_up(name: str) -> object:
        if name in former:
            warnings.warn(
                f"{package}.{name} is called {former[name]} now", DeprecationWarning, stacklevel=2
            )
            return getattr(owner, former[name])
        if name not in places:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=owner)
        module, attribute = places[name]
        value = getattr(import_module(module), attribute)
        setattr(owner, name, value)
        return value

    return look_up, lambda: sorted({*vars(owner), *places})

"""The plugin host: core's own plugin, guarded loading of others, and what they register."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar

import pluggy

from ..seam import hookspecs
from ..seam.backend import Backend
from ..seam.format import Format
from . import core as core_plugin

ENTRY_POINT_GROUP = "thaw"
CORE = "thaw-snapshot"


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_N = TypeVar("_N", bound=_Named)


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that could not be used, and why."""

    name: str
    distribution: str
    error: str


@dataclass(slots=True)
class Registry:
    """Everything that the plugins of this process registered."""

    manager: pluggy.PluginManager
    backends: dict[str, Backend] = field(default_factory=dict)
    formats: dict[str, Format] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)


@cache
def registry() -> Registry:
    """Load the plugins once and return what they registered."""
    return load(entry_points(group=ENTRY_POINT_GROUP))


def load(points: Iterable[EntryPoint]) -> Registry:
    """Load core's plugin and then the entry points one by one; a broken one harms no other."""
    manager = pluggy.PluginManager("thaw")
    manager.add_hookspecs(hookspecs)
    loaded = Registry(manager)
    _add(loaded, core_plugin, CORE, CORE)
    for point in sorted(points, key=lambda point: point.name):
        distribution = point.dist.name if point.dist else "unknown"
        try:
            _add(loaded, point.load(), point.name, distribution)
        # A plugin is a stranger's code: whatever it raises must not keep the others from loading.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            loaded.broken.append(BrokenPlugin(point.name, distribution, reason))
    return loaded


def _add(loaded: Registry, plugin: Any, name: str, distribution: str) -> None:
    manager = loaded.manager
    manager.register(plugin, name=name)
    try:
        manager.check_pending()
        others = [each for each in manager.get_plugins() if each is not plugin]
        own: Callable[[str], Any] = lambda hook: manager.subset_hook_caller(hook, others)()  # noqa: E731
        backends = _checked(own("thaw_register_backends"), Backend, loaded.backends)
        formats = _checked(own("thaw_register_formats"), Format, loaded.formats)
    except BaseException:
        manager.unregister(plugin)
        raise
    loaded.backends |= backends
    loaded.formats |= formats
    loaded.distributions |= dict.fromkeys((*backends, *formats), distribution)


def _checked(registered: list[Iterable[_N]], kind: type[_N], known: dict[str, _N]) -> dict[str, _N]:
    found: dict[str, _N] = {}
    for each in (each for group in registered for each in group):
        if not isinstance(each, kind):
            raise TypeError(f"{each!r} is no thaw.{kind.__name__}")
        if each.name in known or each.name in found or each.name == "auto":
            raise ValueError(f"the name {each.name!r} is taken")
        found[each.name] = each
    return found

"""Names of tensors in modules that torch.compile has wrapped: those of what was compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import nn

_INNER = "_orig_mod."
_T = TypeVar("_T")


class PlainNames:
    """Strips from names what `torch.compile` puts there, wherever in a module it was used."""

    def __init__(self, module: nn.Module) -> None:
        # The inner ones first: what wraps them is part of their prefix.
        self._prefixes = sorted(_wrapped(module), key=len, reverse=True)

    def plain(self, name: str) -> str:
        for prefix in self._prefixes:
            if name.startswith(prefix + _INNER):
                name = prefix + name[len(prefix) + len(_INNER) :]
        return name

    def renamed(self, named: Iterable[tuple[str, _T]]) -> Iterable[tuple[str, _T]]:
        if not self._prefixes:
            return named
        return ((self.plain(name), value) for name, value in named)


def _wrapped(module: nn.Module) -> Iterator[str]:
    # Who has not imported torch's compiler has compiled nothing, and importing it takes seconds.
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    kind = getattr(compiler, "OptimizedModule", None)
    if kind is None:
        return
    for name, each in module.named_modules(remove_duplicate=False):
        if isinstance(each, kind):
            yield f"{name}." if name else ""

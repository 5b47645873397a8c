"""What is known here: backends and formats, with what is broken and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..reports import BackendInfo, FormatInfo
from ..seam.backend import Backend, Support
from .host import registry

_DEVICES = ("cpu", "cuda")


class _Supports(Mapping[str, Support]):
    """What a backend could do with each device here, found out when it is looked at."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._found: dict[str, Support] = {}

    def __getitem__(self, device: str) -> Support:
        if device not in self._found:
            if device not in _DEVICES:
                raise KeyError(device)
            import torch

            self._found[device] = self._backend.probe(torch.device(device))
        return self._found[device]

    def __iter__(self) -> Iterator[str]:
        return iter(_DEVICES)

    def __len__(self) -> int:
        return len(_DEVICES)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[type[dict[str, Support]], tuple[dict[str, Support]]]:
        # A backend belongs to its process, what it could do there can be told elsewhere.
        return dict, (dict(self),)


def backends() -> tuple[BackendInfo, ...]:
    """List the backends and broken plugins; what a backend could do is found out on a look."""
    known = registry()
    found = [
        BackendInfo(name, known.distributions[name], _Supports(each))
        for name, each in known.backends.items()
    ]
    broken = [BackendInfo(b.name, b.distribution, {}, b.error) for b in known.broken]
    return (*found, *broken)


def formats() -> tuple[FormatInfo, ...]:
    """List the formats, and broken plugins."""
    known = registry()
    found = [
        FormatInfo(name, each.description, known.distributions[name], each.suffixes)
        for name, each in known.formats.items()
    ]
    broken = [FormatInfo(b.name, "", b.distribution, (), b.error) for b in known.broken]
    return (*found, *broken)

"""What is known here: backends and formats, with what is broken and why."""

from __future__ import annotations

import torch

from ..reports import BackendInfo, FormatInfo
from .host import registry


def backends() -> tuple[BackendInfo, ...]:
    """List the backends, what each could do with the devices here, and broken plugins."""
    known = registry()
    devices = [torch.device("cpu"), torch.device("cuda")]
    found = [
        BackendInfo(name, known.distributions[name], {str(d): each.probe(d) for d in devices})
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

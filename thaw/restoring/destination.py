"""Where tensors go that are restored, and which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import nn

Storages: TypeAlias = Literal["shared", "own"]
"""Whether new tensors are views of one allocation, or each storage is one of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Destination:
    """What a user says of it; see `thaw.restore`.

    Raises:
        TypeError: two things are said that do not go together.
    """

    into: nn.Module | Mapping[str, torch.Tensor] | None
    device: str | torch.device | None
    storages: Storages
    arena: torch.Tensor | None
    names: str | Sequence[str] | None
    strict: bool

    def __post_init__(self) -> None:
        into, device, own = self.into, self.device, self.storages != "shared"
        if into is not None and device is not None:
            raise TypeError(
                "give either into= or device=: tensors that are there have their device"
            )
        if self.storages not in get_args(Storages):
            raise ValueError(f"storages is 'shared' or 'own', not {self.storages!r}")
        if into is not None and own:
            raise TypeError(
                "give either into= or storages=: tensors that are there have their storage"
            )
        others = into is not None or device is not None or own or self.names is not None
        if self.arena is not None and others:
            raise TypeError(
                "give arena= alone: it takes all tensors, as views of memory that is there already"
            )

    @property
    def where(self) -> torch.device:
        """The device of new tensors."""
        if self.arena is not None:
            return self.arena.device
        return torch.device("cpu" if self.device is None else self.device)

    @property
    def takes_all(self) -> bool:
        """Whether all tensors go to memory that holds nothing yet."""
        return self.into is None and self.names is None

"""What operations report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .renaming import renamed
from .seam.backend import Support

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How many bytes moved, in how many seconds."""

    nbytes: int
    elapsed_s: float

    @property
    def gbps(self) -> float:
        """10^9 bytes a second."""
        return self.nbytes / self.elapsed_s / 1e9 if self.elapsed_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeReport(Report):
    """What a freeze wrote, and by which route.

    Attributes:
        left_out: names of tensors that are plain attributes of modules. `state_dict()` does not
            have them: by torch's rule they are no state, and a restore leaves them alone.
    """

    path: Path
    snapshot_id: str
    tensors: int
    backend: str
    route: str
    left_out: tuple[str, ...] = ()

    path_ran = renamed("path_ran", "route")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport(Report):
    """What a restore read and checked, and by which route.

    Attributes:
        chunks_checked: 0 where the format has no digests.
        staged: tensors that were read beside their target because strides differ.
        kept: names of the target that the snapshot does not have and that stay as they were.
    """

    path: Path
    tensors: int
    backend: str
    route: str
    chunks_checked: int
    staged: int = 0
    kept: tuple[str, ...] = ()

    path_ran = renamed("path_ran", "route")


@dataclass(frozen=True, slots=True, eq=False)
class Restored(Mapping[str, "torch.Tensor"]):
    """The restored tensors by name, and the report."""

    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    report: RestoreReport

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport(Report):
    """What was verified; a format without digests has `has_digests` False."""

    path: Path
    ranks: int
    tensors: int
    chunks_checked: int
    has_digests: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport(Report):
    """What was converted, from which format to which."""

    source_format: str
    destination_format: str
    tensors: int
    backend: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How a tensor differs: in its dtype, shape, stride, aliasing or bytes."""

    name: str
    what: str
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How two snapshots differ."""

    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    changed: tuple[TensorDifference, ...]
    tensors_compared: int

    @property
    def identical(self) -> bool:
        return not (self.only_in_a or self.only_in_b or self.changed)


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """A backend that is known here, what it could do, or why its plugin is broken.

    Attributes:
        support: by device; each is found out when it is looked at.
    """

    name: str
    distribution: str
    support: Mapping[str, Support]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """A format that is known here, or why its plugin is broken."""

    name: str
    description: str
    distribution: str
    suffixes: tuple[str, ...]
    error: str | None = None

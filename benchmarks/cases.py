"""What the line-rate benchmark measures: the cases by name, in the order of their importance."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from llama import Shapes, llama, split
from peers import PEERS

BACKENDS = ("native", "cupy", "gds-compat", "gds", "reference")
PLACES = ("tmpfs", "page-cache", "pinned", "cold-disk")
_FOLDERS = ("tmpfs", "disk", "peers")
LLAMA, MANY, CHECKPOINT = "llama.thaw", "many.thaw", "checkpoint"


@dataclass(frozen=True, slots=True)
class Settings:
    """How large everything is and where it lies; every process of a run gets the same.

    Attributes:
        count: the tensors of the case with many small ones.
        again: how many times a process restores once more after the first time.
        peers: a folder with a folder for each peer that is not installed beside thaw.
    """

    tmpfs: str
    disk: str
    device: str
    nbytes: int
    count: int
    again: int
    processes: int
    peers: str | None = None

    def where(self) -> torch.device:
        return torch.device("cuda", 0) if self.device == "cuda" else torch.device(self.device)

    def shapes(self, file: str) -> Shapes:
        return split(self.count, self.nbytes) if file == MANY else llama(self.nbytes)

    def path(self, file: str, place: str) -> Path:
        return Path(self.tmpfs if folder_of(place) == "tmpfs" else self.disk, file)

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def sizes(self) -> dict[str, Any]:
        """Return what results are comparable by: all but the folders."""
        return {key: value for key, value in asdict(self).items() if key not in _FOLDERS}


def folder_of(place: str) -> str:
    """Say whether files of a place lie in tmpfs or on the disk."""
    return "tmpfs" if place in ("tmpfs", "pinned") else "disk"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure.

    Attributes:
        action: the function that does it.
        subject: a backend or a peer.
        file: the file it reads, or writes.
        processes: in how many fresh processes.
        again: how often more in each; None for as often as the settings say.
        plain: whether what samples are compared with comes beside each of them: plain reads or
            writes of as many bytes, or a restore of `.thaw` without digests.
    """

    action: str
    place: str
    subject: str
    file: str = LLAMA
    setting: str = ""
    processes: int = 1
    again: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    plain: bool = False

    @property
    def name(self) -> str:
        parts = (self.action, self.place, self.subject, self.setting)
        return "/".join(part for part in parts if part)

    @property
    def writes(self) -> bool:
        return self.action in ("freeze", "freeze-many", "memory-freeze", "save")

    @property
    def reads(self) -> bool:
        return not self.writes and self.action != "ceilings"

    @property
    def ceiling(self) -> str | None:
        """Name the measured ceiling of the path the bytes take."""
        if self.action in ("freeze", "freeze-many", "save"):
            return f"{folder_of(self.place)}/write"
        if self.place == "cold-disk":
            return "disk/read-direct"
        return "tmpfs/h2d-pinned"


def catalogue(settings: Settings) -> dict[str, Case]:
    """Return every case by its name, in the order in which they run."""
    cases = [
        Case("ceilings", "tmpfs", ""),
        Case("ceilings", "disk", ""),
        *_native(settings.processes),
        *_peers(),
        *_others(),
    ]
    return {case.name: case for case in cases}


def _native(processes: int) -> list[Case]:
    name = BACKENDS[0]
    return [
        Case("freeze", "tmpfs", name, again=2, plain=True),
        Case("restore", "tmpfs", name, processes=processes),
        Case("restore", "pinned", name, processes=processes),
        Case("freeze", "disk", name, again=2, plain=True),
        Case("restore", "page-cache", name, processes=processes),
        Case("restore", "cold-disk", name, again=2, plain=True),
        Case("memory", "tmpfs", name),
        Case("memory", "page-cache", name),
        Case("unread", "tmpfs", name, again=0),
        Case("unread", "page-cache", name, again=0),
        Case("checkpoint", "tmpfs", name, CHECKPOINT, again=6, plain=True),
        Case("memory-checkpoint", "tmpfs", name, CHECKPOINT),
        Case("freeze-many", "tmpfs", name, MANY, again=0),
        Case("many", "tmpfs", name, MANY),
        Case("memory-freeze", "tmpfs", name, again=0),
    ]


def _peers() -> list[Case]:
    cases = []
    for name, peer in PEERS.items():
        saves = []
        if peer.save:
            saves = [Case("save", "tmpfs", name, _saved(name), again=0)]
        loads = [
            Case("peer", "tmpfs", name, peer.file, key, 1, 2, dict(setting.environment))
            for key, setting in peer.settings.items()
        ]
        # A peer's own format must be saved before it is loaded.
        cases.extend([*loads, *saves] if peer.file == CHECKPOINT else [*saves, *loads])
    return cases


def _saved(peer: str) -> str:
    return "saved.safetensors" if PEERS[peer].file == CHECKPOINT else PEERS[peer].file


def _others() -> list[Case]:
    """Return what the other backends do, each thing by all of them before the next."""
    found = []
    for action, place, file, again in (
        ("restore", "tmpfs", LLAMA, None),
        ("restore", "pinned", LLAMA, None),
        ("restore", "page-cache", LLAMA, None),
        ("memory", "tmpfs", LLAMA, None),
        ("checkpoint", "tmpfs", CHECKPOINT, 1),
        ("many", "tmpfs", MANY, 1),
        ("freeze", "tmpfs", LLAMA, 0),
        ("freeze", "disk", LLAMA, 0),
        ("restore", "cold-disk", LLAMA, 0),
    ):
        for backend in BACKENDS[1:]:
            fewer = 1 if backend == "reference" and again is None else again
            found.append(Case(action, place, backend, file, again=fewer))
    return found

"""What the scheduler's side of the connector tells workers to do, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from .binding import Binding
from .layout import Blocks
from .record import Adapter, Hashes, Media


@dataclass(frozen=True, slots=True)
class Load:
    """Blocks of a session to be loaded for a request.

    Attributes:
        snapshot_id: of the session that was found; the file may be another by now.
        groups: for each group of layers its blocks.
    """

    request_id: str
    path: str
    snapshot_id: str
    groups: tuple[Blocks, ...]


@dataclass(frozen=True, slots=True)
class Freeze:
    """Blocks of a request to be frozen.

    Attributes:
        token_ids, hashes, adapter, salt_sha256, media: as of `record.Session`.
        groups: for each group of layers its blocks; places are counted from the first stored.
        first_blocks: for each group the first block that is stored.
    """

    request_id: str
    path: str
    snapshot_id: str
    token_ids: bytes
    hashes: Hashes
    groups: tuple[Blocks, ...]
    first_blocks: tuple[int, ...]
    adapter: Adapter | None = None
    salt_sha256: str | None = None
    media: tuple[Media, ...] = ()


@dataclass(slots=True)
class Orders(KVConnectorMetadata):
    """What is to be done in a step.

    Attributes:
        wants_binding: whether ranks are to say what sessions of this engine are bound to.
        reset: whether the caches were reset, so that all blocks are of the weights of now.
    """

    loads: list[Load] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    wants_binding: bool = False
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """How a load or a freeze of one rank ended.

    Attributes:
        reason: a word for counters; empty if it ended well.
        error: a line for people.
    """

    rank: int
    path: str
    snapshot_id: str
    nbytes: int = 0
    elapsed_s: float = 0.0
    route: str = ""
    reason: str = ""
    error: str = ""


@dataclass(slots=True)
class Answers(KVConnectorWorkerMetadata):
    """What workers say at the end of a step.

    Attributes:
        bindings: by rank; a line where a rank cannot say.
        loads: by request.
        freezes: by request.
    """

    bindings: dict[int, Binding | str] = field(default_factory=dict)
    loads: dict[str, list[Moved]] = field(default_factory=dict)
    freezes: dict[str, list[Moved]] = field(default_factory=dict)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> Answers:
        assert isinstance(other, Answers)
        return Answers(
            self.bindings | other.bindings,
            _joined(self.loads, other.loads),
            _joined(self.freezes, other.freezes),
        )


def _joined(
    one: Mapping[str, list[Moved]], other: Mapping[str, list[Moved]]
) -> dict[str, list[Moved]]:
    return {key: [*one.get(key, ()), *other.get(key, ())] for key in {*one, *other}}

"""Loads and freezes of one rank: on threads and streams of their own, beside the engine's work."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from thaw_format import (
    DEFAULT_CHUNK_NBYTES,
    Chunks,
    Description,
    Digests,
    FileSource,
    FileTarget,
    FormatError,
    Layout,
    Shard,
    Snapshot,
    ThawError,
    dtype_name,
    make_staging_folder,
    rank_file,
    write_shard,
)
from thaw_format.checksum import crc32c

from ...plugins.choosing import select_backend
from ...seam.backend import Transfer, written_digests
from ...seam.plan import Extents, ReadPlan, WritePlan
from ...version import __version__
from .binding import LAYOUT, Binding, Difference, compare
from .layout import Blocks, LayerCache, extents_of, file_layout, starts_in
from .orders import Freeze, Load, Moved
from .record import KIND, Group, Session

GONE, DAMAGED, FAILED = "gone", "damaged", "failed"
_LOADS, _FREEZES = 4, 1
"""How many are under way at once."""
_WARM_NBYTES = 512 << 20

_log = logging.getLogger("vllm.thaw")


@dataclass(frozen=True, slots=True, eq=False)
class Rank:
    """One rank of an engine, as loads and freezes need it.

    Attributes:
        binding: says what its sessions are bound to; it may take a moment.
        opened: opens this rank's part of a snapshot, or gives the one that is pinned.
        backend: what moves the bytes; see `thaw backends`.
    """

    shard: Shard
    caches: Mapping[str, LayerCache]
    binding: Callable[[], Binding]
    opened: Callable[[str], AbstractContextManager[Snapshot]]
    backend: str = "auto"

    @property
    def device(self) -> torch.device:
        return next(iter(self.caches.values())).memory.device


@dataclass(slots=True)
class Ended:
    """What has ended since it was asked for the last time; by request."""

    loads: dict[str, Moved] = field(default_factory=dict)
    freezes: dict[str, Moved] = field(default_factory=dict)


class _DiffersError(ThawError):
    """A session is not one of this rank."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(difference.line)
        self.difference = difference


class Transfers:
    """Runs loads and freezes of a rank."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._loading = ThreadPoolExecutor(_LOADS, "thaw-load")
        self._freezing = ThreadPoolExecutor(_FREEZES, "thaw-freeze")
        self._lock = threading.Lock()
        self._under_way: set[Future[None]] = set()
        self._ended = Ended()

    def load(self, order: Load) -> None:
        """Begin a load, behind what the caller's stream holds."""
        self._begin(self._loading, self._ended.loads, order, self._load)

    def freeze(self, order: Freeze) -> None:
        """Begin a freeze, behind what the caller's stream holds."""
        self._begin(self._freezing, self._ended.freezes, order, self._freeze)

    def warm_up(self) -> None:
        """Make now what the first transfer would have to: a thread, streams, page-locked memory.

        It reads zeros to the caches, which hold nothing yet.
        """
        device = self._rank.device
        if device.type == "cuda":
            self._loading.submit(self._read_zeros, _behind_caller(device)).result()

    def _read_zeros(self, stream: torch.cuda.Stream | None) -> None:
        memory = next(iter(self._rank.caches.values())).memory
        nbytes = min(_WARM_NBYTES, len(memory)) // DEFAULT_CHUNK_NBYTES * DEFAULT_CHUNK_NBYTES
        if not nbytes:
            return
        fd = os.memfd_create("thaw-warm-up", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, nbytes)
            with closing(FileSource(f"/proc/self/fd/{fd}")) as source, torch.cuda.stream(stream):
                chunks = Chunks(0, nbytes, DEFAULT_CHUNK_NBYTES)
                crc = crc32c(bytes(DEFAULT_CHUNK_NBYTES))
                plan = ReadPlan(
                    Extents.within(memory, [(0, 0, nbytes)]), Digests(chunks, [crc] * len(chunks))
                )
                mover = select_backend(
                    self._rank.backend, "read", memory.device, source.path, (source,)
                )
                mover.read(source, plan)
        finally:
            os.close(fd)

    def take_ended(self) -> Ended:
        with self._lock:
            ended = Ended(dict(self._ended.loads), dict(self._ended.freezes))
            self._ended.loads.clear()
            self._ended.freezes.clear()
        return ended

    def fence(self) -> None:
        """Wait until nothing is under way."""
        with self._lock:
            under_way = set(self._under_way)
        wait(under_way)

    def close(self) -> None:
        self._loading.shutdown()
        self._freezing.shutdown()

    def _begin(
        self,
        pool: ThreadPoolExecutor,
        ended: dict[str, Moved],
        order: Load | Freeze,
        move: Callable[[Load | Freeze], Moved],
    ) -> None:
        stream = _behind_caller(self._rank.device)

        def run() -> None:
            began = time.perf_counter()
            try:
                with torch.cuda.stream(stream):
                    moved = move(order)
                _log_end(order, moved)
            except BaseException as error:
                # Whatever it was: a request waits for this, or blocks are held for it.
                moved = self._failed(order, error, time.perf_counter() - began)
                if not isinstance(error, (ThawError, OSError, ValueError)):
                    raise
            finally:
                with self._lock:
                    ended[order.request_id] = moved

        future = pool.submit(run)
        with self._lock:
            self._under_way.add(future)
        future.add_done_callback(self._forget)

    def _forget(self, future: Future[None]) -> None:
        with self._lock:
            self._under_way.discard(future)

    def _failed(self, order: Load | Freeze, error: BaseException, elapsed_s: float) -> Moved:
        what = "load" if isinstance(order, Load) else "freeze"
        reason = _reason(error) if isinstance(order, Load) else FAILED
        _log.warning("the %s of session %s failed: %s", what, order.path, error)
        return Moved(
            self._rank.shard.rank,
            order.path,
            order.snapshot_id,
            elapsed_s=elapsed_s,
            reason=reason,
            error=f"{type(error).__name__}: {error}",
        )

    def _load(self, order: Load | Freeze) -> Moved:
        assert isinstance(order, Load)
        began = time.perf_counter()
        rank = self._rank
        with rank.opened(order.path) as snapshot:
            if snapshot.snapshot_id != order.snapshot_id:
                raise FileNotFoundError(f"{order.path} is another session by now")
            session = Session.of(snapshot)
            _check(session, rank.binding())
            _check_dtypes(snapshot, rank.caches)
            groups = _with_layers(session, order)
            extents = extents_of(rank.caches, groups, starts_in(snapshot))
            moved = self._read(snapshot, ReadPlan(extents, snapshot.digests[0]))
        return Moved(
            rank.shard.rank,
            order.path,
            order.snapshot_id,
            extents.nbytes,
            time.perf_counter() - began,
            moved.route,
        )

    def _read(self, snapshot: Snapshot, plan: ReadPlan) -> Transfer:
        if not plan.extents:
            return Transfer("none")
        device, sources = self._rank.device, snapshot.sources
        mover = select_backend(self._rank.backend, "read", device, snapshot.path, sources)
        return mover.read(sources[0], plan)

    def _freeze(self, order: Load | Freeze) -> Moved:
        assert isinstance(order, Freeze)
        began = time.perf_counter()
        rank, binding = self._rank, self._rank.binding()
        session = _session(order, binding)
        layout = file_layout(rank.caches, session.groups)
        description = Description(
            kind=KIND,
            shard=rank.shard,
            producer={"name": "thaw", "version": __version__},
            metadata=session.record(),
            chunk_nbytes=DEFAULT_CHUNK_NBYTES,
            snapshot_id=bytes.fromhex(order.snapshot_id),
        )
        path = _file(order, rank.shard)
        mover = select_backend(rank.backend, "write", rank.device, path)
        groups, routes = _with_layers(session, order), list[str]()

        def write_payload(target: FileTarget, layout: Layout, chunks: Chunks) -> Sequence[int]:
            starts = {
                name: chunks.offset + layout.storages[spec.storage].offset
                for name, spec in layout.tensors.items()
            }
            done = mover.write(target, WritePlan(extents_of(rank.caches, groups, starts), chunks))
            routes.append(done.route)
            return written_digests(mover, done, chunks)

        write_shard(path, layout, description, write_payload)
        nbytes = sum(storage.nbytes for storage in layout.storages)
        elapsed_s = time.perf_counter() - began
        return Moved(rank.shard.rank, order.path, order.snapshot_id, nbytes, elapsed_s, routes[-1])


def _log_end(order: Load | Freeze, moved: Moved) -> None:
    _log.info(
        "%s session %s: %.1f MB in %.4f s (%.1f GB/s, %s)",
        "loaded from" if isinstance(order, Load) else "froze",
        order.path,
        moved.nbytes / 1e6,
        moved.elapsed_s,
        moved.nbytes / 1e9 / max(moved.elapsed_s, 1e-9),
        moved.route,
    )


def _behind_caller(device: torch.device) -> torch.cuda.Stream | None:
    """Make a stream that begins once the caller's has done what it was given up to now."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def _with_layers(session: Session, order: Load | Freeze) -> list[tuple[Sequence[str], Blocks]]:
    """Pair the blocks of an order with the layers that have them."""
    return [
        (group.layers, blocks) for group, blocks in zip(session.groups, order.groups, strict=True)
    ]


def _check(session: Session, binding: Binding) -> None:
    """See once more that a session is one of this rank: weights may be others by now."""
    if difference := compare([session], [binding]):
        raise _DiffersError(difference)


def _check_dtypes(snapshot: Snapshot, caches: Mapping[str, LayerCache]) -> None:
    """See that elements are what the caches have: others of their width would be taken for them."""
    for name, spec in snapshot.tensors.items():
        if spec.dtype != (ours := caches[name].dtype):
            line = f"{name!r} has elements of {dtype_name(spec.dtype)}, here of {dtype_name(ours)}"
            raise _DiffersError(Difference(LAYOUT, line))


def _reason(error: BaseException) -> str:
    """Say in a word for counters why a load failed."""
    if isinstance(error, _DiffersError):
        return error.difference.reason
    if isinstance(error, FileNotFoundError):
        return GONE
    return DAMAGED if isinstance(error, FormatError) else FAILED


def _session(order: Freeze, binding: Binding) -> Session:
    groups = tuple(
        Group(each.kind, each.block_tokens, each.window, first, len(blocks.numbers), each.layers)
        for each, first, blocks in zip(
            binding.groups, order.first_blocks, order.groups, strict=True
        )
    )
    return Session(
        token_ids=order.token_ids,
        hashes=order.hashes,
        groups=groups,
        layers=binding.layers,
        fingerprint=binding.fingerprint,
        engine=binding.engine,
        adapter=order.adapter,
        salt_sha256=order.salt_sha256,
        media=order.media,
    )


def _file(order: Freeze, shard: Shard) -> Path:
    if shard.size == 1:
        return Path(order.path)
    folder = make_staging_folder(order.path, order.snapshot_id)
    return folder / rank_file(shard.rank, shard.size)

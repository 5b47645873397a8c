"""How to move: what a backend is, and what it says of itself and of what it did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

from thaw_format import Chunks, Source, Target
from thaw_format.writer import check_digests

from ..errors import BackendError
from ..renaming import renamed

if TYPE_CHECKING:
    import torch

    from .plan import Read, ReadPlan, WritePlan

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of bytes just moved, from any thread."""


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a backend can serve a device here, why, and by which route bytes would go."""

    available: bool
    reason: str
    route: str = ""

    path = renamed("path", "route")


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a backend did: the route that bytes really took and, after a write, the digests."""

    route: str
    chunks_checked: int = 0
    digests: tuple[int, ...] = ()

    path = renamed("path", "route")


class Pending:
    """Reads that are under way; at the end of a `with` block they are over, or it fails."""

    def __init__(self, moving: Future[list[Transfer]]) -> None:
        self._moving = moving

    def done(self) -> bool:
        """Say whether they are over, well or not."""
        return self._moving.done()

    def wait(self) -> list[Transfer]:
        """Wait until they are over; return what was done, for each read.

        Raises:
            As `Backend.read_all`.
        """
        return self._moving.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        else:
            # No memory may be freed that is written to.
            wait([self._moving])


class Backend(ABC):
    """Moves the bytes of a plan; knows nothing of headers, names or tensors.

    Subclass it in a package of your own, register an instance through the hook
    `thaw_register_backends` and prove it with `thaw.testing.BackendTests`.
    """

    name: ClassVar[str]

    automatic: ClassVar[bool] = True
    """Whether `backend="auto"` may choose it."""

    @abstractmethod
    def probe(self, device: torch.device) -> Support:
        """Say whether transfers with this device would work here; never raise."""

    def serves(self, source: Source) -> bool:
        """Say whether it can read from a source, by what protocols that has."""
        return True

    @abstractmethod
    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        """Fill the memory of every extent, checking each chunk in the same pass.

        It begins once the caller's current stream of the device has done what it was given, and
        waits for no other. On return the bytes are visible to every stream of the device.

        Raises:
            ChecksumError: a chunk fails its digest; `.offset` is its first byte in the file.
            TruncatedError: the source ends too early.
            TransferError: the bytes could not be moved.
        """

    def read_all(
        self, reads: Sequence[Read], *, progress: Progress | None = None
    ) -> list[Transfer]:
        """Read from several sources, to memory of one device, as `read` does from one.

        A backend that is quicker when it need not wait for the end of each overrides this.

        Returns:
            What was done, for each read.

        Raises:
            As `read`, of whichever source; `.path` says which.
        """
        return [self.read(source, plan, progress=progress) for source, plan in reads]

    def start(self, reads: Sequence[Read], *, progress: Progress | None = None) -> Pending:
        """Begin what `read_all` does, and return while the bytes move.

        It is the caller's current streams of now that it is ordered by. Sources have to stay open,
        and memory left alone, until it is over: a descriptor that is closed may be another file's.
        """
        from .ordering import as_of_now

        caller = as_of_now(plan.extents.device for _, plan in reads)

        def move() -> list[Transfer]:
            with caller():
                return self.read_all(reads, progress=progress)

        pool = ThreadPoolExecutor(1, "thaw-start")
        try:
            return Pending(pool.submit(move))
        finally:
            pool.shutdown(wait=False)

    @abstractmethod
    def write(
        self, target: Target, plan: WritePlan, *, progress: Progress | None = None
    ) -> Transfer:
        """Write every extent and zeros between them; return the CRC32C of every chunk.

        Raises:
            TransferError: the bytes could not be moved.
            OSError: the target refused them, for example because it is full.
        """


def written_digests(backend: Backend, done: Transfer, chunks: Chunks) -> tuple[int, ...]:
    """Return the digests of a write, once each chunk has one.

    Raises:
        BackendError: a file with these digests could not be opened.
    """
    try:
        check_digests(done.digests, chunks)
    except ValueError as error:
        raise BackendError(f"backend {backend.name!r} did not say what it wrote: {error}") from None
    return done.digests

"""What a file format offers to the rest of thaw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from thaw_format import Snapshot, Source, UnparsedShard

if TYPE_CHECKING:
    import torch


class Format(ABC):
    """Turns files into snapshots; moves no tensor bytes when it opens.

    Attributes:
        name: the word for `format=`.
        description: one line for people.
        suffixes: file name endings by which a destination is recognized.
        keeps_layout: whether a file says the strides of tensors and which of them share memory.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    keeps_layout: ClassVar[bool] = False

    @abstractmethod
    def recognizes(self, path: Path, head: bytes) -> bool:
        """Say whether a file beginning with `head`, or a folder (no `head`), is of this format."""

    @abstractmethod
    def open(self, place: Source | Path) -> tuple[Snapshot, ...]:
        """Open the snapshot of every rank.

        Args:
            place: a file, open, wherever its bytes are; or the path of a folder. A source is closed
                with the snapshots that read it, or if there is an error.

        Raises:
            FormatError: the files are not what the format demands.
        """

    def open_rank(self, place: Source | Path, rank: int) -> Snapshot:
        """Open the snapshot of one rank.

        Raises:
            FormatError: the files are not what the format demands.
            IndexError: there is no such rank.
        """
        snapshots = self.open(place)
        for number, each in enumerate(snapshots):
            if number != rank:
                each.close()
        if not 0 <= rank < len(snapshots):
            raise IndexError(rank)
        return snapshots[rank]

    def open_unparsed(self, source: Source) -> UnparsedShard | None:
        """Open a file of which it is known where the payload lies before its manifest is parsed.

        Returns:
            None where it is no such file, as in formats that know no payload; it is open then.

        Raises:
            FormatError: what was read so far is not what the format demands.
        """
        return None

    @abstractmethod
    def verify(self, snapshot: Snapshot, progress: Callable[[int], None] | None) -> int:
        """Check all that opening did not; return the number of chunks checked.

        Raises:
            FormatError: bytes are not those that were written.
        """

    def export(
        self,
        path: Path,
        snapshot: Snapshot,
        names: Sequence[str],
        tensors: Iterable[tuple[str, torch.Tensor]],
        *,
        max_shard_nbytes: int | None = None,
    ) -> tuple[Path, ...]:
        """Write tensors of a snapshot in this format; return the files made.

        Args:
            names: those that are written.
            tensors: each with its name, in any order; valid until the next is asked for.
            max_shard_nbytes: the most bytes of tensors a file of a folder holds.

        Raises:
            TypeError: the format cannot say what is asked, or cannot be written at all.
        """
        raise TypeError(f"format {self.name!r} cannot be written")

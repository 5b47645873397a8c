"""All ranks of an engine taken together: where they freeze to, and what their answers come to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thaw_format import check_replaceable, place_of, staging_folder

from ..freezing import finish_ranks
from ..plugins.endings import check_ending
from ..reports import Report
from .answers import Answer
from .causes import known_error


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport(Report):
    """What a whole engine moved: the bytes of all ranks, the time of the slowest.

    Attributes:
        tensors: of all ranks.
        backends: that of each rank.
    """

    path: Path
    ranks: int
    tensors: int
    backends: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineComparison:
    """What of a live engine differs from a snapshot, rank by rank; empty where nothing does."""

    tensors: int
    differences: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.differences)


def absolute(path: str | os.PathLike[str]) -> str:
    """Name a path so that every worker finds it."""
    return os.fspath(Path(path).resolve())


@contextmanager
def destination(path: str | os.PathLike[str], ranks: int, snapshot_id: str) -> Iterator[str]:
    """Name what is frozen to; of several ranks a block that fails leaves no files behind."""
    where = place_of(path)
    check_ending(where, "thaw")
    if ranks > 1:
        check_replaceable(where)
    try:
        yield os.fspath(where)
    except BaseException:
        shutil.rmtree(staging_folder(where, snapshot_id), ignore_errors=True)
        raise


def checked(answers: Sequence[Answer]) -> Sequence[Answer]:
    """Raise the error of the first rank that had one."""
    for answer in answers:
        if "error" in answer:
            raise known_error(answer["error"], f"rank {answer['rank']}: {answer['message']}")
    return answers


def frozen(where: str, snapshot_id: str, answers: Sequence[Answer]) -> EngineReport:
    """Make one snapshot of what all ranks have frozen, and sum it up."""
    if len(answers) > 1:
        finish_ranks(where, snapshot_id=snapshot_id)
    return report(where, answers)


def report(where: str, answers: Sequence[Answer]) -> EngineReport:
    """Sum up what ranks have moved."""
    return EngineReport(
        path=Path(where),
        nbytes=sum(answer["nbytes"] for answer in answers),
        elapsed_s=max(answer["elapsed_s"] for answer in answers),
        ranks=len(answers),
        tensors=sum(answer["tensors"] for answer in answers),
        backends=tuple(answer["backend"] for answer in answers),
    )


def compared(answers: Sequence[Answer]) -> EngineComparison:
    """Sum up what ranks have compared."""
    return EngineComparison(
        tensors=sum(answer["tensors"] for answer in answers),
        differences=tuple(
            f"rank {answer['rank']}: {line}" for answer in answers for line in answer["differences"]
        ),
    )

"""What was measured of sessions: medians by length, and the figures to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from results import Figure, Row, at_least, at_most, none_of, part_of
from session_beside import ALONE, FREEZES, HITS
from session_rows import (
    BESIDE,
    BUS,
    COMPUTED,
    FIRST,
    FROZEN,
    PINNED,
    SAME,
    SERVED,
    TMPFS,
)

SHAPE = "Llama-3.1-8B"
"""The shape that the figures to reach are about."""
FIRST_TOKENS, TOKENS = 1040, 32_000
BOTH = (1040, 8000, 32_000, 100_000)
"""The lengths of which prefill and restoring are to be shown."""
GBPS = {TMPFS: 40.0, PINNED: 48.0}
"""What the figures ask of loads, by place."""
_FIRST = (
    "65 blocks (136 MB) from tmpfs or page cache into the cache of a new process, request to first "
    "token beyond a prefix hit in GPU memory"
)
_LOADED = "32,000 tokens (4.2 GB) from"
_COMPUTED = "the same against computing it again (prefill)"
_FREEZE = "freeze of 32,000 tokens to tmpfs while 16 other requests decode"
_SAME = "tokens and logprobs after restoring"


class Sessions:
    """All that was measured of one shape."""

    def __init__(self, rows: Sequence[Row], shape: str = SHAPE) -> None:
        self.shape = shape
        self.rows = [row for row in rows if row["shape"] == shape]

    @property
    def lengths(self) -> list[int]:
        """Return how many tokens the sessions have that were measured."""
        measured = (*part_of(self.rows, COMPUTED), *part_of(self.rows, SERVED))
        return sorted({row["tokens"] for row in measured})

    @property
    def places(self) -> list[str]:
        """Return where sessions were loaded from."""
        return list(dict.fromkeys(row["case"] for row in part_of(self.rows, SERVED)))

    def of(self, part: str, tokens: int, case: str | None = None) -> list[Row]:
        """Return the rows of a length; of several runs, where there were several."""
        rows = [row for row in part_of(self.rows, part) if row["tokens"] == tokens]
        return [row for row in rows if case in (None, row["case"])]

    def values(self, part: str, key: str, tokens: int, case: str | None = None) -> list[float]:
        return [value for row in self.of(part, tokens, case) for value in row.get(key, ())]

    def median(self, part: str, key: str, tokens: int, case: str | None = None) -> float | None:
        found = self.values(part, key, tokens, case)
        return median(found) if found else None

    def nbytes(self, tokens: int) -> int | None:
        """Return how many bytes of keys and values a session has."""
        rows = [row for part in (FROZEN, SERVED, FIRST) for row in self.of(part, tokens)]
        return next((row["nbytes"] for row in rows), None)

    def load_gbps(self, tokens: int, place: str) -> float | None:
        return _rate(self.nbytes(tokens), self.median(SERVED, "moving_s", tokens, place))

    def freeze_gbps(self, tokens: int) -> float | None:
        return _rate(self.nbytes(tokens), self.median(FROZEN, "moving_s", tokens))

    def plain_gbps(self, part: str, tokens: int) -> float | None:
        """Return the rate of plain writes, the best way of them."""
        return _rate(self.nbytes(tokens), self._plain_s(part, tokens))

    def _plain_s(self, part: str, tokens: int) -> float | None:
        found: dict[str, list[float]] = {}
        for row in self.of(part, tokens):
            for way, seconds in row.get("plain_s", {}).items():
                found.setdefault(way, []).extend(seconds)
        return min((median(seconds) for seconds in found.values()), default=None)

    def bus_gbps(self) -> float | None:
        """Return what pinned copies moved in the process that loaded."""
        rates = [rate for row in part_of(self.rows, BUS) for rate in row["gbps"]]
        return median(rates) if rates else None

    def first_beyond_s(self) -> float | None:
        """Return how much longer than a prefix hit the first request took that was served."""
        first, hit = (self.median(FIRST, key, FIRST_TOKENS) for key in ("first_token_s", "hit_s"))
        return None if first is None or hit is None else first - hit

    def beside_bus(self, tokens: int, place: str) -> float | None:
        """Return the time to the first token, beside that of a prefix hit and of the bytes."""
        nbytes, bus = self.nbytes(tokens), self.bus_gbps()
        found, hit = (self.median(SERVED, key, tokens, place) for key in ("first_token_s", "hit_s"))
        if found is None or hit is None or nbytes is None or bus is None:
            return None
        return found / (hit + nbytes / bus / 1e9)

    def freeze_share(self, tokens: int) -> float | None:
        """Return how fast a freeze beside others is, as a share of the best plain writes."""
        ours = self.median(BESIDE, "moving_s", tokens, FREEZES)
        plain = self._plain_s(BESIDE, tokens)
        return plain / ours if ours and plain else None

    def p99_ratio(self, tokens: int, beside: str = HITS) -> float | None:
        """Return the p99 with freezes beside that of other rounds: the median of rounds in turn."""
        ours, theirs = (self.values(BESIDE, "p99_s", tokens, each) for each in (FREEZES, beside))
        ratios = [one / other for one, other in zip(ours, theirs, strict=False)]
        return median(ratios) if ratios else None

    def wins_from(self, place: str) -> float | None:
        """Return from how many tokens on restoring takes less time than prefill.

        That is 0 if it does from the shortest on, and None if not even the longest does.
        """
        gains = list(self.gains(place))
        if not gains or gains[-1][1] < 0:
            return None
        for (shorter, loss), (longer, gain) in reversed(list(pairwise(gains))):
            if loss < 0:
                return shorter + (longer - shorter) * loss / (loss - gain)
        return 0.0

    def gains(self, place: str) -> Iterator[tuple[int, float]]:
        """Yield for each length that has both how much sooner restoring has the first token."""
        for tokens in self.lengths:
            computed = self.median(COMPUTED, "prefill_s", tokens)
            served = self.median(SERVED, "first_token_s", tokens, place)
            if computed is not None and served is not None:
                yield tokens, computed - served

    def wins_in_words(self, place: str) -> str:
        """Say from which length on restoring wins."""
        wins = self.wins_from(place)
        if wins is None:
            return "prefill is sooner at every length that was measured"
        if not wins:
            said = f"{self.lengths[0]:,} tokens too"
            return f"restoring is sooner than prefill at every length, {said}"
        return (
            f"restoring is sooner than prefill from about {wins:,.0f} tokens on, by interpolation"
        )

    def is_same(self, tokens: int) -> bool | None:
        """Say whether the same was decoded; None where that was not compared."""
        rows = self.of_same(tokens)
        return all(row["passed"] for row in rows) if rows else None

    def of_same(self, tokens: int) -> list[Row]:
        return [row for row in part_of(self.rows, SAME) if row.get("tokens", tokens) == tokens]


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Say of each figure to reach what was found, as far as its part was measured."""
    found, same = Sessions(rows), part_of(rows, SAME)
    timed: list[Figure] = []
    if found.lengths:
        timed = [*_of_loads(found), *_of_prefill(found), *_of_freezes(found)]
    wrong = (row for row in same if not row["passed"])
    return [*timed, *([none_of(_SAME, same, wrong)] if same else ())]


def _of_loads(found: Sessions) -> Iterator[Figure]:
    """Judge loads. What decodes other tokens reaches none."""
    right, doubt = _trusted(found.is_same(FIRST_TOKENS))
    yield at_most(_FIRST, 0.02, "s", found.first_beyond_s(), right=right, note=doubt)
    right, doubt = _trusted(found.is_same(TOKENS))
    for place in [each for each in GBPS if each == TMPFS or each in found.places]:
        aim, rate = GBPS[place], found.load_gbps(TOKENS, place)
        yield at_least(f"{_LOADED} {place}", aim, "GB/s", rate, right=right, note=doubt)
        ratio, unit = found.beside_bus(TOKENS, place), "x (GPU hit + bytes / bus)"
        name = f"{_LOADED} {place}, first token"
        yield at_most(name, 1.2, unit, ratio, right=right, note=doubt)


def _of_prefill(found: Sessions) -> Iterator[Figure]:
    both = [tokens for tokens, _ in found.gains(TMPFS) if tokens in BOTH]
    if both:
        unit, note = "lengths with both in the table", found.wins_in_words(TMPFS)
        yield at_least(_COMPUTED, len(BOTH), unit, len(both), note=note)


def _of_freezes(found: Sessions) -> Iterator[Figure]:
    # What was frozen is right if what decodes behind it is.
    right, doubt = _trusted(found.is_same(TOKENS))
    share, ratio = found.freeze_share(TOKENS), found.p99_ratio(TOKENS)
    yield at_least(_FREEZE, 0.9, "of plain writes", share, right=right, note=doubt)
    alone = found.p99_ratio(TOKENS, ALONE)
    said = f"{alone:.3g} of that without the request too" if alone else ""
    note = "; ".join(each for each in (said, doubt) if each)
    name, unit = f"{_FREEZE}, their inter-token p99", "times that without the freeze"
    yield at_most(name, 1.1, unit, ratio, right=right, note=note)


def _trusted(same: bool | None) -> tuple[bool, str]:
    """Say whether a figure can be reached, and if not, why."""
    return same is True, {True: "", False: "but not equal", None: "but not compared"}[same]


def _rate(nbytes: int | None, elapsed_s: float | None) -> float | None:
    return nbytes / elapsed_s / 1e9 if nbytes and elapsed_s else None

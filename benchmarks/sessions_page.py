"""The page about sessions: what its sections say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from pages import (
    Section,
    escaped,
    figures,
    median_s,
    number,
    origin,
    page,
    render,
    yes,
)
from results import Row, part_of
from session_rows import BESIDE, COMPUTED, FIRST, FROZEN, PROCESSES, SAME, SERVED, TMPFS
from sessions_results import SHAPE, TOKENS, Sessions

FILES = (
    "sessions.json",
    "sessions_two_gpus.json",
    "sessions_models.json",
    "sessions_more_models.json",
    "sessions_two_gpus_models.json",
    "sessions_states.json",
    "sessions_states_two_gpus.json",
)
_INTRO = """\
A session is the KV cache of a prompt, frozen with its hashes. One fresh process of vLLM computes
prompts and freezes them, another serves the same prompts from the files. Both have the same random
weights and the same options. All seconds are medians, and digests are on."""
_FIRST = """\
Of a fresh process, the first request that a session serves, in tmpfs; requests that use no sessions
came before it, so that vLLM has done for the first time what it has to do without sessions too.
The fingerprint of the weights and the folder's headers are taken while the engine starts."""
_BESIDE = """\
All to the first token: `LLM.generate` is called with token ids, and returns one token. *prefill*:
nothing is cached. *hit*: all but the last token is cached in GPU memory. *served*: nothing is
cached, and the session is loaded from where the column says. *beyond hit*: what that takes more
than a hit in the same process. *beside the bus*: the time until a served request's first token,
beside a hit's and that of as many bytes by pinned copies in large pieces, {bus} in the process that
loads. Prefill is of the process that froze; the rest is of the one that restores, in turn."""
_LOADS = """\
*loads*: in the worker, from when the load begins on its thread until its last byte is in the cache
and all digests are checked. *restore_session*: the whole call, ahead of any request."""
_FREEZES = """\
*freezes*: in the worker, from when the freeze begins on its thread until the file has its name.
*freeze_session*: the whole call, a prefix hit included. *plain*: as many bytes from host memory to
a new file there, by 4 or 16 threads in pieces of 4 MiB, between the freezes; the better of both."""
_OTHERS = """\
{others} requests decode, and their tokens are timed as they come out of the engine: from each to
the next one of the same request. *freezes*: meanwhile the session is frozen {freezes}, by requests
that have it in GPU memory, and intervals count from such a request's end until its file has its
name. *hits*: the same requests at the same pace, the same intervals, and nothing is frozen.
*alone*: no other requests. Rounds are in turn; values are medians of the rounds, but *longest*."""
_SAME = """\
The process that restores decodes greedily behind what a session gave, the one that froze behind the
same prefix in GPU memory: token ids and logprobs must be the same bits. *cache*: what was restored,
frozen again, beside the session, byte by byte. *cache counts*: behind another prefix the same token
leads to other logprobs, so that a wrong cache would show. *without sessions*: both decode the same
where each computes the prompt itself; if not, they run other kernels, of which no session knows.
TORCHINDUCTOR_DETERMINISTIC is set, so that none is chosen by timing it."""
_KNOWN = """\
Known of others, and not measured here: thaw-vllm takes 0.135 s for the bytes of 65 blocks alone,
and 35.9 GB were loaded in 1.1 to 1.75 s on several GPUs."""
_NOT_MEASURED = """\
Not measured: files that no cache holds; a network; prompts as text, since all are token ids;
requests that share a batch while a session is loaded for them."""


def make(found: Mapping[str, Row]) -> str:
    """Return the page."""
    rows = [row for each in found.values() for row in each["rows"]]
    timed = [row for part in (COMPUTED, SERVED) for row in part_of(rows, part)]
    shapes = dict.fromkeys(row["shape"] for row in timed)
    lines = figures(found)
    for shape in shapes:
        lines += [f"## {shape}", "", *_of_shape(Sessions(rows, shape))]
    lines += [*render([_COMPARED], rows), *_failures(rows)]
    lines += [_KNOWN, "", _NOT_MEASURED]
    origins = [f"- {origin(name, each)}" for name, each in found.items()]
    return page("Sessions of vLLM's engines", ["", _INTRO, "", *origins], lines)


def headline(found: Row) -> str:
    """Say in a sentence what a session saves."""
    of = Sessions(found["rows"])
    prefill = of.median(COMPUTED, "prefill_s", TOKENS)
    first, hit = (of.median(SERVED, key, TOKENS, TMPFS) for key in ("first_token_s", "hit_s"))
    rate = of.load_gbps(TOKENS, TMPFS)
    if prefill is None or first is None or hit is None or rate is None:
        return ""
    return (
        f"On one {found['machine']['device']} the KV cache of {TOKENS:,} tokens of {SHAPE} loads "
        f"from tmpfs at {rate:.1f} GB/s: the first token comes after {number(first, 3)} s, in "
        f"place of {number(prefill, 3)} s where all is computed and {number(hit, 3)} s where GPU "
        "memory has it still."
    )


def _of_shape(found: Sessions) -> list[str]:
    lines = render(_sections(found), found, 3)
    compared = [place for place in found.places if any(True for _ in found.gains(place))]
    said = [f"From {place} {found.wins_in_words(place)}." for place in compared]
    at = lines.index("### Loads") if "### Loads" in lines else len(lines)
    return [*lines[:at], *said, *([""] if said else []), *lines[at:]]


def _sections(found: Sessions) -> list[Section]:
    bus = found.bus_gbps()
    said = f"{bus:.1f} GB/s" if bus else "not measured"
    beside = part_of(found.rows, BESIDE)
    others = beside[0]["others"] if beside else 0
    rounds = max((len(row["p99_s"]) for row in beside), default=1)
    moved = max((len(row["moving_s"]) for row in beside), default=0)
    times = f"{moved // max(rounds, 1)} times a round"
    return [
        Section("First token", _tokens, text=_BESIDE.format(bus=said)),
        Section("Loads", _loads, text=_LOADS),
        Section("The first of a process", _firsts, text=_FIRST),
        Section("Freezes to tmpfs", _freezes, text=_FREEZES),
        Section("While others decode", _others, text=_OTHERS.format(others=others, freezes=times)),
        Section("Processes", _processes),
    ]


def _tokens(found: Sessions) -> Iterator[Row]:
    for tokens in found.lengths:
        nbytes = found.nbytes(tokens)
        row: Row = {
            "tokens": tokens,
            "MB": number(None if nbytes is None else nbytes / 1e6, 0),
            "prefill s": median_s(found.values(COMPUTED, "prefill_s", tokens)),
            "hit s, froze": number(found.median(COMPUTED, "hit_s", tokens), 4),
            "hit s, restored": number(found.median(SERVED, "hit_s", tokens), 4),
        }
        for place in found.places:
            served, hit = (
                found.median(SERVED, key, tokens, place) for key in ("first_token_s", "hit_s")
            )
            beyond = None if served is None or hit is None else served - hit
            samples = found.values(SERVED, "first_token_s", tokens, place)
            row |= {
                f"served s, {place}": number(served, 4),
                f"spread s, {place}": _spread(samples),
                f"beyond hit s, {place}": number(beyond, 4),
                f"beside the bus, {place}": number(found.beside_bus(tokens, place), 2),
            }
        yield row


def _spread(samples: Sequence[float]) -> str:
    return f"{min(samples):.4f} to {max(samples):.4f}" if samples else ""


def _loads(found: Sessions) -> Iterator[Row]:
    for place in found.places:
        for tokens in found.lengths:
            if not (rows := found.of(SERVED, tokens, place)):
                continue
            called = found.median(SERVED, "called_s", tokens, place)
            nbytes = found.nbytes(tokens)
            rate = nbytes / called / 1e9 if nbytes and called else None
            yield {
                "from": place,
                "tokens": tokens,
                "loads s": number(found.median(SERVED, "moving_s", tokens, place), 4),
                "GB/s": number(found.load_gbps(tokens, place), 1),
                "restore_session s": number(called, 4),
                "of that GB/s": number(rate, 1),
                "route": rows[0]["route"],
            }


def _firsts(found: Sessions) -> Iterator[Row]:
    for row in part_of(found.rows, FIRST):
        first, hit = row["first_token_s"][0], median(row["hit_s"])
        yield {
            "tokens": row["tokens"],
            "MB": number(row["nbytes"] / 1e6, 0),
            "first s": number(first, 4),
            "hit s": number(hit, 4),
            "beyond s": number(first - hit, 4),
            "of that the load s": number(row["moving_s"][0], 4),
        }


def _freezes(found: Sessions) -> Iterator[Row]:
    for tokens in found.lengths:
        if not (rows := found.of(FROZEN, tokens)):
            continue
        yield {
            "tokens": tokens,
            "MB": number(rows[0]["nbytes"] / 1e6, 0),
            "freezes s": number(found.median(FROZEN, "moving_s", tokens), 4),
            "GB/s": number(found.freeze_gbps(tokens), 1),
            "plain GB/s": number(found.plain_gbps(FROZEN, tokens), 1),
            "freeze_session s": number(found.median(FROZEN, "samples_s", tokens), 4),
            "route": rows[0]["route"],
        }


def _others(found: Sessions) -> Iterator[Row]:
    for row in part_of(found.rows, BESIDE):
        nbytes, plain = row.get("nbytes"), found.plain_gbps(BESIDE, row["tokens"])
        moving = median(row["moving_s"]) if row["moving_s"] else None
        yield {
            "round": row["case"],
            "rounds": len(row["p99_s"]),
            "intervals": sum(row["intervals"]),
            "median ms": number(median(row["median_s"]) * 1e3, 2),
            "p99 ms": number(median(row["p99_s"]) * 1e3, 2),
            "longest ms": number(max(row["longest_s"]) * 1e3, 2),
            "freeze GB/s": number(nbytes / moving / 1e9 if nbytes and moving else None, 1),
            "plain GB/s": number(plain if nbytes else None, 1),
        }


def _processes(found: Sessions) -> Iterator[Row]:
    for row in part_of(found.rows, PROCESSES):
        ended = "well" if not row["status"] else "**out of time**" if row["hung"] else "**failed**"
        yield {
            "process": row["case"],
            "imports s": number(row.get("import_s"), 1),
            "`LLM()` s": number(row.get("engine_s"), 1),
            "in all s": number(row["wall_s"], 1),
            "ended": ended,
        }


def _compared(rows: Sequence[Row]) -> Iterator[Row]:
    for row in part_of(rows, SAME):
        differ = row.get("differ")
        yield {
            "model": row["case"],
            "TP": row["engine"].get("tensor_parallel_size", 1),
            "how": "eager" if row["engine"].get("enforce_eager") else "CUDA graphs",
            "tokens": row.get("tokens"),
            "decoded": row.get("decoded_tokens"),
            "token ids": yes(row.get("tokens_equal")),
            "logprobs": "**failed**" if "error" in row else yes(row.get("logprobs_equal")),
            "cache": "" if differ is None else f"**{differ} differ**" if differ else "equal",
            "cache counts": yes(row.get("counts")),
            "without sessions": yes(row.get("prefill_equal")),
        }


def _failures(rows: Sequence[Row]) -> list[str]:
    failed = [row for row in part_of(rows, SAME) if "error" in row]
    lines = [f"- {row['case']}: {escaped(row['error'])[:300]}" for row in failed]
    return [*lines, *([""] if lines else [])]


_COMPARED = Section("The same bits", _compared, text=_SAME)

"""What `thaw verify` and `thaw diff` do and show."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.text import Text

import thaw

from .drawing import plain, say, verdict
from .errors import UnsupportedError
from .output import Output
from .session_table import sessions_of
from .shapes import DifferenceJSON, VerifyJSON
from .text import count, size


def verify(path: Path, output: Output) -> None:
    """Check every byte of a snapshot, and say so."""
    with output.progress("verifying", lambda: _digested(path)) as progress:
        report = thaw.verify(path, progress=progress)
    document = _verified(report, _session_tokens(path))
    output.emit(document, lambda console: _show_verified(console, document))


def diff(a: Path, b: Path, output: Output, *, backend: str, rank: int | None) -> bool:
    """Compare two snapshots, show how they differ, and return whether they are identical."""
    with output.progress("comparing", lambda: _common(a, b, rank)) as progress:
        try:
            found = thaw.diff(a, b, backend=backend, rank=rank, progress=progress)
        except TypeError as error:
            raise UnsupportedError(str(error)) from error
    document = _compared(a, b, found)
    output.emit(document, lambda console: _show_compared(console, document))
    return found.identical


def _digested(path: Path) -> int:
    with ExitStack() as stack:
        snapshots = [stack.enter_context(each) for each in thaw.open_ranks(path)]
        digests = (digests for each in snapshots for digests in each.digests)
        return sum(each.chunks.nbytes for each in digests if each)


def _session_tokens(path: Path) -> int | None:
    """Check the session that a snapshot says it holds, and count its tokens."""
    with ExitStack() as stack:
        snapshots = [stack.enter_context(each) for each in thaw.open_ranks(path)]
        sessions = sessions_of(path, snapshots)
        return sessions[0].tokens if sessions else None


def _common(a: Path, b: Path, rank: int | None) -> int:
    with thaw.open(a, rank=rank) as one, thaw.open(b, rank=rank) as two:
        common = one.tensors.keys() & two.tensors.keys()
        return sum(s.tensors[name].extent for s in (one, two) for name in common)


def _verified(report: thaw.VerifyReport, session_tokens: int | None) -> VerifyJSON:
    return {
        "path": str(report.path),
        "has_digests": report.has_digests,
        "chunks_checked": report.chunks_checked,
        "ranks": report.ranks,
        "tensors": report.tensors,
        "session_tokens": session_tokens,
        "nbytes": report.nbytes,
        "elapsed_s": report.elapsed_s,
        "gbps": report.gbps,
    }


def _show_verified(console: Console, found: VerifyJSON) -> None:
    tensors = f"{count(found['tensors'], 'tensor')}, {size(found['nbytes'])}"
    if found["ranks"] > 1:
        tensors = f"{count(found['ranks'], 'rank')}, {tensors}"
    if found["session_tokens"] is not None:
        tensors = f"a session of {count(found['session_tokens'], 'token')}, {tensors}"
    path = plain(found["path"], "bold")
    if not found["has_digests"]:
        what = f": {tensors}: its header is sound; it has no digests to check the tensors by"
        say(console, verdict(console, None), path, what)
        return
    what = f": {tensors}, {count(found['chunks_checked'], 'chunk')}: every byte is as written"
    how = f" ({found['elapsed_s']:.2f} s, {found['gbps']:.2f} GB/s)"
    say(console, verdict(console, True), path, what, Text(how, "dim"))


def _compared(a: Path, b: Path, found: thaw.Difference) -> DifferenceJSON:
    return {
        "a": str(a),
        "b": str(b),
        "identical": found.identical,
        "tensors_compared": found.tensors_compared,
        "only_in_a": list(found.only_in_a),
        "only_in_b": list(found.only_in_b),
        "changed": [
            {"name": each.name, "what": each.what, "a": each.a, "b": each.b}
            for each in found.changed
        ],
    }


def _show_compared(console: Console, found: DifferenceJSON) -> None:
    for name in found["only_in_a"]:
        say(console, Text("only in a: ", "red"), plain(name))
    for name in found["only_in_b"]:
        say(console, Text("only in b: ", "green"), plain(name))
    for each in found["changed"]:
        say(
            console,
            plain(each["name"], "bold"),
            f": {each['what']} differs: ",
            plain(each["a"], "red"),
            ", ",
            plain(each["b"], "green"),
        )
    say(console, verdict(console, found["identical"]), _summary(found))


def _summary(found: DifferenceJSON) -> str:
    compared = count(found["tensors_compared"], "tensor")
    if found["identical"]:
        return f"identical: {compared}, byte for byte"
    changed = {each["name"] for each in found["changed"]}
    parts = [f"{len(changed):,} of {compared} in both differ"]
    for word, names in (("a", found["only_in_a"]), ("b", found["only_in_b"])):
        if names:
            parts.append(f"{len(names):,} only in {word}")
    return ", ".join(parts)

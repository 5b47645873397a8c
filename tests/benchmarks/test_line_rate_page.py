"""The page of the line-rate benchmark is made from its raw results alone."""

from __future__ import annotations

import copy
import re
from dataclasses import asdict
from typing import Any

import pytest

NBYTES = 16_000_000_000


def row(case: str, what: str, *samples_s: float, **more: Any) -> dict[str, Any]:
    made = {"case": case, "what": what, "samples_s": list(samples_s), "nbytes": NBYTES}
    made |= {"tensors": 291, "identical": True, "route": "some-path", "chunks_checked": 3829}
    made |= {"ceiling": "tmpfs/h2d-pinned", "ready_s": 0.125, "resident_share": None}
    return made | {"memory": {}, "note": "", "run": 0} | more


def ceiling(name: str, gbps: float | None, reason: str | None = None) -> dict[str, Any]:
    way = {"how": "one way", "gbps": gbps, "lowest": gbps, "highest": gbps, "reason": reason}
    return {"what": name, "gbps": gbps, "detail": [way], "run": 0}


@pytest.fixture
def raw() -> dict[str, Any]:
    memory = {"device_nbytes": 100 << 20, "torch_nbytes": 0}
    memory |= {"anonymous_nbytes": 300 << 20, "machine_nbytes": 200 << 20}
    freezing = {"ceiling": "tmpfs/write", "chunks_checked": None}
    many, bare = {"tensors": 20_000}, {"undigested `.thaw`": [0.30, 0.28, 0.31]}
    rows = [
        row("restore/tmpfs/native", "first", 0.34, 0.33, 0.35),
        row("restore/tmpfs/native", "again", 0.31, 0.30, 0.32),
        row("restore/pinned/native", "pin", 1.0, ceiling=None, identical=None),
        row("restore/pinned/native", "again", 0.30),
        row("restore/cold-disk/native", "first", 10.0, ceiling="disk/read-direct"),
        row("freeze/tmpfs/native", "first", 4.2, **freezing),
        row("freeze/tmpfs/native", "again", 4.0, **freezing),
        row("checkpoint/tmpfs/native", "again", 0.33, 0.34, 0.32, plain_s=bare, chunks_checked=0),
        row("many/tmpfs/native", "again", 0.35, **many),
        row("memory/tmpfs/native", "peak", 0.5, ceiling=None, memory=memory),
        row("peer/tmpfs/other/default", "first", 4.0, note="1.2.3", chunks_checked=None),
        row("peer/tmpfs/other/default", "again", 2.0, 3.2, note="1.2.3", chunks_checked=None),
        row("save/tmpfs/other", "first", 20.0, note="1.2.3", **freezing, identical=None),
    ]
    ceilings = {
        "tmpfs": [
            ceiling("h2d-pinned", 54.5),
            ceiling("read-page-cache", 60.25),
            ceiling("write", 4.1),
            ceiling("read-direct", None, "tmpfs has no disk"),
        ],
        "disk": [ceiling("read-direct", 1.6)],
    }
    machine = {"cpu": "some CPU", "cores": 16, "device": "some GPU"}
    rows += [
        {"case": f"ceilings/{place}"} | each for place, some in ceilings.items() for each in some
    ]
    rows.append({"case": "restore/tmpfs/gds", "reason": "no | such backend", "run": 0})
    run = {"machine": machine, "boot": "x", "began": "then", "command": []}
    settings = {"device": "cuda", "nbytes": NBYTES, "count": 20_000}
    return {"machine": machine, "settings": settings, "runs": [run], "rows": rows}


def measured(raw: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in raw["rows"] if "samples_s" in each]


def figures(raw: dict[str, Any]) -> dict[str, tuple[str, bool | None]]:
    """Return what the page says of each figure, and whether it is reached."""
    from line_rate_results import LineRate
    from pages import found_in_words

    found = {each.name: each for each in LineRate(raw).figures()}
    return {name: (found_in_words(asdict(each)), each.reached) for name, each in found.items()}


def made(raw: dict[str, Any], **more: dict[str, Any]) -> str:
    from line_rate_page import make
    from line_rate_results import LineRate

    judged = raw | {"figures": list(map(asdict, LineRate(raw).figures()))}
    return make({"line_rate.json": judged, **{f"{name}.json": each for name, each in more.items()}})


def test_figures_say_what_was_found(raw) -> None:
    found = figures(raw)
    assert found["tmpfs to device, first"] == (
        "47.1 GB/s (bus alone 54.5, reads alone 60.2)",
        True,
    )
    assert found["pinned, then restored"] == ("53.3 GB/s", True)
    assert found["pinning itself"] == ("16 GB/s", True)
    assert found["warm page cache to device, again"] == ("not measured", None)
    cold = found["cold disk to device"]
    assert cold == ("1 of the ceiling (1.60 of 1.60 GB/s)", True)
    assert found["freeze to tmpfs"][0].startswith("0.976 of the ceiling (4.00 of")
    assert found["20,000 tensors"] == ("1.13 times the time of few", True)
    checkpoint = "safetensors checkpoint, again"
    assert found[checkpoint] == ("1.1 times `.thaw` without digests", False)
    host = found["host memory beyond what was there"]
    assert host == ("300 MiB (memory/tmpfs/native)", True)


def test_plain_transfers_between_the_samples_are_the_ceiling(raw) -> None:
    plain = {"few": [5.0, 3.0], "many": [8.0]}
    for each in raw["rows"]:
        if each["case"] == "freeze/tmpfs/native":
            each["plain_s"] = plain
    share = figures(raw)["freeze to tmpfs"]
    # The median of all samples, 4.2 and 4.0 s, since each has plain writes beside it.
    assert share == ("0.976 of the ceiling (3.90 of 4.00 GB/s)", True)
    page = made(raw)
    assert "| `freeze/tmpfs/native` | again | few | 4.000 | 3.000 to 5.000 | 4.00 |" in page


@pytest.mark.parametrize(
    "case", ["restore/tmpfs/native", "restore/cold-disk/native", "many/tmpfs/native"]
)
def test_a_fast_row_that_is_not_identical_reaches_nothing(raw, case: str) -> None:
    before = [what for what, (_, reached) in figures(raw).items() if reached]
    for each in raw["rows"]:
        if each["case"] == case:
            each["identical"] = False
    after = [what for what, (_, reached) in figures(raw).items() if reached]
    assert set(after) < set(before)


def test_slower_is_not_reached(raw) -> None:
    for each in measured(raw):
        each["samples_s"] = [sample * 2 for sample in each["samples_s"]]
    found = figures(raw)
    assert found["tmpfs to device, first"] == (
        "23.5 GB/s (bus alone 54.5, reads alone 60.2)",
        False,
    )
    assert found["freeze to tmpfs"][1] is False


def test_every_measured_number_of_the_page_comes_from_the_results(raw) -> None:
    """Change every number of the results: no number of the tables stays, but the figures asked."""
    from line_rate_page import NOTE

    other = copy.deepcopy(raw)
    for index, each in enumerate(measured(other)):
        factor = 1.7 + 0.09 * index
        each["samples_s"] = [sample * factor + 0.013 for sample in each["samples_s"]]
        for times in each.get("plain_s", {}).values():
            times[:] = [sample * factor * 1.3 for sample in times]
        each["tensors"], each["ready_s"] = each["tensors"] + 7, 0.731
        each["nbytes"] += 3_000_000_000
        if each["chunks_checked"] is not None:
            each["chunks_checked"] += 172
        each["memory"] = {key: value + (77 << 20) for key, value in each["memory"].items()}
        each["note"] = each["note"] and "9.8"
    ceilings = [each for each in other["rows"] if "gbps" in each]
    for each in (way for one in ceilings for way in (one, *one["detail"])):
        each["gbps"] = each["gbps"] and each["gbps"] * 1.37
    other["runs"][0]["machine"]["cores"] = 15
    asked = re.compile(r"at (least|most) [\d.]+|\| 20,000 tensors|`[^`]*`|10\^9|2\^20|bf16|h2d")

    def numbers(text: str) -> list[str]:
        measured = asked.sub("", text.replace(NOTE, ""))
        return re.findall(r"\d[\d,.]*", measured)

    before, after = (numbers(made(each)) for each in (raw, other))
    assert len(before) == len(after) > 80
    same = [(a, b) for a, b in zip(before, after, strict=True) if a == b]
    assert same == [], made(raw)


def test_what_was_not_measured_is_on_the_page(raw) -> None:
    page = made(raw)
    assert "| `restore/tmpfs/gds` | no \\| such backend |" in page
    (left_out,) = re.findall(r"(?m)^\| (.*) \| left out by the commands \|$", page)
    assert "`freeze/tmpfs/reference`" in left_out
    assert "`restore/tmpfs/native`" not in left_out
    assert "`restore/tmpfs/gds`" not in left_out
    assert "ceilings" not in left_out


def test_what_other_machines_measured_is_told_apart_and_not_missing(raw) -> None:
    alone = made(raw)
    assert "such backend" in alone
    raw["rows"] = [each | {"run": 2} for each in raw["rows"]]
    (newest,) = raw["runs"]
    raw["runs"] = [
        newest | {"boot": boot, "began": boot, "machine": {"cpu": f"that of {boot}", "commit": "c"}}
        for boot in ("2026-01", "2026-02")
    ] + [newest]
    raw["rows"] += [
        row("restore/tmpfs/gds", "first", 0.8, run=1),
        row("freeze/tmpfs/cupy", "first", 5.0, run=0),
    ]
    page = made(raw)
    assert "such backend" not in page
    own, newer, oldest = re.split(r"(?m)^### At c, from 2026-0.$", page)
    assert "that of" not in own
    assert "`restore/tmpfs/gds`" not in own
    assert "that of 2026-02" in newer
    assert "| `restore/tmpfs/gds` | first | 291 | 0.800 |" in newer
    assert "that of 2026-01" in oldest
    assert "| `freeze/tmpfs/cupy` | first | 5.000 |" in oldest
    assert "restore/tmpfs/native" not in newer + oldest


def test_ceilings_say_how_and_why_not(raw) -> None:
    page = made(raw)
    assert "| tmpfs | h2d-pinned | 54.50 | one way: 54.50 |" in page
    assert "| tmpfs | read-direct |  | one way: tmpfs has no disk |" in page


def test_a_checkpoint_is_compared_with_what_was_restored_beside_it(raw) -> None:
    what = "safetensors checkpoint, into"
    assert figures(raw)[what] == ("not measured", None)
    for plain, found in ((0.40, ("1.05", True)), (0.39, ("1.08", False))):
        added = row("checkpoint/tmpfs/native", "into", 0.42, plain_s={"undigested": [plain]})
        said, reached = figures(raw | {"rows": [*raw["rows"], added]})[what]
        assert (said.removesuffix(" times `.thaw` without digests"), reached) == found


@pytest.mark.parametrize("complete", [True, False])
def test_parity_is_on_the_page(raw, complete: bool) -> None:
    tally = {"passed": 1_234, "failed": 2, "skipped": 3, "reasons": {"no | GPU": 3}}
    machine, versions = {"gpu": "some GPU", "commit": "abc"}, {"torch": "9.9"}
    rows = [{"case": "mine/cuda", "backend": "mine", "device": "cuda"} | tally]
    parity = {"machine": machine, "versions": versions, "settings": {"complete": complete}}
    assert "Parity" not in made(raw)
    page = made(raw, parity=parity | {"figures": [], "rows": rows})
    assert "gpu some GPU, commit abc, torch 9.9; complete" in page
    assert "| `mine` | cuda | 1,234 | 2 | 3 | no \\| GPU |" in page
    assert ("**Cut short.**" in page) is not complete

"""The plot: from the document alone."""

import json
import sys
from pathlib import Path

import pytest

from thaw.bench import plot
from thaw.bench.document import document
from thaw.bench.rows import Row
from thaw.bench.shapes import BenchJSON
from thaw.bench.task import AGAIN, FIRST, PROBE, Task
from thaw.bench.ways import Ceiling, Way

BUS = Ceiling("h2d-pinned", 54.0, (Way("one copy", 54.0, 53.0, 55.0),))


@pytest.fixture
def found(model: Path) -> BenchJSON:
    rows = [
        Row("reference", "cuda", FIRST, "host", (1.0, 1.1), 10**10, True, "h2d-pinned", 0.18),
        Row("native", "cuda", FIRST, "native", (0.2, 0.25), 10**10, True, "h2d-pinned", 0.8),
        Row("native", "cuda", AGAIN, "native", (0.2,), 10**10, False, "h2d-pinned", 0.9),
        Row("gds", "cuda", PROBE, error="no nvidia-fs", available=False),
    ]
    made = document(Task(str(model), "", "cuda", str(model.parent)), [BUS], rows)
    loaded: BenchJSON = json.loads(json.dumps(made))
    return loaded


def test_it_shows_bars_ceilings_and_what_is_wrong(found: BenchJSON, tmp_path: Path) -> None:
    mpl = pytest.importorskip("matplotlib")
    with mpl.rc_context({"svg.fonttype": "none"}):
        plot.draw(found, tmp_path / "x.svg")
    drawn = (tmp_path / "x.svg").read_text()
    for word in ("restore first: h2d-pinned 54.0 GB/s", "reference", "native", "NOT IDENTICAL"):
        assert word in drawn
    assert "gds" not in drawn


def test_it_is_the_same_each_time(found: BenchJSON, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        plot.draw(found, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_it_draws_a_document_that_was_written_before(
    found: BenchJSON, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "x.json").write_text(json.dumps(found))
    monkeypatch.setattr(sys, "argv", ["plot", str(tmp_path / "x.json"), str(tmp_path / "x.png")])
    plot.main()
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_is_drawn(found: BenchJSON, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found["rows"] = []
    plot.draw(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()


def test_without_matplotlib_it_says_what_to_install(
    found: BenchJSON, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'thaw-snapshot\[bench\]'"):
        plot.draw(found, tmp_path / "x.svg")

"""What people see: at any width, of any name, in any encoding."""

import io
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

import thaw
from thaw.cli import drawing
from thaw.cli.app import app
from thaw.cli.census import group_of
from thaw.cli.output import Output
from thaw.cli.text import count, escape, exact_size, power_size, shorten, size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def look(monkeypatch: pytest.MonkeyPatch, width: int, *arguments: object) -> str:
    """Run a command as on a terminal of a width, without its colors."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=True, no_color=True, highlight=False, markup=False
    )
    monkeypatch.setattr(drawing, "standard_output", lambda: console)
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return Text.from_ansi(file.getvalue()).plain


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, model: Path, ranks: Path, width: int
) -> None:
    for arguments in (
        ("inspect", model),
        ("inspect", model, "--tensors", "--sha256"),
        ("inspect", ranks),
        ("backends",),
        ("formats",),
    ):
        shown = look(monkeypatch, width, *arguments).splitlines()
        wide = [line for line in shown if len(line) > width and " = " not in line]
        assert wide == []


def test_inspect_tells_what_matters(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    shown = look(monkeypatch, 100, "inspect", model)
    for words in (
        "model.thaw",
        "thaw 1.0, weights",
        "50 tensors in 49 storages, 26,624 elements, 57.3 kB",
        "CRC32C of 1 chunk of 4 MiB",
        "format = pt",
        "steps = [1, 2]",
        "85.7%",
        "model.layers",
        "model.embed.weight = lm_head.weight  float32 64\N{MULTIPLICATION SIGN}32, 8.2 kB",
        "largest of 50",
        "all of them: --tensors",
    ):
        assert words in shown
    assert "all checked" not in shown
    assert "all checked" in look(monkeypatch, 100, "inspect", model, "--sha256")
    every = look(monkeypatch, 100, "inspect", model, "--tensors")
    assert every.index("layers.2.mlp.up") < every.index("layers.10.mlp.up")


def test_inspect_shows_ranks(monkeypatch: pytest.MonkeyPatch, ranks: Path) -> None:
    shown = look(monkeypatch, 80, "inspect", ranks)
    assert "2 ranks" in shown
    assert "rank-00001-of-00002.thaw" in shown
    one = look(monkeypatch, 80, "inspect", ranks / "rank-00001-of-00002.thaw")
    assert "rank 1 of 2 (tp 1 of 2)" in one


def test_a_snapshot_of_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    thaw.freeze({}, tmp_path / "x.thaw")
    assert "0 tensors" in look(monkeypatch, 80, "inspect", tmp_path / "x.thaw", "--sha256")


def test_names_are_text_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ["[bold]x[/bold]", "a\x1b[31mred", "b\u202egnp.exe", "line\nbreak", ":boom:", "c\\u"]
    thaw.freeze({n: torch.ones(2) for n in names}, tmp_path / "x.thaw", metadata={"\x07": "\x9b"})
    shown = look(monkeypatch, 100, "inspect", tmp_path / "x.thaw")
    for words in ("[bold]x[/bold]", "a\\u{1b}[31mred", "b\\u{202e}gnp.exe", ":boom:", "c\\\\u"):
        assert words in shown
    assert "\\u{7} = \\u{9b}" in shown


def test_names_in_errors_are_escaped(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "a\x1b[31m\nb")])
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr


def test_long_names_leave_out_their_middle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    thaw.freeze({"a" * 2000 + "b" * 2000: torch.ones(2)}, tmp_path / "x.thaw")
    shown = look(monkeypatch, 80, "inspect", tmp_path / "x.thaw")
    assert "…" in shown
    assert shown.count("a") < 400


def test_lines_are_whole_where_output_is_no_terminal(tmp_path: Path) -> None:
    name = "model." + "deep." * 30 + "weight"
    thaw.freeze({name: torch.ones(2)}, tmp_path / "x.thaw")
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "x.thaw")]).stdout
    assert [line for line in shown.splitlines() if line.startswith(name)]
    assert "\x1b" not in shown


def test_a_terminal_of_few_characters(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    console = Console(file=file, width=80, highlight=False)
    monkeypatch.setattr(drawing, "standard_output", lambda: console)
    assert CliRunner().invoke(app, ["inspect", str(model)]).exit_code == 0
    file.flush()
    assert b"####" in raw.getvalue()


def test_formats_without_digests_say_so(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    other = model.with_suffix(".safetensors")
    look(monkeypatch, 80, "convert", model, other)
    assert "no digests" in look(monkeypatch, 80, "verify", other)
    assert "every byte is as written" in look(monkeypatch, 80, "verify", model)
    assert "cannot show that bytes" in look(monkeypatch, 80, "inspect", other)


@pytest.mark.parametrize("command", ["verify", "diff", "freeze"])
def test_quiet_says_nothing(command: str, model: Path, tmp_path: Path) -> None:
    more = {"verify": [], "diff": [str(model)], "freeze": ["-o", str(tmp_path / "x.thaw")]}
    done = CliRunner().invoke(app, [command, str(model), *more[command], "--quiet"])
    assert (done.exit_code, done.output) == (0, "")


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(output: Output, stream: io.StringIO, total: int) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        with output.progress("verifying", lambda: total) as progress:
            if progress:
                progress(total)
        return stream.getvalue()

    assert "verifying" in shown(Output(), Terminal(), 10)
    assert shown(Output(), io.StringIO(), 10) == ""
    assert shown(Output(as_json=True), Terminal(), 10) == ""
    assert shown(Output(quiet=True), Terminal(), 10) == ""
    assert shown(Output(), Terminal(), 0) == ""


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.0.mlp.up_proj.weight", "model.layers"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("lm_head.weight", "lm_head"),
        ("layers.0.weight", "layers"),
        ("0.weight", "0"),
        ("w", "w"),
        (".", ""),
    ],
)
def test_groups(name: str, group: str) -> None:
    assert group_of(name) == group


def test_numbers() -> None:
    assert [size(n) for n in (0, 999, 1000, 999_999, 1_500_000_000, 10**22)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.0 MB",
        "1.5 GB",
        "10000.0 EB",
    ]
    assert [power_size(n) for n in (512, 4096, 1 << 22, 1 << 30)] == [
        "512 B",
        "4 KiB",
        "4 MiB",
        "1 GiB",
    ]
    assert exact_size(1) == "1 byte"
    assert exact_size(12_345) == "12.3 kB (12,345 bytes)"
    assert count(1_000, "tensor") == "1,000 tensors"
    assert shorten("x" * 300, 11) == "xxxxx…xxxxx"
    assert escape("\udcff\u2028é") == "\\u{dcff}\\u{2028}é"

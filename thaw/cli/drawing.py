"""The pieces that views are drawn with."""

from __future__ import annotations

from rich.box import ROUNDED
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .text import MAX_SHOWN, shorten

_UNTIL_CONTENT_ENDS = 100_000
_EIGHTHS = " ▏▎▍▌▋▊▉"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would exit; the command itself says how it ends.
        raise BrokenPipeError


def standard_output() -> Console:
    """Make a console; one that is no terminal breaks no line, so that lines can be searched."""
    console = _Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNTIL_CONTENT_ENDS
    return console


def plain(text: object, style: str = "", limit: int = MAX_SHOWN) -> Text:
    """Show text of a file: escaped, not too long, and without markup."""
    return Text(shorten(text, limit), style)


def columns(*names: str, right: frozenset[str] = frozenset()) -> Table:
    """Make a table without lines; the columns named in `right` are aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(names):
        justify = "right" if name in right else "left"
        foldable = number == 0 or name not in right
        table.add_column(
            Text(name),
            justify=justify,  # type: ignore[arg-type]
            overflow="fold",
            no_wrap=not foldable,
        )
    return table


def facts(title: str, rows: dict[str, RenderableType]) -> Panel:
    """Draw a panel of facts."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), value)
    heading = plain(title, "bold", 60)
    return Panel(
        table, title=heading, title_align="left", box=ROUNDED, expand=False, border_style="cyan"
    )


def bar(console: Console, share: float, width: int) -> Text:
    """Draw a share of one as a bar."""
    if console.options.ascii_only:
        return Text("#" * round(share * width), "cyan")
    eighths = max(round(share * width * 8), 1 if share else 0)
    return Text("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip(), "cyan")


def verdict(console: Console, good: bool | None) -> Text:
    """Draw a mark: good, bad, or neither (None)."""
    marks = {True: ("✓", "ok", "green"), False: ("✗", "X", "red"), None: ("!", "!", "yellow")}
    sign, ascii_sign, style = marks[good]
    return Text(f"{ascii_sign if console.options.ascii_only else sign} ", f"bold {style}")


def say(console: Console, *parts: Text | str) -> None:
    """Print one line, however long."""
    console.print(Text.assemble(*parts), soft_wrap=True)

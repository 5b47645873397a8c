"""Make the pages of benchmarks/ from results/ alone (`--check` compares instead)."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import compared_pages
import cpu_pages
import engines_page
import line_rate_page
import ranks_page
import sessions_page
from results import FOLDER, read_results

HERE = Path(__file__).parent
FRONT = HERE.parent / "README.md"
BEGIN, END = "<!-- made by benchmarks/make_pages.py -->", "<!-- end -->"


def pages(folder: Path = FOLDER) -> dict[str, str]:
    """Return the text of every page whose results are there."""
    makers = {
        "README.md": (cpu_pages.index, cpu_pages.REFERENCE),
        "native_cpu.md": (cpu_pages.native, cpu_pages.NATIVE),
        "before_after.md": (compared_pages.before_after, compared_pages.TREES),
        "import_time.md": (compared_pages.import_time, compared_pages.IMPORTS),
        "beside.md": (compared_pages.beside, compared_pages.STREAMS),
        "two_gpus.md": (ranks_page.make, ranks_page.FILE),
    }
    found = read_results(*(file for _, file in makers.values()), folder=folder)
    made = {name: make(found[file]) for name, (make, file) in makers.items() if file in found}
    for name, of in {
        "line_rate.md": line_rate_page,
        "engines.md": engines_page,
        "sessions.md": sessions_page,
    }.items():
        several = read_results(*of.FILES, folder=folder)
        if of.FILES[0] in several:
            made[name] = of.make(several)
    return made


def headlines(folder: Path = FOLDER) -> str:
    """Return the sentences of the project's README, as far as there are results."""
    makers = {
        "line_rate.json": line_rate_page.headline,
        "engine_figures.json": engines_page.headline,
        ranks_page.FILE: ranks_page.headline,
        sessions_page.FILES[0]: sessions_page.headline,
    }
    found = read_results(*makers, folder=folder)
    return " ".join(filter(None, (makers[name](each) for name, each in found.items())))


def front(text: str, sentence: str) -> str:
    """Put a sentence between the marks of the project's README."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = textwrap.fill(sentence, 118)
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


def main() -> int:
    made = {HERE / name: text for name, text in pages().items()}
    made[FRONT] = front(FRONT.read_text(), headlines())
    if "--check" in sys.argv[1:]:
        stale = [p.name for p, text in made.items() if not p.exists() or p.read_text() != text]
        if stale:
            print(f"not what make_pages.py makes: {', '.join(stale)}", file=sys.stderr)
        return 1 if stale else 0
    for path, text in made.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

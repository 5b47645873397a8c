"""Make docs/cli.md from the command line itself (`--check` compares instead)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
NOTE = "<!-- Made by scripts/make_cli_reference.py; do not edit. -->\n\n"


def page() -> str:
    """Return the reference as Markdown."""
    command = [sys.executable, "-m", "typer", "thaw.cli.app", "utils", "docs", "--name", "thaw"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return NOTE + done.stdout.strip() + "\n"


def main() -> int:
    made = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made)
        return 0
    if PAGE.exists() and PAGE.read_text() == made:
        return 0
    print("docs/cli.md is not current: run python scripts/make_cli_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""The picture of the house is of the house that there is."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def picture(title: str) -> list[str]:
    """Return the lines of the first drawing below a title."""
    (section,) = re.findall(rf"(?ms)^### {title}\n(.*?)(?=^##)", TEXT)
    drawn = re.search(r"(?m)(^    .*\n)+", section)
    assert drawn
    return [line.removeprefix("    ") for line in drawn[0].splitlines()]


def test_every_floor_of_the_house_is_drawn_from_the_top_down() -> None:
    rooms = runpy.run_path(str(ROOT / "tests" / "test_rooms.py"))
    lines = picture("The house")
    ground = next(number for number, line in enumerate(lines) if line.startswith("---"))
    # What is said of a floor stands apart from its rooms.
    floors = [set(re.split(r" {3,}", line)[0].split()) for line in lines]
    assert floors[:ground] == list(reversed(rooms["FLOORS"]))
    beside = {name for floor in floors[ground + 1 :] for name in floor}
    assert beside == set(rooms["PACKAGES"]) - {"thaw"}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w./-]+/[\w.-]*)`", TEXT))))
def test_what_is_named_is_there(path: str) -> None:
    assert (ROOT / path).exists() or path.startswith(".venv/")

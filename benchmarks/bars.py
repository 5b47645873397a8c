"""Horizontal bars as SVG text: no library, the same bytes from the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_ROW, _LEFT, _WIDTH, _RIGHT, _TOP = 26, 240, 390, 120, 58
_COLORS = ("#9db7d5", "#2f6db3")
_LINE = "#b33333"


@dataclass(frozen=True, slots=True)
class Bar:
    """A label and up to two values, drawn one above the other."""

    label: str
    values: tuple[float, ...]


def draw(title: str, unit: str, series: Sequence[str], bars: Sequence[Bar], line: float) -> str:
    """Draw bars and, where `line` is not 0, a line for a ceiling."""
    longest = max([line, *(value for bar in bars for value in bar.values)], default=0) or 1
    height, width = _TOP + _ROW * len(bars) + 12, _LEFT + _WIDTH + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        f'  width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        _rectangle(0, 0, width, height, "#ffffff"),
        _text(12, 22, title, "start", "#000000"),
    ]
    for index, name in enumerate(series):
        x = 12 + index * 80
        parts += [_rectangle(x, 33, 10, 10, _COLORS[index]), _text(x + 15, 42, name)]
    for index, bar in enumerate(bars):
        parts += _bar(bar, _TOP + index * _ROW, longest, unit)
    if line:
        x_line = _LEFT + _WIDTH * line / longest
        parts.append(_rectangle(x_line, _TOP - 8, 1, height - _TOP, _LINE))
        parts.append(_text(x_line, _TOP - 12, f"ceiling {line:.1f} {unit}", "end", _LINE))
    return "\n".join([*parts, "</svg>", ""])


def _bar(bar: Bar, top: int, longest: float, unit: str) -> list[str]:
    thick = (_ROW - 6) / len(bar.values)
    parts = [_text(_LEFT - 8, top + 14, bar.label, "end")]
    for index, value in enumerate(bar.values):
        length = _WIDTH * value / longest
        parts.append(_rectangle(_LEFT, top + index * thick, length, thick, _COLORS[index]))
    said = " / ".join(f"{value:.1f}" for value in bar.values)
    return [*parts, _text(_LEFT + _WIDTH + 8, top + 14, f"{said} {unit}")]


def _rectangle(x: float, y: float, width: float, height: float, color: str) -> str:
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{color}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", color: str = "#333333") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{color}">{escape(text)}</text>'

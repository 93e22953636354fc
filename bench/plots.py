"""Small pictures of numbers, as SVG: bars, stacks of bars, ranges on a logarithmic scale."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH = 760
_LEFT = 110
_RIGHT = 150
_ROW = 24
_TOP = 40
# Told apart by who does not see all colours, too, on light and dark grounds.
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
_OURS = "parley"
_BOLD = 'font-weight="bold"'


@dataclass(frozen=True, slots=True)
class Bar:
    """`to`, where it is there, is where a range ends."""

    name: str
    value: float | None
    to: float | None = None


def bars(title: str, values: Sequence[Bar]) -> str:
    """A bar for each value."""
    most = max((bar.value or 0.0 for bar in values), default=1.0) or 1.0
    parts = []
    for number, bar in enumerate(values):
        width = _scaled((bar.value or 0.0) / most)
        colour = _COLOURS[0] if bar.name == _OURS else _COLOURS[6]
        parts += [_label(number, bar.name), _rectangle(_LEFT, number, width, colour)]
        parts.append(_text(_LEFT + width + 6, _middle(number), _short(bar.value or 0.0)))
    return _svg(title, len(values), parts)


def stacks(title: str, values: Mapping[str, Mapping[str, float]]) -> str:
    """A bar for each, of its parts."""
    most = max((sum(parts.values()) for parts in values.values()), default=1.0) or 1.0
    names = list(dict.fromkeys(_kind(part) for parts in values.values() for part in parts))
    shapes: list[str] = []
    for number, (name, parts) in enumerate(values.items()):
        at = float(_LEFT)
        shapes.append(_label(number, name))
        for part, value in parts.items():
            width = _scaled(value / most)
            colour = _COLOURS[names.index(_kind(part)) % len(_COLOURS)]
            shapes.append(_rectangle(at, number, width, colour, f"{part}: {_short(value)}"))
            if width > 7 * len(part):
                shapes.append(_text(at + 4, _middle(number), part, 'fill="#000"'))
            at += width
        shapes.append(_text(at + 6, _middle(number), _short(sum(parts.values()))))
    return _svg(title, len(values), shapes)


def _kind(part: str) -> str:
    """What has the same colour in all bars."""
    return part.removeprefix("chat-")


def ranges(title: str, groups: Mapping[str, Sequence[Bar]]) -> str:
    """From a value to another for each, in groups, on a logarithmic scale."""
    numbers = [value for group in groups.values() for bar in group for value in (bar.value, bar.to) if value]
    low, high = math.log10(max(min(numbers, default=1.0), 0.1)), math.log10(max(numbers, default=10.0))
    span = max(high - low, 0.1)

    def at(value: float | None) -> float:
        return _LEFT + _scaled((math.log10(max(value or 0.1, 10**low)) - low) / span)

    shapes: list[str] = []
    row = 0
    for name, group in groups.items():
        if not group:
            continue
        shapes.append(_text(8, _middle(row), name, _BOLD))
        row += 1
        for bar in group:
            start, end = at(bar.value), at(bar.to)
            colour = _COLOURS[0] if bar.name == _OURS else _COLOURS[6]
            shapes += [_label(row, bar.name), _rectangle(start, row, max(end - start, 3.0), colour)]
            shapes.append(
                _text(max(end, start + 3) + 6, _middle(row), f"{_short(bar.value or 0)} to {_short(bar.to or 0)}")
            )
            row += 1
    return _svg(title, row, shapes)


def _scaled(share: float) -> float:
    return round(share * (_WIDTH - _LEFT - _RIGHT), 1)


def _middle(row: int) -> float:
    return _TOP + row * _ROW + _ROW / 2 + 4


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _label(row: int, text: str) -> str:
    return _text(_LEFT - 8, _middle(row), text, 'text-anchor="end"')


def _text(at: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{at:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _rectangle(at: float, row: int, width: float, colour: str, title: str = "") -> str:
    y = _TOP + row * _ROW + 3
    shape = f'<rect x="{at:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{_ROW - 6}" fill="{colour}">'
    return f"{shape}<title>{escape(title)}</title></rect>"


def _svg(title: str, rows: int, shapes: Iterable[str]) -> str:
    height = _TOP + rows * _ROW + 10
    style = "text{font:12px sans-serif;fill:currentColor}svg{color:#222;background:#fff}"
    style += "@media(prefers-color-scheme:dark){svg{color:#ddd;background:#111}}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">'
    )
    lines = [head, f"<style>{style}</style>", _text(8, 22, title, _BOLD), *shapes, "</svg>"]
    return "\n".join(lines) + "\n"

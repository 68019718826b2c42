"""Lines over time as an SVG, by hand: panels under each other on one time axis, with marks across all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Line = Sequence[tuple[float, float]]  # (seconds, value), in order of time

WIDTH, LEFT, RIGHT, TOP, PANEL, GAP, BOTTOM = 960, 64, 190, 88, 210, 56, 48
INK, QUIET, GRID, MARK = "#1f2933", "#6b7785", "#e6e9ed", "#d64545"
COLOURS = ("#2563eb", "#0f9d74", "#b45309", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#64748b")
FONT = "font-family='ui-sans-serif,system-ui,Helvetica,Arial,sans-serif'"


@dataclass(frozen=True)
class Panel:
    """`log`: powers of ten, for values that differ by orders of magnitude."""

    title: str
    lines: Mapping[str, Line]
    log: bool = False


def draw(title: str, subtitle: str, panels: Sequence[Panel], *, marks: Mapping[float, str]) -> str:
    """`marks`: seconds → what happened then."""
    end_s = max((x for panel in panels for line in panel.lines.values() for x, _ in line), default=1.0) or 1.0
    height = TOP + len(panels) * (PANEL + GAP) - GAP + BOTTOM
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{escape(title)}'>",
        f"<rect width='{WIDTH}' height='{height}' rx='8' fill='#ffffff'/>",
        _text(LEFT, 28, title, size=17, weight=600),
        _text(LEFT, 46, subtitle, colour=QUIET),
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, TOP + index * (PANEL + GAP), end_s, marks, is_last=index == len(panels) - 1)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: float, end_s: float, marks: Mapping[float, str], *, is_last: bool) -> list[str]:
    bottom, right = top + PANEL, WIDTH - RIGHT
    values = [y for line in panel.lines.values() for _, y in line]
    ticks = _powers(values) if panel.log else _round_ticks(max(values, default=1.0))
    low, high = ticks[0], ticks[-1]

    def across(seconds: float) -> float:
        return LEFT + (right - LEFT) * seconds / end_s

    def up(value: float) -> float:
        if panel.log:
            share = math.log(max(value, low) / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return bottom - PANEL * min(max(share, 0.0), 1.0)

    parts = [_text(LEFT, top - 10, panel.title, weight=600)]
    for tick in ticks:
        parts.append(f"<path d='M{LEFT} {up(tick):.1f}H{right}' stroke='{GRID}'/>")
        parts.append(_text(LEFT - 8, up(tick) + 4, f"{tick:,g}", colour=QUIET, anchor="end"))
    for seconds, what in marks.items():
        x = across(seconds)
        parts.append(
            f"<path d='M{x:.1f} {top}V{bottom}' stroke='{MARK}' stroke-opacity='.35' stroke-dasharray='2 3'>"
            f"<title>{escape(what)}</title></path>"
        )
    for minute in _minutes(end_s):
        parts.append(_text(across(minute * 60), bottom + 18, f"{minute}", colour=QUIET, anchor="middle"))
    if is_last:
        parts.append(
            _text((LEFT + right) / 2, bottom + 36, "minutes; a dashed line is a kill", colour=QUIET, anchor="middle")
        )
    labels = []
    for colour, (name, line) in zip(COLOURS * 3, panel.lines.items(), strict=False):
        if line:
            path = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in line)
            parts.append(
                f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='1.6' stroke-linejoin='round'/>"
            )
            labels.append((up(line[-1][1]), name, colour))
    return parts + _labels(labels, right + 10, bottom)


def _labels(labels: list[tuple[float, str, str]], x: float, bottom: float) -> list[str]:
    """Beside the end of each line, pushed apart where they would cover each other."""
    placed: list[str] = []
    y = bottom + 16.0
    for wanted, name, colour in sorted(labels, reverse=True):
        y = min(wanted, y - 15)
        placed.append(_text(x, y + 4, name, colour=colour))
    return placed


def _round_ticks(largest: float) -> list[float]:
    """From 0 to at least the largest, in four or five round steps."""
    raw = max(largest, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


def _powers(values: Sequence[float]) -> list[float]:
    positive = [value for value in values if value > 0] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _minutes(end_s: float) -> range:
    minutes = int(end_s // 60)
    return range(0, minutes + 1, max(1, math.ceil(minutes / 10)))


def _text(
    x: float, y: float, text: str, *, size: int = 12, colour: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {FONT} font-size='{size}' font-weight='{weight}' fill='{colour}'"
        f" text-anchor='{anchor}'>{escape(text)}</text>"
    )

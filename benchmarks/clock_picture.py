"""The picture of docs/clock.md: predicted against published times, and how ranges narrow with what is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping, NamedTuple, Sequence

from utils.thop.deploy.calibration import mean_factor
from utils.thop.show.plots import COLUMN, INK, Style, log_axis, new_figure, own_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HUES = ("#1f4e8c", "#f5c04a", "#00504a", "#d1495b", "#8fd3c4", "#7d5ba6", "#5b4300", "#66a5d9", "#9aa33a", "#333333")
_MARKS = "osD^vPX<>"


class Predicted(NamedTuple):
    """A network's seconds, as published and as predicted without it, with the range that nine of ten fall into."""

    published: float
    predicted: float
    low: float
    high: float


def clock_figure(kinds: Mapping[str, Sequence[Predicted]], reach: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw how far predictions are off, with their ranges, and how ranges narrow with what is known.

    kinds: points by kind of device, each with a colour and a mark; reach: by kind the factor up and down of a usual
    range, by what is known of a device.
    """
    with own_settings():
        figure = new_figure(2 * COLUMN, 3.4)
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (5, 2)})
        times = [point.published for points in kinds.values() for point in points]
        log_axis(left, "x", min(times) / 1.3, max(times) * 1.3, 1e-3)
        log_axis(left, "y", 0.4, 2.5)
        left.axhline(1.0, color=INK, lw=0.5)
        for i, (kind, points) in enumerate(kinds.items()):
            style: Style = {"marker": _MARKS[i % len(_MARKS)], "color": _HUES[i % len(_HUES)]}
            _draw_points(left, kind, points, style)
            steps = reach[kind]
            right.plot(list(steps), list(steps.values()), ms=3.5, lw=0.8, **style)
        left.set_xlabel("published, ms a pass")
        left.set_ylabel("predicted without it / published")
        left.grid(True)
        left.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.17), ncol=5, handletextpad=0.1, columnspacing=1.0)
        right.set_xlabel("networks measured")
        right.set_ylabel("nine of ten lie within x")
        right.set_ylim(bottom=1.0)
        right.grid(True, axis="y")
        figure.tight_layout(pad=0.5)
    return figure


def _draw_points(axes: Axes, kind: str, points: Sequence[Predicted], style: Style) -> None:
    """Draw each network's ratio, and its range as a bar behind it."""
    xs = [point.published for point in points]
    lows, highs = [p.low / p.published for p in points], [p.high / p.published for p in points]
    axes.vlines(xs, lows, highs, color=style["color"], lw=0.4, alpha=0.25)
    ratios = [point.predicted / point.published for point in points]
    label = f"{kind} ({len(points)}, x {mean_factor(ratios):.2f})"
    axes.scatter(xs, ratios, s=9, lw=0.3, edgecolors="white", zorder=3, label=label, **style)

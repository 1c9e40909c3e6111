"""Pictures of the clock: predicted against published times, and where along a network its time goes."""

from typing import TYPE_CHECKING, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ..deploy.calibration import mean_factor
from ..deploy.prediction import LayerTime, Prediction
from .drawing import (
    ARITHMETIC,
    COLUMN,
    INK,
    MEMORY,
    Style,
    cut,
    log_axis,
    new_axes,
    new_figure,
    own_settings,
    write_head,
)
from .time_table import milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HUES = ("#1f4e8c", "#f5c04a", "#00504a", "#d1495b", "#8fd3c4", "#7d5ba6", "#5b4300", "#66a5d9", "#9aa33a", "#333333")
_MARKS = "osD^vPX<>"
_STARTING: Style = {"facecolor": "#b9b9b9", "edgecolor": "#555555"}
_STYLES: Dict[str, Style] = {"arithmetic": ARITHMETIC, "memory": MEMORY, "starting launches": _STARTING}
_MOST = 60


class Point(NamedTuple):
    """A network's seconds, as published and as predicted without it, with the range that nine of ten fall into."""

    published: float
    predicted: float
    low: float
    high: float


def clock_figure(kinds: Mapping[str, Sequence[Point]], reach: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Draw how far predictions are off, with their ranges, and how ranges narrow with what is known.

    kinds: points by kind of device, each with a colour and a mark; reach: by kind the factor up and down of a usual
    range, by what is known of a device.
    """
    with own_settings():
        figure = new_figure(2 * COLUMN, 3.4)
        left = new_axes(figure, 0.55, 0.75, 1.25 * COLUMN, 2.4)
        right = new_axes(figure, 1.25 * COLUMN + 1.1, 0.75, 2 * COLUMN - 1.25 * COLUMN - 1.25, 2.4)
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
    return figure


def _draw_points(axes: "Axes", kind: str, points: Sequence[Point], style: Style) -> None:
    """Draw each network's ratio, and its range as a bar behind it."""
    xs = [point.published for point in points]
    lows, highs = [p.low / p.published for p in points], [p.high / p.published for p in points]
    axes.vlines(xs, lows, highs, color=style["color"], lw=0.4, alpha=0.25)
    ratios = [point.predicted / point.published for point in points]
    label = f"{kind} ({len(points)}, x {mean_factor(ratios):.2f})"
    axes.scatter(xs, ratios, s=9, lw=0.3, edgecolors="white", zorder=3, label=label, **style)


def time_figure(name: str, prediction: Prediction) -> "Figure":
    """Draw a network's predicted time in the order of the run: a bar for each module, coloured by what binds it."""
    with own_settings():
        layers = _bars(prediction)
        longest = max((len(_label(layer)) for layer in layers), default=1)
        below = 0.25 + 0.055 * longest
        figure = new_figure(2 * COLUMN, 2.6 + below)
        axes = new_axes(figure, 0.5, below, 2 * COLUMN - 0.6, 1.9)
        _draw_bars(axes, layers)
        place = f"{prediction.title}, {prediction.runtime.title}, {prediction.precision}"
        low, high = milliseconds(prediction.low), milliseconds(prediction.high)
        height = figure.get_size_inches()[1]
        figure.text(0.5, 1 - 0.06 / height, cut(name, 70), ha="center", va="top", size=9, weight="bold")
        text = f"{place}: about {milliseconds(prediction.seconds)} ({low} to {high})"
        figure.text(0.5, 1 - 0.23 / height, text, ha="center", va="top")
    return figure


def _bars(prediction: Prediction) -> List[LayerTime]:
    """The modules of the finest level of which there are no more than can be read."""
    for depth in (None, 4, 3, 2):
        layers = prediction.layers(depth)
        if len(layers) <= _MOST:
            return layers
    return prediction.layers(1)


def _label(layer: LayerTime) -> str:
    return cut(layer.path or "(itself)", 20)


def _draw_bars(axes: "Axes", layers: Sequence[LayerTime]) -> None:
    from matplotlib.patches import Patch

    below = [0.0] * len(layers)
    for binds, style in _STYLES.items():
        heights = [layer.parts.get(binds, 0.0) * 1e3 for layer in layers]
        if any(heights):
            axes.bar(range(len(layers)), heights, 0.8, bottom=below, lw=0.3, **style)
            below = [low + height for low, height in zip(below, heights)]
    axes.set_xlim(-0.7, len(layers) - 0.3)
    axes.set_xticks(range(len(layers)))
    axes.set_xticklabels([_label(layer) for layer in layers], rotation=90)
    axes.set_ylabel("ms")
    axes.grid(True, axis="y")
    shares: List[Tuple[Patch, str]] = []
    total = sum(layer.seconds for layer in layers) or 1.0
    for binds, style in _STYLES.items():
        share = sum(layer.parts.get(binds, 0.0) for layer in layers) / total
        if share:
            shares.append((Patch(**style), f"bound by {binds} ({share:.0%})"))
    write_head(axes, "Time along the network", shares)


__all__ = ["Point", "clock_figure", "time_figure"]

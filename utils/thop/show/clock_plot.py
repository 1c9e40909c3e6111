"""Pictures of the clock: predicted against published times, and where along a network its time goes."""

from typing import TYPE_CHECKING, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ..deploy.fitting import mean_factor
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

_BAND = 1.1
_HUES = ("#1f4e8c", "#f5c04a", "#00504a", "#d1495b", "#8fd3c4", "#7d5ba6", "#5b4300", "#66a5d9", "#9aa33a", "#333333")
_MARKS = "osD^vPX<>"
_STARTING: Style = {"facecolor": "#b9b9b9", "edgecolor": "#555555"}
_STYLES: Dict[str, Style] = {"arithmetic": ARITHMETIC, "memory": MEMORY, "starting launches": _STARTING}
_MOST = 60


class Point(NamedTuple):
    """A network's seconds, as published and as predicted by constants fitted to the others."""

    published: float
    predicted: float


def clock_figure(tables: Mapping[str, Sequence[Point]]) -> "Figure":
    """Draw predicted against published times, a colour and a mark for each table, in the band of x 1.1."""
    with own_settings():
        rows = -(-len(tables) // 2)
        below = 0.5 + 0.13 * rows
        figure = new_figure(2 * COLUMN, 3.6 + below)
        axes = new_axes(figure, 0.55, below, 2 * COLUMN - 0.7, 3.4)
        values = [value for points in tables.values() for point in points for value in point]
        low, high = min(values) / 1.3, max(values) * 1.3
        for which in ("x", "y"):
            log_axis(axes, which, low, high, 1e-3)
        axes.fill_between([low, high], [low / _BAND, high / _BAND], [low * _BAND, high * _BAND], color="0.85", lw=0)
        axes.plot([low, high], [low, high], color=INK, lw=0.5)
        for i, (title, points) in enumerate(tables.items()):
            factor = mean_factor([point.predicted / point.published for point in points])
            label = f"{title} ({len(points)}, x {factor:.2f})"
            xs, ys = [point.published for point in points], [point.predicted for point in points]
            style: Style = {"marker": _MARKS[i % len(_MARKS)], "color": _HUES[i % len(_HUES)]}
            axes.scatter(xs, ys, s=10, lw=0.3, edgecolors="white", zorder=3, label=label, **style)
        axes.set_xlabel("published, ms a pass")
        axes.set_ylabel("predicted without it, ms a pass")
        axes.grid(True)
        across = {"loc": "upper left", "bbox_to_anchor": (-0.06, -0.11), "ncol": 2, "handletextpad": 0.1}
        axes.legend(**across)
    return figure


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

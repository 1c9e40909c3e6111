"""Pictures for a page: several models compared, predicted times, and bars of anything; and how pictures are saved.

They are one or two columns of a paper wide, and readable in grey. They are made without pyplot: no display is needed,
and the user's own settings of matplotlib neither matter nor change.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..answer import PathLike
from ..deploy.prediction import LayerTime, Prediction
from .drawing import (
    ARITHMETIC,
    COLUMN,
    DPI,
    INK,
    MEMORY,
    Mark,
    Style,
    end_of,
    fit_axis,
    new_axes,
    new_figure,
    number_marks,
    own_settings,
    write_head,
)
from .grid import cut, heaviest
from .predictions import timing_headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
_NO_DATE: Dict[str, Dict[str, None]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
_FEW = 30  # models; of more, marks are smaller
_BARS = 40  # at most, of a figure of bars alone
_LINE = 0.13  # inches of a line in the list of names
_FAR = 30.0  # between the largest and the smallest value of an axis that is logarithmic


class Point(NamedTuple):
    """A model in ``comparison_figure``; accesses: kernel and output together, in elements.

    seconds, low, high: what is expected of it on a device, if one was asked for, and what nine of ten lie between.
    """

    name: str
    gflops: float
    accesses: float
    seconds: Optional[float] = None
    low: float = 0.0
    high: float = 0.0


def comparison_figure(points: Sequence[Point], said: Sequence[str] = ()) -> "Figure":
    """Draw models by GFLOPs and memory accesses, on a device by GFLOPs and time, as numbers that a list explains.

    Points must be finite. The axes are logarithmic where one's largest value is more than 30 times its smallest, and
    none is 0. said: lines above, of what they were counted on.
    """
    with own_settings():
        lines, timed = -(-len(points) // 2), bool(points) and all(point.seconds for point in points)
        below = _LINE * (lines + 1) if points else 0.0
        height = 3.1 + below + _LINE * len(said)
        figure = new_figure(COLUMN, height)
        axes = new_axes(figure, 0.48, 0.48 + below, COLUMN - 0.62, 2.56)
        xs = [point.gflops for point in points]
        ys = [(point.seconds or 0.0) * 1e3 if timed else point.accesses / 1e6 for point in points]
        lows, highs = [point.low * 1e3 for point in points], [point.high * 1e3 for point in points]
        both = xs, [*ys, *lows, *highs] if timed else ys
        wide = all(min(one, default=0.0) > 0 for one in both) and any(max(one) > _FAR * min(one) for one in both)
        for which, values in zip("xy", both):
            fit_axis(axes, which, values, wide)
        axes.set_xlabel("GFLOPs")
        axes.set_ylabel("ms, with the range of nine of ten" if timed else "memory accesses (M)")
        axes.grid(True)
        if timed:
            axes.vlines(xs, lows, highs, color=INK, lw=0.6, alpha=0.5, zorder=2)
        for i, words in enumerate(said):
            figure.text(0.02, 1 - (0.05 + _LINE * i) / height, cut(words, 62), ha="left", va="top")
        area = 18 if len(points) <= _FEW else 9
        axes.scatter(xs, ys, s=area, linewidths=0.4, zorder=3, gid="models", **ARITHMETIC)
        missing = number_marks(axes, [Mark(x, y, math.sqrt(area) / 2) for x, y in zip(xs, ys)])
        for i, point in enumerate(points):
            across, line = divmod(i, lines)
            at = (0.02 + 0.5 * across, (below + 0.1 - _LINE * (line + 0.5)) / height)
            figure.text(*at, f"{i + 1}  {end_of(point.name, 24)}", ha="left", va="center")
        if missing:
            text = f"{missing} of {len(points)} models are without a number, for want of room"
            figure.text(0.99, 0.01, text, ha="right", va="bottom", style="italic")
    return figure


def bars_figure(title: str, names: Sequence[str], values: Sequence[float], label: str) -> "Figure":
    """Draw a bar for each name, of many the largest, in their order from top to bottom."""
    with own_settings():
        shown = heaviest(values, _BARS)
        left = 0.3 + 0.052 * max((len(end_of(names[i], 36)) for i in shown), default=1)
        figure = new_figure(2 * COLUMN, 0.75 + 0.16 * max(len(shown), 3))
        axes = new_axes(figure, left, 0.4, 2 * COLUMN - left - 0.15, 0.16 * max(len(shown), 3))
        axes.barh(range(len(shown)), [values[i] for i in shown], **ARITHMETIC)
        axes.set_yticks(range(len(shown)))
        axes.set_yticklabels([end_of(names[i], 36) for i in shown])
        axes.set_ylim(max(len(shown), 3) - 0.4, -0.6)
        fewer = f" (the {len(shown)} largest of {len(values)})" if len(shown) < len(values) else ""
        axes.set_xlabel(label + fewer)
        axes.grid(True, axis="x")
        axes.set_title(end_of(title, 100), loc="left")
    return figure


def save_figure(figure: "Figure", path: PathLike) -> None:
    """Write a figure as its file's suffix says: .png (300 dots an inch), .svg (text stays text) or .pdf.

    The same figure gives the same file. Raises ValueError for another suffix, OSError where the file can't be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: the name of a picture must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    with own_settings():
        figure.savefig(path, format=suffix[1:], dpi=DPI, metadata=_NO_DATE[suffix])


# ---- where the time goes ----

_STARTING: Style = {"facecolor": "#b9b9b9", "edgecolor": "#555555"}
_LOOKING_UP: Style = {"facecolor": "#7fb3a3", "edgecolor": "#ffffff"}
_STYLES: Dict[str, Style] = {
    "arithmetic": ARITHMETIC,
    "output stage": _LOOKING_UP,
    "memory": MEMORY,
    "starting launches": _STARTING,
}
_MODULES = 60


def time_figure(name: str, prediction: Prediction) -> "Figure":
    """Draw a network's predicted time in the order of the run: a bar for each module, coloured by what binds it."""
    with own_settings():
        layers = _modules(prediction)
        longest = max((len(_label(layer)) for layer in layers), default=1)
        below = 0.25 + 0.055 * longest
        figure = new_figure(2 * COLUMN, 2.6 + below)
        axes = new_axes(figure, 0.5, below, 2 * COLUMN - 0.6, 1.9)
        _draw_modules(axes, layers)
        height = figure.get_size_inches()[1]
        figure.text(0.5, 1 - 0.06 / height, end_of(name, 70), ha="center", va="top", size=9, weight="bold")
        figure.text(0.5, 1 - 0.23 / height, timing_headline(prediction), ha="center", va="top")
    return figure


def _modules(prediction: Prediction) -> List[LayerTime]:
    """The modules of the finest level of which there are no more than can be read."""
    for depth in (None, 4, 3, 2):
        layers = prediction.layers(depth)
        if len(layers) <= _MODULES:
            return layers
    return prediction.layers(1)


def _label(layer: LayerTime) -> str:
    return end_of(layer.path or "(itself)", 20)


def _draw_modules(axes: "Axes", layers: Sequence[LayerTime]) -> None:
    from matplotlib.patches import Patch

    below = [0.0] * len(layers)
    for binds, style in _STYLES.items():
        heights = [layer.parts.get(binds, 0.0) * 1e3 for layer in layers]
        if any(heights):
            axes.bar(range(len(layers)), heights, 0.8, bottom=below, lw=0.3, **style)
            below = [low + height for low, height in zip(below, heights)]
    axes.set_xlim(-0.7, len(layers) - 0.3)
    axes.set_ylim(0.0, 1.06 * max(below) or 1.0)
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

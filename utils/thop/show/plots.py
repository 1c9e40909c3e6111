"""Pictures for a page: several models compared, predicted times, bars of anything; what all pictures have in common.

They are one or two columns of a paper wide, and readable in grey. They are made without pyplot: no display is needed,
and the user's own settings of matplotlib neither matter nor change.
"""

import math
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..answer import PathLike
from ..count.calls import LayerRow
from ..deploy.prediction import Prediction
from .grid import heaviest
from .predictions import timing_headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Style = Dict[str, Any]

COLUMN = 3.4  # inches: a column of a paper
DPI = 300
LINE = 0.13  # inches of a line of text
# Of each pair one is dark and one light, so that grey tells them apart.
ARITHMETIC: Style = {"facecolor": "#1f4e8c", "edgecolor": "#ffffff"}
MEMORY: Style = {"facecolor": "#f5c04a", "edgecolor": "#5b4300"}
KERNEL: Style = {"facecolor": "#00504a"}
OUTPUT: Style = {"facecolor": "#8fd3c4"}
INK = "#333333"

_SETTINGS: Any = {
    "font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "axes.linewidth": 0.6, "axes.labelpad": 2, "axes.axisbelow": True,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "ytick.minor.width": 0.4,
    "xtick.major.size": 3, "ytick.major.size": 3, "xtick.minor.size": 1.5, "ytick.minor.size": 1.5,
    "xtick.major.pad": 2, "ytick.major.pad": 2, "grid.linewidth": 0.4, "grid.color": "0.88",
    "legend.frameon": False, "legend.borderaxespad": 0, "legend.borderpad": 0.2, "legend.handletextpad": 0.4,
    "legend.columnspacing": 0.9, "legend.handlelength": 1.0,
    "svg.fonttype": "none", "svg.hashsalt": "utils.thop", "pdf.fonttype": 42,
}  # fmt: skip


@contextmanager
def own_settings() -> Iterator[None]:
    """Take matplotlib's defaults and ours for a while, whatever the user has set."""
    import matplotlib
    from matplotlib import style

    with style.context("default"), matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Make a figure of a size in inches, without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


# ---- text ----


def end_of(text: str, longest: int) -> str:
    """Keep the end of a name, which tells it from its neighbours, if possible from a dot on."""
    if len(text) <= longest:
        return text
    end = text[2 - longest :]
    dot = end.find(".") + 1
    return ".." + (end[dot:] if len(end) - dot > longest / 2 else end)


def layer_name(layer: LayerRow) -> str:
    """What a layer is called; a path of numbers alone does not tell that it is one."""
    named = any(letter.isalpha() for letter in layer.path)
    return end_of(layer.path if named else f"{layer.type} {layer.path}".strip(), 32)


def in_units(number: float) -> str:
    """Round to three digits, and add the prefix of the unit that follows: 236000000000 as "236 G"."""
    from matplotlib.ticker import EngFormatter

    text = EngFormatter(sep=" ").format_eng(float(f"{number:.3g}")).rstrip()
    return text if text[-1].isalpha() else f"{text} "


def above_a_list(height: float, lines: Sequence[str], width: float = COLUMN) -> Tuple["Figure", "Axes"]:
    """Make a figure with axes, so many inches high, above lines of text in two columns; return it and the axes."""
    rows = -(-len(lines) // 2)
    figure = new_figure(width, height + LINE * (rows + 2))
    axes, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": (height, LINE * (rows + 2))})
    write_lines(below, lines, rows)
    return figure, axes


def write_above(figure: "Figure", *lines: str) -> None:
    """Write lines above all that is in a figure two columns wide, as many as it takes."""
    figure.suptitle("\n".join(fill(line, 112) for line in lines), size=7.5)


def write_lines(axes: "Axes", lines: Sequence[str], rows: int) -> None:
    """Write lines into axes that hold nothing else, below each other, in columns of so many rows."""
    axes.axis("off")
    axes.set_ylim(rows or 1, 0)
    for i, line in enumerate(lines):
        axes.text(i // rows / 2, i % rows + 0.5, line, va="center").set_in_layout(False)


class Mark(NamedTuple):
    """A mark that has a number: where it is, in the units of its axes, and its radius in points."""

    x: float
    y: float
    radius: float


_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a mark, the best first
_GROUND: Style = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
_GAPS = (1.5, 5.0)  # points between a mark and its number


def number_marks(axes: "Axes", marks: Sequence[Mark], others: Sequence[Mark] = ()) -> int:
    """Write 1, 2, 3 beside marks, clear of all marks and the legend; return how many have none, for want of room.

    Marks of one place have their numbers in one text. The limits of the axes must not change any more.
    """
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    figure.tight_layout(pad=0.5)
    renderer, point, legend = figure.canvas.get_renderer(), figure.dpi / 72, axes.get_legend()
    taken = [legend.get_window_extent(renderer)] if legend else []
    together: Dict[Tuple[int, int], List[int]] = {}
    for i, mark in enumerate((*marks, *others)):
        place = axes.transData.transform(mark[:2])
        taken.append(Bbox([place - mark.radius * point, place + mark.radius * point]))
        if i < len(marks):
            x, y = place / point
            together.setdefault((round(x), round(y)), []).append(i)
    missing = 0
    for same in together.values():
        words = "\n".join(", ".join(str(i + 1) for i in same[k : k + 5]) for k in range(0, len(same), 5))
        mark = marks[same[0]]
        text = axes.annotate(words, mark[:2], (0, 0), textcoords="offset points", ha="center", va="center", zorder=4,
                             bbox=_GROUND)  # fmt: skip
        text.set_in_layout(False)
        middle = text.get_window_extent(renderer)
        for gap, (across, up) in product(_GAPS, _SIDES):
            away = (mark.radius + gap) * point
            dx, dy = across * (away + middle.width / 2), up * (away + middle.height / 2)
            box = middle.translated(dx, dy)
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not box.count_overlaps(taken):
                text.xyann = dx / point, dy / point
                taken.append(box)
                break
        else:
            text.remove()
            missing += len(same)
    return missing


# ---- axes ----


class Part(NamedTuple):
    """A part of each bar: what it is, its colours, and its height in each bar."""

    words: str
    style: Style
    heights: Sequence[float]


_UPRIGHT = 8.0  # points along the axis that a name takes that stands upright
_FEWEST = 8  # fewer bars are not drawn wider


def draw_along(axes: "Axes", width: float, title: str, unit: str, names: Sequence[str], parts: Sequence[Part]) -> None:
    """Draw a stacked bar for each module, in so many inches; as many have names below as there is room for."""
    below = [0.0] * len(names)
    for part in parts:
        gid = part.words.partition(" ")[0]
        axes.bar(range(len(names)), part.heights, 0.8, bottom=below, label=part.words, gid=gid, lw=0, **part.style)
        below = [low + height for low, height in zip(below, part.heights)]
    room = len(names) * _UPRIGHT / (width * 72)
    shown: List[int] = []
    for i in sorted(range(len(names)), key=lambda i: -below[i]):  # the highest have names first
        if all(abs(i - other) >= room for other in shown):
            shown.append(i)
    shown.sort()
    spare = max(0, _FEWEST - len(names)) / 2
    axes.set_xlim(-0.7 - spare, len(names) - 0.3 + spare)
    axes.set_ylim(0.0, 1.06 * max(below, default=0.0) or 1.0)
    axes.set_xticks(shown)
    axes.set_xticklabels([end_of(names[i], 20) for i in shown], rotation=90)
    axes.set_ylabel(unit)
    axes.grid(True, axis="y")
    axes.set_title(title, loc="left", pad=15, weight="bold")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.015), ncol=len(parts))


def log_axis(axes: "Axes", which: str, low: float, high: float, unit: float = 1.0) -> None:
    """Make an axis logarithmic, with plain numbers in a unit; a short one has more of them."""
    from matplotlib import ticker

    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    axis = getattr(axes, f"{which}axis")
    steps = (1.0,) if high / low >= 300 else (1.0, 3.0) if high / low >= 20 else (1.0, 2.0, 5.0)
    axis.set_major_locator(ticker.LogLocator(subs=steps, numticks=20))
    axis.set_minor_locator(ticker.LogLocator(subs=tuple(range(1, 10)), numticks=200))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value / unit:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


# ---- the pictures ----

SUFFIXES = (".png", ".svg", ".pdf")
_NO_DATE: Dict[str, Dict[str, None]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
_FEW = 30  # models; of more, marks are smaller
_MANY = 1e4  # from which on numbers along an axis have the prefix of a unit
_BARS = 40  # at most, of a figure of bars alone
_FAR = 30.0  # between the largest and the smallest value of an axis that is logarithmic
_MARGIN = 1.4  # of such an axis, beyond its values


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
        figure, axes = above_a_list(3.0, [f"{i}  {end_of(point.name, 24)}" for i, point in enumerate(points, 1)])
        timed = bool(points) and all(point.seconds for point in points)
        xs = [point.gflops for point in points]
        ys = [(point.seconds or 0.0) * 1e3 if timed else point.accesses / 1e6 for point in points]
        lows, highs = [point.low * 1e3 for point in points], [point.high * 1e3 for point in points]
        if timed:
            axes.vlines(xs, lows, highs, color=INK, lw=0.6, alpha=0.5, zorder=2)
        area = 18 if len(points) <= _FEW else 9
        axes.scatter(xs, ys, s=area, linewidths=0.4, zorder=3, gid="models", **ARITHMETIC)
        _scale(axes, xs, [*ys, *lows, *highs] if timed else ys)
        axes.set_xlabel("GFLOPs")
        axes.set_ylabel("ms, with the range of nine of ten" if timed else "memory accesses (M)")
        axes.grid(True)
        axes.set_title("\n".join(fill(words, 48) for words in said), loc="left")
        missing = number_marks(axes, [Mark(x, y, math.sqrt(area) / 2) for x, y in zip(xs, ys)])
        if missing:
            axes.set_xlabel(f"GFLOPs ({missing} of {len(points)} models have no number)")
    return figure


def _scale(axes: "Axes", xs: Sequence[float], ys: Sequence[float]) -> None:
    """Leave a margin for numbers, and make both axes logarithmic where values of one are far apart."""
    both = {"x": xs, "y": ys}
    if all(min(one, default=0.0) > 0 for one in both.values()) and any(
        max(one) > _FAR * min(one) for one in both.values()
    ):
        for which, values in both.items():
            log_axis(axes, which, min(values) / _MARGIN, max(values) * _MARGIN)
    else:
        axes.margins(0.12)
        axes.ticklabel_format(style="plain", useOffset=False)


def bars_figure(title: str, names: Sequence[str], values: Sequence[float], label: str) -> "Figure":
    """Draw a bar for each name, of many the largest, in their order from top to bottom."""
    from matplotlib.ticker import EngFormatter

    with own_settings():
        shown = heaviest(values, _BARS)
        figure = new_figure(2 * COLUMN, 0.75 + 0.16 * max(len(shown), 3))
        axes = figure.add_subplot()
        axes.barh(range(len(shown)), [values[i] for i in shown], **ARITHMETIC)
        axes.set_yticks(range(len(shown)))
        axes.set_yticklabels([end_of(names[i], 36) for i in shown])
        axes.set_ylim(max(len(shown), 3) - 0.4, -0.6)
        fewer = f" (the {len(shown)} largest of {len(values)})" if len(shown) < len(values) else ""
        axes.set_xlabel(label + fewer)
        axes.grid(True, axis="x")
        if max(values, default=0.0) >= _MANY:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        write_above(figure, title)
        figure.tight_layout(pad=0.5)
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

_STYLES: Dict[str, Style] = {
    "arithmetic": ARITHMETIC,
    "output stage": {"facecolor": "#7fb3a3", "edgecolor": "#ffffff"},
    "memory": MEMORY,
    "starting launches": {"facecolor": "#b9b9b9", "edgecolor": "#555555"},
}
_MODULES = 60


def time_figure(name: str, prediction: Prediction) -> "Figure":
    """Draw a network's predicted time in the order of the run: a bar for each module, coloured by what binds it."""
    levels = (prediction.layers(depth) for depth in (None, 4, 3, 2, 1))
    layers = next((found for found in levels if len(found) <= _MODULES), prediction.layers(1))
    total = sum(layer.seconds for layer in layers) or 1.0
    parts = []
    for binds, style in _STYLES.items():
        heights = [layer.parts.get(binds, 0.0) * 1e3 for layer in layers]
        if any(heights):
            parts.append(Part(f"bound by {binds} ({sum(heights) / 1e3 / total:.0%})", style, heights))
    with own_settings():
        figure = new_figure(2 * COLUMN, 3.4)
        write_above(figure, end_of(name, 70), timing_headline(prediction))
        names = [layer.path or "(itself)" for layer in layers]
        draw_along(figure.add_subplot(), 2 * COLUMN - 0.6, "Time along the network", "ms", names, parts)
        figure.tight_layout(pad=0.5)
    return figure

"""What all pictures have in common: size, colours, settings of matplotlib, axes, texts, the numbers of marks."""

import math
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from ..count.calls import LayerRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Style = Dict[str, Any]

COLUMN = 3.4  # inches: a column of a paper
DPI = 300
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


def new_axes(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Add axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


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


def write(axes: "Axes", text: str, at: Tuple[float, float], offset: Tuple[float, float], **style: Any) -> Any:
    """Write beside a place in the axes, so many points away."""
    return axes.annotate(text, at, xytext=offset, textcoords="offset points", **style)


class Mark(NamedTuple):
    """A mark that has a number: where it is, in the units of its axes, and its radius in points."""

    x: float
    y: float
    radius: float


_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a mark, the best first
_GROUND: Style = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
_GAPS = (1.5, 5.0)  # points between a mark and its number


def number_marks(axes: "Axes", marks: Sequence[Mark], others: Sequence[Mark] = (), texts: Sequence[Any] = ()) -> int:
    """Write 1, 2, 3 beside marks, clear of all marks and texts; return how many have no number, for want of room.

    Marks of one place have their numbers in one text. The limits of the axes must not change any more.
    """
    from matplotlib.transforms import Bbox

    canvas: Any = axes.figure.canvas
    renderer, point = canvas.get_renderer(), axes.figure.dpi / 72
    taken = [box for text in texts for box in _boxes(text, renderer, 4 * point)]
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
        text = write(axes, words, mark[:2], (0, 0), ha="center", va="center", zorder=4, bbox=_GROUND)
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


def _boxes(text: Any, renderer: Any, half: float) -> List[Any]:
    """The box of a text; of one that rises, small ones along its way."""
    from matplotlib.transforms import Bbox

    box = text.get_window_extent(renderer)
    if not text.get_rotation():
        return [box]
    places = [box.min + (box.max - box.min) * step / 10 for step in range(11)]
    return [Bbox([place - half, place + half]) for place in places]


def write_instead(axes: "Axes", text: str) -> None:
    """Say why there is nothing to see in the axes."""
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(0.5, 0.4, text, ha="center", va="center", transform=axes.transAxes, bbox=ground)


def write_head(axes: "Axes", title: str, entries: Sequence[Tuple[Any, str]]) -> None:
    """Write a title above the axes, and below it a line that explains marks."""
    axes.set_title(title, loc="left", pad=15, weight="bold")
    handles, labels = zip(*entries)
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.015), ncol=len(entries))


# ---- axes ----


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


def fit_axis(axes: "Axes", which: Any, values: Sequence[float], logarithmic: bool) -> None:
    """Limit an axis to the values, with a margin for marks and names; a linear one begins at 0 where that is near."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if logarithmic:
        margin = max((high / low) ** 0.12, 1.1)
        log_axis(axes, which, low / margin, high * margin)
        return
    start = 0.0 if low < 0.6 * high or math.isclose(low, high) else low
    margin = max(0.12 * (high - start), 0.02 * high) or 1.0
    getattr(axes, f"set_{which}lim")(start if low > start else start - margin / 2, high + margin)
    axes.ticklabel_format(axis=which, style="plain", useOffset=False)

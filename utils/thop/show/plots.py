"""Pictures for a page: the roofline of a network beside its accesses along the way, and several networks compared.

They are one or two columns of a paper wide, and readable in grey. They are made without pyplot: no display is needed,
and the user's own settings of matplotlib neither matter nor change.
"""

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence

from ..answer import PathLike
from ..deploy.bound import TimeBound
from ..traffic import Traffic
from .bars import lay_out
from .drawing import ARITHMETIC, COLUMN, DPI, cut, fit_axis, in_units, new_axes, new_figure, own_settings
from .grid import heaviest
from .placement import Placement
from .roofline import draw_roofline, without_products

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
_NO_DATE: Dict[str, Dict[str, None]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
_GUTTER = 0.2  # inches between two columns
_HEIGHT = 2.2  # of the roofline
_NAMED = 12  # models that stand with their names; more have numbers
_FEW = 30  # models; of more, marks are smaller
_BARS = 40  # at most, of a figure of bars alone
_LINE = 0.13  # inches of a line in the list of names


class Point(NamedTuple):
    """A model in ``comparison_figure``; accesses: kernel and output together, in elements."""

    name: str
    gflops: float
    accesses: float


def network_figure(name: str, traffic: Traffic, bound: TimeBound, said: Sequence[str] = ()) -> "Figure":
    """Draw a network's roofline on the device of ``bound``, and beside it its accesses in the order of execution.

    In the roofline a layer stands at its arithmetic intensity (FLOPs per byte of its own operators) and the FLOPs a
    second that its bound allows; its area is its share of the bounded time. Layers without FLOPs have no place on
    such an axis: their shares stand below it, by type. On the right a bar is a layer, or a module with all that is in
    it where there would be more than 60 bars.

    said: what is expected of the network on the device, as it is deployed there, which stands in place of the bound of
    what was counted.
    """
    with own_settings():
        rest, bars = without_products(bound), lay_out(traffic, COLUMN - 0.43)
        bottom = max(0.5, 0.52 + rest.height, bars.below - 0.6)
        figure = new_figure(2 * COLUMN + _GUTTER, bottom + _HEIGHT + 0.8)
        left = new_axes(figure, 0.5, bottom, COLUMN - 0.55, _HEIGHT)
        right = new_axes(figure, COLUMN + _GUTTER + 0.38, bars.below, COLUMN - 0.43, bottom + _HEIGHT - bars.below)
        _write_title(figure, name, bound, said)
        draw_roofline(left, traffic, bound)
        if rest.rows:
            rest.draw(new_axes(figure, 0.5, bottom - 0.49 - rest.height, COLUMN - 0.55, rest.height))
        bars.draw(right)
    return figure


def _write_title(figure: "Figure", name: str, bound: TimeBound, said: Sequence[str]) -> None:
    height = figure.get_size_inches()[1]
    time = "nothing is moved"
    if bound.seconds:
        memory = bound.memory_seconds / bound.seconds
        time = f"at least {in_units(bound.seconds)}s, {memory:.0%} of that bound by memory"
    device = textwrap.shorten(bound.device.title, 70, placeholder="..")
    figure.text(0.5, 1 - 0.08 / height, cut(name, 70), ha="center", va="top", size=9, weight="bold")
    words = [text.partition(";")[0] for text in said] or [f"{device}: {time}"]
    words[1:] = [text.replace(f"{bound.device.title}: ", "") for text in words[1:]]
    figure.text(0.5, 1 - 0.25 / height, cut("; ".join(words), 140), ha="center", va="top")


def comparison_figure(points: Sequence[Point]) -> "Figure":
    """Draw models by GFLOPs and memory accesses; where there are many, by numbers that a list below explains.

    Points must be finite. An axis is logarithmic where its largest value is more than 30 times its smallest.
    """
    with own_settings():
        listed = _listed(points) if len(points) > _NAMED else []
        below = _LINE * (len(listed) + 1) if listed else 0.0
        figure = new_figure(COLUMN, 3.1 + below)
        axes = new_axes(figure, 0.48, 0.48 + below, COLUMN - 0.62, 2.56)
        xs, ys = [point.gflops for point in points], [point.accesses / 1e6 for point in points]
        fit_axis(axes, "x", xs)
        fit_axis(axes, "y", ys)
        axes.set_xlabel("GFLOPs")
        axes.set_ylabel("memory accesses (M)")
        axes.grid(True)
        area = 18 if len(points) <= _FEW else 9
        axes.scatter(xs, ys, s=area, linewidths=0.4, zorder=3, gid="models", **ARITHMETIC)
        placement, radius = Placement(axes), math.sqrt(area) / 2
        for x, y in zip(xs, ys):
            placement.avoid_mark(x, y, radius)
        texts = [str(i + 1) if listed else cut(point.name, 36) for i, point in enumerate(points)]
        unnamed = placement.write([(text, x, y, radius) for text, x, y in zip(texts, xs, ys)], dearest=95)
        for line, row in enumerate(listed):
            for column, text in enumerate(row):
                at = (0.02 + 0.5 * column, (below + 0.1 - _LINE * (line + 0.5)) / (3.1 + below))
                figure.text(*at, text, ha="left", va="center")
        if unnamed:
            text = f"{unnamed} of {len(points)} models are without a {'number' if listed else 'name'}, for want of room"
            figure.text(0.99, 0.01, text, ha="right", va="bottom", style="italic")
    return figure


def accesses_figure(title: str, traffic: Traffic) -> "Figure":
    """Draw a network's accesses in the order of execution, as on the right of ``network_figure``."""
    with own_settings():
        bars = lay_out(traffic, 2 * COLUMN - 0.5)
        height = bars.below + _HEIGHT + 0.55
        figure = new_figure(2 * COLUMN, height)
        bars.draw(new_axes(figure, 0.43, bars.below, 2 * COLUMN - 0.5, _HEIGHT))
        figure.text(0.5, 1 - 0.08 / height, cut(title, 130), ha="center", va="top", size=7.5, weight="bold")
    return figure


def bars_figure(title: str, names: Sequence[str], values: Sequence[float], label: str) -> "Figure":
    """Draw a bar for each name, of many the largest, in their order from top to bottom."""
    with own_settings():
        shown = heaviest(values, _BARS)
        left = 0.3 + 0.052 * max((len(cut(names[i], 36)) for i in shown), default=1)
        figure = new_figure(2 * COLUMN, 0.75 + 0.16 * max(len(shown), 3))
        axes = new_axes(figure, left, 0.4, 2 * COLUMN - left - 0.15, 0.16 * max(len(shown), 3))
        axes.barh(range(len(shown)), [values[i] for i in shown], **ARITHMETIC)
        axes.set_yticks(range(len(shown)))
        axes.set_yticklabels([cut(names[i], 36) for i in shown])
        axes.set_ylim(max(len(shown), 3) - 0.4, -0.6)
        fewer = f" (the {len(shown)} largest of {len(values)})" if len(shown) < len(values) else ""
        axes.set_xlabel(label + fewer)
        axes.grid(True, axis="x")
        axes.set_title(cut(title, 100), loc="left")
    return figure


def _listed(points: Sequence[Point]) -> List[List[str]]:
    """Write the models' numbers and names in two columns, in the order of the numbers down each."""
    names = [f"{i}  {cut(point.name, 24)}" for i, point in enumerate(points, 1)]
    rows = -(-len(names) // 2)
    return [names[i::rows] for i in range(rows)]


def save_figure(figure: "Figure", path: PathLike) -> None:
    """Write a figure as its file's suffix says: .png (300 dots an inch), .svg (text stays text) or .pdf.

    The same figure gives the same file. Raises ValueError for another suffix, OSError where the file can't be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: the name of a picture must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    with own_settings():
        figure.savefig(path, format=suffix[1:], dpi=DPI, metadata=_NO_DATE[suffix])


def saved(figure: "Figure", path: Optional[PathLike]) -> "Figure":
    """Save a figure if a file is named, and return it."""
    if path is not None:
        save_figure(figure, path)
    return figure


__all__ = [
    "SUFFIXES", "Point", "accesses_figure", "bars_figure", "comparison_figure", "network_figure", "save_figure",
    "saved",
]  # fmt: skip

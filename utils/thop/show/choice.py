"""What a choice reads like: the networks that are fast enough, best first, and a picture of accuracy over time."""

from itertools import accumulate
from typing import TYPE_CHECKING, Dict, List

from ..deploy.choice import Candidate, Choice
from ..deploy.measurements import TASKS
from .drawing import COLUMN, INK, Mark, new_axes, new_figure, number_marks, own_settings
from .grid import Column, Grid, Line
from .predictions import milliseconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 20  # rows for readers
_YOURS = "yours"


def choice_headline(found: Choice) -> str:
    """What was asked, and what came of it, in one line."""
    good = len(found.fast_enough)
    tried = [row for row in found.rows if not row.error]
    none = "none reaches it" if tried else "none could be counted"
    what = f"{good} of {len(tried)} may reach it" if good else none
    return f"{found.fps:.4g} images a second on {found.title}: {what}"


def choice_grid(found: Choice, most: int = _SHOWN) -> Grid:
    """A row for each network that may be fast enough, the most accurate first; where none is, the fastest of all."""
    good = found.fast_enough or sorted((row for row in found.rows if not row.error), key=lambda row: row.seconds)[:3]
    batched = any(row.batch > 1 for row in good)
    columns = [Column("network", is_text=True), Column("family", is_text=True), Column("size")]
    columns += [Column(text, "ms") for text in ("time", "from", "to")]
    columns += [
        Column("images/s"),
        Column("published", "ms"),
        Column(_short(found)),
        Column("reaches it", is_text=True),
    ]
    lines = [Line(_cells(row)) for row in good[:most]]
    notes = [f"Time is of {'a pass over the batch' if batched else 'an image'}, from {found.basis}."] if good else []
    what = (
        f"{_short(found)} is {TASKS[found.task]} as published at that size, blank where nobody has (most GFLOPs first)"
    )
    notes.append(f"{what}; * is on the front: none is as accurate in clearly less time.")
    notes.append("Likely is from 90%, unlikely below 10%.")
    if len(good) > most:
        notes.append(f"{len(good) - most} more may reach it.")
    if not found.fast_enough and found.closest:
        one = found.closest
        closest = f"closest comes {one.name} at {one.imgsz} with {one.fps:.3g}"
        notes.insert(0, f"Nothing reaches {found.fps:.4g} images a second; {closest}.")
    failed: Dict[str, List[str]] = {}
    for row in found.rows:
        if row.error:
            failed.setdefault(row.error, []).append(row.name)
    notes += [f"Not counted: {', '.join(dict.fromkeys(called))}: {error}." for error, called in failed.items()]
    return Grid(columns, lines, notes=notes)


def _short(found: Choice) -> str:
    return TASKS[found.task].partition(" ")[0].partition("50")[0]


def _cells(row: Candidate) -> List[str]:
    times = [f"{value * 1e3:.3g}" for value in (row.seconds, row.low, row.high)]
    published = f"{row.published_seconds * 1e3:.3g}" if row.published_seconds else ""
    accuracy = f"{row.map:.1f}{' *' if row.on_front else '  '}" if row.map is not None else ""
    rate = f"{row.fps:.0f}" if row.fps >= 100 else f"{row.fps:.3g}"
    named = [row.name, row.family or _YOURS, str(row.imgsz)]
    return [*named, *times, rate, published, accuracy, f"{row.reaches} ({row.chance:.0%})"]


# ---- the picture ----

_COLOURS = ("#1f4e8c", "#c8553d", "#00504a", "#f5c04a", "#7a4ea3", "#6f6f6f", "#2f9e77", "#d36ba6", "#8c6d1f")
_MARKERS = "osD^vP*X<"
_ABOVE, _LEFT, _WIDE, _HIGH, _LINE = 0.36, 0.48, 2 * COLUMN - 2.6, 3.2, 0.125


def choice_figure(found: Choice) -> "Figure":
    """Draw accuracy over time, a line for each family, ranges as bars, the front, and the time that is wanted."""
    rows = sorted((row for row in found.rows if row.map is not None and not row.error), key=lambda row: row.seconds)
    with own_settings():
        figure = new_figure(2 * COLUMN, _ABOVE + _HIGH + 0.45)
        axes = new_axes(figure, _LEFT, 0.42, _WIDE, _HIGH)
        families = list(dict.fromkeys(row.family or _YOURS for row in found.rows if row in rows))
        for family, colour, marker in zip(families, _COLOURS * 9, _MARKERS * 9):
            of_it = [row for row in rows if (row.family or _YOURS) == family]
            xs, ys = [row.seconds * 1e3 for row in of_it], [row.map or 0.0 for row in of_it]
            for size in {row.imgsz for row in of_it}:
                alike = [i for i, row in enumerate(of_it) if row.imgsz == size]
                axes.plot([xs[i] for i in alike], [ys[i] for i in alike], lw=0.7, color=colour, zorder=2)
            reach = [
                [(row.seconds - row.low) * 1e3 for row in of_it],
                [(row.high - row.seconds) * 1e3 for row in of_it],
            ]
            axes.errorbar(xs, ys, xerr=reach, fmt="none", ecolor=colour, elinewidth=0.5, alpha=0.45, zorder=1)
            axes.plot(xs, ys, marker=marker, ms=3.5, lw=0, color=colour, label=family, zorder=3)
        front = [row for row in rows if row.on_front]
        best = list(accumulate((row.map or 0.0 for row in front), max))
        axes.step([row.seconds * 1e3 for row in front], best, where="post", lw=2.6, color="0.8", zorder=0,
                  label="the front")  # fmt: skip
        axes.axvline(found.limit * 1e3, lw=0.9, ls="--", color=INK)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("ms for a pass")
        axes.set_ylabel(TASKS[found.task])
        axes.grid(True)
        axes.legend(loc="lower right")
        number_marks(axes, [Mark(row.seconds * 1e3, row.map or 0.0, 2.0) for row in front])
        axes.set_title(f"{found.title}; dashed: {found.fps:.4g} images a second", loc="left")
        height = figure.get_size_inches()[1]
        for i, row in enumerate(front):
            text = f"{i + 1}  {row.name}, {row.imgsz}: {milliseconds(row.seconds)}, {row.map:.1f}"
            figure.text(1 - 1.95 / (2 * COLUMN), 1 - (_ABOVE + 0.05 + _LINE * i) / height, text, ha="left", va="top")
        if not rows:
            axes.text(0.5, 0.5, "no accuracy is published of these", transform=axes.transAxes, ha="center")
    return figure

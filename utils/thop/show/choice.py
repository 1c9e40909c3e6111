"""What a choice reads like: the networks that are fast enough, best first, and a picture of accuracy over time."""

from itertools import accumulate
from typing import TYPE_CHECKING, Callable, List, Tuple

from ..deploy.choice import Candidate, Choice
from ..deploy.measurements import TASKS
from ..units import together
from .grid import Column, Grid, grid_of
from .plots import COLUMN, INK, Mark, above_a_list, log_axis, number_marks, own_settings
from .predictions import milliseconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 20  # rows for readers
_YOURS = "yours"


def _rate(fps: float) -> str:
    """Images a second, in plain digits."""
    return f"{fps:.4g}" if fps < 1e4 else f"{fps:,.0f}"


def choice_headline(found: Choice) -> str:
    """What was asked, and what came of it, in one line."""
    good = len(found.fast_enough)
    tried = [row for row in found.rows if not row.error]
    none = "none reaches it" if tried else "none could be counted"
    what = f"{good} of {len(tried)} may reach it" if good else none
    return f"{_rate(found.fps)} images a second on {found.title}: {what}"


def choice_grid(found: Choice, most: int = _SHOWN) -> Grid:
    """A row for each network that may be fast enough, the most accurate first; where none is, the fastest of all."""
    good = found.fast_enough or sorted((row for row in found.rows if not row.error), key=lambda row: row.seconds)[:3]
    batched = any(row.batch > 1 for row in good)
    columns: List[Tuple[Column, Callable[[Candidate], str]]] = [
        (Column("network", is_text=True), lambda row: row.name),
        (Column("family", is_text=True), lambda row: row.family or _YOURS),
        (Column("size"), lambda row: str(row.imgsz)),
        (Column("time", "ms"), lambda row: f"{row.seconds * 1e3:.3g}"),
        (Column("from", "ms"), lambda row: f"{row.low * 1e3:.3g}"),
        (Column("to", "ms"), lambda row: f"{row.high * 1e3:.3g}"),
        (Column("images/s"), lambda row: f"{row.fps:.0f}" if row.fps >= 100 else f"{row.fps:.3g}"),
        (Column("published", "ms"), lambda row: f"{row.published_seconds * 1e3:.3g}" if row.published_seconds else ""),
        (Column(_short(found)), lambda row: "" if row.map is None else f"{row.map:.1f} {'*' if row.on_front else ' '}"),
        (Column("reaches it", is_text=True), lambda row: f"{row.reaches} ({row.chance:.0%})"),
    ]
    notes = [f"Time is of {'a pass over the batch' if batched else 'an image'}, from {found.basis}."] if good else []
    what = f"{_short(found)} is {TASKS[found.task]} as published at that size, blank where nobody has"
    notes.append(f"{what} (most GFLOPs first); * is on the front: none is as accurate in clearly less time.")
    notes.append("Likely is from 90%, unlikely below 10%.")
    if len(good) > most:
        notes.append(f"{len(good) - most} more may reach it.")
    if not found.fast_enough and found.closest:
        one = found.closest
        closest = f"closest comes {one.name} at {one.imgsz} with {one.fps:.3g}"
        notes.insert(0, f"Nothing reaches {_rate(found.fps)} images a second; {closest}.")
    failed = together((row.error, row.name) for row in found.rows if row.error)
    notes += [f"Not counted: {', '.join(called)}: {error}." for error, called in failed.items()]
    return grid_of(columns, good[:most], notes=notes)


def _short(found: Choice) -> str:
    return TASKS[found.task].partition(" ")[0].partition("50")[0]


# ---- the picture ----

_COLOURS = ("#1f4e8c", "#c8553d", "#00504a", "#f5c04a", "#7a4ea3", "#6f6f6f", "#2f9e77", "#d36ba6", "#8c6d1f")
_MARKERS = "osD^vP*X<"


def choice_figure(found: Choice) -> "Figure":
    """Draw accuracy over time, a line for each family, ranges as bars, the front, and the time that is wanted."""
    rows = sorted((row for row in found.rows if row.map is not None and not row.error), key=lambda row: row.seconds)
    front = [row for row in rows if row.on_front]
    names = [
        f"{i}  {row.name}, {row.imgsz}: {milliseconds(row.seconds)}, {row.map:.1f}" for i, row in enumerate(front, 1)
    ]
    families = dict.fromkeys(row.family or _YOURS for row in rows)
    with own_settings():
        figure, axes = above_a_list(3.6, names, 2 * COLUMN)
        for family, colour, marker in zip(families, _COLOURS * 9, _MARKERS * 9):
            of_it = [row for row in rows if (row.family or _YOURS) == family]
            xs, ys = [row.seconds * 1e3 for row in of_it], [row.map or 0.0 for row in of_it]
            for size in {row.imgsz for row in of_it}:
                alike = [(x, y) for x, y, row in zip(xs, ys, of_it) if row.imgsz == size]
                axes.plot(*zip(*alike), lw=0.7, color=colour, zorder=2)
            lows, highs = ([value * 1e3 for value in ends] for ends in zip(*((row.low, row.high) for row in of_it)))
            axes.hlines(ys, lows, highs, color=colour, lw=0.5, alpha=0.45, zorder=1)
            axes.plot(xs, ys, marker=marker, ms=3.5, lw=0, color=colour, label=family, zorder=3)
        best = list(accumulate((row.map or 0.0 for row in front), max))
        axes.step([row.seconds * 1e3 for row in front], best, where="post", lw=2.6, color="0.8", zorder=0,
                  label="the front")  # fmt: skip
        axes.axvline(found.limit * 1e3, lw=0.9, ls="--", color=INK)
        times = [found.limit * 1e3, *(end * 1e3 for row in rows for end in (row.low, row.high))]
        log_axis(axes, "x", min(times) / 1.1, max(times) * 1.1)
        axes.set_xlabel("ms for a pass")
        axes.set_ylabel(TASKS[found.task])
        axes.grid(True)
        axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
        none = "" if rows else "; no accuracy is published of these"
        axes.set_title(f"{found.title}; dashed: {_rate(found.fps)} images a second{none}", loc="left")
        number_marks(axes, [Mark(row.seconds * 1e3, row.map or 0.0, 2.0) for row in front])
    return figure

"""The comparison for readers: which columns there are, in which units, and the sentences below."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .comparison import Row, baseline_of, difference
from .grid import Grid, Head, Line, to_latex, to_markdown, to_text

WIDTH = 120  # columns of the text
_FAR_APART = 1e5
_STAR = " *"  # behind the name of a model in which something ran that has no number
Unit = Tuple[str, float]
_ONES: Sequence[Unit] = (("", 1),)
_WHOLE: Sequence[Unit] = (("", 1.0),)  # of numbers that have no decimals
_OPERATIONS: Sequence[Unit] = (("G", 1e9), ("M", 1e6))
_ELEMENTS: Sequence[Unit] = (("M", 1e6), ("K", 1e3), ("", 1))
_BYTES: Sequence[Unit] = (("MB", 1e6), ("KB", 1e3), ("B", 1))
_SECONDS: Sequence[Unit] = (("ms", 1e-3), ("us", 1e-6))


@dataclass(frozen=True)
class Column:
    """A column of numbers, and the units that it can be shown in, the largest first.

    compared: whether a difference to the first row stands below; spare: as of a head.
    """

    key: str
    heading: str
    units: Sequence[Unit] = _ONES
    compared: bool = True
    spare: int = 0

    def shown(self, values: Sequence[Any]) -> Tuple[str, List[str]]:
        """Choose one unit and one number of decimals for all, by the smallest; return the unit and the cells.

        Numbers that are too small or too far apart for that are shown with three digits each.
        """
        told = [value for value in values if value] or [self.units[0][1]]
        unit, scale = next((unit for unit in self.units if min(told) >= unit[1] / 10), self.units[-1])
        decimals = 0 if scale == 1 and self.units is not _ONES else _decimals(min(told) / scale)
        form = f".{decimals}f"
        if max(told) > _FAR_APART * min(told):
            (unit, scale), form = self.units[0], ".3g"
        elif min(told) < scale / 1000:
            form = ".3g"
        return unit, ["" if value is None else f"{value / scale:{form}}" for value in values]


def _decimals(least: float) -> int:
    return next((decimals for decimals, limit in enumerate((1, 0.1, 0.01), 1) if least >= limit), 4)


COMPARED = (
    Column("parameters", "params", _ELEMENTS, spare=4),
    Column("gflops", "GFLOPs"),
    Column("total_ops", "multiply-adds", _OPERATIONS),
    Column("kernel", "kernel", _ELEMENTS, spare=7),
    Column("output", "output", _ELEMENTS, spare=6),
    Column("accesses", "accesses", _ELEMENTS),
    Column("traffic_bytes", "traffic", _BYTES),
    Column("arithmetic_intensity", "FLOPs/B", spare=9),
    Column("peak_activation_bytes", "peak", _BYTES, spare=8),
    Column("time_seconds", "least", _SECONDS),
    Column("predicted_seconds", "time", _SECONDS),
)
PREDICTED = (
    Column("gflops", "GFLOPs"),
    Column("traffic_bytes", "traffic", _BYTES),
    Column("launches", "launches", _WHOLE, spare=2),
    Column("predicted_seconds", "time", _SECONDS),
    Column("predicted_low_seconds", "from", _SECONDS, compared=False),
    Column("predicted_high_seconds", "to", _SECONDS, compared=False),
    Column("images_per_second", "images/s"),
    Column("measured_seconds", "published", _SECONDS, compared=False),
)
NAMES = {column.heading.lower(): column for column in COMPARED}
"""The columns of a comparison by what they are called on the command line."""
_IF_KNOWN = ("time_seconds", "predicted_seconds", "measured_seconds")


ON_REQUEST = ("multiply-adds",)
"""Columns that a table has only where they are asked for."""
USUAL = tuple(column for column in COMPARED if column.heading not in ON_REQUEST)


def grid_of(rows: Sequence[Row], columns: Sequence[Column] = USUAL) -> Grid:
    """Lay out the cells; the input is a column of its own where not all have the same."""
    numbers = [row.numbers() for row in rows]
    base = baseline_of(rows)
    base_numbers = base.numbers()
    known = {key for values in numbers for key, value in values.items() if value is not None}
    shown = [column for column in columns if column.key in known or column.key not in _IF_KNOWN]
    timed = bool(known & set(_IF_KNOWN[:2]))
    inputs = _inputs(rows)
    several = len({text for text in inputs if text}) > 1
    units, texts_of = zip(*(column.shown([values.get(column.key) for values in numbers]) for column in shown))
    heads = [Head("model", is_text=True)] + [Head("input", is_text=True, spare=5)] * several
    texts = len(heads)
    heads += [Head(column.heading, unit, spare=column.spare) for column, unit in zip(shown, units)]
    heads += [Head("binds", spare=3)] * timed
    lines = []
    for i, row in enumerate(rows):
        cells = [cells_of[i] for cells_of in texts_of]
        differences: List[str] = []
        if row is not base and row.traffic and base_numbers:
            differences = [_difference(column, numbers[i], base_numbers) for column in shown]
            differences = [""] * texts + differences + [""] * timed
        place = row.prediction or row.bound
        cells += [place.binds if place else ""] * timed
        left = [_named(row), inputs[i]] if several else [_named(row)]
        lines.append(Line([*left, *cells], differences, error="" if row.traffic else row.error))
    return Grid(heads, lines, notes=notes(rows, columns))


def _named(row: Row) -> str:
    return row.name + _STAR * bool(row.traffic and row.traffic.missing)


def _inputs(rows: Sequence[Row]) -> List[str]:
    """What each model was run on, with the type where not all have the same."""
    mixed = len({row.dtype for row in rows if row.traffic}) > 1
    return [f"{row.input} {row.dtype}" if mixed and row.traffic else row.input for row in rows]


def _difference(column: Column, numbers: Dict[str, Any], first: Dict[str, Any]) -> str:
    return _per_cent(difference(numbers.get(column.key), first.get(column.key))) if column.compared else ""


def _per_cent(value: Optional[float]) -> str:
    if value is None:
        return ""
    return f"{value:+.1f}%" if abs(value) < 1000 else f"{value:+.0f}%" if value < 1e5 else f"{value:+.0e}%"


def notes(rows: Sequence[Row], columns: Sequence[Column] = USUAL) -> List[str]:
    """The sentences below the table: what the numbers mean, and which are not what they seem."""
    good = [row for row in rows if row.traffic]
    found = []
    if len(rows) > 1:
        base = baseline_of(rows)
        against = f"Percentages are differences to {base.name}."
        found.append(against if base.traffic else f"No differences, for {base.name} was not counted.")
    what = {(row.input, row.dtype) for row in good}
    if len(what) == 1:
        found.append("Input {}, {}.".format(*what.pop()))
    if good and any(column.key == "accesses" for column in columns):
        found.append("Accesses are elements, kernel + output; peak is the most memory that activations take at once.")
    found += _about_time(rows, any(column.key == "time_seconds" for column in columns))
    remarks: Dict[str, List[str]] = {}
    for row in good:
        for remark in [*row.remarks(), *([row.error] if row.error else [])]:
            remarks.setdefault(remark, []).append(_named(row))
    return found + [f"{', '.join(models)}: {remark}." for remark, models in remarks.items()]


def _about_time(rows: Sequence[Row], with_least: bool) -> List[str]:
    """What the times mean, and what the predicted ones rest on."""
    found = []
    bound = next((row.bound for row in rows if row.bound), None) if with_least else None
    prediction = next((row.prediction for row in rows if row.prediction), None)
    if bound is not None:
        what = "in the precision that was counted" if prediction is None else "for the same launches"
        found.append(f"Least is the least time that the data sheet of {bound.device.title} allows, {what}.")
    if prediction is not None:
        place = f"{prediction.title}, {prediction.runtime.title}, {prediction.precision}"
        found.append(f"Time is the expected one on {place}, from {prediction.basis}; off by x {prediction.error:.2f}.")
    if found:
        found.append("Binds says what most of the time goes to.")
    return found


def text_comparison(rows: Sequence[Row], columns: Sequence[Column] = USUAL) -> str:
    """The comparison for a terminal, with the differences below the numbers that they belong to."""
    return to_text(grid_of(rows, columns), WIDTH) + "\n"


def markdown_comparison(rows: Sequence[Row], columns: Sequence[Column] = USUAL) -> str:
    """The comparison as GitHub reads it, with the differences in the cells."""
    return to_markdown(grid_of(rows, columns))


def latex_comparison(rows: Sequence[Row], columns: Sequence[Column] = USUAL) -> str:
    """The comparison as a ``tabular`` for a paper."""
    return to_latex(grid_of(rows, columns))


__all__ = [
    "NAMES", "PREDICTED", "USUAL", "WIDTH", "latex_comparison", "markdown_comparison", "notes", "text_comparison",
]  # fmt: skip

"""The comparison for readers: one grid of cells, written as text, as Markdown and as LaTeX."""

import textwrap
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .comparison import Row, difference
from .table import cut_left, escaped

WIDTH = 120  # columns of the text
_FAR_APART = 1e5
_STAR = " *"  # behind the name of a model in which something ran that has no number
Unit = Tuple[str, float]
_ONES: Sequence[Unit] = (("", 1),)
_ELEMENTS: Sequence[Unit] = (("M", 1e6), ("K", 1e3), ("", 1))
_BYTES: Sequence[Unit] = (("MB", 1e6), ("KB", 1e3), ("B", 1))
_SECONDS: Sequence[Unit] = (("ms", 1e-3), ("us", 1e-6))


@dataclass(frozen=True)
class Column:
    """A column of numbers, and the units that it can be shown in, the largest first."""

    key: str
    heading: str
    units: Sequence[Unit] = _ONES

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


_COLUMNS = (
    Column("parameters", "params", _ELEMENTS),
    Column("gflops", "GFLOPs"),
    Column("kernel", "kernel", _ELEMENTS),
    Column("output", "output", _ELEMENTS),
    Column("accesses", "accesses", _ELEMENTS),
    Column("traffic_bytes", "traffic", _BYTES),
    Column("arithmetic_intensity", "FLOPs/B"),
    Column("peak_activation_bytes", "peak", _BYTES),
    Column("time_seconds", "time", _SECONDS),
)


@dataclass
class Line:
    """A row's cells: texts, numbers, how many per cent these are from the first row's, or why there are none."""

    left: List[str]
    cells: List[str]
    differences: List[str]
    error: str


@dataclass
class Grid:
    """All cells as texts; left: the headings of the columns of texts, the model's name first."""

    left: List[str]
    headings: List[str]
    units: List[str]
    lines: List[Line] = field(default_factory=list)

    @property
    def indent(self) -> List[str]:
        """Empty cells below the texts."""
        return [""] * len(self.left)


def grid(rows: Sequence[Row]) -> Grid:
    """Lay out the cells; the input is a column of its own where not all have the same."""
    numbers = [row.numbers() for row in rows]
    timed = any(row.bound for row in rows)
    shown = [column for column in _COLUMNS if timed or column.key != "time_seconds"]
    inputs = _inputs(rows)
    several = len({text for text in inputs if text}) > 1
    units, columns = zip(*(column.shown([values.get(column.key) for values in numbers]) for column in shown))
    headings = [column.heading for column in shown]
    found = Grid(["model"] + ["input"] * several, headings + ["binds"] * timed, [*units] + [""] * timed)
    for i, row in enumerate(rows):
        cells = [column[i] for column in columns]
        differences: List[str] = []
        if i and row.traffic and numbers[0]:
            differences = [_per_cent(difference(numbers[i].get(c.key), numbers[0].get(c.key))) for c in shown]
        if timed:
            cells.append(row.bound.binds if row.bound else "")
            differences += [""] * bool(differences)
        left = [_named(row), inputs[i]] if several else [_named(row)]
        found.lines.append(Line(left, cells, differences, "" if row.traffic else row.error))
    return found


def _named(row: Row) -> str:
    return row.name + _STAR * bool(row.traffic and row.traffic.missing)


def _inputs(rows: Sequence[Row]) -> List[str]:
    """What each model was run on, with the type where not all have the same."""
    mixed = len({row.dtype for row in rows if row.traffic}) > 1
    return [f"{row.input} {row.dtype}" if mixed and row.traffic else row.input for row in rows]


def _per_cent(value: Optional[float]) -> str:
    if value is None:
        return ""
    return f"{value:+.1f}%" if abs(value) < 1000 else f"{value:+.0f}%" if value < 1e5 else f"{value:+.0e}%"


def notes(rows: Sequence[Row]) -> List[str]:
    """The sentences below the table: what the numbers mean, and which are not what they seem."""
    good = [row for row in rows if row.traffic]
    found = []
    if len(rows) > 1:
        against = f"Percentages are differences to {rows[0].name}."
        found.append(against if rows[0].traffic else f"No differences, for {rows[0].name} was not counted.")
    what = {(row.input, row.dtype) for row in good}
    if len(what) == 1:
        found.append("Input {}, {}.".format(*what.pop()))
    if good:
        found.append("Accesses are elements, kernel + output; peak is the most memory that activations take at once.")
    bound = next((row.bound for row in rows if row.bound), None)
    if bound is not None:
        found.append(f"Time is the least possible on {bound.device.title}; binds says what most of it goes to.")
    remarks: Dict[str, List[str]] = {}
    for row in good:
        for remark in [*row.remarks(), *([row.error] if row.error else [])]:
            remarks.setdefault(remark, []).append(_named(row))
    return found + [f"{', '.join(models)}: {remark}." for remark, models in remarks.items()]


# ---- plain text ----


def text_comparison(rows: Sequence[Row]) -> str:
    """The comparison for a terminal, with the differences below the numbers that they belong to."""
    table = grid(rows)
    head = [[*table.left, *table.headings], [*table.indent, *table.units]]
    body = [[*line.left, *line.cells] for line in table.lines]
    body += [[*table.indent, *line.differences] for line in table.lines if line.differences]
    layout = _Layout([max(map(len, column)) for column in zip(*head, *body)], len(table.left))
    lines = [*map(layout.line, head), layout.rule]
    for line in table.lines:
        if line.error:
            lines += _reason(layout.name(line.left[0]), line.error)
            continue
        lines.append(layout.line([*line.left, *line.cells]))
        if line.differences:
            lines.append(layout.line([*table.indent, *line.differences]))
    wrapped = [part for note in notes(rows) for part in textwrap.wrap(note, WIDTH, break_on_hyphens=False)]
    return "\n".join([*lines, layout.rule, *wrapped]) + "\n"


def _reason(name: str, error: str) -> List[str]:
    """Say why a model was not counted, all of it: the name of what is missing often comes last."""
    first = f"{name}  "
    later, text = " " * len(first), f"not counted: {error}"
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


class _Layout:
    """Puts cells into columns; names are cut, from the left, where the columns would not fit."""

    def __init__(self, widths: List[int], texts: int) -> None:
        self.texts = texts
        self.gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else 1
        room = WIDTH - sum(widths[1:]) - self.gap * (len(widths) - 1)
        self.widths = [min(widths[0], max(room, 12)), *widths[1:]]

    @property
    def rule(self) -> str:
        return "-" * (sum(self.widths) + self.gap * (len(self.widths) - 1))

    def name(self, text: str) -> str:
        return cut_left(text, self.widths[0]).ljust(self.widths[0])

    def line(self, cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(w) if i < self.texts else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, self.widths))
        ]
        return (" " * self.gap).join([self.name(cells[0]), *padded[1:]]).rstrip()


# ---- Markdown ----


def markdown_comparison(rows: Sequence[Row]) -> str:
    """The comparison as GitHub reads it, with the differences in the cells."""
    table = grid(rows)
    units = [f" ({unit})" if unit else "" for unit in table.units]
    lines = [[*table.left, *(heading + unit for heading, unit in zip(table.headings, units))]]
    lines.append(["---"] * len(table.left) + ["---:"] * len(table.headings))
    for line in table.lines:
        cells = line.cells
        if line.differences:
            cells = [f"{cell} ({more})" if more else cell for cell, more in zip(cells, line.differences)]
        if line.error:
            cells = [f"not counted: {escaped(line.error)}", *[""] * (len(cells) - 1)]
        lines.append([*map(escaped, line.left), *cells])
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([body, *map(escaped, notes(rows))]) + "\n"


# ---- LaTeX ----


def latex_comparison(rows: Sequence[Row]) -> str:
    """The comparison as a ``tabular`` for the package booktabs, with the notes as comments below it."""
    table = grid(rows)
    texts, numbers = len(table.left), len(table.headings)
    units = [f"({unit})" if unit else "" for unit in table.units]
    lines = [f"\\begin{{tabular}}{{{'l' * texts}{'r' * numbers}}}", "\\toprule"]
    lines += [_latex_row([*table.left, *table.headings]), _latex_row([*table.indent, *units]), "\\midrule"]
    for line in table.lines:
        if line.error:
            reason = f"\\multicolumn{{{texts + numbers - 1}}}{{l}}{{{_latex(f'not counted: {line.error}')}}}"
            lines.append(f"{_latex(line.left[0])} & {reason} \\\\")
            continue
        lines.append(_latex_row([*line.left, *line.cells]))
        if line.differences:
            lines.append(_latex_row([*table.indent, *line.differences]).replace("-", "$-$"))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {note}" for note in notes(rows))]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(_latex, cells))} \\\\"


_LATEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


__all__ = ["WIDTH", "grid", "latex_comparison", "markdown_comparison", "notes", "text_comparison"]

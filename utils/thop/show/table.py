"""The table of modules as plain text and as Markdown: which columns there are, and what stands in them."""

import math
import textwrap
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence

from ..units import readable, readable_bytes
from .tree import ITSELF, Numbers, Row, addends

WIDTH = 100  # columns of a terminal
_MARKED = 5
_LONGEST_TYPE = 15


@dataclass
class View:
    """The rows that are shown, with what they add up to; flat: sorted, and therefore not indented."""

    rows: List[Row]
    total: Numbers
    sort: Optional[str] = None

    @property
    def flat(self) -> bool:
        """Whether the rows are in another order than the model's."""
        return self.sort is not None

    @property
    def has_bytes(self) -> bool:
        """Whether the bytes are known."""
        return not math.isnan(self.total.bytes)

    def weight(self, numbers: Numbers) -> float:
        """What a row's importance is measured by: its bytes, or its accesses where no bytes are known."""
        return numbers.bytes if self.has_bytes else numbers.accesses

    def name(self, row: Row) -> str:
        """What the row is called: in a sorted table its whole path, because nothing above it says where it belongs."""
        if not self.flat:
            return row.name
        return f"{row.path} {ITSELF}" if row.itself else row.path

    def type(self, row: Row) -> str:
        """The module's class; for what a module did outside of its parts, the operators that did it."""
        if not row.itself:
            return row.node.type
        operators = row.node.operators
        return operators[0] if len(operators) == 1 else f"{len(operators)} operators" if operators else ""

    def shape(self, row: Row) -> str:
        """The output shape, of a module that was called."""
        return row.shape if row.node.layer.calls else "not called"

    def marked(self) -> List[Row]:
        """The few rows that move the most; none in a table so short that all of it would be marked."""
        rows = sorted(addends(self.rows), key=lambda row: self.weight(row.numbers), reverse=True)
        return rows[: min(_MARKED, len(rows) // 3)]


@dataclass(frozen=True)
class Column:
    """A column of numbers; group: a heading over several; share: the cell is a share of the total."""

    heading: str
    cell: Callable[[Numbers, Numbers], str]
    group: str = ""
    share: Optional[Callable[[Numbers, Numbers], float]] = None


def part(value: float, total: float) -> float:
    """A share of the total; of nothing, nothing."""
    return value / total if total else 0.0


def _gflops(numbers: Numbers, total: Numbers) -> str:
    gflops = numbers.total_ops * 2 / 1e9
    return f"{gflops:.3f}" if gflops >= 0.0005 else "<0.001" if gflops else "0"


def _share_of_accesses(numbers: Numbers, total: Numbers) -> float:
    return part(numbers.accesses, total.accesses)


def _share_of_bytes(numbers: Numbers, total: Numbers) -> float:
    return part(numbers.bytes, total.bytes)


_LAYERS = (
    Column("params", lambda numbers, total: readable(numbers.parameters)),
    Column("GFLOPs", _gflops),
    Column("kernel", lambda numbers, total: readable(numbers.kernel), "accesses"),
    Column("output", lambda numbers, total: readable(numbers.output), "accesses"),
    Column("share", lambda n, total: f"{_share_of_accesses(n, total):.1%}", "accesses", _share_of_accesses),
)
_BYTES = Column("bytes", lambda numbers, total: readable_bytes(numbers.bytes), "traffic")
_SHARE = Column("share", lambda n, total: f"{_share_of_bytes(n, total):.1%}", "traffic", _share_of_bytes)
_INTENSITY = Column("FLOPs/B", lambda numbers, total: f"{numbers.intensity:.1f}", "traffic")


def columns(view: View) -> List[Column]:
    """The columns of numbers; what the rows are sorted by is among them."""
    if not view.has_bytes:
        return list(_LAYERS)
    return [*_LAYERS, _BYTES, _INTENSITY if view.sort == "intensity" else _SHARE]


# ---- plain text ----


def text_table(view: View, remarks: Sequence[str]) -> str:
    """Lay out the table in ASCII, no wider than a terminal, with the remarks below it."""
    shown = columns(view)
    marked = view.marked()
    names = [view.name(row) if view.flat else "  " * row.level + view.name(row) for row in view.rows]
    left = [["module", *names, "total"], ["type", *(cut(view.type(row), _LONGEST_TYPE) for row in view.rows), ""]]
    left.append(["output shape", *(view.shape(row) for row in view.rows), ""])
    numbers = [*(row.numbers for row in view.rows), view.total]
    right = [[column.heading, *(column.cell(n, view.total) for n in numbers)] for column in shown]
    marks = ["", *(" *" if any(row is m for m in marked) else "" for row in view.rows), ""]
    gap = _fit(left, right)
    cells = [_padded(texts, str.ljust) for texts in left[:2]] + [
        _padded(texts, str.rjust) for texts in left[2:] + right
    ]
    lines = [gap.join(row) + mark for row, mark in zip(zip(*cells), marks)]
    rule = "-" * len(gap.join(column[0] for column in cells))
    groups = _group_heading([len(column[0]) for column in cells], ["", "", "", *(c.group for c in shown)], len(gap))
    wrapped = [line for remark in remarks for line in textwrap.wrap(remark, WIDTH, break_on_hyphens=False)]
    return "\n".join([groups, lines[0], rule, *lines[1:-1], rule, lines[-1], *wrapped])


def _fit(left: List[List[str]], right: List[List[str]]) -> str:
    """Return the gap between columns; names are cut, from the left, where even the smallest makes it too wide."""
    widths = [max(map(len, texts)) for texts in [*left, *right]]
    room = WIDTH - sum(widths) - len(" *")
    if room >= 2 * (len(widths) - 1):
        return "  "
    spare = room - (len(widths) - 1)
    if spare < 0:
        longest = max(widths[0] + spare, 12)
        left[0][:] = [cut_left(name, longest) for name in left[0]]
    return " "


def cut(text: str, longest: int) -> str:
    """Keep the beginning of a text that is too long."""
    return text if len(text) <= longest else text[: longest - 2] + ".."


def cut_left(text: str, longest: int) -> str:
    """Keep the indentation's beginning and the end of the name, which tells it from its neighbours."""
    return text if len(text) <= longest else ".." + text[2 - longest :]


def _padded(texts: Sequence[str], pad: Callable[[str, int], str]) -> List[str]:
    width = max(map(len, texts))
    return [pad(text, width) for text in texts]


def _group_heading(widths: Sequence[int], groups: Sequence[str], gap: int) -> str:
    """Write each group's name in the middle of a line over its columns."""
    line, done = "", 0
    for i, group in enumerate(groups):
        if i < done:
            continue
        done = i + (groups.count(group) if group else 1)
        width = sum(widths[i:done]) + gap * (done - i - 1)
        line += (f" {group} ".center(width, "-") if group else " " * width) + " " * gap
    return line.rstrip()


# ---- Markdown ----


def markdown_table(view: View, remarks: Sequence[str]) -> str:
    """Write the table as GitHub reads it."""
    shown = columns(view)
    marked = view.marked()
    headings = [f"{column.group} {column.heading}".strip() for column in shown]
    lines = [_markdown_row(["module", "type", "output shape", *headings])]
    lines.append(_markdown_row(["---"] * 2 + ["---:"] * (1 + len(shown))))
    for row in view.rows:
        numbers = [column.cell(row.numbers, view.total) for column in shown]
        indentation = "" if view.flat else "&nbsp;&nbsp;&nbsp;" * row.level
        name = indentation + _code(view.name(row)) + (r" \*" if any(row is m for m in marked) else "")
        lines.append(_markdown_row([name, _code(view.type(row)), view.shape(row), *numbers]))
    lines.append(_markdown_row(["total", "", "", *(column.cell(view.total, view.total) for column in shown)]))
    return "\n".join([*lines, "", "\n\n".join(escaped(remark) for remark in remarks)]).rstrip() + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return "`{}`".format(text.replace("`", "'").replace("|", "\\|")) if text else ""


def escaped(text: str) -> str:
    """Take the meaning off what Markdown and HTML would read as markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>|" else letter for letter in text)

"""The table of modules: which columns there are, and what stands in them."""

import math
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence

from ..units import readable, readable_bytes
from .grid import Grid, Head, Line, cut, heaviest, to_markdown, to_text
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

    def heaviest(self, most: int) -> List[Row]:
        """So many rows of the largest weight, in their order; in a sorted table the first."""
        if self.flat or len(self.rows) <= most:
            return self.rows[:most]
        return [self.rows[i] for i in heaviest([self.weight(row.numbers) for row in self.rows], most)]

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
    spare: int = 0


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
    Column("params", lambda numbers, total: readable(numbers.parameters), spare=4),
    Column("GFLOPs", _gflops),
    Column("kernel", lambda numbers, total: readable(numbers.kernel), "accesses", spare=5),
    Column("output", lambda numbers, total: readable(numbers.output), "accesses", spare=1),
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


def grid_of(view: View, remarks: Sequence[str], longest_type: int = 1000) -> Grid:
    """Put the rows into a grid; the largest share of all rows fills its cell with a bar."""
    shown, marked = columns(view), view.marked()
    heads = [Head("module", is_text=True, is_code=True), Head("type", is_text=True, is_code=True, spare=3)]
    heads.append(Head("output shape", spare=2))
    heads += [Head(column.heading, group=column.group, spare=column.spare) for column in shown]
    shares = {i: column.share for i, column in enumerate(shown, 3) if column.share is not None}
    largest = {
        i: max((share(row.numbers, view.total) for row in view.rows), default=0.0) or 1.0 for i, share in shares.items()
    }
    lines = []
    for row in view.rows:
        texts = [view.name(row), cut(view.type(row), longest_type), view.shape(row)]
        numbers = [column.cell(row.numbers, view.total) for column in shown]
        mark = " *" if any(row is m for m in marked) else ""
        line = Line([*texts, *numbers], mark=mark, level=0 if view.flat else row.level, title=row.path)
        line.kinds = ["sum"] * row.is_sum + ["itself"] * row.itself + ["marked"] * bool(mark)
        line.bars = {i: share(row.numbers, view.total) / largest[i] for i, share in shares.items()}
        lines.append(line)
    total = ["total", "", "", *(column.cell(view.total, view.total) for column in shown)]
    return Grid(heads, lines, total, list(remarks))


def text_table(view: View, remarks: Sequence[str]) -> str:
    """Lay out the table in ASCII, no wider than a terminal, with the remarks below it."""
    return to_text(grid_of(view, remarks, _LONGEST_TYPE), WIDTH)


def markdown_table(view: View, remarks: Sequence[str]) -> str:
    """Write the table as GitHub reads it."""
    return to_markdown(grid_of(view, remarks))

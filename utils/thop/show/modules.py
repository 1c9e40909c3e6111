"""The table of modules: the modules of a model as they nest, each with what the two ledgers counted in it.

Below it stand a few sentences: where most of the traffic is, what would save some, and what was left out.
"""

from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from torch import nn

from ..count.calls import LayerRow
from ..count.places import Layer
from ..profile import Profile
from ..traffic import Traffic
from ..units import first_of, readable, readable_bytes, together
from .grid import Column, Grid, cut, grid_of, heaviest

ITSELF = "(itself)"
_LONGEST_TYPE = 16
_MARKED = 5
_MOST_NAMES = 6
_FEWEST_MODULES = 4
_ADDED = ("parameters", "total_ops", "kernel", "output", "flops", "read_bytes", "written_bytes")


@dataclass
class ModuleRow(LayerRow):
    """A row of the table: what was counted in a module, with all that is in it.

    kind: the module's class; name: its path from the row that it is indented under; level: how deep that is, from 0;
    is_sum: its parts follow as rows of their own; itself: it is what the module did outside of its parts. The rows that
    are no sums add up to the total.
    """

    kind: type = nn.Module
    name: str = ""
    level: int = 0
    is_sum: bool = False
    itself: bool = False

    @property
    def accesses(self) -> float:
        """Kernel and output accesses together."""
        return self.kernel + self.output

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to show."""
        return not any(getattr(self, name) for name in _ADDED)

    @property
    def full_name(self) -> str:
        """What a row is called that stands alone."""
        return self.path or self.type

    @property
    def shape(self) -> str:
        """The output shape, as in 1x32x320x320."""
        return "x".join(map(str, self.output_shape))


def module_rows(profile: Profile, traffic: Traffic) -> Tuple[ModuleRow, List[ModuleRow]]:
    """Join the two ledgers' counts of one model: the total, and the rows of all levels as they nest."""
    moved = {row.path: row for row in traffic.layers}
    total, *rows = _unfold(profile.root, "", -1, moved, set())
    return total, rows or [replace(total, level=0)]


def _unfold(layer: Layer, name: str, level: int, moved: Dict[str, LayerRow], seen: Set[int]) -> List[ModuleRow]:
    """The row of a module, and those of its parts.

    A module that is never called, such as a ModuleList or YOLOv5's own ``model``, has no row; its parts stand in its
    place, with its name before theirs.
    """
    own = _row(layer, name, level, moved, seen)
    absent = level >= 0 and own.nothing and not own.calls
    start, inner = (f"{name}.", level) if absent else ("", level + 1)
    below: List[ModuleRow] = []
    for child in layer.children.values():
        below += _unfold(child, start + child.name, inner, moved, seen)
    if absent or not below:
        return below if absent else [own]
    parts = below if own.nothing else [replace(own, level=inner, itself=True), *below]
    return [_sum(own, addends(parts)), *parts]


def _row(layer: Layer, name: str, level: int, moved: Dict[str, LayerRow], seen: Set[int]) -> ModuleRow:
    """What a module did itself; its own parameters without those that an earlier row holds already."""
    known = moved.get(layer.path) or LayerRow("", path=layer.path, type=layer.kind.__name__)
    values = dict(vars(known), operators={key: part for key, part in known.operators.items() if part.bytes})
    values["parameters"] = sum(elements for key, elements in layer.parameters.items() if key not in seen)
    seen.update(layer.parameters)
    return ModuleRow(**values, kind=layer.kind, name=name, level=level)


def _sum(own: ModuleRow, parts: Sequence[ModuleRow]) -> ModuleRow:
    """The row of a module with all its parts, column by column."""
    numbers = {name: sum(getattr(part, name) for part in parts) for name in _ADDED}
    operators = {key: row for part in parts for key, row in part.operators.items()}
    return replace(own, is_sum=True, operators=operators, **numbers)


# ---- what is shown, and in which order ----

SORTS = {
    "traffic": "bytes", "read": "read_bytes", "written": "written_bytes", "accesses": "accesses", "kernel": "kernel",
    "output": "output", "ops": "total_ops", "parameters": "parameters", "intensity": "intensity",
}  # fmt: skip
"""What the table can be sorted by, and the number of a row that it is."""


def check_choice(depth: Any, sort: Any) -> None:
    """Raise ValueError, which names the choices, for a ``depth`` or ``sort`` that there is not."""
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
        raise ValueError(f"depth must be None, for all levels, or a whole number from 1 up, not {depth!r}")
    if sort is not None and (not isinstance(sort, str) or sort not in SORTS):
        raise ValueError(f"sort must be None, for the order of the model, or one of {', '.join(SORTS)}, not {sort!r}")


def choose(rows: Sequence[ModuleRow], depth: Optional[int] = None, sort: Optional[str] = None) -> List[ModuleRow]:
    """Return the rows to show: those down to ``depth``, or of them those that are no sums, the largest first."""
    check_choice(depth, sort)
    if depth is not None:
        shown = [row for row in rows if row.level < depth]
        rows = [replace(row, is_sum=row.is_sum and row.level + 1 < depth) for row in shown]
    if sort is None:
        return list(rows)
    return sorted(addends(rows), key=lambda row: getattr(row, SORTS[sort]), reverse=True)


def deepest(rows: Sequence[ModuleRow]) -> int:
    """How many levels of rows there are."""
    return 1 + max(row.level for row in rows)


def fitting_depth(rows: Sequence[ModuleRow], most: int) -> int:
    """The largest depth at which there are no more than so many rows, or 1."""
    return next((depth for depth in range(deepest(rows), 1, -1) if len(choose(rows, depth)) <= most), 1)


def addends(rows: Iterable[ModuleRow]) -> List[ModuleRow]:
    """Return the rows that are no sums of others."""
    return [row for row in rows if not row.is_sum]


# ---- the table ----


@dataclass
class View:
    """The rows that are shown, with what they add up to, and what they are sorted by if they are."""

    rows: List[ModuleRow]
    total: ModuleRow
    sort: Optional[str] = None

    def heaviest(self, most: int) -> List[ModuleRow]:
        """So many rows of the largest weight, in their order; in a sorted table the first."""
        if self.sort or len(self.rows) <= most:
            return self.rows[:most]
        return [self.rows[i] for i in heaviest([row.bytes for row in self.rows], most)]

    def marked(self) -> List[ModuleRow]:
        """The few rows that move the most; none in a table so short that all of it would be marked."""
        rows = sorted(addends(self.rows), key=lambda row: row.bytes, reverse=True)
        return rows[: min(_MARKED, len(rows) // 3)]


def part(value: float, total: float) -> float:
    """A share of the total; of nothing, nothing."""
    return value / total if total else 0.0


def _name(row: ModuleRow, by_path: bool) -> str:
    """What the row is called; by_path: in a sorted table, where nothing above a row says where it belongs."""
    if by_path:
        return f"{row.full_name} {ITSELF}" if row.itself else row.full_name
    return "  " * row.level + (ITSELF if row.itself else row.name or row.type)


def _kind(row: ModuleRow) -> str:
    """Its class; of what a module did itself, the operators that did it."""
    operators = list(row.operators)
    if not row.itself:
        return cut(row.type, _LONGEST_TYPE)
    return cut(operators[0], _LONGEST_TYPE) if len(operators) == 1 else f"{len(operators)} operators" * bool(operators)


def _gflops(row: ModuleRow) -> str:
    gflops = row.total_ops * 2 / 1e9
    return f"{gflops:.3f}" if gflops >= 0.0005 else "<0.001" if gflops else "0"


def grid_of_modules(view: View, remarks: Sequence[str]) -> Grid:
    """Put the rows into a grid; what they are sorted by is in it, and those that move the most have a mark."""
    marked, total = [id(row) for row in view.marked()], view.total
    columns: List[Tuple[Column, Callable[[ModuleRow], str]]] = [
        (
            Column("module", is_text=True, is_code=True),
            lambda row: _name(row, bool(view.sort)) + " *" * (id(row) in marked),
        ),
        (Column("type", is_text=True, is_code=True, spare=3), _kind),
        (Column("output shape", is_text=True, spare=2), lambda row: row.shape if row.calls else "not called"),
        (Column("params", spare=4), lambda row: readable(row.parameters)),
        (Column("GFLOPs"), _gflops),
        (Column("kernel", spare=5), lambda row: readable(row.kernel)),
        (Column("output", spare=1), lambda row: readable(row.output)),
        (Column("accesses", "share"), lambda row: f"{part(row.accesses, total.accesses):.1%}"),
        (Column("traffic"), lambda row: readable_bytes(row.bytes)),
    ]
    if view.sort == "intensity":
        columns.append((Column("FLOPs/B"), lambda row: f"{row.intensity:.1f}"))
    else:
        columns.append((Column("traffic", "share"), lambda row: f"{part(row.bytes, total.bytes):.1%}"))
    return grid_of(columns, view.rows, total, remarks)


# ---- the sentences below it ----


def findings(rows: Sequence[ModuleRow], view: View) -> List[str]:
    """Say where the traffic is, and what would save some; rows: those of all levels."""
    if not view.total.bytes:
        return []
    found = [_where(rows, view.total.bytes), _by_type(rows, view.total)]
    marked = view.marked()
    if marked:
        share = part(sum(row.bytes for row in marked), view.total.bytes)
        most = "largest row" if len(marked) == 1 else f"{len(marked)} largest rows"
        found.append(f"* marks the {most}, {share:.1%} of the bytes.{_legend(view)}")
    return [text for text in found if text]


def _legend(view: View) -> str:
    """How the rows add up."""
    texts = []
    if not view.sort and any(row.is_sum for row in view.rows):
        texts.append("A row with indented rows below it is their sum")
    if any(row.itself for row in view.rows):
        texts.append(f"{ITSELF} is what a module does outside of its parts")
    return f" {'; '.join(texts)}." if texts else ""


def _where(rows: Sequence[ModuleRow], total: int) -> str:
    """Name the modules that make half of it."""
    modules = sorted(_main_modules(rows), key=lambda row: row.bytes, reverse=True)
    if len(modules) < _FEWEST_MODULES:
        return ""
    shares = [row.bytes / total for row in modules]
    half = next(n for n in range(1, len(shares) + 1) if sum(shares[:n]) >= 0.5 or n == len(shares))
    count = min(half, _MOST_NAMES)
    names = ", ".join(
        f"{row.full_name}{' itself' * row.itself} ({share:.1%})" for row, share in zip(modules[:count], shares)
    )
    verb = "moves" if count == 1 else "move"
    return f"{count} of {len(modules)} modules {verb} {sum(shares[:count]):.1%} of the bytes: {names}."


def _main_modules(rows: Sequence[ModuleRow]) -> List[ModuleRow]:
    """The rows of the first level that tells several modules apart."""
    found: List[ModuleRow] = []
    for depth in range(1, 4):
        found = addends(choose(rows, depth))
        if len(found) >= _FEWEST_MODULES:
            break
    return found


def _by_type(rows: Sequence[ModuleRow], total: ModuleRow) -> str:
    """Name the kinds of layers that move the most, and what fusing would save where the model can be fused."""
    by_type: Dict[str, float] = {}
    for row in addends(rows):
        by_type[row.type] = by_type.get(row.type, 0) + row.bytes
    largest = sorted(by_type.items(), key=lambda item: item[1], reverse=True)[:3]
    kinds = ", ".join(f"{kind} {value / total.bytes:.1%}" for kind, value in largest if value)
    sentence = f"By type, {kinds} of the bytes."
    norms = _fusible(rows) if hasattr(total.kind, "fuse") else []
    if norms:
        saved = sum(row.bytes for row in norms)
        sentence += (
            f" model.fuse() would save about {readable_bytes(saved)} ({saved / total.bytes:.1%}): it folds "
            f"{len(norms)} BatchNorm2d into the convolutions before them."
        )
    return sentence


def _fusible(rows: Sequence[ModuleRow]) -> List[ModuleRow]:
    """The normalisations that the model's own ``fuse`` would fold into a convolution."""
    folding = [row.path for row in rows if hasattr(row.kind, "forward_fuse") or hasattr(row.kind, "fuseforward")]
    places = {f"{path}.bn" for path in folding}
    return [row for row in rows if row.path in places and issubclass(row.kind, nn.BatchNorm2d)]


def idle_parts(not_run: Dict[str, int], in_training: Optional[Dict[str, int]], parameters: int) -> List[str]:
    """Name modules that the evaluation did not run, those first that training does; with their share of parameters."""

    def end(name: str) -> str:
        return "" if in_training is None else ", nor in training" if name in in_training else ", in training only"

    ends = together((end(name), name) for name in not_run)
    return [
        f"Not run in evaluation{said}: {first_of(names, _MOST_NAMES)} "
        f"({readable(sum(not_run[name] for name in names))} of {readable(parameters)} parameters)."
        for said, names in sorted(ends.items(), reverse=True)
    ]


def reservations(profile: Profile, traffic: Traffic) -> List[str]:
    """Say what was left out or assumed, and where."""
    notes = []
    counted = "; their bytes are counted"
    if profile.only_moved:
        notes.append(f"Not among the accesses, as they only move data: {_calls(profile.only_moved)}{counted}.")
    if profile.missing:
        notes.append(f"Not among the accesses, for want of a rule: {_calls(profile.missing)}{counted}.")
    calls_of = {operator: calls for operator, (calls, _) in traffic.uncounted.items()}
    for assumption, names in together((said, name) for name, (_, said) in traffic.uncounted.items()).items():
        notes.append(f"Not exact: {_calls({name: calls_of[name] for name in names})}: {assumption}.")
    if profile.mode == "real":
        depends = "they may depend on the weights' values"
        notes.append(f"Accesses and bytes were counted in a real forward pass: {profile.why}; {depends}.")
    if profile.leftovers:
        notes.append(f"Accesses and bytes: {', '.join(profile.leftovers)}, where the model's code had put it.")
    return notes


def _calls(counts: Dict[str, int]) -> str:
    named = [f"{name} ({calls} call{'s' * (calls != 1)})" if calls else name for name, calls in counts.items()]
    return first_of(named, _MOST_NAMES)

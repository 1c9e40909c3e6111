"""The table of modules: the modules of a model as they nest, each with what the two ledgers counted in it.

Below it stand a few sentences: where most of the traffic is, what would save some, and what was left out.
"""

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from torch import nn

from ..count.calls import LayerRow
from ..count.places import Layer
from ..profile import Profile
from ..traffic import Traffic
from ..units import first_of, readable, readable_bytes
from .grid import Column, Grid, Line, cut, heaviest

ITSELF = "(itself)"
_MARKED = 5
_MOST_NAMES = 6
_FEWEST_MODULES = 4


class Numbers(NamedTuple):
    """What was counted in one place, or in several together."""

    parameters: int
    total_ops: float
    kernel: float
    output: float
    flops: float
    read_bytes: float
    written_bytes: float

    @property
    def accesses(self) -> float:
        """Kernel and output accesses together."""
        return self.kernel + self.output

    @property
    def bytes(self) -> float:
        """Bytes read and written together."""
        return self.read_bytes + self.written_bytes

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved; 0 where nothing is moved."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to show."""
        return not any(self)


def add_up(parts: Iterable[Numbers]) -> Numbers:
    """Sum column by column."""
    return Numbers(*map(sum, zip(Numbers(0, 0, 0, 0, 0, 0, 0), *parts)))


@dataclass
class Node:
    """A module that ran: what it did itself, and its parts.

    name: its path from the row that it is indented under. A module that is never called, such as a ModuleList or
    YOLOv5's own ``model``, has no node; its parts stand in its place, with its name before theirs.
    """

    layer: Layer
    name: str
    own: Numbers
    operators: List[str]
    children: List["Node"] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Name from the root, as in ``named_modules()``."""
        return self.layer.path

    @property
    def type(self) -> str:
        """The module's class."""
        return self.layer.kind.__name__

    def total(self) -> Numbers:
        """Sum the node and everything below it."""
        return add_up(node.own for node in self.walk())

    def walk(self) -> Iterator["Node"]:
        """Yield this node and all below it, depth first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass
class ModuleRow:
    """One row as it is shown.

    level: how deep it is indented, from 0; is_sum: its parts follow as rows of their own; itself: what ``node`` did
    outside of its parts. The rows that are no sums add up to the total.
    """

    node: Node
    level: int
    numbers: Numbers
    is_sum: bool = False
    itself: bool = False

    @property
    def name(self) -> str:
        """What an indented row is called."""
        return ITSELF if self.itself else self.node.name or self.node.type

    @property
    def path(self) -> str:
        """What a row is called that stands alone."""
        return self.node.path or self.node.type

    @property
    def shape(self) -> str:
        """The output shape, as in 1x32x320x320."""
        return "x".join(map(str, self.node.layer.output_shape))


def module_tree(profile: Profile, traffic: Traffic) -> Node:
    """Join the two ledgers' counts of one model."""
    moved = {row.path: row for row in traffic.layers}
    seen: Set[int] = set()
    root = _node(profile.root, "", moved, seen)
    root.children = _children(profile.root, "", moved, seen)
    return root


def _children(layer: Layer, prefix: str, moved: Dict[str, LayerRow], seen: Set[int]) -> List[Node]:
    nodes = []
    for child in layer.children.values():
        node = _node(child, prefix + child.name, moved, seen)
        absent = node.own.nothing and not child.calls
        node.children = _children(child, f"{node.name}." if absent else "", moved, seen)
        nodes.extend(node.children if absent else [node])
    return nodes


def _node(layer: Layer, name: str, moved: Dict[str, LayerRow], seen: Set[int]) -> Node:
    row = moved.get(layer.path) or LayerRow("")
    traffic = row.flops, row.read_bytes, row.written_bytes
    numbers = Numbers(_parameters(layer, seen), layer.ops, layer.kernel, layer.output, *traffic)
    return Node(layer, name, numbers, [operator for operator, part in row.operators.items() if part.bytes])


def _parameters(layer: Layer, seen: Set[int]) -> int:
    """Count a module's own parameters, without those that an earlier row holds already."""
    count = sum(elements for identity, elements in layer.parameters.items() if identity not in seen)
    seen.update(layer.parameters)
    return count


# ---- what is shown, and in which order ----

SORTS: Dict[str, Callable[[Numbers], float]] = {
    "traffic": lambda numbers: numbers.bytes,
    "read": lambda numbers: numbers.read_bytes,
    "written": lambda numbers: numbers.written_bytes,
    "accesses": lambda numbers: numbers.accesses,
    "kernel": lambda numbers: numbers.kernel,
    "output": lambda numbers: numbers.output,
    "ops": lambda numbers: numbers.total_ops,
    "parameters": lambda numbers: numbers.parameters,
    "intensity": lambda numbers: numbers.intensity,
}


def check_choice(depth: Any, sort: Any) -> None:
    """Raise ValueError, which names the choices, for a ``depth`` or ``sort`` that there is not."""
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
        raise ValueError(f"depth must be None, for all levels, or a whole number from 1 up, not {depth!r}")
    if sort is not None and (not isinstance(sort, str) or sort not in SORTS):
        raise ValueError(f"sort must be None, for the order of the model, or one of {', '.join(SORTS)}, not {sort!r}")


def choose(root: Node, depth: Optional[int] = None, sort: Optional[str] = None) -> List[ModuleRow]:
    """Return the rows to show: the tree down to ``depth``, or its rows without the sums, the largest first."""
    check_choice(depth, sort)
    if not root.children:
        return [ModuleRow(root, 0, root.own)]
    rows = [] if root.own.nothing else [ModuleRow(root, 0, root.own, itself=True)]
    for child in root.children:
        rows.extend(_unfold(child, 0, depth))
    if sort is None:
        return rows
    key = SORTS[sort]
    return sorted(addends(rows), key=lambda row: key(row.numbers), reverse=True)


def deepest(root: Node) -> int:
    """How many levels of rows there are."""
    return 1 + max((deepest(child) for child in root.children if child.children), default=0)


def fitting_depth(root: Node, most: int, sort: Optional[str] = None) -> int:
    """The largest depth at which there are no more than so many rows, or 1; all levels in a sorted table."""
    levels = deepest(root)
    if sort is not None:
        return levels
    return next((depth for depth in range(levels, 1, -1) if len(choose(root, depth)) <= most), 1)


def addends(rows: Iterable[ModuleRow]) -> List[ModuleRow]:
    """Return the rows that are no sums of others."""
    return [row for row in rows if not row.is_sum]


def _unfold(node: Node, level: int, depth: Optional[int]) -> Iterator[ModuleRow]:
    if not node.children or (depth is not None and level + 1 >= depth):
        yield ModuleRow(node, level, node.total())
        return
    yield ModuleRow(node, level, node.total(), is_sum=True)
    if not node.own.nothing:
        yield ModuleRow(node, level + 1, node.own, itself=True)
    for child in node.children:
        yield from _unfold(child, level + 1, depth)


# ---- the table ----


@dataclass
class View:
    """The rows that are shown, with what they add up to; flat: sorted, and therefore not indented."""

    rows: List[ModuleRow]
    total: Numbers
    sort: Optional[str] = None

    @property
    def flat(self) -> bool:
        """Whether the rows are in another order than the model's."""
        return self.sort is not None

    def name(self, row: ModuleRow) -> str:
        """What the row is called: in a sorted table its whole path, because nothing above it says where it belongs."""
        if not self.flat:
            return row.name
        return f"{row.path} {ITSELF}" if row.itself else row.path

    def type(self, row: ModuleRow) -> str:
        """The module's class; for what a module did outside of its parts, the operators that did it."""
        if not row.itself:
            return row.node.type
        operators = row.node.operators
        return operators[0] if len(operators) == 1 else f"{len(operators)} operators" if operators else ""

    def shape(self, row: ModuleRow) -> str:
        """The output shape, of a module that was called."""
        return row.shape if row.node.layer.calls else "not called"

    def heaviest(self, most: int) -> List[ModuleRow]:
        """So many rows of the largest weight, in their order; in a sorted table the first."""
        if self.flat or len(self.rows) <= most:
            return self.rows[:most]
        return [self.rows[i] for i in heaviest([row.numbers.bytes for row in self.rows], most)]

    def marked(self) -> List[ModuleRow]:
        """The few rows that move the most; none in a table so short that all of it would be marked."""
        rows = sorted(addends(self.rows), key=lambda row: row.numbers.bytes, reverse=True)
        return rows[: min(_MARKED, len(rows) // 3)]


def part(value: float, total: float) -> float:
    """A share of the total; of nothing, nothing."""
    return value / total if total else 0.0


def _gflops(numbers: Numbers) -> str:
    gflops = numbers.total_ops * 2 / 1e9
    return f"{gflops:.3f}" if gflops >= 0.0005 else "<0.001" if gflops else "0"


_PLACES = (
    Column("module", is_text=True, is_code=True),
    Column("type", is_text=True, is_code=True, spare=3),
    Column("output shape", spare=2),
)
_COUNTS: Sequence[Tuple[Column, Callable[[Numbers], Any]]] = (
    (Column("params", spare=4), lambda numbers: readable(numbers.parameters)),
    (Column("GFLOPs"), _gflops),
    (Column("kernel", group="accesses", spare=5), lambda numbers: readable(numbers.kernel)),
    (Column("output", group="accesses", spare=1), lambda numbers: readable(numbers.output)),
    (Column("share", group="accesses"), lambda numbers: numbers.accesses),
)
_BYTES: Sequence[Tuple[Column, Callable[[Numbers], Any]]] = (
    (Column("bytes", group="traffic"), lambda numbers: readable_bytes(numbers.bytes)),
    (Column("share", group="traffic"), lambda numbers: numbers.bytes),
    (Column("FLOPs/B", group="traffic"), lambda numbers: f"{numbers.intensity:.1f}"),
)
"""The columns of numbers, and what stands in them: a text, or a number of which the share of the total does."""


def grid_of_modules(view: View, remarks: Sequence[str], longest_type: int = 1000) -> Grid:
    """Put the rows into a grid; what they are sorted by is in it; the largest share of all rows fills its cell."""
    last = "FLOPs/B" if view.sort == "intensity" else "share"
    moved = [each for each in _BYTES if each[0].text in ("bytes", last)]
    shown, marked = [*_COUNTS, *moved], view.marked()

    def cells(numbers: Numbers) -> Tuple[List[str], Dict[int, float]]:
        values = [value(numbers) for _, value in shown]
        whole = [value(view.total) for _, value in shown]
        shares = {i: part(value, whole[i]) for i, value in enumerate(values) if not isinstance(value, str)}
        texts = [f"{shares[i]:.1%}" if i in shares else str(value) for i, value in enumerate(values)]
        return texts, {i + len(_PLACES): share for i, share in shares.items()}

    lines = []
    for row in view.rows:
        numbers, bars = cells(row.numbers)
        mark = " *" if any(row is m for m in marked) else ""
        places = [view.name(row), cut(view.type(row), longest_type), view.shape(row)]
        line = Line([*places, *numbers], mark=mark, level=0 if view.flat else row.level, title=row.path, bars=bars)
        line.kinds = ["sum"] * row.is_sum + ["itself"] * row.itself + ["marked"] * bool(mark)
        lines.append(line)
    for i in lines[0].bars if lines else ():
        largest = max(line.bars[i] for line in lines) or 1.0
        for line in lines:
            line.bars[i] /= largest
    columns = [*_PLACES, *(column for column, _ in shown)]
    return Grid(columns, lines, ["total", "", "", *cells(view.total)[0]], list(remarks))


# ---- the sentences below it ----


def findings(root: Node, view: View) -> List[str]:
    """Say where the traffic is, and what would save some."""
    if not view.total.bytes:
        return []
    found = [_where(root, view), _by_type(root, view)]
    marked = view.marked()
    if marked:
        share = part(sum(row.numbers.bytes for row in marked), view.total.bytes)
        rows = "largest row" if len(marked) == 1 else f"{len(marked)} largest rows"
        found.append(f"* marks the {rows}, {share:.1%} of the bytes.{_legend(view)}")
    return [text for text in found if text]


def _legend(view: View) -> str:
    """How the rows add up."""
    texts = []
    if not view.flat and any(row.is_sum for row in view.rows):
        texts.append("A row with indented rows below it is their sum")
    if any(row.itself for row in view.rows):
        texts.append(f"{ITSELF} is what a module does outside of its parts")
    return f" {'; '.join(texts)}." if texts else ""


def _where(root: Node, view: View) -> str:
    """Name the modules that make half of it."""
    modules = sorted(_main_modules(root), key=lambda row: row.numbers.bytes, reverse=True)
    if len(modules) < _FEWEST_MODULES:
        return ""
    shares = [part(row.numbers.bytes, view.total.bytes) for row in modules]
    half = next(n for n in range(1, len(shares) + 1) if sum(shares[:n]) >= 0.5 or n == len(shares))
    count = min(half, _MOST_NAMES)
    names = ", ".join(
        f"{row.path}{' itself' * row.itself} ({share:.1%})" for row, share in zip(modules[:count], shares)
    )
    verb = "moves" if count == 1 else "move"
    return f"{count} of {len(modules)} modules {verb} {sum(shares[:count]):.1%} of the bytes: {names}."


def _main_modules(root: Node) -> List[ModuleRow]:
    """The rows of the first level that tells several modules apart."""
    rows: List[ModuleRow] = []
    for depth in range(1, 4):
        rows = addends(choose(root, depth))
        if len(rows) >= _FEWEST_MODULES:
            break
    return rows


def _by_type(root: Node, view: View) -> str:
    """Name the kinds of layers that move the most, and what fusing would save where the model can be fused."""
    by_type: Dict[str, float] = {}
    for node in root.walk():
        by_type[node.type] = by_type.get(node.type, 0) + node.own.bytes
    total = view.total.bytes
    largest = sorted(by_type.items(), key=lambda item: item[1], reverse=True)[:3]
    kinds = ", ".join(f"{kind} {part(value, total):.1%}" for kind, value in largest if value)
    sentence = f"By type, {kinds} of the bytes."
    count, saved = _fusible(root)
    if count:
        sentence += (
            f" model.fuse() would save about {readable_bytes(saved)} ({part(saved, total):.1%}): it folds "
            f"{count} BatchNorm2d into the convolutions before them."
        )
    return sentence


def _fusible(root: Node) -> Tuple[int, float]:
    """Count the normalisations, and their bytes, that the model's own ``fuse`` would fold into a convolution."""
    if not hasattr(root.layer.kind, "fuse"):
        return 0, 0.0
    bytes_of = []
    for node in root.walk():
        if not any(hasattr(node.layer.kind, name) for name in ("forward_fuse", "fuseforward")):
            continue
        for child in node.children:
            if child.path == f"{node.path}.bn" and issubclass(child.layer.kind, nn.BatchNorm2d):
                bytes_of.append(child.own.bytes)
    return len(bytes_of), float(sum(bytes_of))


def idle_parts(not_run: Dict[str, int], in_training: Optional[Dict[str, int]], parameters: int) -> List[str]:
    """Name modules that the evaluation did not run, those first that training does; with their share of parameters."""
    ends: Dict[str, List[str]] = {}
    for name in not_run:
        end = "" if in_training is None else ", nor in training" if name in in_training else ", in training only"
        ends.setdefault(end, []).append(name)
    return [
        f"Not run in evaluation{end}: {first_of(names, _MOST_NAMES)} "
        f"({readable(sum(not_run[name] for name in names))} of {readable(parameters)} parameters)."
        for end, names in sorted(ends.items(), reverse=True)
    ]


def reservations(profile: Profile, traffic: Traffic) -> List[str]:
    """Say what was left out or assumed, and where."""
    notes = []
    counted = "; their bytes are counted"
    if profile.only_moved:
        notes.append(f"Not among the accesses, as they only move data: {_calls(profile.only_moved)}{counted}.")
    if profile.missing:
        notes.append(f"Not among the accesses, for want of a rule: {_calls(profile.missing)}{counted}.")
    for assumption, operators in _by_assumption(traffic).items():
        notes.append(f"Not exact: {_calls(operators)}: {assumption}.")
    if profile.mode == "real":
        depends = "they may depend on the weights' values"
        notes.append(f"Accesses and bytes were counted in a real forward pass: {profile.why}; {depends}.")
    if profile.leftovers:
        notes.append(f"Accesses and bytes: {', '.join(profile.leftovers)}, where the model's code had put it.")
    return notes


def _by_assumption(traffic: Traffic) -> Dict[str, Dict[str, int]]:
    grouped: Dict[str, Dict[str, int]] = {}
    for operator, (calls, assumption) in traffic.uncounted.items():
        grouped.setdefault(assumption, {})[operator] = calls
    return grouped


def _calls(counts: Dict[str, int]) -> str:
    named = [f"{name} ({calls} call{'s' * (calls != 1)})" if calls else name for name, calls in counts.items()]
    return first_of(named, _MOST_NAMES)

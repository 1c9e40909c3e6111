"""The rows of a table: the modules of a model as they nest, each with what the two ledgers counted in it."""

import math
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from ..count.rows import LayerRow
from ..places import Layer
from ..profile import Profile
from ..traffic import Traffic

ITSELF = "(itself)"


class Numbers(NamedTuple):
    """What was counted in one place, or in several together; bytes and FLOPs not a number where they are unknown."""

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
        return not any(value for value in self if not math.isnan(value))


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
class Row:
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


def module_tree(profile: Profile, traffic: Optional[Traffic]) -> Node:
    """Join the two ledgers' counts of one model; without ``traffic``, bytes are not a number."""
    moved: Optional[Dict[str, LayerRow]] = None if traffic is None else {row.path: row for row in traffic.layers}
    seen: Set[int] = set()
    root = _node(profile.root, "", moved, seen)
    root.children = _children(profile.root, "", moved, seen)
    return root


def _children(layer: Layer, prefix: str, moved: Optional[Dict[str, LayerRow]], seen: Set[int]) -> List[Node]:
    nodes = []
    for child in layer.children.values():
        node = _node(child, prefix + child.name, moved, seen)
        absent = node.own.nothing and not child.calls
        node.children = _children(child, f"{node.name}." if absent else "", moved, seen)
        nodes.extend(node.children if absent else [node])
    return nodes


def _node(layer: Layer, name: str, moved: Optional[Dict[str, LayerRow]], seen: Set[int]) -> Node:
    unknown = float("nan")
    traffic: Tuple[float, float, float] = (unknown, unknown, unknown) if moved is None else (0, 0, 0)
    operators: List[str] = []
    row = moved.get(layer.path) if moved else None
    if row is not None:
        traffic = row.flops, row.read_bytes, row.written_bytes
        operators = [operator for operator, part in row.operators.items() if part.bytes]
    numbers = Numbers(_parameters(layer, seen), layer.ops, layer.kernel, layer.output, *traffic)
    return Node(layer, name, numbers, operators)


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


def choose(root: Node, depth: Optional[int] = None, sort: Optional[str] = None) -> List[Row]:
    """Return the rows to show: the tree down to ``depth``, or its rows without the sums, the largest first."""
    check_choice(depth, sort)
    if not root.children:
        return [Row(root, 0, root.own)]
    rows = [] if root.own.nothing else [Row(root, 0, root.own, itself=True)]
    for child in root.children:
        rows.extend(_unfold(child, 0, depth))
    if sort is None:
        return rows
    key = SORTS[sort]
    return sorted(addends(rows), key=lambda row: _ascending(key(row.numbers)), reverse=True)


def deepest(root: Node) -> int:
    """How many levels of rows there are."""
    return 1 + max((deepest(child) for child in root.children if child.children), default=0)


def fitting_depth(root: Node, most: int, sort: Optional[str] = None) -> int:
    """The largest depth at which there are no more than so many rows, or 1; all levels in a sorted table."""
    levels = deepest(root)
    if sort is not None:
        return levels
    return next((depth for depth in range(levels, 1, -1) if len(choose(root, depth)) <= most), 1)


def addends(rows: Iterable[Row]) -> List[Row]:
    """Return the rows that are no sums of others."""
    return [row for row in rows if not row.is_sum]


def _unfold(node: Node, level: int, depth: Optional[int]) -> Iterator[Row]:
    if not node.children or (depth is not None and level + 1 >= depth):
        yield Row(node, level, node.total())
        return
    yield Row(node, level, node.total(), is_sum=True)
    if not node.own.nothing:
        yield Row(node, level + 1, node.own, itself=True)
    for child in node.children:
        yield from _unfold(child, level + 1, depth)


def _ascending(value: float) -> float:
    return -math.inf if math.isnan(value) else value


__all__ = [
    "ITSELF", "SORTS", "Node", "Numbers", "Row", "add_up", "addends", "check_choice", "choose", "deepest",
    "fitting_depth", "module_tree",
]  # fmt: skip

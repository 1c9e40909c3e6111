"""What rknn-toolkit2 says of a network that it builds: launches, the operators they hold, memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable, Sequence

from graphs import Graph, Node, words

LEFT_OUT = ("InputOperator", "OutputOperator", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Cast")
ROW = re.compile(
    r"^D RKNN: \[[\d:.]+\] \d+\s+(\S+)\s+\S+\s+(CPU|NPU|GPU)\s+(\S+)\s+(\S+)\s+"  # number, operator, type, shapes
    r"(\d+)/(\d+)/\d+\s+(\d+)\s+(\w+):(\S+)\s*$",  # cycles, kilobytes, kind and name
    re.MULTILINE,
)
LAYOUT = re.compile(r"[_-](tp|rs)(#\d+)?$")  # a transpose or reshape that the toolkit puts in
STEP = re.compile(r"^D\s+(\w+): remove node = \[(.*?)\], add node = \[(.*?)\]\s*$", re.MULTILINE)
SWALLOWED = re.compile(r"^D\s+fuse_\w+: remove node = \[(.*?)\]\s*$", re.MULTILINE)  # by what reads it
MEMORY = re.compile(r"Total (Internal|Weight) Memory Size: ([\d.]+)KB")
# How an operator's name goes on after what it began with: the operators of ONNX that this stands for.
PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Swish": (("Sigmoid", "Mul"),),
    "HardSwish": (("HardSwish",), ("HardSigmoid", "Mul"), ("Add", "Clip", "Div", "Mul"), ("Add", "Clip", "Mul", "Div")),
    "Hardswish": (("HardSwish",), ("HardSigmoid", "Mul"), ("Add", "Clip", "Div", "Mul"), ("Add", "Clip", "Mul", "Div")),
    "HardSigmoid": (("HardSigmoid",), ("Add", "Clip", "Div")),
    "Gelu": (("Div", "Erf", "Add", "Mul", "Mul"),),
    "Relu": (("Relu",),),
    "Clip": (("Clip",),),
    "Sigmoid": (("Sigmoid",),),
    "Add": (("Add",),),
    "Mul": (("Mul",),),
    "Leaky": (),
    "LeakyRelu": (("LeakyRelu",),),
}


@dataclass
class Launch:
    """A row of the toolkit's table."""

    operator: str
    target: str
    shapes: tuple[str, str]
    cycles_ddr: int
    cycles_npu: int
    kb: int
    kind: str
    name: str
    members: str = ""
    rows: int = 1


def launches(log: str, graph: Graph) -> list[Launch]:
    """Return what the toolkit executes at once, in order, but for layout changes; pieces of an operator together."""
    rows = [
        Launch(operator, target, (before, after), int(ddr), int(npu), int(kb), kind, name)
        for operator, target, before, after, ddr, npu, kb, kind, name in ROW.findall(log)
        if operator not in LEFT_OUT
    ]
    origin = _origins(log, graph)
    found = [_merge(group) for group in _grouped(rows, _groups(log))]
    held = [_members(launch, origin, graph) for launch in found]
    for node in _union(origin.get(name, []) for names in SWALLOWED.findall(log) for name in _names(names)):
        if not node.is_view and not any(node in nodes for nodes in held):
            readers = graph.solid_readers(node.outputs[0])
            for nodes in held:
                if readers and readers[0] in nodes:
                    nodes.append(node)
    for launch, nodes in zip(found, held):
        launch.members = words(nodes)
    return found


def _grouped(rows: Sequence[Launch], pieces: dict[str, str]) -> list[list[Launch]]:
    """Put rows that are pieces of one operator together, where the first of them is."""
    found: dict[str, list[Launch]] = {}
    for number, row in enumerate(rows):
        pool = re.match(r"(.*GlobalAveragePool)_2conv\d+", row.name)
        key = pool.group(1) if pool else pieces.get(_known(row.name, pieces), str(number))
        found.setdefault(key, []).append(row)
    return list(found.values())


def _merge(rows: Sequence[Launch]) -> Launch:
    """Return one row for the pieces of an operator: of its last one, without the sum over the pieces."""
    last = rows[-1]
    if len(rows) > 1:
        last.rows = len(rows)
        for name in ("cycles_ddr", "cycles_npu", "kb"):
            setattr(last, name, sum(getattr(row, name) for row in rows))
        if rows[0].kind == "Split":
            last.operator = last.operator.replace("Add", "", 1)
    return last


def memory(log: str) -> tuple[float, float] | None:
    """Return the kilobytes of activations and of weights that the board will hold."""
    found = dict(MEMORY.findall(log))
    return (float(found["Internal"]), float(found["Weight"])) if len(found) == 2 else None


def _names(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _origins(log: str, graph: Graph) -> dict[str, list[Node]]:
    """Return which operators of the exported graph stand behind each operator that the toolkit puts in their place."""
    origin = {node.name: [node] for node in graph.nodes}
    for rule, removed, added in STEP.findall(log):
        old, new = _names(removed), _names(added)
        behind = _union(origin.get(name, []) for name in old)
        bases = [name.split("#")[0] for name in old]
        for name in new:
            if name in old and (len(new) > 1 or rule.startswith("swap")):
                continue
            if rule == "fuse_concat_conv" and not name.endswith("_add"):
                origin[name] = [node for node in behind if node.operator != "Concat"]
                origin[f"{name}_ConvAdd"] = behind  # the row that adds what the other made
            elif LAYOUT.search(name) and name not in old and not any(name.split("#")[0] == base for base in bases):
                origin.setdefault(name, [])
            else:
                origin[name] = behind
    return origin


def _groups(log: str) -> dict[str, str]:
    """Return for each piece of an operator that the toolkit cuts up which operator that is."""
    found = {}
    for rule, removed, added in STEP.findall(log):
        if rule.startswith("tiling"):
            found.update({name: _names(removed)[0] for name in _names(added)})
    return found


def _union(groups: Iterable[list[Node]]) -> list[Node]:
    found = {node.index: node for group in groups for node in group}
    return [found[index] for index in sorted(found)]


def _members(launch: Launch, origin: dict[str, list[Node]], graph: Graph) -> list[Node]:
    """Return the operators that a row holds: those behind its name, and those that its operator's name adds."""
    behind = origin.get(_known(launch.name, origin), [])
    nodes = [node for node in behind if not node.is_view] or list(behind)
    for part in _parts(launch):
        nodes = nodes + _next(nodes, part, graph)
    return nodes


def _known(name: str, names: Iterable[str]) -> str:
    """Return the longest of some names that this one begins with."""
    return max((each for each in names if name.startswith(each)), key=len, default="")


def _parts(launch: Launch) -> list[str]:
    """Return what an operator's name adds to its kind: ConvReluAdd -> Relu, Add."""
    rest = launch.operator
    if rest.lower() == launch.kind.lower() or not rest.startswith(launch.kind):
        return []
    rest = rest[len(launch.kind) :]
    found = []
    while rest:
        part = next((each for each in sorted(PARTS, key=len, reverse=True) if re.match(f"(Ex)?{each}", rest)), None)
        if part is None:
            break
        found.append(part)
        rest = re.sub(f"^(Ex)?{part}", "", rest, count=1)
    return found


def _next(nodes: Sequence[Node], part: str, graph: Graph) -> list[Node]:
    """Return the operators after some that a part of a name stands for."""
    if not nodes:
        return []
    for pattern in PARTS[part]:
        found: list[Node] = []
        reach = set(nodes[-1].outputs)
        for operator in pattern:
            after = [node for name in reach for node in graph.solid_readers(name) if node.operator == operator]
            after = [node for node in after if node not in found]
            if not after:
                break
            found.append(min(after, key=lambda node: node.index))
            reach.update(found[-1].outputs)
        else:
            return found
    return []

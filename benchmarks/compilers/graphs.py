"""The exported graph of a network, and which of its operators lie between some of its tensors."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Sequence

VIEWS = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Constant", "Shape", "Expand"}
CLOSE = 2e-3  # how far fingerprints of the same tensor may be from each other, in roots of the mean square
ALIKE = 2e-5  # how much farther than the closest one another tensor may be and still be thought of


@dataclass(frozen=True)
class Node:
    """An operator of the exported graph."""

    index: int
    name: str
    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    module: str

    @property
    def label(self) -> str:
        """The operator and its module: Conv@model.0.conv."""
        return f"{self.operator}@{self.module}"

    @property
    def is_view(self) -> bool:
        """Whether it only looks at its input in another way."""
        return self.operator in VIEWS or (self.operator == "Concat" and len(self.inputs) == 1)


@dataclass
class Graph:
    """The operators in order, who makes a tensor, and who reads it."""

    nodes: list[Node]
    shapes: dict[str, list[int]]
    weights: dict[str, list[int]]
    outputs: list[str]
    maker: dict[str, Node] = field(default_factory=dict)
    readers: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))
    by_name: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.nodes:
            self.by_name[node.name] = node
            for name in node.outputs:
                self.maker[name] = node
            for name in node.inputs:
                self.readers[name].append(node)

    @classmethod
    def read(cls, path: Path) -> Graph:
        """Read what networks.py wrote beside an ONNX file."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        keys = "name", "operator", "inputs", "outputs", "module"
        nodes = [Node(index, *(node[key] for key in keys)) for index, node in enumerate(content["nodes"])]
        return cls(nodes, content["shapes"], content["weights"], content["outputs"])

    def root(self, tensor: str) -> str:
        """Return the tensor that this one is a view of."""
        node = self.maker.get(tensor)
        while node is not None and node.is_view and node.inputs:
            tensor = node.inputs[0]
            node = self.maker.get(tensor)
        return tensor

    def solid_readers(self, tensor: str) -> list[Node]:
        """Return what reads a tensor, past views."""
        found: list[Node] = []
        for node in self.readers.get(tensor, []):
            if node.is_view:
                found.extend(each for name in node.outputs for each in self.solid_readers(name))
            else:
                found.append(node)
        return found

    def views_of(self, tensor: str) -> list[Node]:
        """Return the views that are made of a tensor, and of those."""
        found: list[Node] = []
        for node in self.readers.get(tensor, []):
            if node.is_view and node.operator != "Shape":
                found.extend([node, *(each for name in node.outputs for each in self.views_of(name))])
        return found

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor does not depend on the image."""
        if tensor == "images":
            return False
        node = self.maker.get(tensor)
        return node is None or node.operator == "Shape" or all(self.is_constant(name) for name in node.inputs)

    def between(self, inputs: Iterable[str], output: str) -> list[Node] | None:
        """Return the operators that make `output` of `inputs`, in order; None if they need anything else."""
        known = {self.root(name) for name in inputs}
        found: dict[int, Node] = {}
        pending, seen = [output], {output}
        while pending:
            tensor = pending.pop()
            if self.root(tensor) in known and not (tensor == output and not found and tensor in known):
                views = self._views(tensor)
                found.update(views)
                continue
            node = self.maker.get(tensor)
            if node is None:
                if tensor == "images":
                    return None
                continue
            if self.is_constant(tensor):
                continue
            found[node.index] = node
            fresh = [name for name in node.inputs if name and name not in seen]
            seen.update(fresh)
            pending.extend(fresh)
        nodes = [found[index] for index in sorted(found)]
        solid = [node for node in nodes if not node.is_view]
        return solid or nodes

    def _views(self, tensor: str) -> dict[int, Node]:
        """Return the views from a tensor back to its root."""
        found: dict[int, Node] = {}
        node = self.maker.get(tensor)
        while node is not None and node.is_view and node.inputs:
            found[node.index] = node
            node = self.maker.get(node.inputs[0])
        return found


def words(nodes: Iterable[Node]) -> str:
    """Write operators as the data files do."""
    return " ".join(node.label for node in sorted(nodes, key=lambda node: node.index))


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how far two fingerprints are from each other; infinity for tensors of different sizes."""
    if one[0] != other[0]:
        return float("inf")
    scale = max(abs(one[1]), abs(other[1]))
    return max(abs(a - b) for a, b in zip(one[1:], other[1:])) / scale if scale else 0.0


def same_tensors(graph: Graph, reference: dict[str, list[float]], wanted: Sequence[float]) -> list[str]:
    """Return the tensors that a fingerprint may be of, the likeliest first, without views of others."""
    found = []
    for name, numbers in reference.items():
        if graph.root(name) == name:
            far = distance(wanted, numbers)
            if far < CLOSE:
                found.append((far, name))
    return [name for far, name in sorted(found) if far <= min(found)[0] + ALIKE]


def uncovered(graph: Graph, covered: set[str]) -> list[Node]:
    """Return the operators that no launch holds, but for views and constants."""
    return [
        node
        for node in graph.nodes
        if not node.is_view and node.label not in covered and not graph.is_constant(node.outputs[0])
    ]

"""Which operators of the exported graph each launch of a runtime holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, Iterator, Sequence

from graphs import Graph, Node, same_tensors, words

LEFT_OUT = {
    "ncnn": {"Input", "Split", "Reshape", "Permute", "Squeeze", "ExpandDims", "Flatten", "Noop", "MemoryData", "Cast"},
    "openvino": {
        "Input", "Output", "Const", "Reorder", "Convert", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
    },
    "onnxruntime": {
        "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Constant", "Shape", "Expand",
    },
    "tflite": {"TRANSPOSE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "CAST"},
}  # fmt: skip

CONSTANTS = {"MemoryData", "Const"}
SHUFFLES = {"ShuffleChannel", "ShuffleChannels"}


@dataclass
class Launch:
    """What a runtime executes at once."""

    operator: str
    members: str


def by_tensors(
    graph: Graph, steps: Sequence[dict[str, Any]], names: dict[str, list[str]], left_out: set[str]
) -> list[Launch]:
    """Find members between the tensors that a step reads and writes; `names` says what a tensor may be in `graph`.

    Steps that share what is one operator in `graph` get it each.
    """
    known: dict[str, Origin] = {}
    taken: set[str] = set()
    constant: set[str] = set()
    found: list[Launch] = []
    for step in steps:
        if step["operator"] in CONSTANTS or (step["inputs"] and constant.issuperset(step["inputs"])):
            constant.update(step["outputs"])
            continue
        read = [name for name in step["inputs"] if name not in constant]
        origins = [known.get(name) or Origin(tuple(names.get(name, [])[:1])) for name in read]
        sources = tuple(dict.fromkeys(tensor for origin in origins for tensor in origin.tensors))
        waiting = tuple(dict.fromkeys(launch for origin in origins for launch in origin.waiting))
        if step["operator"] not in left_out and step.get("status", "EXECUTED") == "EXECUTED":
            found.append(Launch(step["operator"], ""))
            waiting += (len(found) - 1,)
        elif len(read) == 1 and not waiting and (len(step["outputs"]) == 1 or step["operator"] == "Split"):
            known.update(dict.fromkeys(step["outputs"], origins[0]))  # the same values in another order
            continue
        nodes: list[Node] = []
        parts = {} if any(output in names for output in step["outputs"]) else _parts(graph, sources, step["outputs"])
        for output in step["outputs"]:
            chosen, between = _best(graph, sources, names.get(output, parts.get(output, [])), taken)
            known[output] = Origin((chosen,)) if chosen else Origin(sources, waiting)
            shuffled = step["operator"] in SHUFFLES and chosen in sources
            nodes.extend(between or (graph.views_of(chosen) if shuffled else []))
        solid = {node.name: node for node in nodes if not node.is_view} or {node.name: node for node in nodes}
        taken.update(name for name, node in solid.items() if not node.is_view)
        for launch, mine in _shared(graph, step, waiting, list(solid.values())):
            found[launch].members = words(mine)
    return found


def _shared(
    graph: Graph, step: dict[str, Any], waiting: Sequence[int], nodes: Sequence[Node]
) -> Iterator[tuple[int, Sequence[Node]]]:
    """Share operators out among the launches that made them: all to each, but what the last one names is its own."""
    named = [graph.by_name[name].index for name in step.get("members", ()) if name in graph.by_name]
    heavy = [node.index for node in nodes if node.operator in ("Conv", "Gemm", "MatMul")]
    if named and heavy and step["operator"] in ("Convolution", "FullyConnected"):
        named.append(heavy[-1])  # it is named by what was fused to it
    own = [node for node in nodes if named and node.index >= min(named)]
    for launch in waiting:
        if len(waiting) == 1 or not own:
            yield launch, nodes
        else:
            yield launch, own if launch == waiting[-1] else [node for node in nodes if node not in own]


def _parts(graph: Graph, sources: Sequence[str], outputs: Sequence[str]) -> dict[str, list[str]]:
    """Return what the parts are into which a step divides a tensor, if the graph has as many of them."""
    if len(sources) != 1 or len(outputs) < 2:
        return {}
    cuts = [node for node in graph.solid_readers(sources[0]) if node.operator in ("Slice", "Split")]
    parts = list(dict.fromkeys(name for node in sorted(cuts, key=lambda node: node.index) for name in node.outputs))
    return {mine: [name] for mine, name in zip(outputs, parts)} if len(parts) == len(outputs) else {}


@dataclass(frozen=True)
class Origin:
    """Which tensors of the graph one of a runtime is made of, and by which launches that still wait for members."""

    tensors: tuple[str, ...]
    waiting: tuple[int, ...] = ()


def _best(
    graph: Graph, sources: Sequence[str], candidates: Sequence[str], taken: set[str]
) -> tuple[str | None, list[Node]]:
    """Return which candidate is made of the sources by operators that no other launch holds, and those operators."""
    possible = []
    for rank, name in enumerate(candidates):
        between = graph.between(sources, name)
        if between and not any(node.name in taken and len(node.outputs) == 1 for node in between):
            possible.append((len(between), rank, name, between))
    if possible:  # a pooling of one pixel, say, has the values of what it reads: the shorter way is likelier
        return min(possible)[2:]
    return (candidates[0] if candidates else None), []


def by_values(graph: Graph, reference: dict[str, list[float]], values: dict[str, list[float]]) -> dict[str, list[str]]:
    """Return for each tensor of a runtime what it may be in the graph."""
    return {name: same_tensors(graph, reference, numbers) for name, numbers in values.items()}


def by_names(graph: Graph, tensors: Iterable[str]) -> dict[str, list[str]]:
    """Return for each tensor that a runtime has kept the name of which one it is."""
    return {name: [name] for name in tensors if name in graph.maker or name == "images"}


def by_layer_names(graph: Graph, steps: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what the results of steps are, each of which names the operators that it was made of."""
    found: dict[str, list[str]] = {}
    for step in steps:
        if step["operator"] == "Input":
            found[step["outputs"][0]] = ["images"]
        named = [graph.by_name.get(name) or graph.maker.get(name) for name in (*step["members"], step["name"])]
        last = max((node for node in named if node), key=lambda node: node.index, default=None)
        if last is not None:
            found.update({mine: [name] for mine, name in zip(step["outputs"], last.outputs)})
    return found

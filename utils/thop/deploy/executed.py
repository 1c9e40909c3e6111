"""What a runtime executes of a run: a compiler drops what nobody asks for, and makes in advance what needs no input."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Callable, Collection, Dict, FrozenSet, List, Optional, Sequence, Set, Tuple

from ..count.calls import OperatorCall, View
from ..count.facts import ELEMENTWISE, MULTIPLIES
from ..count.record import Recording
from .runtimes import ARITHMETIC, BATCH_NORMS, CLAMPS, CURVES, Runtime


@dataclass
class Unit:
    """What no compiler takes apart: a call, or several that are one operator.

    kinds: what it is, the most special word first; needs: the values that it can't run without, weights aside; folded:
    elements of the bias that a folded BatchNorm leaves.
    """

    steps: List[OperatorCall]
    kinds: Tuple[str, ...]
    needs: Set[int] = field(default_factory=set)
    folded: int = 0

    @property
    def pointwise(self) -> bool:
        """Whether each element of the result is made of one element of each operand."""
        return self.kinds[-1] == "pointwise"

    @cached_property
    def made(self) -> Set[int]:
        """The values that it writes."""
        return {view.value for step in self.steps for view in step.writes}

    @property
    def result(self) -> Optional[View]:
        """What it writes, the first of several."""
        return self.steps[-1].writes[0] if self.steps[-1].writes else None


@dataclass
class Executed:
    """The units that are executed, in order.

    varying: values that are made anew in every pass, all others are weights or made of them in advance; outputs: those
    that are returned; maker, readers: of a value, by positions of units; sizes: elements of what is written;
    all_counts: every call is executed, asked for or not.
    """

    units: List[Unit]
    varying: Set[int]
    outputs: Set[int]
    all_counts: bool

    @cached_property
    def maker(self) -> Dict[int, int]:
        return {view.value: i for i, unit in enumerate(self.units) for step in unit.steps for view in step.writes}

    @cached_property
    def sizes(self) -> Dict[int, int]:
        return {view.value: view.elements for unit in self.units for step in unit.steps for view in step.writes}

    @cached_property
    def readers(self) -> Dict[int, List[int]]:
        found: Dict[int, List[int]] = {}
        for i, unit in enumerate(self.units):
            for value in unit.needs:
                found.setdefault(value, []).append(i)
        return found

    def makers(self, i: int) -> List[int]:
        """Who makes what a unit needs."""
        return [self.maker[value] for value in self.units[i].needs if value in self.maker]


def executed(counted: Recording, steps: Sequence[OperatorCall], runtime: Runtime, decode: bool) -> Executed:
    """Say what a runtime executes of a run; ``steps``: its calls, with branches merged where it merges them."""
    all_counts = runtime.eager or counted.untraced
    as_shipped = bool(counted.heads and counted.predictions) and not all_counts  # as exported
    varying = _varying(steps, counted.inputs, runtime.eager)
    outputs = set(counted.predictions if as_shipped else counted.outputs)
    kept = list(steps) if all_counts else asked_for(steps, outputs & varying, varying)
    if not decode:
        kept, outputs = _cut(kept, outputs, varying, counted, decoded_branches(counted, runtime))
    units = [Unit([step], _kinds(step, varying, runtime.generates), _needs(step, varying)) for step in kept]
    return Executed(units, varying, outputs, all_counts)


def decoded_branches(counted: Recording, runtime: Runtime) -> List[str]:
    """The branches of heads whose results are decoded on the device all the same, by their paths."""
    if not runtime.decodes:
        return []
    found = {kind: paths_of(counted, (kind,)).intersection(counted.heads) for kind in runtime.decodes}
    return [f"{path}.{name}" for kind, paths in found.items() for path in paths for name in runtime.decodes[kind]]


def paths_of(counted: Recording, kinds: Collection[str]) -> Set[str]:
    """The modules of some classes, which are told by name, by their paths."""
    return {layer.path for layer in counted.layers.root.walk() if layer.kind.__name__ in kinds} if kinds else set()


def above(path: str) -> List[str]:
    """The paths of a module and of those that hold it, the outermost first."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def is_inside(path: str, modules: Sequence[str]) -> bool:
    """Say whether a module is one of some, or in one of them."""
    return any(path == module or path.startswith(f"{module}.") or not module for module in modules)


def _kinds(step: OperatorCall, varying: Set[int], generates: FrozenSet[str]) -> Tuple[str, ...]:
    """What an operator is, the most special word first; what a runtime generates kernels for is point-wise to it."""
    name = step.facts.operator.rstrip("_")
    if step.geometry is not None:
        if "attention" in name:
            return (name, "attention")
        if "conv" not in name:
            weighted = any(view.value not in varying for view in step.reads)
            return ("linear", "product") if weighted else ("matmul",)
        form = "depthwise " if step.geometry.depthwise else "transposed " if step.geometry.transposed else ""
        return (f"{form}convolution", "convolution", "product") if form else ("convolution", "product")
    by_number = name in ("mul", "div") and all(view.elements == 1 for view in step.reads[1:])
    return _plain_kinds(step.name, name, by_number, generates)


@lru_cache(maxsize=None)
def _plain_kinds(full: str, name: str, by_number: bool, generates: FrozenSet[str]) -> Tuple[str, ...]:
    for names, kind in ((CLAMPS, "clamp"), (CURVES, "curve"), (BATCH_NORMS, "batch_norm"), (ARITHMETIC, "arithmetic")):
        if full in names:
            return (name, *(("scale",) if by_number else ()), kind, "pointwise")
    words = {"upsample": "resize", "pool": "pool", "softmax": "softmax"}
    kind = next((kind for word, kind in words.items() if word in name), name)
    return tuple(dict.fromkeys((name, kind, *(("spread", "pointwise") if kind in generates else ()))))


# ---- what is asked for ----


def _varying(steps: Sequence[OperatorCall], inputs: Set[int], eager: bool) -> Set[int]:
    """The values that are made anew in every pass."""
    found = set(inputs)
    for step in steps:
        if eager or step.after in found or any(operand.value in found for operand in step.reads):
            found.update(operand.value for operand in step.writes)
    return found


def _needs(step: OperatorCall, varying: Optional[Set[int]]) -> Set[int]:
    """The values that a step can't run without, those alone that vary if it is told which do: weights aside."""
    values = {operand.value for operand in step.reads}
    if step.after is not None:
        values.add(step.after)
    return values if varying is None else values & varying


def asked_for(
    steps: Sequence[OperatorCall],
    needed: Set[int],
    varying: Optional[Set[int]] = None,
    always: Callable[[OperatorCall], bool] = lambda step: False,
) -> List[OperatorCall]:
    """Steps whose results are needed, by others that are kept too, and those that are kept always."""
    found = []
    for step in reversed(steps):
        if any(operand.value in needed for operand in step.writes) or always(step):
            found.append(step)
            needed |= _needs(step, varying)
    return found[::-1]


def _cut(
    kept: List[OperatorCall], outputs: Set[int], varying: Set[int], counted: Recording, decoded: Sequence[str]
) -> Tuple[List[OperatorCall], Set[int]]:
    """End detecting heads at their last convolutions: what these write is returned in place of what is decoded.

    An activation that is a module of its own, such as that of a segmentation's prototypes, stays, and so does what
    is made of the branches ``decoded`` alone, by their paths.
    """
    tail = [step for step in kept if is_inside(step.path, counted.heads)]
    stays = _of_branches(tail, varying, counted.heads, set(decoded))

    def ends(step: OperatorCall) -> bool:
        weighted = step.kind == MULTIPLIES and any(operand.value not in varying for operand in step.reads)
        activates = step.kind == ELEMENTWISE and step.path not in counted.heads
        return (weighted or activates or id(step) in stays) and not is_inside(step.path, counted.averages)

    gone = set(map(id, tail)).difference(map(id, asked_for(tail, set(), varying, ends)))
    dropped = [step for step in tail if id(step) in gone]
    made = {operand.value for step in dropped for operand in step.writes}
    read = {value for step in dropped for value in _needs(step, varying)}
    return [step for step in kept if id(step) not in gone], (outputs | read) - made


def _of_branches(tail: Sequence[OperatorCall], varying: Set[int], heads: Sequence[str], wanted: Set[str]) -> Set[int]:
    """The steps of heads, by identity, that are made of some of their branches and of no others."""
    branches: Dict[int, Set[str]] = {}  # of a value
    found: Set[int] = set()
    for step in tail if wanted else ():
        head = next(path for path in heads if is_inside(step.path, [path]))
        inside = step.path[len(head) :].strip(".").partition(".")[0]
        of = {f"{head}.{inside}"} if inside else set()
        if not inside:
            of = of.union(*(branches.get(value, set()) for value in _needs(step, varying)))
        branches.update((view.value, of) for view in step.writes)
        if of and of <= wanted:
            found.add(id(step))
    return found

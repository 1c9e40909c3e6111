"""The deployed network: what a runtime executes at once, made from the calls of a run and their data flow.

A compiler drops what nobody asks for, makes in advance what depends on no input, folds a BatchNorm into the product
before it, and lets a product compute the point-wise operators that follow it while the result is still in registers.
What a launch reads was written by others or is a weight; what it writes is read by others or returned.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

from torch import Tensor, nn

from ..answer import Answer, Rows
from ..count.calls import OperatorCall, View
from ..count.facts import MULTIPLIES
from ..count.record import Recording, record
from ..run import as_inputs, as_model, collector_paused
from .branches import merge_branches
from .runtimes import BATCH_NORMS, Runtime, find_runtime


@dataclass(repr=False)
class Launch:
    """What a runtime executes at once.

    steps: its calls; reads, writes: the operands that others have written, or want; weights: those that no input
    reaches; folded_biases: elements that folded BatchNorms have left; slices: those of its reads that are a part of
    what was written, and that no launch before has read.
    """

    steps: List[OperatorCall]
    reads: List[View] = field(default_factory=list)
    writes: List[View] = field(default_factory=list)
    weights: List[View] = field(default_factory=list)
    folded_biases: int = 0
    slices: List[View] = field(default_factory=list)

    def __repr__(self) -> str:
        what, where = " + ".join(self.operators), ", ".join(self.layers)
        return f"Launch({what} of {where or 'the model itself'}: {self.flops:,} FLOPs, {self.elements:,} elements)"

    @property
    def operators(self) -> List[str]:
        """The ATen operators, in the order in which they ran."""
        return [step.name.replace("aten::", "") for step in self.steps]

    @property
    def layers(self) -> List[str]:
        """The modules that they belong to, by their paths; a layer that ran several stands once."""
        return list(dict.fromkeys(step.path for step in self.steps))

    @property
    def flops(self) -> int:
        """Floating-point operations of its products, two a multiply-accumulate."""
        return sum(step.flops for step in self.steps)

    @property
    def weight_elements(self) -> int:
        """Elements of parameters, buffers and what is made of them; a folded BatchNorm leaves a bias."""
        return _elements(self.weights) + self.folded_biases

    @property
    def read_elements(self) -> int:
        """Elements read that other launches have written, or that are the network's inputs."""
        return _elements(self.reads)

    @property
    def written_elements(self) -> int:
        """Elements written that other launches read, or that are returned."""
        return _elements(self.writes)

    @property
    def elements(self) -> int:
        """Elements read and written, weights among them."""
        return self.weight_elements + self.read_elements + self.written_elements

    @property
    def product(self) -> Optional[OperatorCall]:
        """The call that multiplies, if there is one."""
        return next((step for step in self.steps if step.geometry is not None), None)


def _elements(operands: Iterable[View]) -> int:
    return sum(operand.elements for operand in operands)


@dataclass(repr=False)
class Deployed(Answer):
    """A network as a runtime executes it; flow: what ran, call by call.

    merged: steps of parallel branches that are in others now, as an export makes it of RepVGG's and RepConv's blocks.
    """

    runtime: Runtime
    launches: List[Launch]
    flow: Recording
    decode: bool = True
    merged: List[OperatorCall] = field(default_factory=list)

    def under(self, runtime: Runtime, precision: str) -> "Deployed":
        """The same network under a runtime in a precision; under autocast it is another run."""
        counted = self.flow.under(precision == "amp")
        if runtime is self.runtime and counted is self.flow:
            return self
        return as_deployed(counted, runtime, self.decode)

    @property
    def batch(self) -> int:
        """How many images a pass is of: the first size of the first input that somebody reads."""
        inputs = (o for step in self.flow.steps for o in step.reads if o.value in self.flow.inputs)
        first = next(inputs, None)
        return first.shape[0] if first is not None and first.shape else 1

    def _sum(self, name: str) -> int:
        return sum(getattr(launch, name) for launch in self.launches)

    flops = property(lambda self: self._sum("flops"))
    weight_elements = property(lambda self: self._sum("weight_elements"))
    read_elements = property(lambda self: self._sum("read_elements"))
    written_elements = property(lambda self: self._sum("written_elements"))


def deployed(
    model: nn.Module,
    inputs: Union[Sequence[Any], Tensor],
    runtime: str = "tensorrt",
    decode: bool = True,
    kwargs: Optional[Dict[str, Any]] = None,
) -> Deployed:
    """Run ``model`` without values and return what ``runtime`` would launch for it.

    Args:
        model: any module; it is not touched, a copy of it is run.
        inputs: the positional arguments of its forward, or the only one if it is a tensor.
        runtime: "tensorrt", "rknn", "ncnn"; "pytorch" and "pytorch-cpu" fuse nothing.
        decode: False ends a detector's heads at their last convolutions, as many deployments do.
        kwargs: the keyword arguments of its forward.

    Raises DeviceError for an unknown runtime, and what ``traffic`` raises.
    """
    found = find_runtime(runtime)
    return as_deployed(record(as_model(model, "deployed"), as_inputs(inputs, "deployed"), kwargs=kwargs), found, decode)


@collector_paused()
def as_deployed(counted: Recording, runtime: Runtime, decode: bool = True) -> Deployed:
    """Make the launches of a run that has been counted."""
    steps, merged = (counted.steps, []) if runtime.eager else merge_branches(counted.steps, counted.outputs)
    return Deployed(runtime, _Compiler(counted, steps, runtime, decode).launches(), counted, decode, merged)


class _Compiler:
    """The steps that a runtime executes, who reads what they write, and which of them form one launch."""

    def __init__(self, counted: Recording, steps: List[OperatorCall], runtime: Runtime, decode: bool) -> None:
        self.runtime, self.steps = runtime, steps
        self.maker = {operand.value: i for i, step in enumerate(self.steps) for operand in step.writes}
        self.varying = self._varying(counted.inputs)
        self.needs = [self._needs(step) for step in self.steps]
        self.all_counts = runtime.eager or counted.untraced
        as_shipped = bool(counted.heads and counted.predictions) and not self.all_counts  # as exported
        self.outputs = set(counted.predictions if as_shipped else counted.outputs)
        self.wanted = self._wanted()
        if not decode:
            self._cut(counted.heads, counted.averages)
        self.readers: Dict[int, List[int]] = {}
        for i in self.wanted:
            for value in self.needs[i]:
                self.readers.setdefault(value, []).append(i)
        self.group: Dict[int, int] = {}  # of a step: the one that its launch begins with
        self.could_join: Dict[int, Dict[int, bool]] = {}  # by the step that a launch begins with
        self.read_inside: Dict[int, Set[int]] = {}
        self.predicted: Dict[int, List[int]] = {}  # the launches that a step was thought to join
        self.sizes = {operand.value: operand.elements for step in self.steps for operand in step.writes}
        self.sliced: Set[Tuple[int, Any]] = set()

    def _needs(self, step: OperatorCall) -> Set[int]:
        """The values that a step can't run without, weights aside."""
        values = {operand.value for operand in step.reads}
        if step.after is not None:
            values.add(step.after)
        return values & self.varying

    # ---- what is executed ----

    def _varying(self, inputs: Set[int]) -> Set[int]:
        """Values that are made anew in every pass: all others are weights, or made of them in advance."""
        varying = set(inputs)
        for step in self.steps:
            reached = step.after in varying or any(operand.value in varying for operand in step.reads)
            if reached or self.runtime.eager:
                varying.update(operand.value for operand in step.writes)
        return varying

    def _wanted(self) -> List[int]:
        """Steps whose results are asked for, by the caller or by others that are."""
        if self.all_counts:
            return list(range(len(self.steps)))
        needed = self.outputs & self.varying
        found = []
        for i in range(len(self.steps) - 1, -1, -1):
            if any(operand.value in needed for operand in self.steps[i].writes):
                found.append(i)
                needed |= self.needs[i]
        return found[::-1]

    def _cut(self, heads: Sequence[str], averages: Sequence[str]) -> None:
        """End detecting heads at their last convolutions: what these write is returned in place of what is decoded."""
        tail = [i for i in self.wanted if is_inside(self.steps[i].path, heads)]
        feeding: Set[int] = set()  # values of which a convolution with trained weights is still to be made
        kept = set()
        for i in reversed(tail):
            step = self.steps[i]
            trains = step.kind == MULTIPLIES and any(operand.value not in self.varying for operand in step.reads)
            if (trains and not is_inside(step.path, averages)) or any(o.value in feeding for o in step.writes):
                kept.add(i)
                feeding |= self.needs[i]
        dropped = [i for i in tail if i not in kept]
        made = {operand.value for i in dropped for operand in self.steps[i].writes}
        read = {value for i in dropped for value in self.needs[i]}
        self.outputs = (self.outputs | read) - made
        self.wanted = [i for i in self.wanted if i in kept or i not in tail]

    # ---- what is executed at once ----

    def launches(self) -> List[Launch]:
        """Let each step join the launch that made what it reads, or begin one."""
        members: Dict[int, List[int]] = {}
        for i in self.wanted:
            joined = self._joined(i)
            self.group[i] = i if joined is None else joined
            for begun in self.predicted.pop(i, ()):
                if self.group[i] > begun:  # and what was found with it in mind is not so
                    self.could_join.pop(begun, None)
                    self.read_inside.pop(begun, None)
            members.setdefault(self.group[i], []).append(i)
        return Rows(self._launch(group) for group in members.values() if not self._is_free(group))

    def _is_free(self, group: List[int]) -> bool:
        first = self.steps[group[0]]
        return len(group) == 1 and not (first.bytes or first.flops)

    def _joined(self, i: int) -> Optional[int]:
        """The launch that a step becomes part of, if any: that which made the last of its operands."""
        makers = self._makers(i)
        if self.steps[i].name not in self.runtime.fused or not makers:
            return None
        begun = max(self.group[maker] for maker in makers)
        if not self._takes_more(begun):
            return None
        values = [v for v in self.needs[i] if v in self.maker and self.group[self.maker[v]] == begun]
        if any(value in self.outputs or self._outgrows(i, value) for value in values):
            return None
        return begun if all(self._is_read_inside(value, begun) for value in values) else None

    def _outgrows(self, i: int, value: int) -> bool:
        """Say whether a step spreads a value over more elements, which no kernel has in its registers."""
        return sum(operand.elements for operand in self.steps[i].writes[:1]) > self.sizes[value]

    def _takes_more(self, begun: int) -> bool:
        """Say whether the launch that begins with a step takes point-wise operators: attention's kernel does not."""
        first = self.steps[begun]
        return first.name in self.runtime.fused or (first.geometry is not None and "attention" not in first.name)

    def _makers(self, i: int) -> List[int]:
        return [self.maker[value] for value in self.needs[i] if value in self.maker]

    def _is_read_inside(self, value: int, begun: int) -> bool:
        """Say whether all who read a value could be in the launch that makes it."""
        known = self.read_inside.setdefault(begun, set())
        if value not in known and all(self._could_join(j, begun) for j in self.readers[value]):
            known.add(value)
        return value in known

    def _could_join(self, i: int, begun: int) -> bool:
        """Say whether all that a step reads is there when the launch runs, or made in it.

        What was found of steps that belong to no launch yet holds until one of them has gone another way.
        """
        known = self.could_join.setdefault(begun, {})
        waiting = [i]
        while waiting:
            step = waiting[-1]
            if step in self.group or step in known:
                waiting.pop()
            elif self.steps[step].name not in self.runtime.fused:
                known[step] = False
                waiting.pop()
            else:
                makers = [maker for maker in self._makers(step) if not self.group.get(maker, begun + 1) <= begun]
                unknown = [maker for maker in makers if maker not in self.group and maker not in known]
                waiting += unknown
                if not unknown:
                    known[step] = all(maker not in self.group and known[maker] for maker in makers)
                    if known[step]:
                        self.predicted.setdefault(step, []).append(begun)
                    waiting.pop()
        return self.group[i] == begun if i in self.group else known[i]

    def _launch(self, group: List[int]) -> Launch:
        """Sum up what a launch reads and writes."""
        launch, inside = Launch([self.steps[i] for i in group]), set(group)
        reads: Dict[Tuple[int, Any], View] = {}
        weights: Dict[Tuple[int, Any], View] = {}
        for i in group:
            step = self.steps[i]
            folded = step.name in BATCH_NORMS and self._follows_product(i, inside)
            if folded and not any(len(operand.shape) == 1 for operand in weights.values()):
                launch.folded_biases = step.reads[0].shape[1]
            for operand in step.reads:
                if operand.value not in self.varying:
                    if not folded:
                        weights.setdefault((operand.value, operand.region), operand)
                elif self.maker.get(operand.value) not in inside:
                    reads.setdefault((operand.value, operand.region), operand)
            launch.writes += [operand for operand in step.writes if self._is_wanted(operand.value, inside)]
        launch.reads, launch.weights = list(reads.values()), list(weights.values())
        launch.slices = [operand for operand in launch.reads if self._is_new_slice(operand)]
        return launch

    def _follows_product(self, i: int, inside: Set[int]) -> bool:
        """Say whether a step's input comes from a product in the same launch, into whose weights it can be folded."""
        maker = self.maker.get(self.steps[i].reads[0].value)
        return maker in inside and maker is not None and self.steps[maker].geometry is not None

    def _is_new_slice(self, operand: View) -> bool:
        """Say whether an operand is a part of what was written, and no launch has read just this part before."""
        part = operand.value, operand.region
        if part in self.sliced or operand.elements >= self.sizes.get(operand.value, 0):
            return False
        self.sliced.add(part)
        return True

    def _is_wanted(self, value: int, inside: Set[int]) -> bool:
        """Say whether somebody outside of a launch reads a value; eager PyTorch writes it in any case."""
        if self.runtime.eager or value in self.outputs:
            return True
        readers = self.readers.get(value, ())
        return any(reader not in inside for reader in readers) or (self.all_counts and not readers)


def is_inside(path: str, modules: Sequence[str]) -> bool:
    """Say whether a module is one of some, or in one of them."""
    return any(path == module or path.startswith(f"{module}.") or not module for module in modules)

"""Parallel branches that their authors merge before export, as RepVGG, RepConv and MobileOne have them.

Convolutions of one input with the same stride and size of result, each with its BatchNorm, whose sum goes on, are one
convolution with the largest of their kernels; a BatchNorm of the input itself, or the input, is one more branch.
"""

from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Sequence, Set, Tuple

from ..count.calls import Geometry, OperatorCall, View
from .runtimes import BATCH_NORMS

_SUMS = ("aten::add", "aten::add_")


@dataclass
class _Branch:
    """A sum of linear functions of one input: its convolutions, and all steps by their positions.

    source: the input; norms: how many BatchNorms are branches by themselves.
    """

    source: int
    shape: Tuple[int, ...]
    convolutions: List[Tuple[int, Geometry]]
    steps: List[int]
    norms: int = 0


def merge_branches(steps: Sequence[OperatorCall], outputs: Set[int]) -> Tuple[List[OperatorCall], List[OperatorCall]]:
    """Return the steps with branches merged, and the steps that are in others now.

    outputs: values that are returned, which nothing may be merged beyond.
    """
    merger = _Merger(steps, outputs)
    for i, step in enumerate(steps):
        branch = merger.branch(i, step) if step.writes else None
        if branch is not None:
            merger.branches[step.writes[0].value] = branch
    return merger.result()


class _Merger:
    """Follows linear branches through the steps of a run."""

    def __init__(self, steps: Sequence[OperatorCall], outputs: Set[int]) -> None:
        self.steps, self.outputs = steps, outputs
        self.readers: Dict[int, int] = {}
        for step in steps:
            for value in {operand.value for operand in step.reads}:
                self.readers[value] = self.readers.get(value, 0) + 1
        self.branches: Dict[int, _Branch] = {}  # by the value that they come to
        self.sums: List[int] = []  # values of sums that are merged, unless a larger one holds them

    def branch(self, i: int, step: OperatorCall) -> Optional[_Branch]:
        """Say what branch a step's result is, if it is one."""
        out = step.writes[0]
        if step.geometry is not None and "conv" in step.name and not step.geometry.transposed:
            return _Branch(step.reads[0].value, tuple(out.shape), [(i, step.geometry)], [i])
        if step.name in BATCH_NORMS:
            x = step.reads[0]
            before = self._alone(x)
            if before is not None:
                return replace(before, steps=[*before.steps, i])
            return _Branch(x.value, tuple(out.shape), [], [i], norms=1)
        if step.name in _SUMS and out.value not in self.outputs:
            if len(step.reads) == 1:  # and a number, which goes into the bias
                before = self._alone(step.reads[0])
                return None if before is None else replace(before, steps=[*before.steps, i])
            return self._sum(i, step.reads, tuple(out.shape))
        return None

    def _alone(self, operand: View) -> Optional[_Branch]:
        """The branch that an operand is, where nobody else reads it."""
        if self.readers.get(operand.value) != 1 or operand.value in self.outputs:
            return None
        return self.branches.get(operand.value)

    def _sum(self, i: int, operands: Sequence[View], shape: Tuple[int, ...]) -> Optional[_Branch]:
        parts = [self._alone(operand) for operand in operands]
        known = [part for part in parts if part is not None]
        if not known or any(part.shape != shape for part in known):
            return None
        sources = {part.source for part in known}
        if len(known) == 1:  # the input itself may be added where there are two convolutions beside it
            (other,) = [operand for operand, part in zip(operands, parts) if part is None]
            if other.value not in sources or len(known[0].convolutions) < 2 or tuple(other.shape) != shape:
                return None
        convolutions = [one for part in known for one in part.convolutions]
        forms = {(form.stride, form.groups) for _, form in convolutions}
        if len(sources) != 1 or len(forms) != 1:
            return None
        steps = sorted({one for part in known for one in part.steps} | {i})
        merged = _Branch(known[0].source, shape, convolutions, steps, sum(part.norms for part in known))
        if len(convolutions) + merged.norms < 2:
            return None
        self.sums.append(self.steps[i].writes[0].value)
        return merged

    def result(self) -> Tuple[List[OperatorCall], List[OperatorCall]]:
        """Take out what is merged; who has read a sum reads what the largest convolution comes to."""
        gone: Set[int] = set()
        renamed: Dict[int, int] = {}
        for value in reversed(self.sums):  # a sum of sums holds the steps of its parts
            branch = self.branches[value]
            if gone.issuperset(branch.steps):
                continue
            kept, _ = max(branch.convolutions, key=lambda one: one[1].inner)
            end, mine = self.steps[kept].writes[0].value, {kept}
            for i in branch.steps:  # its own BatchNorm goes with it
                if self.steps[i].name in BATCH_NORMS and self.steps[i].reads[0].value == end:
                    end = self.steps[i].writes[0].value
                    mine.add(i)
            gone |= set(branch.steps) - mine
            renamed[value] = end
        if not gone:
            return list(self.steps), []
        left = [self._reading(step, renamed) for i, step in enumerate(self.steps) if i not in gone]
        return left, [step for i, step in enumerate(self.steps) if i in gone]

    @staticmethod
    def _reading(step: OperatorCall, renamed: Dict[int, int]) -> OperatorCall:
        if not any(operand.value in renamed for operand in step.reads):
            return step
        reads = [operand._replace(value=renamed.get(operand.value, operand.value)) for operand in step.reads]
        return replace(step, reads=reads)

"""The phases of training steps: what each computes and moves, what is alive at once, and whose it is.

A step is a forward pass with gradients, the loss, a backward pass and the optimizer's step; a validation may follow. In
the backward pass no module is running: an operator belongs to the module whose forward has made the node of the graph
that it works for.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Tuple

from torch import Tensor

from ..run import ModelCopy, key_of, no_torch_function, node_running, storage_of, tensors_in
from .calls import BACKWARD, FORWARD, LOSS, OPTIMIZER, VALIDATION, Moving, OperatorCall
from .facts import facts_of
from .layers import Token
from .places import Layer
from .record import PlaceOfPhase, Recorder, in_blocks

_TAG = "utils.thop.layer"
PHASES = (FORWARD, LOSS, BACKWARD, OPTIMIZER, VALIDATION)
THE_LOSS = "the loss"
"""Stands for a path, of what no module has made."""


@dataclass
class Phase(Moving):
    """What one phase of a step computes and moves, in all and by module.

    flops: of products; layers: (path, FLOPs, bytes) of each module, in the order in which they came; calls: of the
    operators that computed or moved something.
    """

    flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    layers: List[Tuple[str, int, int]] = field(default_factory=list, repr=False)
    calls: List[OperatorCall] = field(default_factory=list, repr=False)


class StepRecorder(Recorder):
    """Records training steps, the last of which counts, with the phase that each call belongs to."""

    def __init__(self, copied: ModelCopy, block: int = 1) -> None:
        super().__init__(copied, block=block)
        self.leave = self._leave_and_tag
        self.kept: Dict[str, int] = {}
        self.step_peak: Tuple[int, PlaceOfPhase] = 0, ("", "")
        self.counts = self.validates = False

    # ---- what the driver of the steps says ----

    def start(self, counts: bool) -> None:
        """A step begins; of one that does not count only what is alive matters."""
        self.enter_phase(FORWARD)
        self.counts = counts

    def enter_phase(self, phase: str) -> None:
        """A phase begins."""
        self.settle()
        self.phase = phase
        self.layers.current = self.layers.root

    def forget_phase(self) -> None:
        """What the phase has recorded so far will be recorded again."""
        while self.calls and self.calls[-1].phase == self.phase:
            self.calls.pop()

    def note_kept(self) -> None:
        """Forward pass and loss are over: note what is alive of them, by the modules that made it."""
        self.kept = {}
        for phase in (FORWARD, LOSS):
            for path, size in self.storages.born_in(phase):
                path = THE_LOSS if phase == LOSS else path
                self.kept[path] = self.kept.get(path, 0) + size

    def begin_validation(self) -> None:
        """The steps are over, and what follows has a peak of its own."""
        self.step_peak, self.validates = self.storages.restart(), True
        self.enter_phase(VALIDATION)

    # ---- what the run says ----

    def operator(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        if self.layers.asking_a_rule or func.namespace == "profiler":  # as optimizers mark their steps
            return
        phase, place = self.phase, self.layers.current
        if phase != FORWARD and place is self.layers.root:
            place = _place_of_node(place)
        self.storages.place = phase, place.path
        facts = facts_of(func)
        if self.counts:
            self.note(place, facts, args, kwargs, out)
        elif facts.makes_memory:
            self.alive(out)

    def _leave_and_tag(self, token: Token, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        self.layers.leave(token, args, kwargs, out)
        if not self.layers.asking_a_rule:
            _tag_nodes(out, token[2])


def phases_of(calls: Iterable[OperatorCall]) -> Dict[str, Phase]:
    """Sum up calls by the phases of a step."""
    found: Dict[str, Phase] = {name: Phase() for name in PHASES}
    by_path: Dict[str, Dict[str, Tuple[int, int]]] = {name: {} for name in found}
    for call in calls:
        phase, moved = found[call.phase], call.bytes
        phase.flops += call.flops
        phase.read_bytes += call.read_bytes
        phase.written_bytes += call.written_bytes
        if call.flops or moved:
            phase.calls.append(call)
        before = by_path[call.phase].get(call.path, (0, 0))
        by_path[call.phase][call.path] = before[0] + call.flops, before[1] + moved
    for name, phase in found.items():
        phase.layers = [(path, flops, moved) for path, (flops, moved) in by_path[name].items()]
    return found


def _place_of_node(otherwise: Layer) -> Layer:
    node = node_running()
    return otherwise if node is None else node.metadata.get(_TAG, otherwise)  # type: ignore[no-any-return]


def _tag_nodes(out: Any, layer: Layer) -> None:
    """Write on the nodes of the graph that a module has made, and no part of it has written on, whose they are."""
    waiting: List[Any] = [tensor.grad_fn for tensor in tensors_in((out,))]
    while waiting:
        node = waiting.pop()
        if node is None or _TAG in node.metadata:
            continue
        node.metadata[_TAG] = layer
        waiting.extend(following for following, _ in node.next_functions)


def bytes_of(tensors: Iterable[Tensor], block: int = 1) -> int:
    """Bytes of the storages of tensors, each once, and each in whole blocks."""
    with no_torch_function():  # which would hear that somebody asks for memory
        sizes = {key_of(tensor): storage_of(tensor).nbytes() for tensor in tensors}
    return sum(in_blocks(size, block) for size in sizes.values())

"""The ledger of training steps: what each phase computes and moves, what is alive at once, and whose it is.

A step is a forward pass with gradients, a backward pass and the optimizer's step. In the backward pass no module is
running: an operator belongs to the module whose forward has made the node of the graph that it works for.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Tuple

import torch
from torch import Tensor

from .places import Layer
from .profile import Token
from .run import Replica, no_torch_function, storage_of, tensors_in
from .traffic import Alive, OperatorCall, TrafficLedger, in_blocks

FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"
_TAG = "utils.thop.layer"
_node_running = getattr(torch._C, "_current_autograd_node", lambda: None)  # torch before 2.1 does not say


@dataclass
class Phase:
    """What one phase of a step computes and moves, in all and by module.

    flops: of products; layers: (path, FLOPs, bytes) of each module, in the order in which they came; calls: FLOPs and
    bytes of each operator that ran.
    """

    flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    layers: List[Tuple[str, int, int]] = field(default_factory=list, repr=False)
    calls: List[Tuple[int, int]] = field(default_factory=list, repr=False)

    @property
    def bytes(self) -> int:
        """Bytes read and written together."""
        return self.read_bytes + self.written_bytes


class StepLedger(TrafficLedger):
    """The operator ledger over training steps, with the phase that each call belongs to."""

    def __init__(self, replica: Replica, block: int = 1) -> None:
        super().__init__(replica)
        self.alive = Alive(block)
        self.phase = FORWARD
        self.calls_of: Dict[str, List[OperatorCall]] = {}
        self.kept: Dict[str, int] = {}
        self.started = 0

    # ---- what the driver of the steps says ----

    def start(self) -> None:
        """A step begins: it alone is counted from here on, but for the peak."""
        self.calls_of = {}
        self.enter_phase(FORWARD)

    def enter_phase(self, phase: str) -> None:
        """A phase begins."""
        self._settle_pool()
        self.calls_of.setdefault(self.phase, []).extend(self.calls_made[self.started :])
        self.started, self.phase = len(self.calls_made), phase
        self.current = self.root

    def note_kept(self) -> None:
        """The forward pass is over: note what is alive of it, by the modules that made it."""
        self.kept = {}
        for path, size in self.alive.by_place(FORWARD):
            self.kept[path] = self.kept.get(path, 0) + size

    # ---- what the run says ----

    def operator(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        if self.asking_a_rule or func.namespace == "profiler":  # as optimizers mark their steps
            return
        layer = self.current
        if self.phase != FORWARD and layer is self.root:
            layer = self._layer_of_node() or layer
        caller, self.current = self.current, layer
        self.alive.place = self.phase, layer.path
        self._move(func, args, kwargs, out)
        self.current = caller

    def leave(self, token: Token, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        layer = token[2]
        super().leave(token, args, kwargs, out)
        if not self.asking_a_rule:
            _tag_nodes(out, layer)

    @staticmethod
    def _layer_of_node() -> Optional[Layer]:
        node = _node_running()
        return None if node is None else node.metadata.get(_TAG)

    def phases(self) -> Dict[str, Phase]:
        """Sum up the phases of the last step."""
        self.enter_phase(self.phase)
        paths = {id(self.rows[id(layer)]): layer.path for layer in self.root.walk() if id(layer) in self.rows}
        return {name: _phase(calls, paths) for name, calls in self.calls_of.items()}


def _phase(calls: Iterable[OperatorCall], paths: Dict[int, str]) -> Phase:
    found = Phase()
    by_path: Dict[str, Tuple[int, int]] = {}
    for call in calls:
        found.flops += call.flops
        found.read_bytes += call.read_bytes
        found.written_bytes += call.written_bytes
        if call.flops or call.bytes:
            found.calls.append((call.flops, call.bytes))
        path = paths.get(id(call.layer), "")
        flops, moved = by_path.get(path, (0, 0))
        by_path[path] = flops + call.flops, moved + call.bytes
    found.layers = [(path, flops, moved) for path, (flops, moved) in by_path.items()]
    return found


def _tag_nodes(out: Any, layer: Layer) -> None:
    """Write on the nodes of the graph that a module has made, and no part of it has written on, whose they are."""
    waiting = [tensor.grad_fn for tensor in tensors_in((out,))]
    while waiting:
        node = waiting.pop()
        if node is None or _TAG in node.metadata:
            continue
        node.metadata[_TAG] = layer
        waiting.extend(following for following, _ in node.next_functions)


def bytes_of(tensors: Iterable[Tensor], block: int = 1) -> int:
    """Bytes of the storages of tensors, each once, and each in whole blocks."""
    with no_torch_function():  # which would hear that somebody asks for memory
        sizes = {storage_of(tensor)._cdata: storage_of(tensor).nbytes() for tensor in tensors}
    return sum(in_blocks(size, block) for size in sizes.values())

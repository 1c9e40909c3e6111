"""A real step, measured: what is alive after every operator, by storages; it shares nothing with utils/thop.

    python tests/tracker.py MODEL BATCH SIZE

counts a step of a MODEL of the command with its checkout's own loss, takes one, and prints both peaks as JSON.
"""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Storages(TorchDispatchMode):
    """Sums what is alive after every operator, by storages; written for these tests alone."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.now = 0
        self.peak = 0

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.alive:
            size = storage.nbytes()
            self.alive[key] = weakref.ref(storage, lambda _: self.forget(key)), size
            self.now += size

    def forget(self, key: int) -> None:
        self.now -= self.alive.pop(key)[1]

    def total(self) -> int:
        return self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        self.peak = max(self.peak, self.total())
        return out


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """As YOLOv5 sets it up: weights decay, norms and biases do not."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                groups["Norm" not in type(module).__name__ and key != "bias"].append(parameter)
    given = [{"params": p, "weight_decay": 5e-4 * decays} for decays, p in groups.items() if p]
    if name == "SGD":
        return torch.optim.SGD(given, lr=0.01, momentum=0.937, nesterov=True)
    return torch.optim.Adam(given, lr=0.001)


def scalar(out: Any) -> Tensor:
    leaves = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.requires_grad]
    total = leaves[0].sum()
    for leaf in leaves[1:]:
        total = total + leaf.sum()
    return total


def measure(
    model: nn.Module,
    x: Tensor,
    optimizer: str = "SGD",
    forward: Any = None,
    loss: Any = None,
    accumulate: int = 1,
    made: Any = (),
) -> tuple[int, int]:
    """Peak bytes of real steps as a loop takes them, and what a forward keeps; made: other inputs."""
    model.train()
    stepper, tracker, kept = optimizer_of(optimizer, model), Storages(), 0
    for tensor in (*model.parameters(), *model.buffers(), x, *made):
        tracker.note(tensor)
    with tracker:
        for turn in range(2 * accumulate):
            before = tracker.total()
            out = model(x) if forward is None else forward(model, x)
            found = scalar(out) if loss is None else loss(out)
            kept = kept if turn else tracker.total() - before  # before there are outputs of another step
            found.backward()
            if turn % accumulate == accumulate - 1:
                stepper.step()
                stepper.zero_grad()
    return tracker.peak, kept


def step_of(text: str, batch: int, side: int) -> dict[str, Any]:
    """Count and measure a step with the checkout's own loss."""
    from utils.thop.command.criteria import criterion_for
    from utils.thop.command.models import Setup, build, find
    from utils.thop.deploy import training

    built = build(find([text])[0], Setup((side, side), batch))
    generator = torch.Generator().manual_seed(0)  # what a loss assigns depends on weights, which are not filled yet
    with torch.no_grad():
        for name, parameter in built.model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.05, generator=generator)
            else:
                parameter.fill_(float(name.endswith("weight")))
    criterion = criterion_for(built.model, (side, side), 20)
    assert criterion is not None
    x, targets = torch.rand(batch, 3, side, side, generator=generator), criterion.targets(batch)
    given = {"loss": criterion.loss, "targets": criterion.targets}
    found = training(built.model, (x,), amp=False, ema=False, **given)  # type: ignore[arg-type]
    summed = training(built.model, (x,), amp=False, ema=False)

    def loss(out: Any) -> Tensor:
        found = criterion.loss(out, targets)
        return (found[0] if isinstance(found, (tuple, list)) else found).sum()  # type: ignore[no-any-return]

    peak, kept = measure(built.model, x, loss=loss, made=[t for t in tree_leaves(targets) if t.stride()[-1:] != (0,)])
    told = {"counted": found.peak, "measured": peak, "kept": found.kept, "really_kept": kept}
    return {**told, "summed": summed.peak, "name": criterion.name, "loss": found.loss_was}


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
    print(json.dumps(step_of(sys.argv[1], *map(int, sys.argv[2:]))))

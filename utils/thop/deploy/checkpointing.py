"""Which modules to checkpoint so that a step fits: their results are computed again in the backward, not kept.

Modules are taken one after the other, those first that keep most for the work of computing them again. What a choice
really takes is counted.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..count.record import parts_of_detectors
from ..run import Driven, NotCountable
from .fits import FITS, SURE, answer_for
from .runtimes import DeviceError

_LARGEST = 0.15  # of what is kept: while a module is computed again, all of its results are there
_ATTEMPTS = 8
_WORTH = 0.01  # of the saving that is missing


@dataclass(frozen=True)
class Proposal:
    """Modules to checkpoint, the step counted with them, the bytes that they save, and the work that they add.

    work: FLOPs of the step to those of one without.
    """

    modules: Tuple[str, ...]
    training: Any
    saved: int
    work: float

    @property
    def snippet(self) -> str:
        """Python that checkpoints them: it goes behind where the model has been made."""
        names = ", ".join(f'"{name}"' for name in self.modules)
        return (
            "from functools import partial\n"
            "from torch.utils.checkpoint import checkpoint\n"
            f"for name in [{names}]:\n"
            "    module = model.get_submodule(name)\n"
            "    module.forward = partial(checkpoint, module.forward, use_reentrant=False)"
        )


def checkpoint_modules(driven: Driven, paths: Sequence[str]) -> None:
    """Let modules of a copy be computed again in the backward, under the autocast of the forward."""
    for path in paths:
        module: Any = driven.model.get_submodule(path)
        again = partial(checkpoint, module.forward, use_reentrant=False, context_fn=partial(_contexts, driven))
        module.__dict__["forward"] = again


def _contexts(driven: Driven) -> Any:
    return nullcontext(), driven.around()


def need_modules(model: nn.Module, paths: Sequence[str]) -> Tuple[str, ...]:
    """Return the paths; raises DeviceError for one that no module with a forward has."""
    if isinstance(paths, str):
        raise DeviceError(f"checkpoint takes paths of modules, as in [{paths!r}]")
    modules = dict(model.named_modules())
    for path in paths:
        if not path or path not in modules or isinstance(modules[path], (nn.ModuleList, nn.ModuleDict)):
            raise DeviceError(f"no module to checkpoint is called {path!r}")
    return tuple(paths)


def checkpoint_to_fit(
    model: nn.Module, known: Any, memory: float, count: Callable[[Sequence[str]], Any]
) -> Optional[Proposal]:
    """Choose modules with which a step fits into so many bytes; None where none are found.

    known: the step without; count: counts it with modules. Raises what that raises.
    """
    waiting, found = _candidates(model, known), known
    chosen: List[str] = []
    for _ in range(_ATTEMPTS):
        missing = found.peak - SURE * memory
        if missing <= 0 or not waiting:
            break
        promised = 0.0
        while waiting and promised < missing * (1 + _WORTH):
            path, saved = waiting.pop(0)
            chosen.append(path)
            promised += saved
        try:
            found = count(sorted(chosen))
        except NotCountable:  # one of them can't be computed again, as it writes to what it is given
            return None
    if not chosen or answer_for(found.peak, memory) != FITS:
        return None
    return Proposal(tuple(_in_order(model, chosen)), found, known.peak - found.peak, found.flops / max(known.flops, 1))


def _in_order(model: nn.Module, paths: Sequence[str]) -> List[str]:
    return [name for name, _ in model.named_modules() if name in paths]


def _candidates(model: nn.Module, known: Any) -> List[Tuple[str, float]]:
    """Modules that are blocks of several layers, with about the bytes that each saves, the cheapest bytes first.

    A detector's head is none: it puts its results into the list that it is given.
    """
    heads, _ = parts_of_detectors(model)
    kept, work = _below(known.kept_by_layer), _below([(p, f) for p, f, _ in known.forward.layers])
    layers: Dict[str, List[int]] = {}
    for path, size in known.kept_by_layer:
        for above in _above(path):
            layers.setdefault(above, []).append(size)
    found: List[Tuple[str, float]] = []
    waiting: List[Tuple[str, nn.Module]] = [("", model)]
    while waiting:
        path, module = waiting.pop()
        is_block = path and path not in heads and len(layers.get(path, [])) > 1 and kept[path] <= _LARGEST * known.kept
        if is_block and not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            found.append((path, kept[path] - max(layers[path])))  # what it returns stays
        elif path in kept or not path:
            waiting += [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
    flops = max(known.forward.flops, 1)
    return sorted(found, key=lambda one: one[1] / (work.get(one[0], 0) + 1e-4 * flops), reverse=True)


def _below(rows: Sequence[Tuple[str, int]]) -> Dict[str, int]:
    """The sums of all rows at and below each path."""
    found: Dict[str, int] = {}
    for path, value in rows:
        for above in _above(path):
            found[above] = found.get(above, 0) + value
    return found


def _above(path: str) -> List[str]:
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]

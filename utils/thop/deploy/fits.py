"""What fits into a GPU's memory, by the counted peak: three answers, the largest batch, which modules to checkpoint.

What a card really has, as PyTorch reports it, is not what it is sold with: 24 GB are 25.4e9 bytes, 40 are 42.5e9. Of
that CUDA's context, cuDNN's workspaces and the allocator's fragments take a part, which depends on what runs. The
margins are such that they held for the batches that timm has found on an RTX 3090 (``benchmarks/fits.py``).
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Protocol, Sequence, Tuple, Union

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..count.record import parts_of_detectors
from ..run import Driven, NotCountable
from .executed import above
from .runtimes import DeviceError

NOMINAL = 64
"""The batch that train.py sums gradients up to."""
FITS, MAY_FIT, DOES_NOT = "fits", "may fit", "does not"
SURE, AT_MOST = 0.88, 0.945
"""A peak up to the first share of the memory fits, beyond the second it does not."""
MARGINS = (
    f"A peak up to {SURE:.0%} of the memory fits, one beyond {AT_MOST:.1%} does not: so it was for the batches that "
    "timm found on an RTX 3090."
)
OF_A_GB = 1.06e9
"""Bytes that a GB of a card is, as it is sold."""


class Reserved(NamedTuple):
    """What the allocator has asked CUDA for, to a counted peak in GB: factor x peak ** power, and not less than it.

    low, high: between which parts of that nine of ten public trainings lie, of repositories that have no part in it.
    """

    factor: float
    power: float
    low: float
    high: float

    def at(self, peak: float) -> float:
        """The bytes that are expected."""
        return max(1e9 * self.factor * (peak / 1e9) ** self.power, peak)


AFTER_FIRST, AFTER_LAST = Reserved(1.455, 0.871, 0.811, 1.954), Reserved(1.62, 0.91, 0.727, 1.675)
"""By the first epoch and by the last: `python benchmarks/training_memory.py`."""
CONTEXT = 0.5e9  # CUDA's own memory, before any tensor
_MOST = 1 << 20  # images
_LEAST = 1e6  # bytes: who says less has meant another unit


class Counted(Protocol):
    """A counted step: its peak, its batch, how many batches gradients are summed up of, and GPUs that share them."""

    peak: int
    batch: int
    accumulate: int
    gpus: int


Count = Callable[[int], Any]


def batches_summed(batch: int) -> int:
    """How many batches train.py sums the gradients of before the optimizer steps."""
    return max(round(NOMINAL / batch), 1)


def answer_for(peak: float, memory: float) -> str:
    """Say whether a peak fits into so many bytes."""
    return FITS if peak <= SURE * memory else MAY_FIT if peak <= AT_MOST * memory else DOES_NOT


def memory_in(memory: Union[float, str]) -> float:
    """Read a memory: bytes, or as in "24GB", which are 24 x 1.06e9; raises DeviceError for what is none."""
    size = parse_memory(memory) if isinstance(memory, str) else memory
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not _LEAST < size < float("inf"):
        raise DeviceError(f'memory must be bytes, or a size such as "8GB", not {memory!r}')
    return float(size)


def parse_memory(text: str) -> Optional[float]:
    """Read "8GB", "8 GB", "11.5G" or "8192MB" as a card is sold, "8GiB" to the byte; None for anything else."""
    words = text.strip().upper().replace(" ", "").rstrip("B")
    for unit, scale in (("GI", 2.0**30), ("MI", 2.0**20), ("G", OF_A_GB), ("M", OF_A_GB / 1000), ("", OF_A_GB)):
        if words.endswith(unit):
            try:
                number = float(words[: len(words) - len(unit)])
            except ValueError:
                return None
            return number * scale if 0 < number < 1e6 else None
    return None


@dataclass(frozen=True)
class Largest:
    """The largest batch that fits, checked by a count of its own; 0, and the count of one image, where none does."""

    batch: int
    training: Any


def largest_batch(count: Count, memory: float, known: Optional[Counted] = None) -> Largest:
    """Find the largest batch whose answer is that it fits into so many bytes.

    The largest is the one of which the count says "fits", while that of one image more says "may fit" or "does not";
    both are counted, at the accumulation that each has. Larger ones are not counted: none fits as long as the peak
    grows with the batch, which it does while the gradients of earlier batches are alive, and while they are not; where
    they cease to be it falls, so the interval behind is searched first, then the one before. Raises what ``count``
    raises.
    """
    search = _Search(count, memory, known)
    gpus = search.at(1).gpus
    first = next(size for size in range(1, _MOST) if batches_summed(size * gpus) == 1)
    if search.at(1).accumulate > 1 and search.at(first).accumulate == 1:
        return search.within(first, _MOST) or search.within(1, first - 1) or Largest(0, search.at(1))
    return search.within(1, _MOST) or Largest(0, search.at(1))


class _Search:
    """The search for the largest batch, which counts each batch once."""

    def __init__(self, count: Count, memory: float, known: Optional[Counted]) -> None:
        self.count, self.memory = count, memory
        self.counted: Dict[int, Any] = {} if known is None else {known.batch: known}

    def at(self, batch: int) -> Counted:
        """Count a batch."""
        if batch not in self.counted:
            self.counted[batch] = self.count(batch)
        return self.counted[batch]  # type: ignore[no-any-return]

    def fits(self, batch: int) -> bool:
        """Say whether a batch does."""
        return answer_for(self.at(batch).peak, self.memory) == FITS

    def within(self, low: int, high: int) -> Optional[Largest]:
        """Find the largest from low to high, where the peak does not fall; None where not even low fits."""
        if not self.fits(low):
            return None
        good, bad, turn = low, high + 1, 0
        guess = next((batch for batch in sorted(self.counted) if good < batch < bad), min(2 * low + 6, high))
        while bad - good > 1:
            if self.fits(guess):
                good = guess
            else:
                bad = guess
            turn += 1
            guess = self._guess(good, bad, high) if turn % 3 or bad not in self.counted else (good + bad) // 2
        return Largest(good, self.at(good))

    def _guess(self, good: int, bad: int, high: int) -> int:
        """Where the line through two counts meets what there is; those on both sides, or the last two that fit."""
        below = [batch for batch in sorted(self.counted) if batch <= good][-2:]
        left, right = (good, bad) if bad in self.counted else (below[0], good)
        if left == right:
            return min(2 * good + 6, high)
        slope = (self.at(right).peak - self.at(left).peak) / (right - left)
        met = left + int((SURE * self.memory - self.at(left).peak) // slope) if slope > 0 else 2 * good + 6
        return met if good < met < bad else good + 1 if met <= good else bad - 1


# ---- what is computed again in the backward, and not kept ----

# Modules are taken one after the other, those first that keep most for the work of computing them again. What a choice
# really takes is counted.
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

    def contexts() -> Any:
        return nullcontext(), driven.around()

    for path in paths:
        module: Any = driven.model.get_submodule(path)
        module.__dict__["forward"] = partial(checkpoint, module.forward, use_reentrant=False, context_fn=contexts)


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
    names = tuple(name for name, _ in model.named_modules() if name in chosen)
    return Proposal(names, found, known.peak - found.peak, found.flops / max(known.flops, 1))


def _candidates(model: nn.Module, known: Any) -> List[Tuple[str, float]]:
    """Modules that are blocks of several layers, with about the bytes that each saves, the cheapest bytes first.

    A detector's head is none: it puts its results into the list that it is given.
    """
    heads, _ = parts_of_detectors(model)
    kept, work = _below(known.kept_by_layer), _below([(p, f) for p, f, _ in known.forward.layers])
    found: List[Tuple[str, float]] = []
    waiting: List[Tuple[str, nn.Module]] = [("", model)]
    while waiting:
        path, module = waiting.pop()
        sizes = kept.get(path, [])
        is_block = path and path not in heads and len(sizes) > 1 and sum(sizes) <= _LARGEST * known.kept
        if is_block and not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            found.append((path, sum(sizes) - max(sizes)))  # what it returns stays
        elif path in kept or not path:
            waiting += [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
    flops = max(known.forward.flops, 1)
    return sorted(found, key=lambda one: one[1] / (sum(work.get(one[0], [])) + 1e-4 * flops), reverse=True)


def _below(rows: Sequence[Tuple[str, int]]) -> Dict[str, List[int]]:
    """The numbers of all rows at and below each path."""
    found: Dict[str, List[int]] = {}
    for path, value in rows:
        for holder in above(path):
            found.setdefault(holder, []).append(value)
    return found

"""What fits into a GPU's memory: three answers, by the counted peak, and the largest batch that surely does.

What a card really has, as PyTorch reports it, is not what it is sold with: 24 GB are 25.4e9 bytes, 40 are 42.5e9. Of
that CUDA's context, cuDNN's workspaces and the allocator's fragments take a part, which depends on what runs. The
margins are such that they held for the batches that timm has found on an RTX 3090 (``benchmarks/fits.py``).
"""

from dataclasses import dataclass
from typing import Any, Callable, Dict, NamedTuple, Optional, Protocol, Union

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

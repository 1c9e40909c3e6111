"""How large a batch fits into a device's memory, and how long a training step takes there."""

from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Tuple

from ..step import Phase
from .clock import Constants
from .devices import Device
from .runtimes import RUNTIMES
from .sheets import sheet_range
from .training import CONTEXT, Training

_FEW, _MORE = 2, 6  # images: the two counts that the line goes through
_ATTEMPTS = 4
_PRODUCT_SPEED = 0.7  # of the peak: products of 560 elements, as most convolutions of detectors are about
_PASSES = 1.12  # a forward with eager PyTorch's added passes, to one without: 12 networks on an RTX 3090, by `predict`
Count = Callable[[int], Training]


def needed(training: Training) -> float:
    """Bytes of a GPU's memory that a training takes: what the allocator reserves, and CUDA's context."""
    return training.reserved + CONTEXT


@dataclass(frozen=True)
class Largest:
    """The largest batch that fits, checked by a count of its own; 0, and the count of one image, where none does."""

    batch: int
    training: Training


def largest_batch(count: Count, memory: float) -> Largest:
    """Find the largest batch that fits into so many bytes.

    The peak is a line in the batch: two counts give it, a third checks the answer, and further ones correct it where
    the peak has moved to another layer.
    """
    few, more = count(_FEW), count(_MORE)
    other = _MORE
    for _ in range(_ATTEMPTS):
        each = max((needed(more) - needed(few)) / (other - _FEW), 1.0)
        batch = int(_FEW + (memory - needed(few)) // each)
        batch = min(batch, other - 1) if needed(more) > memory else batch
        if batch < 1 or (batch == _FEW and needed(few) > memory):
            break
        found = count(batch)
        if needed(found) <= memory:
            return Largest(batch, found)
        if batch == _FEW:
            break
        more, other = found, batch
    one = count(1)
    return Largest(int(needed(one) <= memory), one)


def step_seconds(training: Training, device: Device, known: Mapping[str, Device]) -> Tuple[float, str]:
    """Say how many seconds a training step takes under eager PyTorch at best, and what that rests on.

    The constants are those of forward passes, as nobody's training steps were fitted, and the passes that PyTorch adds
    to a backward are not known. PyTorch's formula counts the backward of grouped convolutions as if they were dense, so
    no more than twice the forward's arithmetic is taken for the backward's. Raises DeviceError where nothing
    is known of the device under PyTorch.
    """
    runtime = RUNTIMES["pytorch"]
    precision = "amp" if training.amp else "float32"
    measured = device.runtimes.get(runtime.name, {})
    figures = measured.get(precision) or (measured.get("float16") if training.amp else None)
    if figures is not None:
        constants, basis = figures.constants, "forward passes measured on it"
    else:
        found = sheet_range(device, runtime, precision, known)
        constants, basis = found.constants, found.basis
    twice = min(1.0, 2 * training.forward.flops / max(training.backward.flops, 1))
    phases = ((training.forward, 1.0), (training.backward, twice), (training.optimizer, 1.0))
    return _PASSES * sum(_phase_seconds(phase, constants, share) for phase, share in phases), basis


def _phase_seconds(phase: Phase, constants: Constants, share: float) -> float:
    rate = constants.peak * _PRODUCT_SPEED / share
    device = sum(max(flops / rate, moved / constants.bandwidth) for flops, moved in phase.calls)
    launches = len(phase.calls)
    return max(device + launches * constants.overhead, launches * constants.host)


def parse_memory(text: str) -> Optional[float]:
    """Read "8GB", "8 GB", "11.5G" or "8192MB" as bytes; None for anything else."""
    words = text.strip().upper().replace(" ", "").rstrip("B")
    for unit, scale in (("GI", 2.0**30), ("MI", 2.0**20), ("G", 1e9), ("M", 1e6), ("", 1e9)):
        if words.endswith(unit):
            try:
                number = float(words[: len(words) - len(unit)])
            except ValueError:
                return None
            return number * scale if 0 < number < 1e6 else None
    return None

"""How long a training step takes: its phases' launches under the one formula of the clock."""

from typing import Tuple

from ..count.phases import Phase
from .clock import Constants
from .devices import Device
from .prediction import estimate_for
from .runtimes import all_runtimes
from .training import Training

_INNER = 560.0  # elements of an inner product, as most convolutions of detectors are about
_PASSES = 1.12  # a forward with eager PyTorch's added passes, to one without: 12 networks on an RTX 3090, by `predict`


def step_seconds(training: Training, device: Device) -> Tuple[float, str]:
    """Say how many seconds a training step takes under eager PyTorch at best, and what that rests on.

    The constants are those of forward passes, as nobody's training steps were fitted, and the passes that PyTorch adds
    to a backward are not known. PyTorch's formula counts the backward of grouped convolutions as if they were dense, so
    no more than twice the forward's arithmetic is taken for the backward's. Raises DeviceError where nothing
    is known of the device under PyTorch.
    """
    runtime = all_runtimes()["pytorch"]
    precision = "amp" if training.amp else "float32"
    known, basis = estimate_for(device, runtime, precision)
    constants = known.constants(precision)
    twice = min(1.0, 2 * training.forward.flops / max(training.backward.flops, 1))
    phases = ((training.forward, 1.0), (training.backward, twice), (training.optimizer, 1.0))
    return _PASSES * sum(_phase_seconds(phase, constants, share) for phase, share in phases), basis


def _phase_seconds(phase: Phase, constants: Constants, share: float) -> float:
    rate = constants.peak / (1 + constants.inner / _INNER) / share
    device = sum(max(flops / rate, moved / constants.bandwidth) for flops, moved in phase.calls)
    launches = len(phase.calls)
    return max(device + launches * constants.overhead, launches * constants.host)

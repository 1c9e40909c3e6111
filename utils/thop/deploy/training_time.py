"""How long a training step takes: the launches of its phases under the one formula of the clock.

The device's constants are those of forward passes. What a backward takes beyond was learned from 44 networks that timm
has trained on an RTX 3090 (``benchmarks/training_speed.py``): how much slower its products are, depthwise ones above
all, and what its passes move. Loading images is in none of it.
"""

import math
from typing import Any, Dict, List, NamedTuple, Tuple

from ..count.calls import Geometry, OperatorCall
from .clock import POINTWISE_LAYOUT, Constants, Load, Work, is_dense
from .devices import Device
from .prediction import estimate_for
from .runtimes import all_runtimes
from .training import Training


class Learned(NamedTuple):
    """What a step was seen to take, to what the clock says.

    scale: of the whole; products, depthwise: of the backward's products; moved: of what the backward's passes and the
    optimizer move; launch: seconds that each launch takes more.
    """

    scale: float = 1.0
    products: float = 1.0
    depthwise: float = 10.0
    moved: float = 1.0
    launch: float = 1e-6


LEARNED = Learned(1.114, 0.795, 6.44, 1.186, 1.16e-6)
REACH = 1.3
"""The factor that nine of ten of the networks lie within."""


def works_of(training: Training, learned: Learned) -> List[Work]:
    """What each launch of a step takes, in the clock's terms."""
    found = [_work(call, 1.0, 1.0, 1.0) for call in training.forward.calls]
    for phase in (training.loss, training.backward, training.optimizer):
        found += [_work(call, learned.products, learned.depthwise, learned.moved) for call in phase.calls]
    return found


def _work(call: OperatorCall, products: float, depthwise: float, moved: float) -> Work:
    if not call.flops:
        return Work(bytes=moved * call.bytes)
    geometry, flops, passes = call.geometry, float(call.flops), 0.0
    if "convolution" in call.name and len(call.reads) > 1:
        flops, geometry, passes = _convolution(call)
    found: Dict[str, Any] = {"operations": products * flops, "bytes": float(call.bytes), "passes": passes}
    if geometry is not None:
        found["by_inner"] = products * flops / max(geometry.inner, 1)
        if geometry.depthwise:
            found["depthwise"] = depthwise * flops
        elif is_dense(geometry):
            found["dense"] = products * flops
    return Work(**found)


def _convolution(call: OperatorCall) -> Tuple[float, Geometry, float]:
    """FLOPs, form, and bytes of layout changes of a convolution, or of the two products that its backward is.

    PyTorch's formula counts the backward of grouped convolutions as if they were dense.
    """
    is_backward = "backward" in call.name
    first, *others = call.reads
    x, weight = (others[0], others[1]) if is_backward and len(others) > 1 else (first, others[0])
    inner, columns = math.prod(weight.shape[1:]), weight.shape[0]
    groups = x.shape[1] // max(weight.shape[1], 1) if len(x.shape) > 1 else 1
    kernel = tuple(weight.shape[2:])
    result = first if is_backward else call.writes[0]
    flops = float(call.flops)
    if is_backward:
        flops = 2.0 * result.elements * inner * max(len([view for view in call.writes if len(view.shape) > 1]), 1)
    stride = (1, 1) if x.shape[2:] == result.shape[2:] else (2, 2)
    geometry = Geometry(1, inner, columns, max(groups, 1), kernel, stride)
    share = 0.0 if geometry.depthwise or x.channels_last else POINTWISE_LAYOUT if set(kernel) == {1} else 1.0
    passes = share * 2.0 * (x.bytes + result.bytes) * (2.0 if is_backward else 1.0)
    return flops, geometry, passes


def step_seconds(training: Training, device: Device) -> Tuple[float, str]:
    """Say how many seconds a training step takes under eager PyTorch, and what that rests on.

    Nine of ten lie within a factor of REACH of it, where the device was measured in forward passes. Raises DeviceError
    where nothing is known of the device under PyTorch.
    """
    precision = "amp" if training.amp else "float32"
    known, basis = estimate_for(device, all_runtimes()["pytorch"], precision)
    return seconds_with(training, known.constants(precision), LEARNED), basis


def seconds_with(training: Training, constants: Constants, learned: Learned) -> float:
    """The seconds of a step with constants of a device and of training."""
    changed = constants._replace(overhead=constants.overhead + learned.launch)
    return learned.scale * float(Load([works_of(training, learned)]).seconds(changed)[0])

"""What a deployed network computes in vain, or not at all: auxiliary heads, which only training needs."""

from typing import Dict, List, Optional, Tuple

from ..count.calls import OperatorCall
from .executed import above, asked_for, is_inside
from .launches import Deployed


def left_out(network: Deployed) -> Dict[str, int]:
    """Name the outermost modules whose products ran, and that the runtime does without, with their FLOPs.

    Nothing that an export gives out needs them. A head that is cut before it decodes is not among them.
    """
    executed = {step.number for launch in network.launches for step in launch.steps}
    executed |= {step.number for step in network.merged}
    steps = [step for step in network.flow.steps if step.flops]
    kept = {prefix for step in steps if step.number in executed for prefix in above(step.path)}
    found: Dict[str, int] = {}
    for step in steps:
        outermost = next((prefix for prefix in above(step.path) if prefix not in kept), None)
        if step.number not in executed and outermost and not is_inside(step.path, network.flow.averages):
            found[outermost] = found.get(outermost, 0) + step.flops
    return found


def two_predictions(network: Deployed) -> Optional[Tuple[str, int, int]]:
    """Find a detector that gives out two sets of predictions of one shape, as with a head for training alone.

    Returns its path, and the FLOPs that it would save to do without the first or the second; None where there are none.
    """
    flow = network.flow
    steps = [step for launch in network.launches for step in launch.steps]
    by_shape: Dict[Tuple[int, ...], List[OperatorCall]] = {}
    for step in steps:
        for operand in step.writes:
            if operand.value in flow.outputs and len(operand.shape) == 3 and is_inside(step.path, flow.heads):
                by_shape.setdefault(tuple(operand.shape), []).append(step)
    pair = next((found for found in by_shape.values() if len(found) == 2), None)
    if pair is None:
        return None
    total = sum(step.flops for step in steps)
    needed = [asked_for(steps, {operand.value for operand in one.writes}) for one in pair]
    first, second = (total - sum(step.flops for step in kept) for kept in needed)
    return pair[0].path, second, first

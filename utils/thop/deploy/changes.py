"""Changes: what would make a network faster on a device, each tried on a changed copy and timed like any network.

A change of a cfg builds a model of the same class from the changed cfg, in memory; a change of the image, of the
activation or of what is decoded needs no cfg. What none of them gains is not told.
"""

import contextlib
import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn

from ..answer import Answer, Rows
from ..count.facts import facts_of
from ..count.record import Recording, record
from ..run import NotCountable, alone, built_blank
from ..run.inputs import fitting_size
from .clock import seconds_of, work_of
from .launches import Deployed, as_deployed
from .measurements import accuracy_at, known_as
from .prediction import Prediction

WORTH = 0.04  # of the time: less is within what a prediction is off
_SIDES = (1280, 960, 640, 512, 416, 320, 256, 224, 192, 160, 128)
_WIDTHS, _DEPTHS = (1.25, 1.0, 0.75, 0.5, 0.25), (1.33, 1.0, 0.67, 0.33)
_SCALES = "nsmlx"
_CHANNELS = 16  # what is less is another argument, as the axis of a Concat
_CURVES = {"aten::silu": "SiLU", "aten::gelu": "GELU", "aten::hardswish": "hard-swish", "aten::mish": "Mish"}
Cfg = Dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One change: what it is and what it costs, in words; seconds of a pass with it, and before.

    cfg: the changed cfg, where it is one of the cfg; imgsz: the other size of the image, where it is that.
    """

    what: str
    price: str
    seconds: float
    before: float
    cfg: Optional[Cfg] = field(default=None, repr=False)
    imgsz: Optional[int] = None

    @property
    def gain(self) -> float:
        """The share of the time that it saves."""
        return 1 - self.seconds / self.before

    def __str__(self) -> str:
        times = f"{self.before * 1e3:.3g} to {self.seconds * 1e3:.3g} ms, {self.gain:.0%} less"
        return f"{self.what}: {times}; {self.price}."


@dataclass(frozen=True, repr=False)
class Advice(Answer):
    """The changes that are worth it, the largest gain first, on a device; before: the prediction that they change."""

    before: Prediction
    rows: List[Change]

    def __iter__(self) -> Iterator[Change]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class _Tried(NamedTuple):
    what: str
    price: str
    network: Deployed
    recorded: Recording
    cfg: Optional[Cfg] = None
    imgsz: Optional[int] = None


def advise(prediction: Prediction) -> Advice:
    """Try changes of a predicted network; those of its cfg only where the model is there and was built from one."""
    recorded = prediction.deployed.flow
    found = []
    for one in _tried(prediction, recorded):
        seconds = seconds_of(work_of(one.network, prediction.precision), prediction.constants)
        if 1 - seconds / prediction.seconds > WORTH:
            price = "; ".join(filter(None, [one.price, _accuracy(recorded, one.recorded)]))
            found.append(Change(one.what, price, seconds, prediction.seconds, one.cfg, one.imgsz))
    return Advice(prediction, Rows(sorted(found, key=lambda change: change.seconds)))


def _tried(prediction: Prediction, recorded: Recording) -> Iterator[_Tried]:
    network = prediction.deployed
    curve = _only_curve(network)
    if curve and not network.runtime.eager:
        price = "train again with it; a little less accurate as a rule"
        yield _Tried(f"ReLU in place of {_CURVES[curve]}", price, _with_relu(network, curve), recorded)
    if network.flow.heads and network.decode:
        price = "decode the heads' maps on the CPU yourself"
        yield _Tried("heads that are not decoded", price, as_deployed(recorded, network.runtime, False), recorded)
    with contextlib.suppress(NotCountable):
        model = recorded.subject.model
        yield from _smaller_image(model, network)
        yield from _other_cfgs(model, network)


def _redeployed(model: nn.Module, inputs: Any, before: Deployed) -> Tuple[Deployed, Recording]:
    recorded = record(model, inputs, amp=before.flow.amp)
    return as_deployed(recorded, before.runtime, None if before.usual else before.decode), recorded


# ---- without a cfg ----


def _only_curve(network: Deployed) -> str:
    """The costly activation of a network, where it has one kind of it."""
    names = {step.name.rstrip("_") for launch in network.launches for step in launch.steps}
    found = sorted(names & set(_CURVES))
    return found[0] if len(found) == 1 else ""


def _with_relu(network: Deployed, curve: str) -> Deployed:
    """The same network with ReLU in place of an activation, which may be fused in another way."""
    relu, flow = facts_of(torch.ops.aten.relu.default), network.flow
    calls = [replace(call, facts=relu) if call.name.rstrip("_") == curve else call for call in flow.calls]
    return as_deployed(replace(flow, calls=calls), network.runtime, network.decode)


def _smaller_image(model: nn.Module, before: Deployed) -> Iterator[_Tried]:
    shape = before.input_shape
    if len(shape) != 4 or shape[2] != shape[3]:
        return
    side = next((side for side in _SIDES if side < shape[3]), 0)
    if not side or fitting_size(model, side) != (side, side):
        return
    lost = "small objects are found less well; " if before.flow.heads else ""
    price = f"{lost}train or fine-tune at that size"
    inputs = (torch.zeros(*shape[:2], side, side, device="meta"),)
    found = None
    with contextlib.suppress(Exception):  # a network whose size is fixed
        found = _redeployed(model, inputs, before)
    if found:
        yield _Tried(f"images of {side} in place of {shape[3]}", price, *found, imgsz=side)


# ---- with one ----


def _other_cfgs(model: Any, before: Deployed) -> Iterator[_Tried]:
    """Build the model's class from changed cfgs; what it can't build is no change."""
    cfg = getattr(model, "yaml", None)
    if not isinstance(cfg, dict) or not isinstance(cfg.get("head"), list) or not before.input_shape:
        return
    inputs = (torch.zeros(before.input_shape, device="meta"),)
    for make in _EDITS:
        changed = copy.deepcopy(cfg)
        told = make(changed, before)
        found = None
        with contextlib.suppress(Exception), alone():
            found = _redeployed(_built(type(model), changed), inputs, before) if told else None
        if told and found:
            yield _Tried(*told, *found, cfg=changed)


def _built(kind: Callable[..., nn.Module], cfg: Cfg) -> nn.Module:
    return built_blank(lambda: kind(copy.deepcopy(cfg)).eval())


Told = Optional[Tuple[str, str]]
_RETRAIN = "train again"


def _next_smaller(multiple: str, steps: Sequence[float], cfg: Cfg, before: Deployed) -> Told:
    """The width or the depth of a cfg that has one, a step down."""
    value = cfg.get(multiple)
    if cfg.get("scales") or not isinstance(value, (int, float)):
        return None
    smaller = next((step for step in steps if step < value), None)
    if smaller is None:
        return None
    cfg[multiple] = smaller
    return f"{multiple} {value:g} to {smaller:g}", f"{_RETRAIN}; a smaller network is less accurate"


def _smaller_scale(cfg: Cfg, before: Deployed) -> Told:
    """The next smaller letter of a cfg that holds all scales, as those of the package ultralytics do."""
    scales, scale = cfg.get("scales"), cfg.get("scale")
    smaller = [letter for letter in _SCALES if isinstance(scales, dict) and letter in scales]
    at = smaller.index(scale) if scale in smaller else 0
    if at == 0:
        return None
    cfg["scale"] = smaller[at - 1]
    return f"scale {scale} to {smaller[at - 1]}", f"{_RETRAIN}; a smaller network is less accurate"


def _other_stem(cfg: Cfg, before: Deployed) -> Told:
    """A Focus for a 6 x 6 convolution, or the other way round."""
    first = cfg["backbone"][0]
    if first[2] == "Conv" and list(first[3][1:]) == [6, 2, 2]:
        cfg["backbone"][0] = [first[0], first[1], "Focus", [first[3][0], 3]]
        return "a Focus in place of the 6 x 6 stem", _RETRAIN
    if first[2] == "Focus":
        cfg["backbone"][0] = [first[0], first[1], "Conv", [first[3][0], 6, 2, 2]]
        return "a 6 x 6 stem in place of Focus", _RETRAIN
    return None


def _fewer_heads(cfg: Cfg, before: Deployed) -> Told:
    """Without the head of the largest stride, and what leads to it alone."""
    last = cfg["head"][-1]
    maps, anchors = last[0], cfg.get("anchors")
    if not isinstance(maps, list) or len(maps) < 3 or max(maps) != maps[-1]:
        return None
    kept = maps[:-1]
    count = len(cfg["backbone"])
    cfg["head"] = [*cfg["head"][: max(kept) + 1 - count], [kept, *last[1:]]]
    if isinstance(anchors, list):
        cfg["anchors"] = anchors[:-1]
    number = len(maps)
    return f"{number - 1} heads in place of {number}", f"{_RETRAIN}; large objects are found less well"


def _cheaper_blocks(cfg: Cfg, before: Deployed) -> Told:
    changed = [row for part in ("backbone", "head") for row in cfg[part] if row[2] == "C3"]
    for row in changed:
        row[2] = "C3Ghost"
    return ("C3Ghost in place of C3", f"{_RETRAIN}; less accurate as a rule") if changed else None


def _even_channels(cfg: Cfg, before: Deployed) -> Told:
    """Channels that are multiples of what the runtime computes at once."""
    unit, width = before.runtime.padding[1], cfg.get("width_multiple")
    if unit <= 8 or not isinstance(width, (int, float)) or cfg.get("scales"):
        return None
    changed = False
    for part in ("backbone", "head"):
        for row in cfg[part]:
            channels = row[3][0] if row[3] and isinstance(row[3][0], int) else 0
            even = max(round(channels * width / unit), 1) * unit / width
            if channels >= _CHANNELS and even != channels and even == int(even):
                row[3][0], changed = int(even), True
    return (f"channels in multiples of {unit}", f"{_RETRAIN}; about as accurate") if changed else None


_EDITS: Sequence[Callable[[Cfg, Deployed], Told]] = (
    partial(_next_smaller, "width_multiple", _WIDTHS), partial(_next_smaller, "depth_multiple", _DEPTHS),
    _smaller_scale, _other_stem, _fewer_heads, _cheaper_blocks, _even_channels,
)  # fmt: skip


def _accuracy(before: Recording, after: Recording) -> str:
    """The published accuracies of both, where both are known networks at a size that somebody has published."""
    found = []
    for one in (before, after):
        shapes = [tuple(tensor.shape) for tensor in one.subject.inputs if hasattr(tensor, "shape")]
        known = accuracy_at(known_as(one), shapes[0][-1]) if shapes and len(shapes[0]) == 4 else None
        if known is None:
            return ""
        found.append(f"{known.map:g}")
    return f"published mAP {found[0]} to {found[1]}" if after is not before else ""

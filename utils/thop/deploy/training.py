"""Training, counted before it starts: what a step keeps in memory, computes and moves.

A copy of the model is trained for two steps without values: forward with gradients (under autocast, if so), a scalar of
all outputs, backward, the optimizer. The second step is the one that counts: the optimizer has its state by then.

What CUDA adds: its allocator hands out blocks of 512 bytes, which is in the sizes under ``amp``. It asks the driver for
more than is in use at a time, for cuDNN's workspaces too, and does not give it back: that is the *reserved* memory that
YOLOv5 prints as GPU_mem. It is estimated by a line through what AutoBatch has printed on three GPUs (published lines:
benchmarks/training_memory.py), and not checked on a GPU here. CUDA's own context comes on top, and is in neither.
"""

import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ..answer import Answer, Rows
from ..count.phases import BACKWARD, FORWARD, OPTIMIZER, Phase, StepRecorder, bytes_of, phases_of
from ..count.storages import in_blocks
from ..run import (
    KNOWS_NODES,
    ModelCopy,
    NotCountable,
    as_inputs,
    as_model,
    collector_paused,
    map_tensors,
    run,
    tensors_in,
)
from .clock import Constants
from .devices import Device
from .prediction import estimate_for
from .runtimes import DeviceError, all_runtimes

CUDA_BLOCK = 512
_RESERVED, _WORKSPACES = 1.22, 0.14e9  # reserved is about so many times the peak, and so many bytes more
CONTEXT = 0.5e9  # CUDA's own memory, before any tensor
_MOMENTUM = 0.937  # as YOLOv5 has it; only whether there is one matters here
_DECAY = 5e-4
OPTIMIZERS: Dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=0.01, momentum=_MOMENTUM, nesterov=True),
    "Adam": partial(torch.optim.Adam, lr=0.001, betas=(_MOMENTUM, 0.999)),
    "AdamW": partial(torch.optim.AdamW, lr=0.001, betas=(_MOMENTUM, 0.999)),
    "RMSProp": partial(torch.optim.RMSprop, lr=0.001, momentum=_MOMENTUM),
}


@dataclass(repr=False)
class Training(Answer):
    """What a training step takes. All sizes are bytes.

    weights, buffers, ema: of the model, and of the average of it that is kept beside; gradients, optimizer_state: as
    they are after a step; inputs: what the forward takes. kept: what of the forward is alive when the backward begins,
    its outputs among it, by the module that made it, the largest first.
    peak: the most that is alive at once; peak_at: the phase ("forward", "backward" or "optimizer") and the module at
    which it is. forward, backward, optimizer: FLOPs and bytes moved, in all and by module. recount:
    counts a step of another batch, as long as somebody keeps the model.
    """

    weights: int
    buffers: int
    ema: int
    gradients: int
    optimizer_state: int
    inputs: int
    kept_by_layer: List[Tuple[str, int]]
    peak: int
    peak_at: Tuple[str, str]
    forward: Phase
    backward: Phase
    optimizer: Phase
    amp: bool = True
    batch: int = 1
    optimizer_name: str = "SGD"
    uncounted: Dict[str, Tuple[int, str]] = field(default_factory=dict)
    recount: Optional[Callable[[int], "Training"]] = None

    def largest_batch(self, memory: Union[float, str]) -> "Largest":
        """Find the largest batch that fits into a GPU's memory, in bytes or as in "24GB".

        Raises DeviceError for what is no size, RuntimeError where the model is gone.
        """
        size = parse_memory(memory) if isinstance(memory, str) else float(memory)
        if not size or size <= 0:
            raise DeviceError(f'memory must be bytes, or a size such as "8GB", not {memory!r}')
        if self.recount is None:
            raise RuntimeError("there is no model to count")
        return largest_batch(self.recount, size)

    def parts(self) -> Dict[str, int]:
        """What lies in memory, by what it is: not all of it at once."""
        return {
            "weights": self.weights,
            "buffers": self.buffers,
            "average of the model (EMA)": self.ema,
            "gradients": self.gradients,
            "optimizer state": self.optimizer_state,
            "images": self.inputs,
            "kept by the forward for the backward": self.kept,
        }

    @property
    def kept(self) -> int:
        """Bytes that the forward keeps for the backward, its outputs among them."""
        return sum(size for _, size in self.kept_by_layer)

    @property
    def reserved(self) -> float:
        """What PyTorch's allocator has asked CUDA for by then, YOLOv5's GPU_mem, estimated: off by x 1.11."""
        return reserved_bytes(self.peak)

    @property
    def flops(self) -> int:
        """FLOPs of the products of a step."""
        return self.forward.flops + self.backward.flops + self.optimizer.flops


@collector_paused()
def training(
    model: nn.Module,
    inputs: Union[Sequence[Any], Tensor],
    amp: bool = True,
    optimizer: str = "SGD",
    ema: bool = True,
    kwargs: Optional[Dict[str, Any]] = None,
    foreach: Optional[bool] = None,
) -> Training:
    """Count a training step of ``model`` without values: memory, FLOPs and traffic. The model is not touched.

    What is frozen (``requires_grad``), checkpointed or under ``no_grad`` comes out right because it is run.

    Args:
        model: any module; a copy of it is trained.
        inputs: the positional arguments of its forward; they may be on the meta device, so that none takes memory.
        amp: the forward runs under autocast to float16, as on CUDA.
        optimizer: "SGD", "Adam", "AdamW" or "RMSProp", set up as YOLOv5 does: weights decay, norms and biases do not.
        ema: whether an average of the model is kept, as YOLOv5 does.
        kwargs: the keyword arguments of its forward.
        foreach: whether the optimizer takes all parameters at once, which PyTorch does on CUDA; as ``amp`` by default.

    Raises:
        DeviceError: there is no such optimizer, or nothing to train.
        NotCountable: the step depends on values, or torch is older than 2.1 (2.4 with ``amp``).
        Exception: whatever the model's own forward raises.
    """
    if not KNOWS_NODES:
        raise NotCountable("a training step is counted with torch 2.1 or newer")
    if optimizer not in OPTIMIZERS:
        raise DeviceError(f"no optimizer is called {optimizer!r}, only {', '.join(OPTIMIZERS)}")
    model, inputs = as_model(model, "training"), as_inputs(inputs, "training")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DeviceError("no parameter of the model requires gradients: there is nothing to train")
    steps = _Steps(optimizer, amp if foreach is None else foreach, CUDA_BLOCK if amp else 1)
    run(model, inputs, steps.observe, kwargs=kwargs, amp=amp, drive=steps.drive)
    found = steps.result(model, (inputs, kwargs), ema, amp)
    found.recount = _recounter(model, (inputs, kwargs), found.batch, (amp, optimizer, ema), foreach)
    return found


def _recounter(model: nn.Module, given: Any, batch: int, options: Any, foreach: Optional[bool]) -> "Count":
    """Return what counts a step of another batch: whatever has the batch's size along its first axis gets that."""
    reference, (amp, optimizer, ema) = weakref.ref(model), options
    shapes = map_tensors(given, lambda tensor: torch.empty_like(tensor, device="meta"))

    def count(images: int) -> Training:
        kept = reference()
        if kept is None:
            raise RuntimeError("the model is gone: keep it in a variable to ask for other batches")

        def resized(tensor: Tensor) -> Tensor:
            is_of_batch = tensor.dim() and tensor.shape[0] == batch
            return tensor.new_empty((images, *tensor.shape[1:])) if is_of_batch else tensor

        inputs, kwargs = map_tensors(shapes, resized)
        return training(kept, inputs, amp, optimizer, ema, kwargs, foreach)

    return count


class _Steps:
    """Two steps of one run, and what is seen of them."""

    def __init__(self, optimizer: str, foreach: bool, block: int) -> None:
        self.optimizer, self.foreach, self.block = optimizer, foreach, block
        self.recorder: Any = None
        self.gradients = self.state = 0

    def observe(self, copied: ModelCopy) -> StepRecorder:
        """Make the recorder of the run."""
        self.recorder = StepRecorder(copied, self.block)
        return self.recorder

    def drive(self, model: nn.Module, forward: Callable[[], Any]) -> None:
        """Take the steps; what they have made is let go of."""
        recorder: StepRecorder = self.recorder
        optimizer = OPTIMIZERS[self.optimizer](_parameter_groups(model), foreach=self.foreach)
        for _ in range(2):
            recorder.start()
            out = forward()
            loss = _scalar(out)
            recorder.note_kept()
            recorder.enter_phase(BACKWARD)
            loss.backward()
            self.gradients = bytes_of((p.grad for p in model.parameters() if p.grad is not None), self.block)
            recorder.enter_phase(OPTIMIZER)
            optimizer.step()
            self.state = bytes_of(tensors_in(optimizer.state.values()), self.block)
            del out, loss
            optimizer.zero_grad()
        optimizer.state.clear()

    def result(self, model: nn.Module, inputs: Any, ema: bool, amp: bool) -> Training:
        """Put the numbers together."""
        weights, buffers = _sizes(model.parameters(), self.block), _sizes(model.buffers(), self.block)
        average = weights + buffers if ema else 0
        recorder: StepRecorder = self.recorder
        phases = phases_of(recorder.recorder.calls)
        tensors = tensors_in(inputs)
        kept = sorted(recorder.kept.items(), key=lambda item: item[1], reverse=True)
        return Training(
            weights=weights,
            buffers=buffers,
            ema=average,
            gradients=self.gradients,
            optimizer_state=self.state,
            inputs=_sizes(tensors, self.block),
            kept_by_layer=Rows(kept),
            peak=recorder.storages.peak + weights + buffers + average,
            peak_at=recorder.storages.peak_place,
            forward=phases[FORWARD],
            backward=phases[BACKWARD],
            optimizer=phases[OPTIMIZER],
            amp=amp,
            batch=tensors[0].shape[0] if tensors and tensors[0].dim() else 1,
            optimizer_name=self.optimizer,
            uncounted=recorder.recorder.uncounted,
        )


def reserved_bytes(peak: float) -> float:
    """Estimate what PyTorch's allocator reserves on CUDA where so much is alive at the peak.

    That is off by a factor of 1.11 on average; for batches of 4 and more, by at most 1.08.
    """
    return _RESERVED * peak + _WORKSPACES


def _parameter_groups(model: nn.Module) -> List[Dict[str, Any]]:
    """Let weights decay, but not norms and biases; a parameter that several modules share is trained once."""
    decaying: Dict[int, nn.Parameter] = {}
    others: Dict[int, nn.Parameter] = {}
    for module in model.modules():
        is_norm = "Norm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (others if is_norm or name == "bias" else decaying)[id(parameter)] = parameter
    shared = [parameter for key, parameter in others.items() if key not in decaying]
    groups = [{"params": list(decaying.values()), "weight_decay": _DECAY}, {"params": shared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _scalar(out: Any) -> Tensor:
    """The sum of all floating-point outputs: a loss that takes no memory of its own."""
    found = [tensor for tensor in tensors_in((out,)) if tensor.is_floating_point() and tensor.requires_grad]
    if not found:
        raise DeviceError("no output of the model has a gradient: there is nothing to train")
    total = found[0].sum()
    for tensor in found[1:]:
        total = total + tensor.sum()
    return total


def _sizes(tensors: Iterable[Tensor], block: int) -> int:
    """Bytes of tensors, each once, and each in whole blocks."""
    sizes = {id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}
    return sum(in_blocks(size, block) for size in sizes.values())


# ---- the largest batch ----

_FEW, _MORE = 2, 6  # images: the two counts that the line goes through
_ATTEMPTS = 4
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

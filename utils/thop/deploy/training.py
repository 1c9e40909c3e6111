"""Training, counted before it starts: what a step keeps in memory, computes and moves.

A copy of the model is trained without values, as train.py does it (``steps.py``): forward under autocast, loss,
backward, optimizer, with what a loop holds of the step before.

What CUDA adds: its allocator hands out blocks of 512 bytes, which is in the sizes under ``amp``. It asks the driver for
more than is in use at a time, for cuDNN's workspaces too, and does not give it back: that is the *reserved* memory that
YOLOv5 prints as GPU_mem. It and CUDA's own context are estimated, and what fits is judged by the peak (``fits.py``).
"""

import weakref
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..answer import Answer, Rows
from ..count.phases import BACKWARD, FORWARD, LOSS, OPTIMIZER, VALIDATION, Phase, phases_of
from ..count.record import in_blocks
from ..run import KNOWS_NODES, NotCountable, as_inputs, as_model, collector_paused, map_tensors, run, tensors_in
from .fits import (
    AFTER_LAST,
    Largest,
    Proposal,
    answer_for,
    batches_summed,
    checkpoint_to_fit,
    largest_batch,
    memory_in,
    need_modules,
)
from .runtimes import DeviceError
from .steps import SUMMED, Steps, optimizer_named, targets_for

CUDA_BLOCK = 512


@dataclass(repr=False)
class Training(Answer):
    """What a training step takes. All sizes are bytes.

    weights, buffers, ema: of the model, and of the average of it that is kept beside; gradients, optimizer_state: as
    they are after a step; inputs: what the forward takes. kept: what of forward and loss is alive when the backward
    begins, the outputs among it, by the module that made it, the largest first.
    peak: the most that is alive at once; peak_at: the phase ("forward", "loss", "backward", "optimizer" or
    "validation") and the module at which it is. forward, loss, backward, optimizer, validation: FLOPs and bytes moved,
    in all and by module.
    gpus: how many share the work, batch being that of each; buckets, statistics: what is alive on each for the exchange
    of gradients, and of SyncBatchNorm's statistics.
    accumulate: how many batches the gradients are summed up of; loss_was: whose the loss was, and how it was run;
    uncounted: what has no exact number, and why. recount: counts a step of another batch, as long as somebody keeps
    the model, which subject returns.
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
    loss: Phase
    backward: Phase
    optimizer: Phase
    validation: Phase
    amp: bool = True
    batch: int = 1
    optimizer_name: str = "SGD"
    accumulate: int = 1
    gpus: int = 1
    buckets: int = 0
    statistics: int = 0
    loss_was: str = SUMMED
    uncounted: Dict[str, Tuple[int, str]] = field(default_factory=dict)
    recount: Optional[Callable[..., "Training"]] = field(default=None, repr=False)
    subject: Optional[Callable[[], Optional[nn.Module]]] = field(default=None, repr=False)

    def fits(self, memory: Union[float, str]) -> str:
        """Say whether it "fits" into a GPU's memory, "may fit" or "does not".

        memory: bytes that the card really has, as PyTorch reports them, or as in "24GB". Raises DeviceError for what is
        no size.
        """
        return answer_for(self.peak, memory_in(memory))

    def largest_batch(self, memory: Union[float, str]) -> Largest:
        """Find the largest batch that fits into a GPU's memory, in bytes or as in "24GB".

        Raises DeviceError for what is no size, RuntimeError where the model is gone.
        """
        size = memory_in(memory)
        if self.recount is None:
            raise RuntimeError("there is no model to count")
        return largest_batch(self.recount, size, self)

    def checkpoint_to_fit(self, memory: Union[float, str]) -> Optional[Proposal]:
        """Choose modules to checkpoint so that the step fits into a GPU's memory; None where none do, or it fits.

        Raises DeviceError for what is no size, RuntimeError where the model is gone.
        """
        size, model = memory_in(memory), self.subject and self.subject()
        if model is None or self.recount is None:
            raise RuntimeError("the model is gone: keep it in a variable to ask for what could be checkpointed")
        recount = self.recount
        return checkpoint_to_fit(model, self, size, lambda paths: recount(self.batch, checkpoint=paths))

    def parts(self) -> Dict[str, int]:
        """What lies in memory, by what it is: not all of it at once."""
        return {
            "weights": self.weights,
            "buffers": self.buffers,
            "average of the model (EMA)": self.ema,
            "gradients": self.gradients,
            "gradients in buckets (DDP)": self.buckets,
            "gathered statistics (SyncBatchNorm)": self.statistics,
            "optimizer state": self.optimizer_state,
            "images": self.inputs,
            "kept by the forward for the backward": self.kept,
        }

    @property
    def kept(self) -> int:
        """Bytes that forward and loss keep for the backward, the outputs among them."""
        return sum(size for _, size in self.kept_by_layer)

    @property
    def reserved(self) -> float:
        """What PyTorch's allocator has asked CUDA for by the last epoch, YOLOv5's GPU_mem, estimated."""
        return AFTER_LAST.at(self.peak)

    @property
    def reserved_range(self) -> Tuple[float, float]:
        """Between which bytes that lies in nine of ten trainings."""
        return AFTER_LAST.low * self.reserved, AFTER_LAST.high * self.reserved

    @property
    def flops(self) -> int:
        """FLOPs of the products of a step."""
        return sum(phase.flops for phase in (self.forward, self.loss, self.backward, self.optimizer))


@collector_paused()
def training(
    model: nn.Module,
    inputs: Union[Sequence[Any], Tensor],
    amp: bool = True,
    optimizer: str = "SGD",
    ema: bool = True,
    kwargs: Optional[Dict[str, Any]] = None,
    foreach: Optional[bool] = None,
    accumulate: Optional[int] = 1,
    loss: Optional[Callable[..., Any]] = None,
    targets: Any = None,
    validate: Union[bool, Callable[[Any], Any]] = False,
    checkpoint: Sequence[str] = (),
    gpus: int = 1,
    sync_bn: bool = False,
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
        accumulate: how many batches the gradients are summed up of; those of earlier ones are alive in the step if
            there are several, as they are in any step with the ``zero_grad()`` of torch before 2.0. None: as many as
            train.py takes, round(64 / batch), of the batches of all GPUs.
        loss: a function of what the forward returns, or of that and of the targets, which returns a tensor, or several
            of which the first is the loss. Without one the sum of all outputs stands in.
        targets: what the loss takes second, with values; or a function that makes it for so many images.
        validate: whether the average of the model is run on twice as many images after the step, in float16 under amp;
            or a function of what that returns, whose results are alive beside it.
        checkpoint: paths of modules that are computed again in the backward, whose results are not kept.
        gpus: how many train under DistributedDataParallel; ``inputs`` are those of one, as are all numbers.
        sync_bn: whether batch norms gather their statistics from all GPUs, as train.py's ``--sync-bn`` does.

    Raises:
        DeviceError: there is no such optimizer or module, nothing to train, or no gradient in what the loss returns.
        NotCountable: the step depends on values, or torch is older than 2.1 (2.4 with ``amp``).
        Exception: whatever the model's own forward or the loss raises.
    """
    optimizer = optimizer_named(optimizer)
    model, inputs = as_model(model, "training"), as_inputs(inputs, "training")
    batch = _batch_of((inputs, kwargs))
    summed = _batches_summed(model, batch, accumulate, gpus)
    block, checkpoint = CUDA_BLOCK if amp else 1, need_modules(model, checkpoint)
    steps = Steps(optimizer, amp if foreach is None else foreach, block, summed > 1, validate, checkpoint)
    also = loss, None if loss is None else targets_for(targets, batch)
    run(model, inputs, steps.observe, kwargs=kwargs, amp=amp, drive=steps.drive, also=also)
    exchanged = (bucket_bytes(model, block), sync_bn * statistics_bytes(model, gpus, block)) if gpus > 1 else (0, 0)
    found = _result(steps, model, (inputs, kwargs), ema, amp, exchanged)
    found.accumulate, found.gpus = summed, gpus
    options = {"amp": amp, "optimizer": optimizer, "ema": ema, "foreach": foreach, "accumulate": accumulate}
    options.update(loss=loss, validate=validate, checkpoint=checkpoint, gpus=gpus, sync_bn=sync_bn)
    found.recount = _recounter(model, (inputs, kwargs), batch, targets, options)
    found.subject = weakref.ref(model)
    return found


def _batches_summed(model: nn.Module, batch: int, accumulate: Optional[int], gpus: int) -> int:
    """How many batches the gradients are summed up of; raises what ``training`` does for what can't be trained."""
    if not KNOWS_NODES:
        raise NotCountable("a training step is counted with torch 2.1 or newer")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DeviceError("no parameter of the model requires gradients: there is nothing to train")
    _need_whole("gpus", gpus)
    summed = batches_summed(batch * gpus) if accumulate is None else accumulate
    _need_whole("accumulate", summed)
    return summed


def _batch_of(given: Any) -> int:
    tensors = tensors_in(given)
    return tensors[0].shape[0] if tensors and tensors[0].dim() else 1


def _recounter(
    model: nn.Module, given: Any, batch: int, targets: Any, options: Dict[str, Any]
) -> Callable[..., Training]:
    """Return what counts a step of another batch: whatever has the batch's size along its first axis gets that.

    It may be told other options of ``training`` too.
    """
    reference = weakref.ref(model)
    shapes = map_tensors(given, lambda tensor: torch.empty_like(tensor, device="meta"))

    def count(images: int, **others: Any) -> Training:
        kept = reference()
        if kept is None:
            raise RuntimeError("the model is gone: keep it in a variable to ask for other batches")

        def resized(tensor: Tensor) -> Tensor:
            is_of_batch = tensor.dim() and tensor.shape[0] == batch
            return tensor.new_empty((images, *tensor.shape[1:])) if is_of_batch else tensor

        inputs, kwargs = map_tensors(shapes, resized)
        return training(
            kept, inputs, kwargs=kwargs, targets=targets_for(targets, images, batch), **{**options, **others}
        )

    return count


def _result(steps: Steps, model: nn.Module, inputs: Any, ema: bool, amp: bool, exchanged: Tuple[int, int]) -> Training:
    """Put the numbers together; exchanged: bytes of buckets, and of statistics."""
    block, recorder = steps.block, steps.recorder
    weights, buffers = _sizes(model.parameters(), block), _sizes(model.buffers(), block)
    average = weights + buffers if ema else 0
    storages, uncounted = recorder.storages, dict(recorder.uncounted)
    peak, place = recorder.step_peak if recorder.validates else (storages.peak, storages.peak_place)
    peak += weights + buffers + average + sum(exchanged)
    recurrent = sum(isinstance(module, nn.RNNBase) for module in model.modules())
    if amp and recurrent:
        uncounted["recurrent layers"] = recurrent, "kept as on a CPU; what cuDNN keeps in its place is not known"
    if steps.no_validation:
        uncounted["validation"] = 1, f"not counted: {steps.no_validation}"
    elif recorder.validates:  # the average is what is validated; under amp its halves are among what was made
        held = weights + buffers + (0 if amp else average) + exchanged[0]
        peak, place = max((peak, place), (storages.peak + held, storages.peak_place))
        if callable(steps.validates) and place[0] == VALIDATION:
            uncounted["validation"] = 1, "at most as much, as what is made of its outputs depends on them"
    phases = phases_of(recorder.calls)
    kept = sorted(recorder.kept.items(), key=lambda item: item[1], reverse=True)
    return Training(
        weights=weights,
        buffers=buffers,
        ema=average,
        gradients=steps.gradients,
        optimizer_state=steps.state,
        inputs=_sizes(tensors_in(inputs), block),
        kept_by_layer=Rows(kept),
        peak=peak,
        peak_at=place,
        forward=phases[FORWARD],
        loss=phases[LOSS],
        backward=phases[BACKWARD],
        optimizer=phases[OPTIMIZER],
        validation=phases[VALIDATION],
        amp=amp,
        batch=_batch_of(inputs),
        optimizer_name=steps.optimizer,
        buckets=exchanged[0],
        statistics=exchanged[1],
        loss_was=steps.loss,
        uncounted=uncounted,
    )


def _sizes(tensors: Iterable[Tensor], block: int) -> int:
    """Bytes of tensors, each once, and each in whole blocks."""
    sizes = {id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}
    return sum(in_blocks(size, block) for size in sizes.values())


# ---- on several GPUs ----

# YOLOv5 wraps the model without ``gradient_as_bucket_view``, so gradients lie in memory once more, in flat buckets that
# live as long as the wrapped model. What NCCL takes for its channels is outside of PyTorch's memory, and not known.
_FIRST, _OTHERS = 2**20, 25 * 2**20  # bytes that close a bucket


def _need_whole(name: str, value: Any) -> None:
    """Raise DeviceError unless a value is a whole number from 1 up."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DeviceError(f"{name} must be a whole number from 1 up, not {value!r}")


def bucket_bytes(model: nn.Module, block: int) -> int:
    """Bytes of the buckets of all trained parameters, the last ones first, each of one type, in whole blocks."""
    buckets: Dict[torch.dtype, List[int]] = {}
    for parameter in reversed([parameter for parameter in model.parameters() if parameter.requires_grad]):
        sizes = buckets.setdefault(parameter.dtype, [0])
        if sizes[-1] >= (_OTHERS if len(sizes) > 1 else _FIRST):
            sizes.append(0)
        sizes[-1] += parameter.numel() * parameter.element_size()
    return sum(in_blocks(size, block) for sizes in buckets.values() for size in sizes)


def statistics_bytes(model: nn.Module, gpus: int, block: int) -> int:
    """At most so many bytes SyncBatchNorm takes beside a batch norm.

    Each layer keeps how many values each GPU had; the widest gathers means, deviations and that number, twice.
    """
    channels = [module.num_features for module in model.modules() if isinstance(module, _BatchNorm)]
    gathered = 2 * in_blocks(4 * gpus * (2 * max(channels) + 1), block) if channels else 0
    return len(channels) * in_blocks(4 * gpus, block) + gathered

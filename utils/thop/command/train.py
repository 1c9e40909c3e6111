"""The command train: does it fit, and what would."""

import argparse
import sys
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..deploy.devices import Device, find_device
from ..deploy.fits import FITS, MARGINS, MAY_FIT, Largest, largest_batch
from ..deploy.runtimes import DeviceError
from ..deploy.steps import SUMMED
from ..deploy.training import Training, training
from ..deploy.training_time import REACH, step_seconds
from ..run import in_few_words
from ..run.inputs import Size, fitting_size, images_for, usual_size
from ..show.grid import to_text
from ..show.predictions import kept_table, memory_grid, training_headline
from .criteria import Criterion, criterion_for, suppression
from .models import Built, Setup, Source

_WIDTH = 120
_SMALLER = 0.8  # of the sides: the size that is suggested where a batch does not fit
_BACKBONE = 10  # layers, as YOLOv5's tutorial on freezing has it
AUTO = -1
"""The batch that asks for the largest that fits, as YOLOv5's --batch-size -1 does."""


class Memory(NamedTuple):
    """Bytes that there are, 0 where nobody asked, whose, and the device if one is named."""

    size: float
    place: str
    device: Optional[Device]


@dataclass
class Told:
    """A counted step, what is said of it, and what goes beside it into JSON."""

    training: Training
    lines: List[str]
    values: Dict[str, Any]

    @property
    def text(self) -> str:
        """All that is said; long sentences in rows, tables and code as they are."""
        return "\n".join(
            line if "\n" in line or line.startswith(" ") else textwrap.fill(line, _WIDTH, break_on_hyphens=False)
            for line in self.lines
        )


def memory_of(arguments: argparse.Namespace) -> Memory:
    """Find how much memory there is; raises DeviceError where nobody knows, or for a batch that GPUs can't share."""
    if arguments.batch != AUTO and arguments.batch % arguments.gpus and not arguments.inputs:
        raise DeviceError(f"--batch {arguments.batch} must be a multiple of --gpus {arguments.gpus}, as in train.py")
    device = find_device(arguments.device, arguments.devices) if arguments.device else None
    if arguments.memory:
        return Memory(arguments.memory, f"{arguments.memory / 1e9:.4g}e9 bytes", device)
    if arguments.batch == AUTO and (device is None or not device.memory):
        raise DeviceError("--batch -1 is the largest that fits: give --memory, or a --device whose memory is known")
    if device is None:
        return Memory(0.0, "", None)
    if not device.memory:
        raise DeviceError(f"the memory size of {device.name} ({device.title}) is unknown; give --memory")
    return Memory(device.memory, f"{device.title} ({device.memory / 1e9:.4g}e9 bytes)", device)


def describe_training(
    source: Source, setup: Setup, arguments: argparse.Namespace, memory: Memory, built: Built
) -> Told:
    """Count a step, and say what it takes, whether it fits into so much memory of a place, and what would.

    Raises what counting raises.
    """
    counter = Counter(built, setup, arguments)
    size = fitting_size(built.model, setup.imgsz or usual_size(built.model))
    largest = largest_batch(counter.at(size), memory.size) if arguments.batch == AUTO else None
    if largest is not None and not largest.batch:
        raise DeviceError(f"no batch fits into {memory.place}: one image takes {_bytes(largest.training)}")
    asked = built.inputs[0].shape[0] if setup.inputs else arguments.batch // arguments.gpus
    batch = largest.batch if largest else asked
    found = counter.at(size)(batch)
    headline, loss = training_headline(f"{source.name} at {counter.shapes(size, batch)}", found), counter.words(found)
    told = Told(found, [headline], {"loss": loss})
    if memory.size:
        _tell_whether_it_fits(told, memory, counter, size, largest)
    if memory.device is not None and memory.device.kind == "gpu":
        _tell_the_time(told, memory.device, arguments)
    told.lines += [f"Loss: {loss}.", "", to_text(memory_grid(found)), "", kept_table(found)]
    return told


def _bytes(found: Training) -> str:
    return f"{found.peak / 1e9:.2f}e9 bytes"


class Counter:
    """Counts the steps of a model at sizes and batches, each once, with the loss of its checkout if that runs."""

    def __init__(self, built: Built, setup: Setup, arguments: argparse.Namespace) -> None:
        self.model, self.given, self.arguments = built.model, built.inputs if setup.inputs else (), arguments
        self.known: Dict[Tuple[Size, int], Training] = {}
        self.no_loss = ""
        self.criterion: Optional[Criterion] = None
        layers = arguments.freeze  # the first so many, or those that are named, as YOLOv5 has it
        frozen = tuple(f"model.{i}." for i in (range(layers[0]) if len(layers) == 1 else layers))
        for name, parameter in built.model.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen) if frozen else True)

    def shapes(self, size: Size, batch: int) -> str:
        """The shapes of what it is trained on, in words."""
        return " and ".join("x".join(map(str, tensor.shape)) for tensor in self._inputs(size, batch))

    def at(self, size: Size) -> Callable[[int], Training]:
        """Return what counts a step of a batch at a size."""
        return lambda batch: self._count(size, batch)

    def _inputs(self, size: Size, batch: int) -> List[Tensor]:
        images = self.given or images_for(self.model, size)
        return [torch.empty((batch, *image.shape[1:]), dtype=image.dtype, device="meta") for image in images]

    def _count(self, size: Size, batch: int) -> Training:
        if (size, batch) not in self.known:
            watched = sys.__stderr__ is not None and sys.__stderr__.isatty()
            if watched:
                print(f"\rcounting a batch of {batch} ... ", end="\r", file=sys.__stderr__, flush=True)
            self.known[size, batch] = self._step(size, batch)
        return self.known[size, batch]

    def with_frozen(self, size: Size, batch: int, layers: int) -> Optional[Training]:
        """Count a step with its first layers frozen; None where there are no numbered layers, or others are frozen."""
        rows = self.model._modules.get("model")
        if self.arguments.freeze or not isinstance(rows, torch.nn.Sequential) or len(rows) <= layers:
            return None
        trained = [p for row in rows[:layers] for p in row.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            return self._step(size, batch)
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

    def _step(self, size: Size, batch: int) -> Training:
        arguments, inputs = self.arguments, self._inputs(size, batch)
        options = {
            "amp": arguments.amp, "optimizer": arguments.optimizer, "ema": arguments.ema, "foreach": True,
            "accumulate": arguments.accumulate, "validate": arguments.validate, "gpus": arguments.gpus,
            "sync_bn": arguments.sync_bn,
        }  # fmt: skip
        criterion = self._criterion(size)
        if criterion is not None:
            try:
                if arguments.validate and not criterion.of_images:
                    options["validate"] = suppression
                return training(self.model, inputs, loss=criterion.loss, targets=criterion.targets, **options)
            except Exception as error:  # of the loss, or of the model, which then says so again
                self.no_loss = f"{criterion.name} can't be run: {in_few_words(error)}"
        return training(self.model, inputs, **options)

    def _criterion(self, size: Size) -> Optional[Criterion]:
        if self.no_loss:
            return None
        try:
            found = None if self.given else criterion_for(self.model, size, self.arguments.objects)
        except Exception as error:
            self.no_loss = f"the checkout's own loss can't be made: {in_few_words(error)}"
            return None
        self.no_loss = "" if found else "no loss of its checkout is known"
        self.criterion = found
        return found

    def words(self, found: Training) -> str:
        """What the loss was, in words."""
        if found.loss_was == SUMMED or self.criterion is None:
            return f"{SUMMED} stands in, as {self.no_loss}"
        objects = "labels" if self.criterion.of_images else f"objects, {self.arguments.objects} an image"
        return f"{self.criterion.name} on made-up {objects}, {found.loss_was}"


def _tell_whether_it_fits(told: Told, memory: Memory, counter: Counter, size: Size, largest: Optional[Largest]) -> None:
    """Say whether the batch fits, the largest that does, and the largest at a smaller size."""
    found, answer = told.training, told.training.fits(memory.size)
    largest = largest or largest_batch(counter.at(size), memory.size)
    told.values.update(memory=memory.size, fits=answer, largest_batch=largest.batch)
    verb = {FITS: "fits", MAY_FIT: "may fit"}.get(answer, "does not fit")
    each = f" of {found.batch * found.gpus}, on each of {found.gpus} GPUs," if found.gpus > 1 else ""
    words = f"batch {found.batch}{each} {verb} into {memory.place}"
    if not largest.batch:
        told.lines += [f"{words}, and no other surely does: one image takes {_bytes(largest.training)}.", MARGINS]
        return
    most = f"{largest.batch} each" if each else str(largest.batch)
    words += f"; the largest that surely does is {most}, with {largest.training.peak / 1e9:.2f}e9"
    smaller: Size = (_rounded(size[0]), _rounded(size[1]))
    if answer != FITS and smaller != size and not counter.given:
        with suppress(Exception):
            other = largest_batch(counter.at(smaller), memory.size).batch
            words += f"; at {smaller[0]} x {smaller[1]} it is {other}"
    shared = memory.device is not None and memory.device.host == "module"
    note = " Its memory is shared with the system, whose part is not known." if shared else ""
    more = _fitting(found, memory, counter, size) if answer != FITS else []
    told.lines += [f"{words}.{note}", *more, MARGINS]


def _fitting(found: Training, memory: Memory, counter: Counter, size: Size) -> List[str]:
    """What would let the batch fit: freezing the first layers, and modules to checkpoint, each counted again."""
    lines = []
    frozen = counter.with_frozen(size, found.batch, _BACKBONE)
    if frozen is not None and frozen.fits(memory.size) == FITS:
        lines.append(f"It fits with --freeze {_BACKBONE}: {_bytes(frozen)} at the peak.")
    proposal = found.checkpoint_to_fit(memory.size)
    if proposal is not None:
        words = f"{_bytes(proposal.training)} at the peak for {proposal.work - 1:.0%} more work"
        many = f"{len(proposal.modules)} module{'s' * (len(proposal.modules) != 1)}"
        lines += [f"It fits with {many} checkpointed: {words}. After model = ...:"]
        lines += [f"    {line}" for line in proposal.snippet.splitlines()]
    return lines


def _tell_the_time(told: Told, device: Device, arguments: argparse.Namespace) -> None:
    """Say how long a step takes, and an epoch, if somebody says of how many images, and all of them."""
    found = told.training
    try:
        seconds, basis = step_seconds(found, device)
    except DeviceError:
        return
    told.values.update(step_seconds=seconds, step_seconds_low=seconds / REACH, step_seconds_high=seconds * REACH)
    words = f"A step takes about {seconds * 1e3:.0f} ms ({seconds / REACH * 1e3:.0f} to {seconds * REACH * 1e3:.0f})"
    if arguments.images:
        hours = seconds * -(-arguments.images // (found.batch * found.gpus)) / 3600
        told.values["epoch_hours"] = hours
        words += f", an epoch of {arguments.images} images {_long(hours)}"
        if arguments.epochs:
            told.values["hours"] = hours * arguments.epochs
            words += f", {arguments.epochs} epochs {_long(hours * arguments.epochs)}"
    without = "loading images, validation and what GPUs exchange" if found.gpus > 1 else "loading images and validation"
    told.lines.append(f"{words}, without {without}; from {basis}, and 44 trainings on an RTX 3090.")


def _long(hours: float) -> str:
    return f"{hours:.3g} hours" if hours >= 1 else f"{hours * 60:.2g} minutes"


def _rounded(side: int) -> int:
    """A smaller side, a multiple of 64 as all strides divide."""
    return max(64, int(side * _SMALLER) // 64 * 64)

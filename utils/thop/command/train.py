"""The command train: does it fit, and what would."""

import argparse
from functools import lru_cache
from typing import Callable, List, Optional, Tuple

import torch

from ..deploy.devices import Device, find_device
from ..deploy.fits import largest_batch
from ..deploy.runtimes import DeviceError
from ..deploy.training import Training, training
from ..deploy.training_time import step_seconds
from ..run.inputs import Size, fitting_size, images_for, usual_size
from ..show.grid import to_text
from ..show.predictions import kept_table, memory_grid, training_headline, work_table
from .models import Built, Setup, Source, counted

_SMALLER = 0.8  # of the sides: the size that is suggested where a batch does not fit


def memory_of(arguments: argparse.Namespace) -> Tuple[float, str, Optional[Device]]:
    """Bytes that there are, whose, and the device if one is named; 0 where nobody asked."""
    device = find_device(arguments.device, arguments.devices) if arguments.device else None
    if arguments.memory:
        return arguments.memory, f"{arguments.memory / 1e9:g}GB", device
    if device is None:
        return 0.0, "", None
    if not device.memory:
        raise DeviceError(f"nobody has said here how much memory {device.name} ({device.title}) has; give --memory")
    return device.memory, f"{device.title} ({device.memory / 1e9:g}GB)", device


def describe_training(
    source: Source, setup: Setup, arguments: argparse.Namespace, memory: float, place: str, device: Optional[Device]
) -> Tuple[Training, List[str]]:
    """Count a step, and say what it takes, whether it fits into so much memory of a place, and what would.

    Raises what building and counting raise.
    """

    def describe(built: Built) -> Tuple[Training, List[str]]:
        size = fitting_size(built.model, setup.imgsz or usual_size(built.model))
        at = _counter(built, arguments)
        found = at(size)(setup.batch)
        shape = (setup.batch, *images_for(built.model, size)[0].shape[1:])
        what = f"{source.name} at {'x'.join(map(str, shape))}"
        lines = [training_headline(what, found), ""]
        lines += [to_text(memory_grid(found)), "", kept_table(found), "", work_table(found)]
        if memory:
            lines += ["", *_fits(found, memory, place, at, size, setup.batch)]
        if device is not None and device.kind == "gpu":
            lines += _time(found, device)
        return found, lines

    return counted(source, setup, describe)


def _counter(built: Built, arguments: argparse.Namespace) -> Callable[[Size], Callable[[int], Training]]:
    """Return what counts a step at a size and a batch, each once."""
    frozen = tuple(f"model.{i}." for i in _frozen(arguments.freeze))
    for name, parameter in built.model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) if frozen else True)

    @lru_cache(maxsize=None)
    def count(size: Size, batch: int) -> Training:
        images = images_for(built.model, size)
        inputs = [torch.empty((batch, *image.shape[1:]), dtype=image.dtype, device="meta") for image in images]
        return training(built.model, inputs, arguments.amp, arguments.optimizer)

    return lambda size: lambda batch: count(size, batch)


def _frozen(layers: List[int]) -> List[int]:
    """The layers that YOLOv5's --freeze means: the first so many, or those that are named."""
    return list(range(layers[0])) if len(layers) == 1 else layers


def _fits(
    found: Training,
    memory: float,
    place: str,
    at: Callable[[Size], Callable[[int], Training]],
    size: Size,
    batch: int,
) -> List[str]:
    """Whether the batch fits, the largest that does, and the largest at a smaller size."""
    fits = needed(found) <= memory
    largest = largest_batch(at(size), memory)
    smaller: Size = (_rounded(size[0]), _rounded(size[1]))
    words = f"batch {batch} {'fits' if fits else 'does not fit'} into {place}"
    if not largest.batch:
        one = needed(largest.training) / 1e9
        return [f"{words}, and no other does: one image at {size[0]} x {size[1]} takes {one:.1f}GB."]
    sentence = f"{words}; the largest that does is {largest.batch}, with {needed(largest.training) / 1e9:.1f}GB"
    if smaller == size:
        return [f"{sentence}."]
    other = largest_batch(at(smaller), memory)
    return [f"{sentence}; at {smaller[0]} x {smaller[1]} it is {other.batch}."]


def _rounded(side: int) -> int:
    """A smaller side, a multiple of 64 as all strides divide."""
    return max(64, int(side * _SMALLER) // 64 * 64)


def _time(found: Training, device: Device) -> List[str]:
    try:
        seconds, basis = step_seconds(found, device)
    except DeviceError:
        return []
    speed = f"{found.batch / seconds:.0f} images a second"
    return [f"At best a step takes {seconds * 1e3:.0f} ms, {speed}: from {basis}; loading images is not in it."]


__all__ = ["describe_training", "memory_of"]

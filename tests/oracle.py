"""A second count of a model, which shares nothing with utils/thop: every leaf's forward is wrapped by hand.

It runs the model itself, for real, and adds up what went by. Matrix products and grids of convolutions are counted
from the shapes of the weights; nothing else is needed for the layers that YOLOv5 is made of.
"""

from dataclasses import dataclass
from typing import Any, Callable, List

import torch
from torch import nn


@dataclass
class Seen:
    """Totals of one forward pass: multiply-accumulates of convolutions and linear layers, and accesses."""

    products: int = 0
    kernel: int = 0
    output: int = 0


def count_by_wrapping(model: nn.Module, image: torch.Tensor) -> Seen:
    """Run ``model`` on ``image`` in evaluation mode and count; the wrappers are taken off again."""
    seen = Seen()
    leaves = [m for m in model.modules() if not list(m.children()) or isinstance(m, nn.MultiheadAttention)]
    was_training = [m.training for m in model.modules()]
    undo: List[Callable[[], Any]] = []
    for leaf in leaves:
        undo.append(_wrap(leaf, seen))
    try:
        model.eval()
        with torch.no_grad():
            model(image)
    finally:
        for take_off in undo:
            take_off()
        for module, training in zip(model.modules(), was_training):
            module.training = training
    return seen


def _wrap(leaf: nn.Module, seen: Seen) -> Callable[[], Any]:
    own = leaf.__dict__.get("forward")
    forward = leaf.forward

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = forward(*args, **kwargs)
        _see(leaf, args, result, seen)
        return result

    leaf.__dict__["forward"] = wrapped

    def take_off() -> None:
        del leaf.__dict__["forward"]
        if own is not None:
            leaf.__dict__["forward"] = own

    return take_off


def _see(leaf: nn.Module, args: Any, result: Any, seen: Seen) -> None:
    kind = type(leaf).__name__
    if kind in ("Identity", "Concat", "Dropout", "Contract", "Expand"):
        return
    if kind == "MultiheadAttention":
        result = result[0]
        seen.kernel += 4 * leaf.embed_dim * leaf.embed_dim
    elif kind in ("Conv2d", "Linear", "NonDynamicallyQuantizableLinear"):
        filter_elements = leaf.weight[0].nelement()
        seen.products += result.nelement() * filter_elements
        seen.kernel += leaf.weight.nelement()
    elif kind == "ConvTranspose2d":
        seen.products += args[0].nelement() * leaf.weight[0].nelement()
        seen.kernel += leaf.weight.nelement()
    seen.output += result.nelement()

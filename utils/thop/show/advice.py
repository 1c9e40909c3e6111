"""What somebody can do about a predicted time: sentences, with the time that it would be."""

from typing import List, Sequence

from ..deploy.clock import STARTING, seconds_of, work_of
from ..deploy.launches import Deployed
from ..deploy.prediction import LayerTime, Prediction
from ..deploy.unused import left_out, two_predictions
from ..units import listed

_WORTH = 0.04  # of the time: less is within what a prediction is off
_LARGE, _OUT_OF_PROPORTION = 0.06, 2.5  # of the bytes, and of the share of FLOPs
_MOST = 2
_OFTEN = 0.3
_NAMES = 6


def advice(prediction: Prediction) -> List[str]:
    """Say which activation costs a pass of its own, which modules move much for little, and what else holds it back."""
    return [
        *_activations(prediction),
        *_movers(prediction.layers(2)),
        *_starts(prediction),
        *_auxiliary(prediction.deployed),
    ]


def _activations(prediction: Prediction) -> List[str]:
    """Curves that are computed or looked up for every output: what the time would be with ReLU in their place."""
    network, runtime = prediction.deployed, prediction.runtime
    names = {step.name.rstrip("_") for launch in prediction.launches for step in launch.launch.steps}
    curves = sorted(names & {"aten::silu", "aten::gelu", "aten::hardswish", "aten::mish"})
    if runtime.eager or len(curves) != 1:
        return []
    works = [work._replace(curve=0.0) for work in work_of(network, prediction.precision)]
    seconds = seconds_of(works, prediction.constants)
    saved = 1 - seconds / prediction.seconds
    if saved <= _WORTH:
        return []
    what = {"aten::silu": "SiLU", "aten::gelu": "GELU"}.get(curves[0], curves[0].replace("aten::", ""))
    return [
        f"{what} takes {saved:.0%} here, as it is computed or looked up for every output; ReLU would give about "
        f"{1 / seconds:.0f} runs a second instead of {1 / prediction.seconds:.0f}."
    ]


def _movers(layers: Sequence[LayerTime]) -> List[str]:
    """Modules that move a large part of the bytes for a small part of the arithmetic."""
    elements, flops = sum(layer.elements for layer in layers), sum(layer.flops for layer in layers)
    if not elements or not flops:
        return []
    found = []
    for layer in sorted(layers, key=lambda layer: layer.elements, reverse=True):
        moved, computed = layer.elements / elements, layer.flops / flops
        if moved > _LARGE and moved > _OUT_OF_PROPORTION * computed:
            where = layer.path or "the model itself"
            found.append(f"{where} moves {moved:.0%} of the bytes for {computed:.0%} of the FLOPs.")
    return found[:_MOST]


def _starts(prediction: Prediction) -> List[str]:
    share = prediction.share(STARTING)
    if share < _OFTEN:
        return []
    return [
        f"{share:.0%} of the time goes to starting {len(prediction.launches)} launches: fewer and larger layers, or a "
        "larger batch, would use the device better."
    ]


def _auxiliary(network: Deployed) -> List[str]:
    """Heads that only training needs: those that an export leaves out, and those that it keeps."""
    found = []
    unused = left_out(network)
    if unused:
        names = listed(sorted(unused, key=lambda name: -unused[name])[:_NAMES])
        more = f" and {len(unused) - _NAMES} more" if len(unused) > _NAMES else ""
        found.append(
            f"An export leaves out {names}{more} ({sum(unused.values()) / 1e9:.1f} GFLOPs): nothing that it gives out "
            "needs them."
        )
    two = two_predictions(network)
    if two is not None:
        path, *saved = two
        without = [f"{(network.flops - flops) / 1e9:.1f}" for flops in saved]
        found.append(
            f"{path} gives out two sets of predictions, as with an auxiliary head for training: it is "
            f"{network.flops / 1e9:.1f} GFLOPs with both, {without[0]} without the first, {without[1]} without the "
            "second."
        )
    return found


__all__ = ["advice"]

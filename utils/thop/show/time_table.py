"""The predicted time of a network, module by module."""

from typing import List, Sequence

from ..deploy.prediction import LayerTime, Prediction, Timing
from .grid import Grid, Head, Line, to_text

WIDTH = 100  # columns of a terminal
_MOST = 40


def milliseconds(seconds: float) -> str:
    """Write seconds as milliseconds, with three digits or so."""
    return f"{seconds * 1e3:.{1 if seconds >= 0.01 else 3}f} ms"


def timing_headline(timing: Timing) -> str:
    """An expected time in one line."""
    place = f"{timing.title}, {timing.runtime.title}, {timing.precision}"
    low, high = milliseconds(timing.low), milliseconds(timing.high)
    return f"{place}: about {milliseconds(timing.seconds)} ({low} to {high})"


def headline(prediction: Prediction) -> str:
    """The prediction in one line."""
    binds = ", ".join(
        f"{what} {prediction.share(what):.0%}"
        for what in ("memory", "arithmetic", "starting launches")
        if prediction.share(what) >= 0.005
    )
    return f"{timing_headline(prediction)}; of it {binds}"


def time_table(prediction: Prediction) -> str:
    """The time by module, in the order of the run; of very many, the heaviest."""
    layers = prediction.layers(2)
    shown: Sequence[LayerTime] = layers
    notes: List[str] = [f"Predicted from {prediction.basis}; off by x {prediction.error:.2f} on average."]
    notes += [f"Not known of {name}: {assumed}." for name, assumed in prediction.uncounted.items()]
    if len(layers) > _MOST:
        shown = sorted(layers, key=lambda layer: layer.seconds, reverse=True)[:_MOST]
        rest = sum(layer.share for layer in layers) - sum(layer.share for layer in shown)
        notes.insert(0, f"The {_MOST} heaviest of {len(layers)} modules; the others take {rest:.1%}.")
    return to_text(time_grid(prediction, shown, notes), WIDTH)


def time_grid(prediction: Prediction, layers: Sequence[LayerTime], notes: List[str]) -> Grid:
    """Put the times of modules into a grid, with the whole time below."""
    heads = [Head("module", is_text=True), Head("time", "ms"), Head("share"), Head("binds", is_text=True)]
    lines = [
        Line([layer.path or "(the model itself)", f"{layer.seconds * 1e3:.3f}", f"{layer.share:.1%}", layer.binds])
        for layer in layers
    ]
    return Grid(heads, lines, ["total", f"{prediction.seconds * 1e3:.3f}", "", prediction.binds], notes)


__all__ = ["headline", "milliseconds", "time_grid", "time_table", "timing_headline"]

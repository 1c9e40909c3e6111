"""What a network takes elsewhere: its expected time, module by module, what would be faster, a step of training."""

from typing import Callable, List, Sequence, Tuple

from ..deploy.changes import Advice, Change
from ..deploy.clock import ARITHMETIC, MEMORY, OUTPUT_STAGE, STARTING
from ..deploy.fits import AFTER_FIRST, AFTER_LAST, CONTEXT, Reserved
from ..deploy.launches import Deployed, left_out, two_predictions
from ..deploy.prediction import LayerTime, Prediction, Timing
from ..deploy.training import Training
from ..units import first_of, listed, readable_bytes, together
from .grid import Column, Grid, Line, grid_of, heaviest, to_text

_WIDE = 120
_MODULES = 40  # rows of the time
_TWICE = 1.5
_KEEPERS = 8  # rows of what is kept
THE_MODEL = "(the model itself)"


def milliseconds(seconds: float) -> str:
    """Write seconds as milliseconds, with three digits or so."""
    return f"{seconds * 1e3:.{1 if seconds >= 0.01 else 2 if seconds >= 0.001 else 3}f} ms"


def place_of(timing: Timing) -> str:
    """The device, the runtime and the precision of an expected time."""
    return f"{timing.title}, {timing.runtime.title}, {timing.precision}"


def usually_off(timing: Timing) -> str:
    """How far such a prediction is off on average."""
    off = f"{timing.error - 1:.0%} off" if timing.error < _TWICE else f"off by x {timing.error:.1f}"
    return f"typically {off}"


def timing_headline(timing: Timing) -> str:
    """An expected time in one line."""
    low, high = milliseconds(timing.low), milliseconds(timing.high)
    return f"{place_of(timing)}: about {milliseconds(timing.seconds)} ({low} to {high})"


def headline(prediction: Prediction) -> str:
    """The prediction in one line."""
    shares = [(what, prediction.share(what)) for what in (MEMORY, ARITHMETIC, OUTPUT_STAGE, STARTING)]
    binds = [f"{what} {share:.0%}" for what, share in shares if share >= 0.005]
    return f"{timing_headline(prediction)}; of it {', '.join(binds)}"


def time_table(prediction: Prediction) -> str:
    """The time by module, in the order of the run; of very many, the heaviest."""
    layers = prediction.layers(2)
    notes: List[str] = [f"Predicted from {prediction.basis}; {usually_off(prediction)}."]
    if prediction.published:
        notes.append(f"Published: {milliseconds(prediction.published.seconds)} ({prediction.published.source}).")
    memory = prediction.memory
    where = f" (at {memory.at})" if memory.at else ""
    sizes = f"{readable_bytes(memory.arena_bytes)} for activations{where}, {readable_bytes(memory.weight_bytes)}"
    notes += [f"In memory: {sizes} for weights.", *(f"{line[0].upper()}{line[1:]}." for line in remarks_on(prediction))]
    notes += [f"Not known of {name}: {assumed}." for name, assumed in prediction.uncounted.items()]
    shown = [layers[i] for i in heaviest([layer.seconds for layer in layers], _MODULES)]
    if len(shown) < len(layers):
        rest = sum(layer.share for layer in layers) - sum(layer.share for layer in shown)
        notes.insert(0, f"The {_MODULES} heaviest of {len(layers)} modules; the others take {rest:.1%}.")
    return to_text(time_grid(prediction, shown, notes))


def remarks_on(prediction: Timing) -> List[str]:
    """Name what the runtime gives back to the CPU."""
    left = together(((operator, reason), path or THE_MODEL) for operator, path, reason in prediction.leaves)
    return [
        f"left to the CPU: {operator} at {listed(paths[:_NAMES])}{' and others' * (len(paths) > _NAMES)} ({reason})"
        for (operator, reason), paths in left.items()
    ]


def time_grid(prediction: Prediction, layers: Sequence[LayerTime], notes: List[str]) -> Grid:
    """Put the times of modules into a grid, with the whole time below."""
    columns = [Column("module", is_text=True), Column("time", "ms"), Column("share"), Column("binds", is_text=True)]
    lines = [
        Line([layer.path or THE_MODEL, f"{layer.seconds * 1e3:.3f}", f"{layer.share:.1%}", layer.binds])
        for layer in layers
    ]
    return Grid(columns, lines, ["total", f"{prediction.seconds * 1e3:.3f}", "", prediction.binds], notes)


# ---- what somebody can do about it ----

_NAMES = 6


def advice_grid(advice: Advice) -> Grid:
    """A row for each change that is worth it; below them, heads that only training needs."""
    columns: List[Tuple[Column, Callable[[Change], str]]] = [
        (Column("change", is_text=True), lambda one: one.what),
        (Column("time", "ms"), lambda one: f"{one.seconds * 1e3:.3g}"),
        (Column("gain"), lambda one: f"{one.gain:.0%}"),
        (Column("price", is_text=True, spare=1), lambda one: one.price),
    ]
    takes = f"it takes {milliseconds(advice.before.seconds)} as it is"
    tried = f"Each was tried on a changed copy, under {advice.before.runtime.title}; {takes}."
    return grid_of(columns, advice.rows, notes=[tried, *auxiliary(advice.before.deployed)])


def advice_text(advice: Advice) -> str:
    """The changes in a table, or that none is worth it."""
    none = "Nothing that was tried would make it faster by more than 4%."
    grid = advice_grid(advice)
    return to_text(grid, _WIDE) if advice.rows else "\n".join([none, *grid.sentences[1:]])


def auxiliary(network: Deployed) -> List[str]:
    """Heads that only training needs: those that an export leaves out, and those that it keeps."""
    found = []
    unused = left_out(network)
    if unused:
        heads = sorted(unused, key=lambda name: -unused[name])
        names = first_of(heads, _NAMES) if len(heads) > _NAMES else listed(heads)
        flops = f"{sum(unused.values()) / 1e9:.1f} GFLOPs"
        found.append(f"An export leaves out {names} ({flops}): nothing that it gives out needs them.")
    two = two_predictions(network)
    if two is not None:
        path, *saved = two
        both, first, second = (f"{(network.flops - flops) / 1e9:.1f}" for flops in (0, *saved))
        found.append(
            f"{path} gives out two sets of predictions, as with an auxiliary head for training: it is {both} GFLOPs "
            f"with both, {first} without the first, {second} without the second."
        )
    return found


# ---- a step of training ----


def training_headline(what: str, found: Training) -> str:
    """The step in one line; what: the network, and what it is trained on."""
    precision = "autocast to float16" if found.amp else "float32"
    phase, path = found.peak_at
    where = f"in the {phase}" + (f" at {path}" if path else "")
    return f"{what}, {precision}, {found.optimizer_name}: {readable_bytes(found.peak)} at the peak, {where}"


def memory_grid(found: Training) -> Grid:
    """What lies in memory, by what it is; the last part is what else is alive at the peak."""
    columns = [Column("memory", is_text=True), Column("size"), Column("of the peak")]
    parts = [(what, size) for what, size in found.parts().items() if size]
    lines = [Line([what, readable_bytes(size), f"{size / found.peak:.1%}"]) for what, size in parts]
    alive = f"At the peak {readable_bytes(found.peak)} are alive"
    notes = [f"{alive}: not all parts at once, but what the backward makes too."]
    if found.amp:
        first, last = (_reserved(found, by) for by in (AFTER_FIRST, AFTER_LAST))
        reserved = f"{first} by the first epoch, {last} by the last, cuDNN's workspaces among it, if there is as much"
        own = f"CUDA's own {CONTEXT / 1e9:.1f}GB come on top"
        notes.append(f"PyTorch reserves {reserved}, which YOLOv5 prints as GPU_mem; {own}.")
    unknown = [(what, why) for what, (_, why) in found.uncounted.items() if "::" not in what]  # that is of FLOPs
    notes += [f"{what[0].upper()}{what[1:]}: {why}." for what, why in unknown]
    return Grid(columns, lines, notes=notes)


def _reserved(found: Training, by: Reserved) -> str:
    """About how much is reserved, and between what nine of ten trainings lie."""
    about, low, high = (readable_bytes(part * by.at(found.peak)) for part in (1, by.low, by.high))
    return f"about {about} ({low} to {high})"


def kept_table(found: Training) -> str:
    """The modules whose results the forward keeps most of."""
    columns = [Column("module", is_text=True), Column("keeps"), Column("share")]
    shown = found.kept_by_layer[:_KEEPERS]
    lines = [Line([path or "(itself)", readable_bytes(size), f"{size / found.kept:.1%}"]) for path, size in shown]
    rest = found.kept - sum(size for _, size in shown)
    if rest:
        others = f"{len(found.kept_by_layer) - len(shown)} others"
        lines.append(Line([others, readable_bytes(rest), f"{rest / found.kept:.1%}"]))
    return to_text(Grid(columns, lines))

"""What a training step takes, for readers."""

from typing import List, Tuple

from ..deploy.training import CONTEXT, Training, needed
from ..units import readable_bytes
from .grid import Grid, Head, Line, to_text

WIDTH = 100  # columns of a terminal
_LAYERS = 8


def training_headline(what: str, found: Training) -> str:
    """The step in one line; what: the network, and what it is trained on."""
    precision = "autocast to float16" if found.amp else "float32"
    phase, path = found.peak_at
    where = f"in the {phase}" + (f" at {path}" if path else "")
    return f"{what}, {precision}, {found.optimizer_name}: {readable_bytes(found.peak)} at the peak, {where}"


def memory_grid(found: Training) -> Grid:
    """What lies in memory, by what it is; the last part is what else is alive at the peak."""
    heads = [Head("memory", is_text=True), Head("size"), Head("of the peak")]
    parts = [(what, size) for what, size in found.parts().items() if size]
    lines = [Line([what, readable_bytes(size), f"{size / found.peak:.1%}"]) for what, size in parts]
    notes = [
        f"At the peak {readable_bytes(found.peak)} are alive: not all parts at once, but what the backward makes too.",
    ]
    if found.amp:
        reserved = f"About {found.reserved / 1e9:.1f}GB will be reserved, which YOLOv5 prints as GPU_mem"
        notes.append(f"{reserved}; with CUDA's own {CONTEXT / 1e9:.1f}GB it takes {needed(found) / 1e9:.1f}GB.")
    return Grid(heads, lines, notes=notes)


def memory_table(found: Training) -> str:
    """The same, laid out for a terminal."""
    return to_text(memory_grid(found), WIDTH)


def kept_table(found: Training) -> str:
    """The modules whose results the forward keeps most of."""
    heads = [Head("module", is_text=True), Head("keeps"), Head("share")]
    shown = found.kept_by_layer[:_LAYERS]
    lines = [Line([path or "(itself)", readable_bytes(size), f"{size / found.kept:.1%}"]) for path, size in shown]
    rest = found.kept - sum(size for _, size in shown)
    if rest:
        others = f"{len(found.kept_by_layer) - len(shown)} others"
        lines.append(Line([others, readable_bytes(rest), f"{rest / found.kept:.1%}"]))
    return to_text(Grid(heads, lines), WIDTH)


def work_table(found: Training) -> str:
    """What the phases compute and move."""
    phases = (("forward", found.forward), ("backward", found.backward), ("optimizer", found.optimizer))
    rows: List[Tuple[str, float, int]] = [(name, phase.flops / 1e9, phase.bytes) for name, phase in phases]
    heads = [Head("phase", is_text=True), Head("GFLOPs"), Head("traffic")]
    lines = [Line([name, f"{gflops:.1f}", readable_bytes(moved)]) for name, gflops, moved in rows]
    total = ["a step", f"{sum(row[1] for row in rows):.1f}", readable_bytes(sum(row[2] for row in rows))]
    return to_text(Grid(heads, lines, total), WIDTH)


__all__ = ["kept_table", "memory_grid", "memory_table", "training_headline", "work_table"]

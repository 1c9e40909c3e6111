"""What the benchmarks share: real YOLOv5 models, interleaved timing, plain tables.

Not to be run; the scripts beside it put the repository and its `tests` on sys.path and import this.
"""

from __future__ import annotations

import copy
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from releases import CACHE, LATEST, release, yolo, yolo_settings
from tqdm import tqdm

FEWEST_ROUNDS = 3


def use_release(folder: Path | None = None) -> None:
    """Make `yolov5` importable: the release as published, or the copy of one in `folder`."""
    os.environ.update(yolo_settings(CACHE / "settings"))
    sys.path.append(str(folder or release(LATEST)))


def real_model(cfg: str) -> Any:
    """Build a real model, in evaluation mode, that no one else uses: real_model('hub/yolov5x6.yaml')."""
    return yolo(cfg).eval()


def twin(model: Any) -> Any:
    """Copy a model's modules but not its weights: a peer may hook and write to the copy, and memory stays small."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, dict(shared))


@dataclass
class Timing:
    """Seconds of each round of one call, and what the call returned; or why it could not be made."""

    seconds: list[float] = field(default_factory=list)
    result: Any = None
    error: str = ""

    @property
    def ms(self) -> float:
        """The median round in milliseconds."""
        return statistics.median(self.seconds) * 1000


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def interleave(
    calls: Mapping[str, Callable[[], Any]], rounds: int, budget: float = math.inf, tolerant: bool = False
) -> dict[str, Timing]:
    """Time calls in turns, after two warm-up rounds.

    A call whose rounds would take more than `budget` seconds together gets fewer of them, but three. With `tolerant`,
    a call that raises is left out with the reason; else the exception passes.
    """
    timings = {name: Timing() for name in calls}
    planned = {}
    for name, call in calls.items():
        seconds = _warm_up(call, timings[name], tolerant)
        affordable = max(FEWEST_ROUNDS, budget / max(seconds, 1e-6))
        planned[name] = 0 if timings[name].error else int(min(rounds, affordable))
    with tqdm(total=sum(planned.values()), desc="rounds", leave=False, disable=None) as progress:
        for index in range(max(planned.values())):
            for name in [name for name in calls if index < planned[name]]:
                seconds, _ = timed(calls[name])
                timings[name].seconds.append(seconds)
                progress.update()
    return timings


def _warm_up(call: Callable[[], Any], timing: Timing, tolerant: bool) -> float:
    """Make a call twice, or once if it is slow; return the seconds of the last one."""
    seconds = 0.0
    try:
        seconds, timing.result = timed(call)
        if seconds < 1:
            seconds, timing.result = timed(call)
    except Exception as error:
        if not tolerant:
            raise
        timing.error = few_words(error)
    return seconds


def few_words(error: BaseException) -> str:
    """Describe an exception in one short line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:100]


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows of the same columns below a title, numbers to the right; the last column is for words."""
    names = list(rows[0])
    lines = [names, *([row[name] for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    numeric = [all(row[name][:1] in "0123456789-+" for row in rows) for name in names[:-1]] + [False]
    print(f"\n{title}\n")
    for line in lines:
        cells = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric))
        print("  ".join(cells).rstrip())
    print(flush=True)

"""Measure the speed and memory of this project's promises, and compare it with other profilers.

    python benchmarks/bench.py                      everything (some minutes)
    python benchmarks/bench.py profile import       some sections
    python benchmarks/bench.py --rounds 51          more rounds
    python benchmarks/bench.py --strict             exit with 1 where a bound is missed or unclear

Sections, all on real models of the latest release:

    profile     profile() at 640 x 640 against ultralytics-thop's profile(stride=32)
    model_info  the patched model_info() against the same checkout's own
    traffic     profile() with the operator ledger, traffic(), against profile() without it
    launches    deployed(), the count with its data flow and launches, against traffic()
    predict     the command predict on all 28 cfgs against compare
    size        profile() at 1280 x 1280, batch 64, against 64 x 64, batch 1
    memory      growth of the process's peak memory while yolov5x6 is profiled at 1280 x 1280, batch 64
    import      import of utils.thop on top of torch
    bound       the time bound of each yolov5 on this machine against a real forward pass, and their order by both
    peers       every other profiler, on yolov5s and yolov5x at 640 x 640

What is compared runs in one process, in turns; times are medians of rounds, so that a busy machine slows both sides.
It does not slow them alike: arithmetic on several threads waits for the slowest of them. Where other work keeps the
processors busy, OMP_NUM_THREADS=1 in the environment gives steadier figures, and a ratio that the fastest rounds
contradict is called unclear.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import logging
import os
import platform
import re
import shutil
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from releases import CACHE, LATEST, ROOT, copy_release, patch, release, run_python, yolo_environment
from tqdm import tqdm

from benchmarks.bound import compare_with_clock, misplaced
from benchmarks.common import interleave, print_table, real_model, twin, use_release
from benchmarks.peers import compare
from utils.thop import deployed, profile, traffic
from utils.thop.command.cli import main as main_command

PATCHED = CACHE / "bench" / LATEST
IMPORTS = 7


@dataclass
class Bound:
    """One promise and what was measured; `measured` is None, and `note` says why, where it can't be.

    fastest: for a ratio, that of the fastest rounds. Where it and the medians disagree about the bound, other work on
    the machine has slowed one side, and the verdict is that there is none.
    """

    what: str
    model: str
    measured: float | None
    unit: str
    at_least: float
    aim: float
    note: str
    fastest: float | None = None

    @property
    def verdict(self) -> str:
        """What to make of it, in a few words."""
        if self.measured is None:
            return "left out"
        if self.fastest is not None and (self.fastest > self.at_least) != (self.measured > self.at_least):
            return f"UNCLEAR, {self.fastest:.2f} x by the fastest rounds"
        if self.measured > self.at_least:
            return "MISSED"
        return "ok, aim reached" if self.measured <= self.aim else "ok"

    def row(self) -> dict[str, str]:
        """Return the row of the table."""
        measured = "-"
        if self.measured is not None:
            measured = f"{self.measured:.{2 if self.unit == 'x' else 1}f} {self.unit}"
        limits = {"at least": f"{self.at_least:g} {self.unit}", "aim": f"{self.aim:g} {self.unit}"}
        return {
            "what": self.what,
            "model": self.model,
            "measured": measured,
            **limits,
            "": self.verdict,
            "how": self.note,
        }


def ratio_bound(what: str, model: str, seconds: tuple[list[float], list[float]], at_least: float, aim: float) -> Bound:
    """Make a bound of the ratio of two medians; `seconds` holds the rounds of ours and of the other's."""
    ours, other = map(statistics.median, seconds)
    note = f"{ours * 1000:.1f} ms : {other * 1000:.1f} ms, {len(seconds[0])} rounds"
    fastest = min(seconds[0]) / min(seconds[1])
    return Bound(what, model, ours / other, "x", at_least, aim, note, fastest)


def profile_section(rounds: int) -> list[Bound]:
    """profile() at 640, exact, against the estimate of ultralytics-thop from a small image."""
    import thop

    x = torch.zeros(1, 3, 640, 640)
    bounds = []
    for size, at_least, aim in (("s", 0.7, 0.3), ("x", 0.4, 0.15)):
        model = real_model(f"yolov5{size}.yaml")
        ours_call = partial(profile, model, inputs=(x,), verbose=False)
        other_call = partial(thop.profile, twin(model), inputs=(x,), verbose=False, stride=32)
        timings = interleave({"ours": ours_call, "other": other_call}, rounds)
        ours, theirs = timings["ours"], timings["other"]
        seconds = ours.seconds, theirs.seconds
        bounds.append(ratio_bound("profile() : ultralytics-thop, stride=32", f"yolov5{size}", seconds, at_least, aim))
        bounds[-1].note += ", same operations" if ours.result[0] == theirs.result[0] else ", OPERATIONS DIFFER"
    return bounds


def model_info_section(rounds: int) -> list[Bound]:
    """model_info() of a patched checkout against the same checkout's own."""
    shutil.rmtree(PATCHED, ignore_errors=True)
    PATCHED.parent.mkdir(parents=True, exist_ok=True)
    patch(copy_release(LATEST, PATCHED) / "yolov5")
    measured = child("model_info", rounds)
    limits = (("s", 0.4, 0.2), ("x", 0.2, 0.1))
    return [
        ratio_bound("model_info() : the checkout's own", f"yolov5{s}", measured[s], low, aim) for s, low, aim in limits
    ]


def model_info_child(rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Time both functions where they live, in a process that has imported the patched copy; lines go nowhere."""
    use_release(PATCHED)
    from yolov5.utils import torch_utils

    lines = Lines()
    torch_utils.LOGGER.handlers, torch_utils.LOGGER.propagate = [lines], False
    torch_utils.LOGGER.setLevel(logging.INFO)
    measured = {}
    for size in "sx":
        model = real_model(f"yolov5{size}.yaml")
        both = {"ours": torch_utils.model_info, "own": torch_utils._checkout_model_info}
        calls = {name: partial(function, model) for name, function in both.items()}
        lines.texts.clear()
        for call in calls.values():
            call()
        ours, own = lines.texts
        if "GFLOPs" not in own or not ours.startswith(own) or "memory accesses" not in ours:
            raise RuntimeError(f"the lines to compare are not of a kind:\n{ours}\n{own}")
        timings = interleave(calls, rounds)
        measured[size] = timings["ours"].seconds, timings["own"].seconds
    return measured


class Lines(logging.Handler):
    """Keeps what is logged, so that it is formatted and shown nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


def traffic_section(rounds: int) -> list[Bound]:
    """The shape run with the operator ledger against the shape run without."""
    x = torch.zeros(1, 3, 640, 640)
    bounds = []
    for size in "sx":
        model = real_model(f"yolov5{size}.yaml")
        calls = {"with": partial(traffic, model, (x,)), "without": partial(profile, model, (x,), verbose=False)}
        timings = interleave(calls, rounds)
        seconds = timings["with"].seconds, timings["without"].seconds
        bounds.append(ratio_bound("traffic() : profile()", f"yolov5{size}", seconds, 2.0, 2.0))
    return bounds


def launches_section(rounds: int) -> list[Bound]:
    """The count with its data flow, and the launches made of it, against the operator ledger alone."""
    x = torch.zeros(1, 3, 640, 640)
    bounds = []
    for size in "sx":
        model = real_model(f"yolov5{size}.yaml")
        calls = {"with": partial(deployed, model, (x,), "rknn"), "without": partial(traffic, model, (x,))}
        timings = interleave(calls, rounds)
        seconds = timings["with"].seconds, timings["without"].seconds
        bounds.append(ratio_bound("deployed() : traffic()", f"yolov5{size}", seconds, 2.0, 1.5))
    return bounds


def predict_section(rounds: int) -> list[Bound]:
    """The command on all cfgs of the release, with a predicted time and without."""
    cfgs = str(release(LATEST) / "yolov5" / "models" / "**" / "*.yaml")

    def command(*words: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main_command([*words]) == 0

    calls = {
        "predict": partial(command, "predict", cfgs, "--device", "rk3588"),
        "compare": partial(command, "compare", cfgs),
    }
    timings = interleave(calls, min(rounds, 7))
    seconds = timings["predict"].seconds, timings["compare"].seconds
    return [ratio_bound("predict : compare", "28 cfgs", seconds, 1.2, 1.1)]


def size_section(rounds: int) -> list[Bound]:
    """A large batch of large images against a small image; images without storage, or one would take 1.2 GB."""
    model = real_model("yolov5s.yaml")
    images = {
        "large": torch.empty(64, 3, 1280, 1280, device="meta"),
        "small": torch.empty(1, 3, 64, 64, device="meta"),
    }
    calls = {name: partial(profile, model, inputs=(image,), verbose=False) for name, image in images.items()}
    timings = interleave(calls, rounds)
    seconds = timings["large"].seconds, timings["small"].seconds
    return [ratio_bound("64 x 1280 x 1280 : 1 x 64 x 64", "yolov5s", seconds, 1.2, 1.0)]


def memory_section(rounds: int) -> list[Bound]:
    """Growth of peak memory in a fresh process, after a small model has loaded all code."""
    growth = child("memory", rounds)
    note = "VmHWM of a fresh process" if growth is not None else "this system has no resettable peak of memory"
    return [Bound("growth of peak memory, 64 x 1280 x 1280", "yolov5x6", growth, "MB", 20, 5, note)]


def memory_child(rounds: int) -> float | None:
    """Return by how many MB the peak grows, or None where the system does not tell."""
    use_release()
    model = real_model("hub/yolov5x6.yaml")
    profile(torch.nn.Conv2d(3, 8, 3), inputs=(torch.empty(1, 3, 64, 64, device="meta"),), verbose=False)
    x = torch.empty(64, 3, 1280, 1280, device="meta")
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is in use now, building is forgotten
        before = peak_mb()
        profile(model, inputs=(x,), verbose=False)
        return peak_mb() - before
    except OSError:
        return None


def peak_mb() -> float:
    """Return the peak of this process's resident memory since it was last reset; raises OSError without /proc."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("no VmHWM")
    return int(found.group(1)) / 1000


IMPORT = "import torch, time; t = time.perf_counter(); import utils.thop; print(time.perf_counter() - t)"


def import_section(rounds: int) -> list[Bound]:
    """Import in fresh processes, after one that has left its bytecode."""
    environment = yolo_environment(CACHE / "settings")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = ["-W", "ignore", "-c", IMPORT]
    seconds = [
        float(run_python(command, ROOT, environment).stdout.split()[-1])
        for _ in tqdm(range(IMPORTS + 1), desc="processes", leave=False, disable=None)
    ]
    note = f"median of {IMPORTS} processes"
    return [Bound("import of utils.thop after torch", "", statistics.median(seconds[1:]) * 1000, "ms", 50, 15, note)]


def bound_section(rounds: int) -> list[Bound]:
    """The time bound against the clock: above 1 it is none."""
    compared = compare_with_clock(rounds)
    pairs = [(one.name, ([one.bound.seconds] * len(one.seconds), one.seconds)) for one in compared]
    bounds = [ratio_bound("time bound : a forward pass", name, seconds, 1.0, 1.0) for name, seconds in pairs]
    order = "networks with another place by bound than by the clock"
    return [*bounds, Bound(order, "yolov5 n-x", misplaced(compared), "of 5", 0, 0, "by the fastest rounds")]


def child(name: str, rounds: int) -> Any:
    """Run a part of this script in a process of its own, and return what it measured."""
    command = [str(Path(__file__).resolve()), "--child", name, "--rounds", str(rounds)]
    return json.loads(run_python(command, ROOT, yolo_environment(CACHE / "settings")).stdout.splitlines()[-1])


SECTIONS = {
    "profile": profile_section,
    "model_info": model_info_section,
    "traffic": traffic_section,
    "launches": launches_section,
    "predict": predict_section,
    "size": size_section,
    "memory": memory_section,
    "import": import_section,
    "bound": bound_section,
}
CHILDREN: dict[str, Callable[[int], Any]] = {"model_info": model_info_child, "memory": memory_child}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SECTIONS, "peers"]
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(names)}; all by default")
    parser.add_argument("--rounds", type=int, default=25, help="rounds of each comparison, 25 by default")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a bound is missed or unclear")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.sections if name not in names]
    if unknown or options.rounds < 1:
        parser.error(f"no section {unknown[0]!r}" if unknown else "--rounds must be at least 1")
    options.sections = options.sections or names
    return options


def machine() -> str:
    """Describe what the figures were measured on."""
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    threads = f"{os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads{busy}"
    return f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, {threads}"


def main() -> int:
    """Measure and print; return the exit status."""
    options = arguments()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options.rounds)))
        return 0
    use_release()
    print(machine(), flush=True)
    bounds: list[Bound] = []
    for name in tqdm([n for n in SECTIONS if n in options.sections], desc="sections", leave=False, disable=None):
        bounds += SECTIONS[name](options.rounds)
    if bounds:
        print_table("Bounds", [bound.row() for bound in bounds])
    for cfg in ("yolov5s", "yolov5x") if "peers" in options.sections else ():
        print_table(f"Peers: {cfg}, 1 x 3 x 640 x 640", compare(real_model(f"{cfg}.yaml"), options.rounds))
    return int(options.strict and any(bound.verdict.startswith(("MISSED", "UNCLEAR")) for bound in bounds))


if __name__ == "__main__":
    sys.exit(main())

"""Other profilers: how each is installed, imported and called, and the table that compares them with ours.

Not to be run; `benchmarks/bench.py peers` does. Each peer lives in a folder of its own below .cache/peers, because
`thop` and `ultralytics-thop` share an import name and because nothing but this comparison needs them. All are
imported into one process.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import torch
from releases import CACHE, quiet

from benchmarks.common import Timing, few_words, interleave, twin
from utils.thop import profile

SIZE = 640
SLOW_BUDGET = 3.0  # seconds for all rounds of one peer, so three rounds where one takes a second or more
Call = Callable[[Any, Any, torch.Tensor], float]


@dataclass
class Peer:
    """A profiler, and how it is asked for the multiply-accumulates of a model.

    name: of the row, the package's name before a comma; call: of (its module, model, image); memory: what it says of
    memory; requirements: what pip puts into its folder, none for a package that the environment has.
    """

    name: str
    module: str
    call: Call
    memory: str = "no"
    requirements: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The distribution that it comes from."""
        return "torch" if self.module.startswith("torch.") else self.name.partition(",")[0]


def _thop(module: Any, model: Any, x: torch.Tensor, **options: Any) -> float:
    return float(module.profile(model, inputs=(x,), verbose=False, **options)[0])


def _fvcore(module: Any, model: Any, x: torch.Tensor) -> float:
    return float(module.FlopCountAnalysis(model, x).total())


def _ptflops(module: Any, model: Any, x: torch.Tensor, backend: str) -> float:
    options = {"as_strings": False, "print_per_layer_stat": False, "backend": backend}
    macs, _ = module.get_model_complexity_info(model, tuple(x.shape[1:]), **options)
    if macs is None:
        raise RuntimeError("it gave no number")
    return float(macs)


def _torchinfo(module: Any, model: Any, x: torch.Tensor) -> float:
    return float(module.summary(model, input_size=tuple(x.shape), verbose=0).total_mult_adds)


def _torchprofile(module: Any, model: Any, x: torch.Tensor) -> float:
    return float(module.profile_macs(model, x))


def _torchscan(module: Any, model: Any, x: torch.Tensor) -> float:
    return float(module.crawl_module(model, tuple(x.shape[1:]))["totals"]["macs"]["known_value"])


def _flop_counter(module: Any, model: Any, x: torch.Tensor) -> float:
    with torch.no_grad(), module.FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 2


FVCORE = ("fvcore", "iopath", "portalocker", "tabulate", "termcolor", "yacs")
PEERS = (
    Peer("ultralytics-thop", "thop", _thop),
    Peer("ultralytics-thop, stride=32", "thop", partial(_thop, stride=32)),
    Peer("thop", "thop", _thop, requirements=("thop",)),
    Peer("fvcore", "fvcore.nn", _fvcore, requirements=FVCORE),
    Peer("ptflops, pytorch backend", "ptflops", partial(_ptflops, backend="pytorch"), requirements=("ptflops",)),
    Peer("ptflops, aten backend", "ptflops", partial(_ptflops, backend="aten"), requirements=("ptflops",)),
    Peer("torchinfo", "torchinfo", _torchinfo, "bytes held, not moved", requirements=("torchinfo",)),
    Peer("torchprofile", "torchprofile", _torchprofile, requirements=("torchprofile",)),
    Peer("torchscan", "torchscan", _torchscan, "accesses, other rules", requirements=("torchscan",)),
    Peer("FlopCounterMode", "torch.utils.flop_counter", _flop_counter),
)


def install(requirements: tuple[str, ...]) -> Path:
    """Let pip put a peer and what it needs into a folder of its own, once; raises RuntimeError with pip's reason."""
    python = "{}.{}".format(*sys.version_info[:2])
    folder = CACHE / "peers" / f"{requirements[0]}-py{python}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        target = Path(scratch) / "packages"
        options = ["--no-deps", "--quiet", "--disable-pip-version-check", "--target", str(target)]
        command = [sys.executable, "-m", "pip", "install", *options, *requirements]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            reasons = [line for line in done.stdout.splitlines() if line.startswith("ERROR")] or ["no reason given"]
            raise RuntimeError(f"pip: {reasons[-1]}")
        target.rename(folder)
    return folder


def load(name: str, folder: Path) -> ModuleType:
    """Import a module from a folder, whatever else is known by that name, which stays known by it."""
    top = name.partition(".")[0]
    hidden = {key: sys.modules.pop(key) for key in list(sys.modules) if key.partition(".")[0] == top}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        sys.path.append(str(folder))  # for what is imported when a peer is called
        if hidden:
            for key in [key for key in sys.modules if key.partition(".")[0] == top]:
                del sys.modules[key]
            sys.modules.update(hidden)


@lru_cache(maxsize=None)
def get(name: str, module: str, requirements: tuple[str, ...]) -> tuple[ModuleType, str]:
    """Return a peer's module and version, installed and imported when first asked for."""
    if not requirements:
        return importlib.import_module(module), importlib.metadata.version(name)
    folder = install(requirements)
    (found,) = importlib.metadata.distributions(name=requirements[0], path=[str(folder)])
    return load(module, folder), found.version


def compare(model: Any, rounds: int) -> list[dict[str, str]]:
    """Time ours and every peer on a model, interleaved, and return the rows of the table."""
    image = torch.zeros(1, 3, SIZE, SIZE)
    calls: dict[str, Callable[[], Any]] = {"ours": lambda: profile(model, inputs=(image,), verbose=False)}
    timings: dict[str, Timing] = {}
    versions: dict[str, str] = {}
    with quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for peer in PEERS:
            try:
                module, versions[peer.name] = get(peer.package, peer.module, peer.requirements)
                calls[peer.name] = partial(peer.call, module, twin(model), image)
            except Exception as error:
                timings[peer.name] = Timing(error=few_words(error))
        timings.update(interleave(calls, rounds, SLOW_BUDGET, tolerant=True))
    ours = timings["ours"]
    rows = [_row("ours", "", "accesses", ours, ours, ours.result.total_ops)]
    for peer in PEERS:
        timing = timings[peer.name]
        rows.append(_row(peer.name, versions.get(peer.name, ""), peer.memory, timing, ours, timing.result))
    return rows


def _row(name: str, version: str, memory: str, timing: Timing, ours: Timing, macs: Any) -> dict[str, str]:
    """Make one row of the table; a peer that did not run has its reason in the last column."""
    row = {"profiler": name, "version": version, "median ms": "-", "x ours": "-", "rounds": "-", "GFLOPs": "-"}
    if timing.error:
        return {**row, "against ours": "-", "memory": f"left out: {timing.error}"}
    expected = ours.result.total_ops
    row["median ms"], row["x ours"] = f"{timing.ms:.1f}", f"{timing.ms / ours.ms:.1f}"
    row["rounds"], row["GFLOPs"] = str(len(timing.seconds)), f"{macs * 2 / 1e9:.3f}"
    equal = macs == expected
    return {**row, "against ours": "equal" if equal else f"{(macs / expected - 1) * 100:+.2f} %", "memory": memory}

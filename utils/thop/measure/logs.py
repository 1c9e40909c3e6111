"""A profile that a runtime printed: its rows, the launches of a network that they belong to, and a device fitted to it.

RKNN's performance table, ``trtexec --exportProfile``, OpenVINO's detailed counters, ONNX Runtime's profile and what
ncnn prints when it is built with NCNN_BENCHMARK are known by what is in them.
"""

import csv
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Container, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch

from ..answer import PathLike
from ..count.calls import OperatorCall
from ..deploy.calibration import Calibration, check_time
from ..deploy.clock import Load, work_of
from ..deploy.devices import Device
from ..deploy.estimates import SHARED, Basis, Estimate, Sheet, prior_of
from ..deploy.fitting import Groups, Measured, before, fit_from
from ..deploy.launches import Deployed, Launch
from ..deploy.runtimes import DeviceError, unreadable

_LONGEST, _SHORTEST = 100.0, 1e-6  # seconds of a pass; what is beyond is in another unit
_PROFILING = 1.5  # width of what a profiler adds to each launch
_HALF, _MOST = 0.5, 0.75  # of what fits, and of a log's time: with less it is of another network
_MISFIT = 2.0  # a factor: layers that are further off say little of a whole


class LogRow(NamedTuple):
    """A row of a profile: its name there, its operator, its seconds, and the shape of its result where it is told."""

    name: str
    operator: str
    seconds: float
    output_shape: Optional[Tuple[int, ...]] = None


# ---- what runtimes print ----


def read_log(path: PathLike, runtime_name: str) -> List[LogRow]:
    """Read a profile of a runtime; raises DeviceError, in one line, for anything else.

    That is: no profile, one of another runtime, one that was cut off, times that can't be those of a pass.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    runtime = next((name for name, (form, _) in _FORMATS.items() if re.search(form, text)), None)
    if runtime is None:
        raise DeviceError(f"{path} is no profile of {', '.join(_FORMATS)}, nor a part of one that has its first line")
    if runtime != runtime_name:
        raise DeviceError(f"{path} is a profile of {runtime}, not of {runtime_name}")
    try:
        rows = list(_FORMATS[runtime][1](text))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeviceError(f"{path} is a profile of {runtime} that is cut off or damaged") from error
    if not rows:
        raise DeviceError(f"{path} is a profile of {runtime} without a row that has a time")
    odd = next((row for row in rows if not 0 <= row.seconds < math.inf), None)
    if odd is not None:
        raise DeviceError(f"{path}: {odd.name} takes {odd.seconds:g} s, which is no time")
    total = sum(row.seconds for row in rows)
    if not _SHORTEST <= total <= _LONGEST:
        raise DeviceError(f"{path}: its times sum up to {total:.3g} s, which is no pass: are they in another unit?")
    return rows


def _rknn(text: str) -> Iterator[LogRow]:
    """RKNN's table, whose columns differ between versions, in microseconds; or operator, layer and microseconds."""
    if text.startswith(_SHORT):
        for short in csv.DictReader(text.splitlines()):
            yield LogRow(short["layer"], short["operator"], float(short["microseconds"]) / 1e6)
    columns: List[str] = []
    for line in text.splitlines():
        if re.search(r"\bID\s+OpType\b", line):
            columns = re.sub(r"(DDR|NPU|Total) Cycles", r"\1", line[line.index("ID") :]).split()
        cells = re.search(r"(?:^|[\s|\]])(\d+\s+\w+\s+[A-Z]+\d*\s+(?:CPU|NPU|GPU)\s.*)", line)
        if cells and "Time(us)" in columns:
            row = dict(zip(columns, cells[1].split()))
            sides = re.fullmatch(r"\((\d+(?:,\d+)*)\)", row.get("OutputShape", ""))
            shape = tuple(map(int, sides[1].split(","))) if sides else None
            yield LogRow(row.get("FullName", row["OpType"]), row["OpType"], float(row["Time(us)"]) / 1e6, shape)


def _tensorrt(text: str) -> Iterator[LogRow]:
    """What trtexec exports, in milliseconds; what is joined it copies, part by part."""
    for row in json.loads(text):
        name, nodes = row.get("name", ""), _nodes_in(row.get("name", ""))
        operator = _unnumbered(nodes[0][-1]) if nodes else name
        if re.search(r"reformat|_copy_output", name, re.IGNORECASE):
            operator = "Reformat"
        elif name.endswith(" copy"):
            operator = "Copy"
        if name:  # else it says how many passes there were
            yield LogRow(name, operator, float(row.get("medianMs", row["averageMs"])) / 1e3)


def _openvino(text: str) -> Iterator[LogRow]:
    """OpenVINO's counters, in the unit that their heading names, which end with their total."""
    microseconds = "realTime (us)" in text.partition("\n")[0]
    for row in csv.DictReader(text.splitlines(), delimiter=";"):
        if row["layerName"] == "Total":
            return
        if row["execStatus"].endswith("EXECUTED"):
            time = float(row["realTime (us)"]) / 1e6 if microseconds else float(row["realTime (ms)"]) / 1e3
            yield LogRow(row["layerName"], row["layerType"], time)
    raise ValueError("it has no end")


def _onnxruntime(text: str) -> Iterator[LogRow]:
    """ONNX Runtime's events, in microseconds; of several runs the median of each node."""
    found: Dict[str, List[Any]] = defaultdict(list)
    for event in json.loads(text):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["name"][: -len("_kernel_time")]].append(event)
    for name, events in found.items():
        given = events[0]["args"]
        shapes = [tuple(sides) for one in given.get("output_type_shape", ()) for sides in one.values()]
        seconds = median(float(event["dur"]) for event in events) / 1e6
        yield LogRow(name, given["op_name"], seconds, shapes[0] if shapes else None)


def _ncnn(text: str) -> Iterator[LogRow]:
    """What ncnn prints of each layer, on a CPU in milliseconds, on a GPU in microseconds: [width, height, channels]."""
    for operator, name, number, unit, rest in re.findall(_LAYER, text, re.MULTILINE):
        sides = re.search(r"->\s*\[\s*(\d+),\s*(\d+),\s*(\d+)\s*\*(\d+)\]", rest)
        width, height, blocks, block = map(int, sides.groups()) if sides else (0, 0, 0, 0)
        shape = (1, blocks * block, height, width) if sides else None
        yield LogRow(name, operator, float(number) / {"ms": 1e3, "us": 1e6}[unit], shape)


_SHORT = "operator,layer,microseconds"
_LAYER = r"^\s*(\w+)\s+(\S+)\s+(-?[\d.]+)(ms|us)\s+\|(.*)"
_FORMATS: Dict[str, Any] = {
    "rknn": (rf"\bID\s+OpType\b|\A{_SHORT}", _rknn),
    "tensorrt": (r'\A\s*\[[\s\S]*"averageMs"', _tensorrt),
    "openvino": (r"\AlayerName;execStatus", _openvino),
    "onnxruntime": (r'\A\s*\[[\s\S]*"cat"[\s\S]*"op_name"', _onnxruntime),
    "ncnn": (rf"(?m){_LAYER}", _ncnn),
}
"""By runtime: what its profiles are known by, and what reads them."""


def _nodes_in(name: str) -> List[List[str]]:
    """The nodes of an exported graph that a name holds, each as the parts of its scope and its own name."""
    return [[part for part in node.split("/") if part] for node in re.findall(r"/[\w./-]+", name)]


def module_of(parts: Sequence[str], known: Container[str], strict: bool) -> Tuple[str, Optional[str]]:
    """The path of the module that a scope belongs to, and the first part behind it.

    Inside of a container that was called, parts bear its name once more (``/m/m.0``). A module that is called again has
    a number behind it (``/m_1``), which is left out where the rest is known. ``strict``: the path ends at what is not
    known, where a runtime has put words of its own behind; else all of it counts.
    """
    path, before = "", ""
    for part in parts:
        above = path[: len(path) - len(before)].rstrip(".") if before and part.startswith(f"{before}.") else path
        found = f"{above}.{part}" if above else part
        again = re.sub(r"_\d+$", "", found)
        if found not in known and again in known:
            found = again
        elif strict and found not in known:
            return path, part
        path, before = found, part
    return path, None


def _unnumbered(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


# ---- whose rows they are ----

_LEFT = re.compile(r"reorder|reformat|transpose|permute|convert|reshape|(in|out)putoperator", re.IGNORECASE)
_CURVE = "sigmoid|swish|silu|gelu|relu|clip|clamp|tanh|mish|^mul"
_WORDS = {
    "convolution": "conv",
    "product": "gemm|matmul|fullyconnected|innerproduct|linear|addmm|bmm|^mm",
    "concat": "concat|^cat$",
    "split": "split|slice|crop",
    "pool": "pool",
    "resize": "resize|interp|upsample",
    "softmax": "softmax",
    "add": "^add|eltwise|binaryop|^sum",
    "curve": _CURVE,
}
"""Kinds of operators, by what runtimes and PyTorch call them."""


def _kind(operator: str) -> str:
    return next((kind for kind, words in _WORDS.items() if re.search(words, operator, re.IGNORECASE)), operator.lower())


@dataclass
class Pair:
    """Launches, and the rows of a log that are of the same layers: one of each as a rule."""

    launches: List[Launch] = field(default_factory=list)
    rows: List[LogRow] = field(default_factory=list)

    seconds = property(lambda self: sum(row.seconds for row in self.rows))
    kind = property(lambda self: _kind(self.launches[0].operators[0]))

    @property
    def fits(self) -> bool:
        """Whether one of the launches makes as many elements as the log says, where it does."""
        told = {math.prod(row.output_shape) for row in self.rows if row.output_shape}
        made = {view.elements for launch in self.launches for step in launch.steps for view in step.writes}
        return not told or bool(told & made)


@dataclass
class Matched:
    """A log beside a network: what belongs together, and what is left of both; share: of the log's time."""

    network: Deployed
    pairs: List[Pair]
    rows_left: List[LogRow]
    launches_left: List[Launch]

    seconds = property(lambda self: sum(one.seconds for one in (*self.pairs, *self.rows_left)))
    share = property(lambda self: sum(pair.seconds for pair in self.pairs) / self.seconds)
    has_shapes = property(lambda self: any(row.output_shape for pair in self.pairs for row in pair.rows))

    def layers(self, precision: str, scale: float = 1.0) -> List[Measured]:
        """Each pair as if it were measured alone, and took so many times its seconds."""
        works = {id(one): work for one, work in zip(self.network.launches, work_of(self.network, precision))}
        batch = self.network.batch
        return [
            Measured([works[id(one)] for one in pair.launches], pair.seconds * scale, batch, True)
            for pair in self.pairs
        ]  # fmt: skip


def match_log(rows: Sequence[LogRow], network: Deployed) -> Matched:
    """Find the launches that a log's rows are of: by names of modules, or by kinds and sizes of results, in order.

    Rows of one launch are one pair, and so are launches of one row. Raises DeviceError where less than three quarters
    of the time belong to the network, or the shapes of what is called alike are others.
    """
    launches = _Launches(network)
    matched = _paired(rows, [set() if _LEFT.search(row.operator) else launches.named(row) for row in rows], network)
    if matched.share < _MOST:
        matched = max(matched, _paired(rows, launches.alike(rows), network), key=lambda one: one.share)
    if matched.share < _MOST:
        raise DeviceError(f"only {matched.share:.0%} of the log's time fits this network: a log of another one?")
    odd = [pair for pair in matched.pairs if not pair.fits]
    if len(odd) > _HALF * len(matched.pairs):
        row = next(row for row in odd[0].rows if row.output_shape)
        raise DeviceError(f"{row.name} has the shape {row.output_shape} in the log, and another here: of another size?")
    return matched


def _place(step: OperatorCall) -> Tuple[str, str]:
    return step.path, _kind(step.facts.operator)


class _Launches:
    """A network's launches, by module and kind of operator."""

    def __init__(self, network: Deployed) -> None:
        self.all = network.launches
        scopes = {step.path for step in network.flow.steps}
        self.known = {path[: match.start()] for path in scopes for match in re.finditer(r"\.|$", path)}
        self.places: Dict[Tuple[str, str], Set[int]] = defaultdict(set)
        self.readers: Dict[int, Set[int]] = defaultdict(set)
        for i, launch in enumerate(self.all):
            for view in launch.reads:
                self.readers[view.value].add(i)
            for step in launch.steps:
                self.places[_place(step)].add(i)
        # What a runtime does no more, such as a concat that the product behind it reads part by part, is its readers'.
        readers: Dict[int, Set[Tuple[str, str]]] = defaultdict(set)
        for step in network.flow.steps:
            for view in step.reads:
                readers[view.value].add(_place(step))
        for step in network.flow.steps:
            if _place(step) not in self.places:
                read_at = {at for view in step.writes for at in readers[view.value] if at in self.places}
                self.places[_place(step)] = {i for at in read_at for i in self.places[at]}

    def named(self, row: LogRow) -> Set[int]:
        """The launches of the modules whose names a row holds."""
        kind = _kind(row.operator)
        places = [(row.name, kind)] if row.name in self.known else []
        for parts in _nodes_in(row.name):
            path, behind = module_of(parts, self.known, strict=True)
            if path or len(parts) == 1:  # else it is of modules that there are not
                places.append((path, _kind(_unnumbered(behind)) if behind else kind))
        found = {i for place in places for i in self._of(*place)}
        after = self._after(found)
        if row.operator == "Copy":
            after |= self._after({i for i in after if self.all[i].operators == ["split"]})
            return {i for i in after if self.all[i].operators == ["cat"]}
        if kind != "curve" and re.search(_CURVE, row.operator, re.IGNORECASE):  # that may be a launch of its own here
            found |= {i for i in after if all(_kind(name) == "curve" for name in self.all[i].operators)}
        return found

    def _after(self, those: Set[int]) -> Set[int]:
        """Who reads what some launches write."""
        return {j for i in those for view in self.all[i].writes for j in self.readers[view.value]}

    def _of(self, path: str, kind: str) -> Set[int]:
        """The launches with an operator of a kind in a module, or in the only one of its parts that has some."""
        here = self.places.get((path, kind))
        if here:
            return here
        all_here = {i for at, those in self.places.items() if at[0] == path for i in those}
        below = [those for at, those in self.places.items() if at[1] == kind and at[0].startswith(f"{path}.") and those]
        return below[0] if len(below) == 1 and path else all_here if len(all_here) == 1 else set()

    def alike(self, rows: Sequence[LogRow]) -> List[Set[int]]:
        """The launch of each row that says its shape: the next one of its kind with as large a result."""
        waiting: Dict[Tuple[str, int], List[int]] = defaultdict(list)
        for i, launch in enumerate(self.all):
            for kind in dict.fromkeys(map(_kind, launch.operators)):
                waiting[kind, sum(view.elements for view in launch.writes[:1])].append(i)
        keys = [(_kind(row.operator), math.prod(row.output_shape or (0,))) for row in rows]
        return [{waiting[key].pop(0)} if waiting[key] else set() for key in keys]


def _paired(rows: Sequence[LogRow], found: Sequence[Set[int]], network: Deployed) -> Matched:
    """Put rows and launches together that are connected, one by one or over others."""
    groups: List[Tuple[Set[int], List[LogRow]]] = []
    left = []
    for row, those in zip(rows, found):
        if not (those and row.seconds):
            left.append(row)
            continue
        same = [group for group in groups if group[0] & those]
        groups = [group for group in groups if not group[0] & those]
        groups.append((those.union(*(g[0] for g in same)), [one for g in same for one in g[1]] + [row]))
    launches = network.launches
    pairs = [Pair([launches[i] for i in sorted(those)], its) for those, its in sorted(groups, key=lambda g: min(g[0]))]
    used = {i for those, _ in groups for i in those}
    return Matched(network, pairs, left, [launch for i, launch in enumerate(launches) if i not in used])


# ---- the device that it makes ----


@dataclass(frozen=True)
class LogFit:
    """What a log teaches: the device, its constants while it was profiled, when each launch took longer, and times.

    These are the seconds of each pair while it is profiled.
    """

    calibration: Calibration
    profiled: Estimate
    times: List[float]


def calibrate_from_log(
    matched: Matched,
    precision: str = "",
    name: str = "calibrated",
    device: Optional[Device] = None,
    seconds: Optional[float] = None,
) -> LogFit:
    """Estimate a device's constants from the layers of one network, each as if it were a network of its own.

    seconds: of a pass without profiling, which teaches what a launch, a pass and its host take on top; without it they
    keep their prior, as profiling makes each launch longer (RKNN's by some 0.1 ms). ``precision``, ``name`` and
    ``device`` are as ``calibrate`` takes them. Raises DeviceError for an unknown precision, for times that are none,
    and where less than half of the network's FLOPs are in the log.
    """
    network, runtime = matched.network, matched.network.runtime
    found, batch, flops = runtime.precision(precision), network.batch, network.flops
    left = sum(launch.flops for launch in matched.launches_left) / max(flops, 1)
    if left > _HALF:
        raise DeviceError(f"the log has no rows for {left:.0%} of the network's FLOPs: is it cut off?")
    works, layers, prior = work_of(network, found), matched.layers(found), prior_of(runtime)
    check_time(Measured(works, matched.seconds, batch), flops / matched.seconds, found, runtime.kind)
    mean, width = before(Groups({found: layers}), prior, device.sheet if device else Sheet())
    overhead = torch.arange(len(mean)) == 1 + SHARED.index("overhead")
    widths = torch.where(overhead, torch.full_like(width, _PROFILING), width)
    profiled = fit_from(Groups({found: layers}), mean, widths, prior.spread)
    kept = (~overhead).double()
    covariance = profiled.covariance * kept * kept[:, None] + torch.diag(width**2 * overhead)
    estimate = replace(profiled, mean=torch.where(overhead, mean, profiled.mean), covariance=covariance)
    if seconds is not None:
        total = Groups({found: [Measured(works, seconds, batch)]})
        estimate = fit_from(total, estimate.mean, estimate.covariance.diagonal().sqrt(), prior.spread)
    times = Groups({found: layers}).predict(profiled.mean[None], (found,))[0].exp().tolist()
    # One network was measured, and what its layers leave unexplained evens out in a whole, if they fit at all.
    off = factor_by_time(matched.pairs, times)
    basis = Basis(1, (batch, batch), f"{len(matched.pairs)} layers of one network, measured by the user")
    estimate = replace(estimate, spread=prior.spread if off < _MISFIT else math.log(off), basis=basis)
    whole, deviation = (float(values[0]) for values in estimate.predict(Load([works]), found, batch))
    ratios, rates = (whole / seconds,) if seconds else (), (flops / (seconds or matched.seconds),)
    reach, peaks = math.exp(prior.factor(1) * deviation), device.peaks if device else {}
    return LogFit(Calibration(name, runtime, found, estimate, ratios, rates, (reach,), 0, peaks), profiled, times)


def factor_by_time(pairs: Sequence[Pair], times: Sequence[float]) -> float:
    """The factor by which times are off, up or down: the geometric mean, weighted by what was measured."""
    logs = [pair.seconds * abs(math.log(time / pair.seconds)) for pair, time in zip(pairs, times)]
    return math.exp(sum(logs) / sum(pair.seconds for pair in pairs))

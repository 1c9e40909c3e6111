"""Devices: what each can compute and move at most, from devices.yaml, a file of the user's, or measured on the spot."""

import difflib
import json
import platform
import re
import time
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch

from ..answer import PathLike
from ..run import in_few_words
from ..units import dtype_name, listed
from .estimates import Estimate, Sheet, need_mapping, positive, read_runtimes
from .runtimes import DeviceError, find_runtime, from_yaml, unreadable

CATALOGUE = Path(__file__).with_name("devices.yaml")
ESTIMATES = Path(__file__).with_name("estimates.yaml")
"""The estimates of the catalogue, from published tables: JSON, read at once; checkouts ignore files of that name."""
THIS = "this"
PRECISIONS = ("float64", "float32", "tf32", "float16", "bfloat16", "int8")
KINDS = ("gpu", "cpu", "npu")
HOSTS = ("desktop", "server", "module")
_CLOSE = 5
_VARIANTS = ("cores", "streams")
_FIELDS = ("title", "kind", "host", "memory", "bandwidth", "peaks", "sources", "runtimes", "usual", "aliases")


@dataclass(frozen=True)
class Device:
    """What a device can do at most by its data sheet, and what networks were measured to take on it.

    name: its key in the file, or "this"; bandwidth: of its memory, in bytes a second, 0 where no data sheet is known;
    peaks: operations a second by precision, two for a multiply-accumulate; sources: where each figure is from, by
    precision and "bandwidth"; kind: "gpu", "cpu" or "npu"; runtimes: estimates, by runtime; memory:
    bytes of it, 0 where that is not known; host: what usually submits its work, "desktop", "server" or "module";
    aliases: what else it is called; variants: the names of the entries for numbers of cores or of streams; usual: the
    runtime that is meant where nobody names one, else the first that was measured.
    """

    name: str
    title: str
    bandwidth: float
    peaks: Mapping[str, float]
    sources: Mapping[str, str]
    kind: str = "gpu"
    runtimes: Mapping[str, Estimate] = field(default_factory=dict)
    memory: float = 0.0
    host: str = ""
    aliases: Tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    usual: str = ""

    @property
    def sheet(self) -> Sheet:
        """What is known of it without measuring."""
        return Sheet(self.bandwidth, self.peaks, self.host)

    def need_data_sheet(self) -> None:
        """Raise DeviceError where none is known, so that there is no least time either."""
        if not self.bandwidth:
            raise DeviceError(f"{self.name} ({self.title}) has no data sheet here, so its least time is not known")

    def peak(self, dtype: torch.dtype) -> float:
        """Operations a second on operands of ``dtype``; raises DeviceError where that is not known."""
        precision = dtype_name(dtype)
        if precision not in self.peaks:
            known = f"only one for {listed(self.peaks)}" if self.peaks else "none at all"
            raise DeviceError(f"{self.name} ({self.title}) has no peak for {precision}, {known}")
        return self.peaks[precision]


# ---- files ----


def load_devices(path: Optional[PathLike] = None) -> Dict[str, Device]:
    """Read devices.yaml, and over it the devices of a file of the same form, by name.

    Names are in lower case, with hyphens for spaces and underscores.

    Raises DeviceError, with the file and the entry, for a file that can't be read or an entry that is not complete.
    """
    devices = dict(_catalogue())
    if path is not None:
        devices.update(_read(Path(path)))
    return devices


@lru_cache(maxsize=1)
def _catalogue() -> Dict[str, Device]:
    estimates = json.loads(ESTIMATES.read_text(encoding="utf-8")) if ESTIMATES.is_file() else {}
    return _read(CATALOGUE, estimates)


def _read(path: Path, estimates: Mapping[str, Any] = MappingProxyType({})) -> Dict[str, Device]:
    """Read a file of devices, with estimates that stand beside it."""
    import yaml  # here, so that counting needs torch alone

    try:
        entries = from_yaml(path.read_text(encoding="utf-8"), quickly=path == CATALOGUE)
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise DeviceError(f"{path} is no text in UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or in_few_words(error)
        raise DeviceError(f"{path}{where} is no valid YAML: {problem}") from error
    if not isinstance(entries, dict) or not entries:
        raise DeviceError(f"{path} holds no devices; {CATALOGUE.name} shows the form")
    devices = [_device(str(name), entry, path, estimates.get(name, {})) for name, entry in entries.items()]
    return {device.name: device for device in devices}


def listed_devices(devices: Mapping[str, Device]) -> List[Device]:
    """The devices but those that are reached by a number of cores or streams of another."""
    reached = {
        n for one in devices.values() for names in one.variants.values() for n in names.values() if n != one.name
    }
    return [device for device in devices.values() if device.name not in reached]


def key_of(name: str) -> str:
    """Write a device's name as the files do: "RTX 3090" is rtx-3090."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def _device(name: str, entry: Any, path: Path, estimates: Mapping[str, Any]) -> Device:
    """Make a device of an entry in the units of the file: GB/s and TFLOPS."""
    where = f"{path}: {name}"
    if key_of(name) == THIS:
        raise DeviceError(f"{where}: this name is kept for the machine that is measured")
    need_mapping(entry, where, (*_FIELDS, *_VARIANTS))
    kind = entry.get("kind") or "gpu"
    if kind not in KINDS:
        raise DeviceError(f"{where}: kind must be {listed(KINDS, ' or ')}, not {kind!r}")
    measured = entry.get("runtimes") or estimates
    runtimes = read_runtimes(measured, f"{where}: runtimes") if measured else {}
    bandwidth, rates, given = _data_sheet(entry, where, path, needed=not runtimes and path != CATALOGUE)
    memory = positive(entry["memory"], f"{where}: memory") * 1e9 if entry.get("memory") is not None else 0.0
    host = str(entry.get("host") or "")
    if host and host not in HOSTS:
        raise DeviceError(f"{where}: host must be {listed(HOSTS, ' or ')}, not {host!r}")
    title, aliases = str(entry.get("title") or name), tuple(map(key_of, map(str, entry.get("aliases") or ())))
    variants = {what: {str(n): key_of(one) for n, one in entry[what].items()} for what in _VARIANTS if entry.get(what)}
    figures = bandwidth, rates, given, kind, runtimes, memory, host
    usual = find_runtime(entry["usual"]).name if entry.get("usual") else ""
    return Device(key_of(name), title, *figures, aliases, variants, usual)


def _data_sheet(entry: Any, where: str, path: Path, needed: bool) -> Tuple[float, Dict[str, float], Dict[str, str]]:
    """Return an entry's bandwidth, peaks and sources; without any, it takes measured figures."""
    if not needed and not entry.get("bandwidth") and not entry.get("peaks"):
        return 0.0, {}, {}
    for name in ("bandwidth", "peaks"):
        if entry.get(name) in (None, {}):
            raise DeviceError(f"{where}: {name} is missing")
    peaks, sources = entry["peaks"], entry.get("sources") or {}
    need_mapping(peaks, f"{where}: peaks", PRECISIONS)
    need_mapping(sources, f"{where}: sources", ("bandwidth", *PRECISIONS))
    bandwidth = positive(entry["bandwidth"], f"{where}: bandwidth") * 1e9
    rates = {precision: positive(value, f"{where}: {precision}") * 1e12 for precision, value in peaks.items()}
    return bandwidth, rates, {figure: str(sources.get(figure) or path) for figure in ("bandwidth", *rates)}


def find_device(
    name: str,
    path: Optional[PathLike] = None,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    cores: Optional[int] = None,
    streams: Optional[str] = None,
) -> Device:
    """Return a device by its name or alias: "RTX 3090", "rtx-3090" and "3090" are the same.

    "this" is the machine that this runs on; it is measured, for ``dtypes``. cores, streams: how many of them, where a
    device was measured with several. Raises DeviceError for an unknown name, with those that come close, for a number
    that nothing is known of, and as ``load_devices`` and ``measure_this`` do.
    """
    devices = load_devices(path)
    key = key_of(name)
    if key == THIS:
        return measure_this(dtypes)
    called = {alias: device.name for device in devices.values() for alias in device.aliases}
    called.update((known, known) for known in devices)
    bare = {one.replace("-", ""): known for one, known in called.items()}
    found = called.get(key) or bare.get(key.replace("-", ""))
    if found is None:
        close = [known for known in devices if key and key in known][:_CLOSE]
        close = close or list(dict.fromkeys(called[one] for one in difflib.get_close_matches(key, called, n=3)))
        hint = f"did you mean {listed(close, ' or ')}?" if close else "the command 'devices' lists those that are known"
        raise DeviceError(f"no device is called {name!r}; {hint}")
    device = devices[found]
    for what, wanted in (("cores", cores), ("streams", streams)):
        known = device.variants.get(what, {})
        if wanted is not None and str(wanted) not in known:
            measured = f"was measured with {listed(known, ' and ')}" if known else "is not known by their number"
            raise DeviceError(f"{device.name} ({device.title}): {what}: nothing is known of {wanted}; it {measured}")
        device = device if wanted is None else devices[known[str(wanted)]]
    return device


# ---- this machine ----

COPY_SECONDS = 0.2
PRODUCT_SECONDS = 0.3
_SHORTEST = 1e-3  # what is timed at once, in seconds: enough for the clock and for the start of a GPU's kernels
_LONG = 15e-3  # a call that takes more than this many seconds is large enough, and the next would take eight times that
_SMALLEST_SIDE = 128
_LARGEST_SIDE = 8192
_MIB = 1 << 20


def measure_this(dtypes: Sequence[torch.dtype]) -> Device:
    """Measure this machine: its current CUDA device, or else its CPU with torch's number of threads.

    It takes about half a second, and on a GPU the time to wake it. The bandwidth is that of a copy far larger than the
    caches, into other memory and in place, counting bytes read and written; a peak is that of matrix products of
    several sizes, as such and as 1 x 1 convolutions. Each figure is the best of many rounds, because a bound needs the
    highest. Nothing is kept, no random number drawn.

    Raises DeviceError for a dtype in which torch can't multiply here, or where memory does not suffice.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
    wanted = list(dict.fromkeys(dtypes))
    try:
        bandwidth = _copy_rate(where)
    except RuntimeError as error:
        raise _not_measured("no bandwidth", error) from error
    peaks = {dtype_name(one): _product_rate(one, where, PRODUCT_SECONDS / len(wanted)) for one in wanted}
    sources = dict.fromkeys(("bandwidth", *peaks), "measured")
    return Device(THIS, _name(where), bandwidth, peaks, sources, "gpu" if kind == "cuda" else "cpu")


def _not_measured(what: str, error: Exception) -> DeviceError:
    return DeviceError(f"this machine can't be measured: {what} ({in_few_words(error)})")


class _Work(NamedTuple):
    """Something to time: so many bytes or operations a call."""

    amount: float
    call: Callable[[], Any]


def _best_rate(works: Sequence[_Work], where: torch.device, seconds: float) -> float:
    """The highest amount a second of any of ``works``, timed in turns for so long, each once at least.

    Those far from the best are left out.
    """
    deadline = time.perf_counter() + seconds
    rates = [work.amount / _seconds(work.call, where) for work in works]
    while time.perf_counter() < deadline:
        for i, work in enumerate(works):
            if 2 * rates[i] > max(rates):
                rates[i] = max(rates[i], work.amount / _seconds(work.call, where))
    return max(rates)


def _seconds(call: Callable[[], Any], where: torch.device) -> float:
    """The seconds of a call, by as many as the clock needs."""
    for repeats in (1, 10, 100):
        _wait_for(where)
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        _wait_for(where)
        taken = time.perf_counter() - started
        if taken > _SHORTEST:
            break
    return taken / repeats


def _wait_for(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def _copy_rate(where: torch.device) -> float:
    """Bytes read and written a second.

    A CPU that writes to other memory mostly reads that first, which nobody counts; an operator in place spares it that.
    """
    memory = torch.ones(_memory_bytes(where) // 4, dtype=torch.float32, device=where)
    source, target = memory.chunk(2)
    copied = _Work(4.0 * memory.numel(), partial(target.copy_, source))
    return _best_rate([copied, _Work(8.0 * memory.numel(), memory.relu_)], where, COPY_SECONDS)


def _memory_bytes(where: torch.device) -> int:
    """How much memory to go through: four times what the last cache holds."""
    if where.type == "cuda":
        return min(512 * _MIB, torch.cuda.mem_get_info(where)[0] // 4)
    cache = _last_cache_bytes()
    return min(max(4 * cache, 128 * _MIB), 1024 * _MIB) if cache else 256 * _MIB


def _last_cache_bytes() -> int:
    """Bytes in all third-level caches of the CPU, as Linux tells them; 0 where it does not."""
    sizes: Dict[str, int] = {}
    for cache in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index3"):
        try:
            sizes[(cache / "shared_cpu_list").read_text()] = int((cache / "size").read_text().rstrip("K\n")) * 1024
        except (OSError, ValueError):
            continue
    return sum(sizes.values())


def _product_rate(dtype: torch.dtype, where: torch.device, seconds: float) -> float:
    """Operations a second in ``dtype``, of square matrices: small ones are slow, and for their caches so may large be.

    They are multiplied as such, and as 1 x 1 convolutions: these may be another library's, which rounds to tf32.
    """
    works: List[_Work] = []
    for convolves in (False, True) if dtype.is_floating_point else (False,):
        side = _SMALLEST_SIDE
        try:
            while side <= _LARGEST_SIDE:
                work = _product(side, dtype, where, convolves)
                work.call()  # the first one loads code and reserves memory
                works.append(work)
                if _seconds(work.call, where) > _LONG:
                    break
                side *= 2
        except RuntimeError as error:
            if side == _SMALLEST_SIDE and not convolves:
                raise _not_measured(f"no peak for {dtype_name(dtype)}", error) from error
    return _best_rate(works, where, seconds)


def _product(side: int, dtype: torch.dtype, where: torch.device, convolves: bool) -> _Work:
    a, b = (torch.ones(side, side, dtype=dtype, device=where) for _ in range(2))
    call: Callable[[], Any] = partial(torch.mm, a, b.t(), out=torch.empty_like(a))
    if convolves:
        call = partial(torch.conv2d, a.view(1, side, 16, side // 16), b.view(side, side, 1, 1))
    return _Work(2.0 * side**3, call)


def _name(where: torch.device) -> str:
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine() or "CPU"

"""Devices: what each can compute and move at most, from devices.yaml, a file of the user's, or measured on the spot."""

import difflib
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from ..answer import PathLike
from ..run import in_few_words
from ..units import dtype_name, listed
from .estimates import Estimate, Sheet, positive, read_runtimes
from .machine import MeasureError, measure
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
_FIELDS = (
    "title",
    "kind",
    "host",
    "memory",
    "bandwidth",
    "peaks",
    "sources",
    "runtimes",
    "usual",
    "aliases",
    *_VARIANTS,
)


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
    _check_keys(entry, _FIELDS, where)
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
    _check_keys(peaks, PRECISIONS, f"{where}: peaks")
    _check_keys(sources, ("bandwidth", *PRECISIONS), f"{where}: sources")
    bandwidth = positive(entry["bandwidth"], f"{where}: bandwidth") * 1e9
    rates = {precision: positive(value, f"{where}: {precision}") * 1e12 for precision, value in peaks.items()}
    return bandwidth, rates, {figure: str(sources.get(figure) or path) for figure in ("bandwidth", *rates)}


def _check_keys(value: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(value, dict):
        raise DeviceError(f"{where}: not a mapping; {CATALOGUE.name} shows the form")
    unknown = [str(key) for key in value if key not in known]
    if unknown:
        raise DeviceError(f"{where}: {unknown[0]} is not known here, only {listed(known)}")


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
        if wanted is not None:
            device = devices[_variant(device, what, str(wanted))]
    return device


def _variant(device: Device, what: str, wanted: str) -> str:
    """The name of the entry for a number of cores or streams."""
    known = device.variants.get(what, {})
    if wanted not in known:
        measured = f"was measured with {listed(known, ' and ')}" if known else "is not known by their number"
        raise DeviceError(f"{device.name} ({device.title}): {what}: nothing is known of {wanted}; it {measured}")
    return known[wanted]


def measure_this(dtypes: Sequence[torch.dtype]) -> Device:
    """Measure the machine that this runs on, in about half a second: ``machine.measure`` tells how.

    Raises DeviceError for a dtype in which torch can't multiply here, or where memory does not suffice.
    """
    try:
        speed = measure(dtypes)
    except MeasureError as error:
        raise DeviceError(f"this machine can't be measured: {error}") from error
    peaks = {dtype_name(dtype): rate for dtype, rate in speed.peaks.items()}
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    return Device(THIS, speed.name, speed.bandwidth, peaks, dict.fromkeys(("bandwidth", *peaks), "measured"), kind)

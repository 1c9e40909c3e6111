"""Estimates: what is known of a device's constants under a runtime, and how surely.

The logarithms of all constants are normal, with a mean and a covariance. Where nothing was measured they are those of
devices of its kind (``priors.yaml``), with peak and bandwidth as shares of the device's data sheet; each measurement
narrows what it speaks of (``fitting.py``), and the rest keeps its width. ``devices.yaml`` holds what came of published
tables.
"""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..units import listed
from .clock import Constants, Load
from .runtimes import DeviceError, Runtime, all_runtimes, from_yaml

PRIORS = Path(__file__).with_name("priors.yaml")
SHARED = Constants._fields[1:]  # by all precisions of a device
UNITS = {"peak": 1e12, "bandwidth": 1e9, "overhead": 1e-6, "start": 1e-6, "host": 1e-6}
"""What a constant of one is in the files: TFLOPS or TOPS, GB/s, microseconds; factors are what they are."""
STATES = {"sheet": 0, "one": 1, "three": 3, "five": 5, "many": 12}
"""How much is known of a device, by networks measured on it; ranges are scaled by a factor for each."""
ARITHMETIC = {  # which peaks of a data sheet a runtime's precisions may reach, the first that is there
    "amp": ("bfloat16", "float16"),  # torch sums float16 products in float32, at the rate of bfloat16
    "float16": ("float16",),
    "float32": ("tf32", "float32"),
    "int8": ("int8",),
}
NINE_OF_TEN = 1.645  # deviations of a normal distribution
_STEP = 1e-4
_UNLIKE, _FAR = 0.12, 4.0  # further spread for batches that many times outside of those that were measured
_STATED = 0.1  # width of a constant that somebody has written down
_OTHER_PRECISION = 0.25  # how far off another precision's share of its peak may be


@dataclass(frozen=True)
class Prior:
    """What the constants of devices of one kind are: means and widths of their logarithms.

    shares: of the data sheet's peak and bandwidth, each with its width; spread: what stays unexplained of a network;
    hosts: mean and width for the hosts that devices of a kind usually have; factors: what the width of a range is
    multiplied by, for each of ``STATES``, so that nine of ten lie inside;
    devices: how many taught it.
    """

    mean: Tuple[float, ...]
    width: Tuple[float, ...]
    shares: Tuple[Tuple[float, float], Tuple[float, float]]
    spread: float
    factors: Mapping[str, float]
    devices: int = 0
    hosts: Mapping[str, Tuple[float, float]] = field(default_factory=dict)

    def factor(self, networks: int) -> float:
        """The factor for so many measured networks, between those of the states beside it."""
        known = [(count, self.factors[name]) for name, count in STATES.items()]
        for (low, first), (high, second) in zip(known, known[1:]):
            if networks <= high:
                return first + (second - first) * (networks - low) / (high - low)
        return known[-1][1]


@dataclass(frozen=True)
class Basis:
    """What an estimate rests on: how many networks, in batches from and to, and who measured them.

    error: how far off networks were that were left out, as a mean factor; 0 where that was not tried.
    """

    networks: int = 0
    batches: Tuple[int, int] = (1, 1)
    source: str = ""
    error: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """The constants of a device under a runtime: logarithms of a peak for each precision and of what they share.

    mean: [precisions + shared]; covariance: of it; spread: what they leave unexplained of a network's time.
    """

    precisions: Tuple[str, ...]
    mean: Tensor = field(repr=False)
    covariance: Tensor = field(repr=False)
    spread: float
    basis: Basis = field(default_factory=Basis)

    def constants(self, precision: str) -> Constants:
        """The constants in a precision, in base units."""
        return constants_of(self.mean, self.precisions, precision)

    def width(self, load: Load, precision: str, batch: int = 1) -> Tensor:
        """The standard deviation of the logarithm of each network's time."""
        return self.predict(load, precision, batch)[1]

    def predict(self, load: Load, precision: str, batch: int = 1) -> Tuple[Tensor, Tensor]:
        """The seconds of each network, and the standard deviation of their logarithm."""
        points = with_steps(self.mean)
        seconds = load.seconds(constants_of(points, self.precisions, precision)).clamp_min(1e-12)
        slopes = slopes_of(seconds.log())
        variance = (slopes * (self.covariance @ slopes)).sum(0).clamp_min(0.0)
        low, high = self.basis.batches
        unlike = _UNLIKE if self.basis.networks and not low / _FAR <= batch <= high * _FAR else 0.0
        return seconds[0], (variance + self.spread**2 + unlike**2).sqrt()


def with_steps(point: Tensor) -> Tensor:
    """A point, and one a little further along each of its axes, in rows."""
    return torch.cat([point[None], point + _STEP * torch.eye(len(point), dtype=torch.float64, device="cpu")])


def slopes_of(values: Tensor) -> Tensor:
    """The derivatives by each axis of what was found at ``with_steps``, in rows."""
    return (values[1:] - values[0]) / _STEP


def constants_of(logarithms: Tensor, precisions: Sequence[str], precision: str) -> Constants:
    """Turn logarithms, of one point or of several in rows, into constants; of several they are columns."""
    values = logarithms.exp()
    columns: Sequence[Any] = values.tolist() if values.dim() == 1 else values.unsqueeze(-1).unbind(1)
    return Constants(columns[precisions.index(precision)], *columns[len(precisions) :])


# ---- from a prior ----


@lru_cache(maxsize=1)
def priors() -> Dict[str, Prior]:
    """Read the priors, by runtime and by kind of device."""
    return {kind: _prior(entry) for kind, entry in from_yaml(PRIORS.read_text(encoding="utf-8")).items()}


def prior_of(runtime: Runtime) -> Prior:
    """Return the prior of a runtime's devices, or of their kind where none of them was measured.

    A CPU's dense convolutions are faster than their definition by Winograd's algorithm alone, where the runtime has it.
    """
    known = priors()
    if runtime.name in known:
        return known[runtime.name]
    prior, dense = known[runtime.family], Constants._fields.index("dense")
    if runtime.kind != "cpu" or runtime.winograd:
        return prior
    return replace(prior, mean=(*prior.mean[:dense], 0.0, *prior.mean[dense + 1 :]))


def _prior(entry: Mapping[str, Any]) -> Prior:
    pairs = [entry["constants"][name] for name in Constants._fields]
    units = [UNITS.get(name, 1.0) for name in Constants._fields]
    mean = tuple(math.log(value * unit) for (value, _), unit in zip(pairs, units))
    shares = [entry["shares"][name] for name in ("peak", "bandwidth")]
    peak, bandwidth = [(math.log(share), width) for share, width in shares]
    width = tuple(width for _, width in pairs)
    hosts = {name: (math.log(value * UNITS["host"]), width) for name, (value, width) in entry.get("hosts", {}).items()}
    return Prior(mean, width, (peak, bandwidth), entry["spread"], entry["factors"], entry["devices"], hosts)


def sheet_peak(peaks: Mapping[str, float], precision: str) -> Optional[float]:
    """The peak of a data sheet that a precision of a runtime may reach; None where there is none."""
    return next((peaks[name] for name in ARITHMETIC[precision] if name in peaks), None)


@dataclass(frozen=True)
class Sheet:
    """What is known of a device without measuring: its data sheet, in bytes and operations a second, and its host."""

    bandwidth: float = 0.0
    peaks: Mapping[str, float] = field(default_factory=dict)
    host: str = ""


def before_measuring(prior: Prior, precisions: Sequence[str], sheet: Sheet) -> Tuple[Tensor, Tensor]:
    """Return the mean and width of each constant's logarithm, from the kind and, where it is known, the data sheet."""
    mean, width = list(prior.mean[1:]), list(prior.width[1:])
    rates = [sheet_peak(sheet.peaks, precision) for precision in precisions]
    if sheet.bandwidth:
        mean[0], width[0] = math.log(sheet.bandwidth) + prior.shares[1][0], prior.shares[1][1]
    if sheet.host in prior.hosts:
        at = SHARED.index("host")
        mean[at], width[at] = prior.hosts[sheet.host]
    (share, share_width), alone = prior.shares[0], (prior.mean[0], prior.width[0])
    first = [(math.log(rate) + share, share_width) if rate else alone for rate in rates]
    means, widths = [m for m, _ in first] + mean, [w for _, w in first] + width
    both = torch.tensor([means, widths], dtype=torch.float64, device="cpu")
    return both[0], both[1]


def of_sheet(runtime: Runtime, precision: str, sheet: Sheet) -> Estimate:
    """Estimate a device of which only the data sheet is known."""
    prior = prior_of(runtime)
    mean, width = before_measuring(prior, (precision,), sheet)
    return Estimate((precision,), mean, torch.diag(width**2), prior.spread)


def with_precision(known: Estimate, precision: str, peaks: Mapping[str, float]) -> Optional[Estimate]:
    """Add a precision that was not measured, by the share that the others reach of the data sheet; None without one."""
    rate = sheet_peak(peaks, precision)
    others = [(i, sheet_peak(peaks, name)) for i, name in enumerate(known.precisions)]
    shares = [(i, float(known.mean[i]) - math.log(peak)) for i, peak in others if peak]
    if not rate or not shares:
        return None
    mean = torch.cat([known.mean.new_tensor([math.log(rate) + sum(s for _, s in shares) / len(shares)]), known.mean])
    like = known.covariance[shares[0][0]]
    size = len(mean)
    covariance = known.covariance.new_zeros(size, size)
    covariance[1:, 1:], covariance[0, 1:], covariance[1:, 0] = known.covariance, like, like
    covariance[0, 0] = like[shares[0][0]] + _OTHER_PRECISION**2
    return Estimate((precision, *known.precisions), mean, covariance, known.spread, known.basis)


def joined(new: Estimate, old: Estimate) -> Estimate:
    """Add the peaks of an older estimate of the same device in precisions that the new one does not have."""
    others = [i for i, name in enumerate(old.precisions) if name not in new.precisions]
    count, size = len(new.precisions), len(new.mean)
    order = [*range(count), *range(size, size + len(others)), *range(count, size)]
    mean = torch.cat([new.mean, old.mean[others]])[order]
    covariance = torch.block_diag(new.covariance, torch.diag(old.covariance.diagonal()[others]))[order][:, order]
    names = (*new.precisions, *(old.precisions[i] for i in others))
    return replace(new, precisions=names, mean=mean, covariance=covariance)


# ---- in files ----


def _rounded(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def entry_of(estimate: Estimate) -> Dict[str, Any]:
    """What stands in a file of an estimate."""
    values = estimate.mean.exp().tolist()
    count = len(estimate.precisions)
    peaks = {name: _rounded(value / UNITS["peak"]) for name, value in zip(estimate.precisions, values)}
    constants = {n: _rounded(v / UNITS.get(n, 1.0)) for n, v in zip(SHARED, values[count:])}
    rows = [[_rounded(value, 3) for value in row[: i + 1]] for i, row in enumerate(estimate.covariance.tolist())]
    basis = estimate.basis
    return {
        "peaks": peaks,
        **constants,
        "covariance": [value for row in rows for value in row],
        "spread": _rounded(estimate.spread),
        "networks": basis.networks,
        "batches": list(basis.batches),
        "source": basis.source,
        **({"error": _rounded(basis.error)} if basis.error else {}),
    }


def read_runtimes(entries: Any, where: str) -> Dict[str, Estimate]:
    """Read a device's ``runtimes``; raises DeviceError, saying where, for what is none."""
    found: Dict[str, Estimate] = {}
    for name, entry in need_mapping(entries, where).items():
        if name not in all_runtimes():
            raise DeviceError(f"{where}: no runtime is called {name!r}, only {listed(all_runtimes())}")
        place = f"{where}: {name}"
        found[name] = _estimate(need_mapping(entry, place), all_runtimes()[name], place)
    return found


def need_mapping(value: Any, where: str, known: Sequence[str] = ()) -> Mapping[str, Any]:
    """Return a mapping, of known keys alone where such are named; raises DeviceError, saying where, otherwise."""
    if not isinstance(value, dict) or not (value or known):
        raise DeviceError(f"{where}: not a mapping; devices.yaml shows the form")
    unknown = [str(key) for key in value if known and key not in known]
    if unknown:
        raise DeviceError(f"{where}: {unknown[0]} is not known here, only {listed(known)}")
    return value


_OTHERS = ("peaks", "covariance", "spread", "networks", "batches", "source", "error")


def _estimate(entry: Mapping[str, Any], runtime: Runtime, where: str) -> Estimate:
    unknown = next((str(key) for key in entry if key not in SHARED and key not in _OTHERS), "")
    if unknown in runtime.precisions:
        raise DeviceError(f"{where}: {unknown}: in the form of version 2.0; make it again with 'calibrate'")
    need_mapping(entry, where, (*SHARED, *_OTHERS))
    peaks = {str(name): value for name, value in need_mapping(entry.get("peaks"), f"{where}: peaks").items()}
    for precision in peaks:
        if precision not in runtime.precisions:
            raise DeviceError(f"{where}: peaks: {precision}: {runtime.name} has {listed(runtime.precisions)}")
    prior = prior_of(runtime)
    mean, width = before_measuring(prior, tuple(peaks), Sheet())
    named = [(name, "peak", value) for name, value in peaks.items()] + [(n, n, entry.get(n)) for n in SHARED]
    for i, (name, unit, value) in enumerate(named):
        if value is not None:
            mean[i] = math.log(positive(value, f"{where}: {name}") * UNITS.get(unit, 1.0))
            width[i] = _STATED
    covariance = torch.diag(width**2)
    if entry.get("covariance") is not None:
        covariance = _triangle(entry["covariance"], len(mean), where)
    elif entry.get("spread") is not None:  # somebody has set the constants by hand, and how far off they are
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device="cpu")
    spread = positive(entry.get("spread", prior.spread), f"{where}: spread")
    low, high = entry.get("batches") or (1, 1)
    networks = int(positive(entry.get("networks", 1), f"{where}: networks"))
    error = positive(entry.get("error", 1.0), f"{where}: error") if "error" in entry else 0.0
    basis = Basis(networks, (int(low), int(high)), str(entry.get("source") or where), error)
    return Estimate(tuple(peaks), mean, covariance, spread, basis)


def _triangle(values: Any, size: int, where: str) -> Tensor:
    """Make a covariance of its lower triangle, row by row."""
    numbers = values if isinstance(values, list) else []
    if len(numbers) != size * (size + 1) // 2 or not all(isinstance(value, (int, float)) for value in numbers):
        raise DeviceError(f"{where}: covariance has {size * (size + 1) // 2} numbers for these precisions")
    rows, columns = torch.tril_indices(size, size, device="cpu")
    found = torch.zeros(size, size, dtype=torch.float64, device="cpu")
    found[rows, columns] = found[columns, rows] = torch.tensor(numbers, dtype=torch.float64, device="cpu")
    return found


def positive(value: Any, where: str) -> float:
    """Read a number above 0; raises DeviceError for anything else."""
    try:
        # YAML reads 1e3 as text, for want of a dot and a sign
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise DeviceError(f"{where} must be a number above 0, not {value!r}")
    return number

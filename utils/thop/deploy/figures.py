"""Figures: the constants of a device under a runtime, with what they rest on, as devices.yaml writes them."""

from dataclasses import dataclass
from typing import Any, Dict, Mapping

from ..units import listed
from .clock import Constants
from .errors import DeviceError
from .fitting import Fit
from .runtimes import RUNTIMES

_UNITS = {"peak": 1e12, "bandwidth": 1e9, "overhead": 1e-6, "host": 1e-6, "softmax": 1e9}
"""What a constant of one is in the file: TFLOPS or TOPS, GB/s, microseconds."""
_BASIS = ("networks", "error", "spread", "source")
_DIGITS = 4


@dataclass(frozen=True)
class Figures:
    """How fast a device is under a runtime, in one precision.

    networks: how many were measured; error, spread: the factors by which predictions of networks that were left out
    are off on average, and in nine of ten cases at most; source: who measured them.
    """

    constants: Constants
    networks: int
    error: float
    spread: float
    source: str

    @classmethod
    def of(cls, fit: Fit, source: str) -> "Figures":
        """The figures that a fit has found."""
        return cls(fit.constants, len(fit.ratios), fit.error, fit.spread, source)

    def entry(self) -> Dict[str, Any]:
        """What stands in the file; a constant that is 0 does not."""
        found = {name: _rounded(getattr(self.constants, name) / unit) for name, unit in _UNITS.items()}
        entry: Dict[str, Any] = {name: value for name, value in found.items() if value}
        return {
            **entry,
            "networks": self.networks,
            "error": _rounded(self.error),
            "spread": _rounded(self.spread),
            "source": self.source,
        }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def read_runtimes(entries: Any, where: str) -> Dict[str, Dict[str, Figures]]:
    """Read a device's ``runtimes``, by runtime and precision; raises DeviceError, saying where, for what is none."""
    found: Dict[str, Dict[str, Figures]] = {}
    for runtime, precisions in _mapping(entries, where).items():
        if runtime not in RUNTIMES:
            raise DeviceError(f"{where}: no runtime is called {runtime!r}, only {listed(RUNTIMES)}")
        for precision, entry in _mapping(precisions, f"{where}: {runtime}").items():
            place = f"{where}: {runtime}: {precision}"
            if precision not in RUNTIMES[runtime].precisions:
                raise DeviceError(f"{place}: {runtime} has {listed(RUNTIMES[runtime].precisions)}")
            found.setdefault(runtime, {})[precision] = _figures(_mapping(entry, place), place)
    return found


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise DeviceError(f"{where}: not a mapping; devices.yaml shows the form")
    return value


def _figures(entry: Mapping[str, Any], where: str) -> Figures:
    unknown = [str(key) for key in entry if key not in _UNITS and key not in _BASIS]
    if unknown:
        raise DeviceError(f"{where}: {unknown[0]} is not known here, only {listed((*_UNITS, *_BASIS))}")
    for needed in ("peak", "bandwidth", "error"):
        if needed not in entry:
            raise DeviceError(f"{where}: {needed} is missing")
    numbers = {name: positive(entry[name], f"{where}: {name}") for name in (*_UNITS, *_BASIS[:3]) if name in entry}
    constants = Constants(**{name: numbers[name] * unit for name, unit in _UNITS.items() if name in numbers})
    error = max(numbers["error"], 1.0)
    spread = max(numbers.get("spread", error**2), error)
    return Figures(constants, int(numbers.get("networks", 0)), error, spread, str(entry.get("source") or where))


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


__all__ = ["Figures", "positive", "read_runtimes"]

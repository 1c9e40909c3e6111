"""Calibration: the constants of a device from a handful of networks that somebody has measured on it."""

import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Iterable, List, Sequence, Tuple

from ..answer import Answer
from .clock import Constants, seconds_of, work_of
from .devices import load_devices
from .errors import DeviceError
from .figures import Figures
from .fitting import Fit, Measured, fit
from .launches import Deployed
from .runtimes import Runtime
from .sheets import sheet_limits


@dataclass(frozen=True, repr=False)
class Calibration(Answer):
    """A device that was measured: what ``predict`` takes for one.

    constants: what was fitted; errors: predicted by measured time of each network, by constants fitted to the others;
    error: the factor by which these are off, as a geometric mean; rates: FLOP/s that each network's time comes to.
    """

    name: str
    runtime: Runtime
    precision: str
    fit: Fit
    rates: Tuple[float, ...] = ()

    @property
    def constants(self) -> Constants:
        """What was fitted."""
        return self.fit.constants

    @property
    def errors(self) -> Tuple[float, ...]:
        """Predicted by measured seconds of each network, in their order, by constants fitted to all others."""
        return self.fit.ratios

    @property
    def error(self) -> float:
        """The factor by which predictions of unseen networks are off: 1.09 for 9 %."""
        return self.fit.error

    def figures(self, source: str = "measured by the user") -> Figures:
        """What devices.yaml would hold of it."""
        return Figures.of(self.fit, source)


def calibrate(
    measured: "Sequence[Tuple[Deployed, float]]", precision: str = "", name: str = "calibrated"
) -> Calibration:
    """Fit a device's constants to the seconds that networks took on it.

    Args:
        measured: at least three networks as one runtime executes them, each with its seconds for a pass (of a whole
            batch, where the inputs are one).
        precision: one that the runtime has; its usual one by default.
        name: what to call the device.

    A time below the least one of any known device is warned of. Raises DeviceError for too few networks, several
    runtimes, an unknown precision, and times that are none or below a tenth of that: milliseconds, say.
    """
    measured = _pairs(measured)
    runtimes = {id(network.runtime): network.runtime for network, _ in measured}
    if len(runtimes) > 1:
        names = sorted(runtime.name for runtime in runtimes.values())
        raise DeviceError(f"the measured networks are deployed for several runtimes: {', '.join(names)}")
    if not runtimes:
        raise DeviceError("no network was measured")
    (runtime,) = runtimes.values()
    found = runtime.precision(precision)
    rows = [Measured(work_of(network.under(runtime, found), found), float(seconds)) for network, seconds in measured]
    fitted = fit(rows, runtime.fitted)
    rates = tuple(network.flops / seconds for network, seconds in measured)
    for number, (row, rate) in enumerate(zip(rows, rates), 1):
        _check_time(number, row, rate, found)
    return Calibration(name, runtime, found, fitted, rates)


def _pairs(measured: Any) -> List[Tuple[Deployed, float]]:
    """Check that these are networks with their seconds."""
    form = "calibrate takes pairs of what deployed() returns and seconds, as in [(deployed(model, (x,)), 0.012), ...]"
    if isinstance(measured, (str, Deployed)) or not isinstance(measured, Iterable):
        raise DeviceError(f"{form}, not {type(measured).__name__}")
    pairs = list(measured.items()) if isinstance(measured, dict) else list(measured)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], Deployed):
            given = ", ".join(type(part).__name__ for part in pair) if isinstance(pair, (tuple, list)) else repr(pair)
            raise DeviceError(f"{form}, not ({given})")
        try:
            float(pair[1])
        except (TypeError, ValueError):
            raise DeviceError(f"a measured time must be a number above 0, not {pair[1]!r}") from None
    return [(network, float(seconds)) for network, seconds in pairs]


def _check_time(number: int, row: Measured, rate: float, precision: str) -> None:
    """Compare a time with the least one that any known device's data sheet allows."""
    limits = []
    for device in load_devices().values():
        with suppress(DeviceError):
            limits.append((seconds_of(row.works, sheet_limits(device, precision)), device))
    if not limits:
        return
    least, device = min(limits, key=lambda limit: limit[0])
    what = (
        f"network {number}: {row.seconds:.3g} s come to {rate / 1e12:.3g} TFLOP/s, "
        f"where {device.title} takes {least:.3g} s at least"
    )
    if row.seconds < least / 10:
        raise DeviceError(f"{what}; times are seconds for a pass")
    if row.seconds < least:
        warnings.warn(what, stacklevel=3)

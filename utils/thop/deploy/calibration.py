"""Calibration: the constants of a device from a handful of networks that somebody has measured on it."""

from dataclasses import dataclass
from typing import Sequence, Tuple

from .clock import Constants, work_of
from .errors import DeviceError
from .figures import Figures
from .fitting import Fit, Measured, fit
from .launches import Deployed
from .runtimes import Runtime


@dataclass(frozen=True)
class Calibration:
    """A device that was measured: what ``predict`` takes for one.

    constants: what was fitted; errors: predicted by measured time of each network, by constants fitted to the others;
    error: the factor by which these are off, as a geometric mean.
    """

    name: str
    runtime: Runtime
    precision: str
    fit: Fit

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

    Raises DeviceError for too few networks, several runtimes, times that are none, or an unknown precision.
    """
    runtimes = {id(network.runtime): network.runtime for network, _ in measured}
    if len(runtimes) > 1:
        names = sorted(runtime.name for runtime in runtimes.values())
        raise DeviceError(f"the measured networks are deployed for several runtimes: {', '.join(names)}")
    if not runtimes:
        raise DeviceError("no network was measured")
    (runtime,) = runtimes.values()
    found = runtime.precision(precision)
    rows = [Measured(work_of(network.under(runtime, found), found), float(seconds)) for network, seconds in measured]
    return Calibration(name, runtime, found, fit(rows, runtime.fitted))

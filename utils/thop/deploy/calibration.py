"""Calibration: the constants of a device from one network or more that somebody has measured on it."""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any, Iterable, List, Mapping, Optional, Sequence, Tuple

from ..answer import Answer
from .clock import Constants, Load, seconds_of, work_of
from .devices import Device, load_devices
from .estimates import Estimate, Prior, Sheet, prior_of, sheet_peak
from .fitting import Measured, fit
from .launches import Deployed
from .runtimes import DeviceError, Runtime


@dataclass(frozen=True, repr=False)
class Calibration(Answer):
    """A device that was measured: what ``predict`` takes for one.

    estimate: its constants, and how surely they are known; ratios: predicted by measured time of each network, by what
    all others teach; rates: FLOP/s that each network's time comes to; ranges: the factor up and down that networks
    like these lie within, after each of them; odd: the number, from 1, of a network whose time contradicts all
    others, or 0; peaks: of its data sheet, if that is known.
    """

    name: str
    runtime: Runtime
    precision: str
    estimate: Estimate
    ratios: Tuple[float, ...] = ()
    rates: Tuple[float, ...] = ()
    ranges: Tuple[float, ...] = ()
    odd: int = 0
    peaks: Mapping[str, float] = field(default_factory=dict)

    @property
    def constants(self) -> Constants:
        """What was estimated."""
        return self.estimate.constants(self.precision)

    @property
    def error(self) -> float:
        """The factor by which predictions of unseen networks are off, as a geometric mean: 1.09 for 9 %."""
        return mean_factor(self.ratios)


_ODD, _ODD_AT_LEAST = 4.0, 0.8  # times what all others leave unexplained, and the logarithm of a factor


def mean_factor(ratios: Sequence[float]) -> float:
    """The geometric mean of the factors by which ratios are off from one, up or down."""
    return math.exp(sum(abs(math.log(ratio)) for ratio in ratios) / max(len(ratios), 1))


def calibrate(
    measured: "Sequence[Tuple[Deployed, float]]",
    precision: str = "",
    name: str = "calibrated",
    device: Optional[Device] = None,
) -> Calibration:
    """Estimate a device's constants from the seconds that networks took on it, one or more.

    Args:
        measured: networks as one runtime executes them, each with its seconds for a pass (of a whole batch, where the
            inputs are one). One already tells much, five are better; each further one narrows the range.
        precision: one that the runtime has; its usual one by default.
        name: what to call the device.
        device: whose data sheet is known, if it is.

    A time below the least one of any known device of its kind is warned of. Raises DeviceError for no network, several
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
    runtime.need_a_formula()
    found = runtime.precision(precision)
    rows = []
    for network, seconds in measured:
        network = network.under(runtime, found)
        rows.append(Measured(work_of(network, found), float(seconds), network.batch))
    prior, sheet = prior_of(runtime), device.sheet if device else Sheet()
    learned = [fit({found: rows[:count]}, prior, sheet, "measured by the user") for count in range(1, len(rows) + 1)]
    rates = tuple(network.flops / seconds for network, seconds in measured)
    for number, (row, rate) in enumerate(zip(rows, rates), 1):
        check_time(row, rate, found, runtime.kind, number)
    alone = [_left_out(rows, i, prior, sheet, found) for i in range(len(rows))] if len(rows) > 1 else []
    ratios = tuple(ratio for ratio, _ in alone)
    ranges = tuple(range_of(rows, estimate, prior, found) for estimate in learned)
    peaks = device.peaks if device else {}
    return Calibration(name, runtime, found, learned[-1], ratios, rates, ranges, _odd(alone), peaks)


def _left_out(rows: List[Measured], i: int, prior: Prior, sheet: Sheet, precision: str) -> Tuple[float, float]:
    """Predicted by measured seconds of a network by what all others teach, and what these leave unexplained."""
    others = rows[:i] + rows[i + 1 :]
    constants = fit({precision: others}, prior, sheet).constants(precision)
    left = [abs(math.log(seconds_of(row.works, constants) / row.seconds)) for row in others]
    return seconds_of(rows[i].works, constants) / rows[i].seconds, sum(left) / len(left)


def _odd(alone: List[Tuple[float, float]]) -> int:
    """The number of the network without which the others agree best, if it contradicts them; or 0."""
    if len(alone) < 4:
        return 0
    i = min(range(len(alone)), key=lambda i: alone[i][1])
    ratio, left = alone[i]
    return i + 1 if abs(math.log(ratio)) > max(_ODD * left, _ODD_AT_LEAST) else 0


def range_of(rows: Sequence[Measured], known: Estimate, prior: Prior, precision: str) -> float:
    """The factor up and down that networks like these lie within, by what is known."""
    widths = known.width(Load([row.works for row in rows]), precision, rows[0].batch)
    return math.exp(prior.factor(known.basis.networks) * float(widths.square().mean().sqrt()))


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


def check_time(row: Measured, rate: float, precision: str, kind: str, number: int = 1) -> None:
    """Compare a time with the least one that the data sheet of any known device of a kind allows.

    Raises DeviceError below a tenth of that.
    """
    limits = []
    for device in load_devices().values():
        peak = sheet_peak(device.peaks, precision)
        if device.kind == kind and peak is not None and device.bandwidth:
            limits.append((seconds_of(row.works, Constants(peak, device.bandwidth)), device))
    if not limits:
        return
    least, device = min(limits, key=lambda limit: limit[0])
    what = (
        f"network {number}: {row.seconds * 1e3:.3g} ms come to {rate / 1e12:.3g} TFLOP/s, "
        f"where the fastest device known here, {device.title}, takes {least * 1e3:.3g} ms at least"
    )
    if row.seconds < least / 10:
        raise DeviceError(f"{what}: is it in another unit?")
    if row.seconds < least:
        warnings.warn(what, stacklevel=3)

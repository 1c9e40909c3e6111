"""Constants from measurements: the fit, and how far it is off for networks that it has not seen.

The errors are of logarithms, since a network that takes twice as long may be misjudged by twice as much, and a single
odd one does not carry the rest away (soft L1 loss). Each network is predicted with constants fitted to the others; of
the sets of constants that a runtime may have, the one counts that predicts so best.
"""

import math
from dataclasses import dataclass
from statistics import median
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

from .clock import Constants, Work, seconds_of
from .errors import DeviceError

FEWEST = 3  # networks: two constants and one to try them on
_PAYS = 0.85  # a further constant must bring the logarithm of the error down to this share of it
_SOFT = 0.1  # beyond a tenth, an error counts by its size and no longer by its square
_BALANCE, _PULL = 130.0, 0.01  # operations a byte of common devices: holds what no measurement tells where others are


class Measured(NamedTuple):
    """A network's launches on a device, and the seconds that they took."""

    works: Sequence[Work]
    seconds: float


@dataclass(frozen=True)
class Fit:
    """Constants, the names of those that were fitted, and the factors by which predictions of unseen networks are off.

    ratios: predicted by measured seconds of each network, by constants fitted to all others.
    """

    constants: Constants
    fitted: Tuple[str, ...]
    ratios: Tuple[float, ...]
    own_error: float

    @property
    def error(self) -> float:
        """The factor by which a prediction is off, as a geometric mean: 1.09 for 9 %."""
        return mean_factor(self.ratios)

    @property
    def spread(self) -> float:
        """The factor by which nine of ten predictions are off at most."""
        return spread_of(self.ratios)


def mean_factor(ratios: Sequence[float]) -> float:
    """The geometric mean of the factors by which ratios are off from one, up or down."""
    return math.exp(sum(abs(math.log(ratio)) for ratio in ratios) / len(ratios))


def spread_of(ratios: Sequence[float]) -> float:
    """The factor within which nine of ten ratios lie; of few, the largest."""
    factors = sorted(abs(math.log(ratio)) for ratio in ratios)
    return math.exp(factors[min(math.ceil(0.9 * len(factors)), len(factors)) - 1])


def fit(measured: Sequence[Measured], sets: Sequence[Tuple[str, ...]]) -> Fit:
    """Fit the constants of a device to what was measured on it in one precision: ``fit_together`` tells how."""
    return fit_together({"": measured}, sets)[""]


def fit_together(groups: Mapping[str, Sequence[Measured]], sets: Sequence[Tuple[str, ...]]) -> Dict[str, Fit]:
    """Fit the constants of a device to what was measured on it, by precision: each has a peak, the rest they share.

    Args:
        groups: measured networks by precision, together at least three.
        sets: the names of constants to choose from, the smallest set first.

    Raises DeviceError for too few networks, or seconds that are none.
    """
    rows = [(group, one) for group, measured in groups.items() for one in measured]
    if len(rows) < FEWEST:
        raise DeviceError(f"too few measured networks: {len(rows)}; it takes {FEWEST}, and five or more are better")
    for _, one in rows:
        if not 0 < one.seconds < math.inf:
            raise DeviceError(f"a measured time must be a number above 0, not {one.seconds!r}")
    best: Dict[str, Fit] = {}
    for names in sets:
        if len(names) + len(groups) - 1 >= len(rows):
            break
        found = _fit_set(rows, names)
        if not best or _log_error(found) < _PAYS * _log_error(best):
            best = found
    return best


def fit_scale(measured: Sequence[Measured], sheet: Constants) -> Fit:
    """Fit one number to what was measured: how much longer all networks take than by a data sheet's constants."""
    if len(measured) < FEWEST:
        raise DeviceError(f"too few measured networks: {len(measured)}; it takes {FEWEST}")
    ratios = [seconds_of(one.works, sheet) / one.seconds for one in measured]
    whole = median(ratios)
    left_out = [ratio / median(ratios[:i] + ratios[i + 1 :]) for i, ratio in enumerate(ratios)]
    constants = sheet._replace(peak=sheet.peak * whole, bandwidth=sheet.bandwidth * whole)
    return Fit(constants, ("scale",), tuple(left_out), mean_factor([ratio / whole for ratio in ratios]))


def _log_error(fits: Mapping[str, Fit]) -> float:
    return math.log(mean_factor([ratio for found in fits.values() for ratio in found.ratios]))


_Rows = Sequence[Tuple[str, Measured]]


def _fit_set(rows: _Rows, names: Tuple[str, ...]) -> Dict[str, Fit]:
    """Fit one set of constants, to all networks and to all but each."""
    whole = min((_solve(rows, names, start) for start in _starts(rows, names)), key=lambda found: found[1])[0]
    ratios: Dict[str, List[float]] = {group: [] for group in whole}
    own: Dict[str, List[float]] = {group: [] for group in whole}
    for i, (group, one) in enumerate(rows):
        others, _ = _solve([*rows[:i], *rows[i + 1 :]], names, whole)
        ratios[group].append(seconds_of(one.works, others[group]) / one.seconds)
        own[group].append(seconds_of(one.works, whole[group]) / one.seconds)
    return {group: Fit(whole[group], names, tuple(ratios[group]), mean_factor(own[group])) for group in whole}


def _starts(rows: _Rows, names: Sequence[str]) -> List[Dict[str, Constants]]:
    """Where a search begins: there are valleys where arithmetic binds, or memory, or the host."""
    bandwidth = median(sum(work.bytes for work in one.works) / one.seconds for _, one in rows)
    start = min(one.seconds / max(len(one.works), 1) for _, one in rows)
    peaks: Dict[str, List[float]] = {}
    for group, one in rows:
        peaks.setdefault(group, []).append(sum(work.operations for work in one.works) / one.seconds)
    hosts = (0.3 * start, 0.9 * start) if "host" in names else (0.0,)
    overhead = 0.2 * start if "overhead" in names else 0.0
    starts = []
    for of_peak, of_bandwidth in ((1.5, 1.5), (1.2, 6.0), (6.0, 1.2), (3.0, 3.0)):
        softmax = 0.1 * of_bandwidth * bandwidth if "softmax" in names else 0.0
        rest = of_bandwidth * bandwidth, overhead
        for host in hosts:
            starts.append({g: Constants(of_peak * median(p), *rest, host, softmax) for g, p in peaks.items()})
    return starts


def _solve(rows: _Rows, names: Sequence[str], start: Dict[str, Constants]) -> Tuple[Dict[str, Constants], float]:
    """Search for the constants from a start; return them and what is left of the errors."""
    from scipy.optimize import least_squares

    shared = [name for name in names if name != "peak"]

    def constants(logarithms: Sequence[float]) -> Dict[str, Constants]:
        values = [math.exp(value) for value in logarithms]
        common = dict(zip(shared, values[len(start) :]))
        return {group: start[group]._replace(peak=peak, **common) for group, peak in zip(start, values)}

    def errors(logarithms: Sequence[float]) -> List[float]:
        tried = constants(logarithms)
        found = [math.log(seconds_of(one.works, tried[group]) / one.seconds) for group, one in rows]
        pulls = [_PULL * math.log(each.peak / each.bandwidth / _BALANCE) for each in tried.values()]
        return found + pulls

    any_of_them = next(iter(start.values()))
    first = [each.peak for each in start.values()] + [getattr(any_of_them, name) for name in shared]
    solved = least_squares(errors, [math.log(value) for value in first], loss="soft_l1", f_scale=_SOFT, max_nfev=60)
    return constants([float(value) for value in solved.x]), float(solved.cost)

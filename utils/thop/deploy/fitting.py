"""Constants from measurements: the fit, and how far it is off for networks that it has not seen.

The errors are of logarithms, since a network that takes twice as long may be misjudged by twice as much, and a single
odd one does not carry the rest away (soft L1 loss). Each network is predicted with constants fitted to the others (of
many, to nine tenths that it is not among); of the sets of constants that a runtime may have, the one counts that
predicts so best.
"""

import math
from dataclasses import dataclass
from statistics import median
from typing import Dict, List, Mapping, NamedTuple, Sequence, Set, Tuple

from .clock import Constants, Load, Work, seconds_of
from .errors import DeviceError

FEWEST = 3  # networks: two constants and one to try them on
_PAYS = 0.85  # a further constant must bring the logarithm of the error down to this share of it
_FOLDS, _MANY = 10, 40  # of more networks than that, a tenth is left out at a time
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
    known = _Groups(groups)
    if known.count < FEWEST:
        raise DeviceError(f"too few measured networks: {known.count}; it takes {FEWEST}, and five or more are better")
    for one in (one for measured in groups.values() for one in measured):
        if not 0 < one.seconds < math.inf:
            raise DeviceError(f"a measured time must be a number above 0, not {one.seconds!r}")
    best: Dict[str, Fit] = {}
    for names in sets:
        if len(names) + len(known.loads) - 1 >= known.count:
            break
        found = _fit_set(known, names)
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


class _Groups:
    """What was measured in each precision: its load, and the logarithms of the seconds."""

    def __init__(self, groups: Mapping[str, Sequence[Measured]]) -> None:
        self.measured = {group: list(rows) for group, rows in groups.items() if rows}
        self.loads = {group: Load([one.works for one in rows]) for group, rows in self.measured.items()}
        self.count = sum(map(len, self.measured.values()))

    def ratios(self, constants: Mapping[str, Constants]) -> List[float]:
        """Predicted by measured seconds of all networks, group by group."""
        found = []
        for group, rows in self.measured.items():
            predicted = self.loads[group].seconds(constants[group])
            found += [seconds / one.seconds for seconds, one in zip(predicted, rows)]
        return found

    def split(self, values: Sequence[float]) -> Dict[str, Tuple[float, ...]]:
        """Give each group its part of values that are in the order of ``ratios``."""
        rest = iter(values)
        return {group: tuple(next(rest) for _ in rows) for group, rows in self.measured.items()}

    def folds(self) -> List[Set[int]]:
        """Which networks are left out together: each by itself, or of many a tenth at a time."""
        count = min(self.count, _FOLDS if self.count > _MANY else self.count)
        return [set(range(first, self.count, count)) for first in range(count)]


def _fit_set(groups: _Groups, names: Tuple[str, ...]) -> Dict[str, Fit]:
    """Fit one set of constants, to all networks and to all but each."""
    everything = set(range(groups.count))
    solved = [_solve(groups, everything, names, start) for start in _starts(groups, names)]
    whole = min(solved, key=lambda found: found[1])[0]
    left_out = [1.0] * groups.count
    for fold in groups.folds():
        ratios = groups.ratios(_solve(groups, everything - fold, names, whole)[0])
        for i in fold:
            left_out[i] = ratios[i]
    own, ratios_of = groups.split(groups.ratios(whole)), groups.split(left_out)
    return {group: Fit(whole[group], names, ratios_of[group], mean_factor(own[group])) for group in whole}


def _starts(groups: _Groups, names: Sequence[str]) -> List[Dict[str, Constants]]:
    """Where a search begins: there are valleys where arithmetic binds, or memory, or the host."""
    rows = [one for measured in groups.measured.values() for one in measured]
    bandwidth = median(sum(work.bytes for work in one.works) / one.seconds for one in rows)
    start = min(one.seconds / max(len(one.works), 1) for one in rows)
    peaks = {
        group: median(sum(work.operations for work in one.works) / one.seconds for one in measured)
        for group, measured in groups.measured.items()
    }
    hosts = (0.3 * start, 0.9 * start) if "host" in names else (0.0,)
    overhead = 0.2 * start if "overhead" in names else 0.0
    starts = []
    for of_peak, of_bandwidth in ((1.5, 1.5), (1.2, 6.0), (6.0, 1.2), (3.0, 3.0)):
        softmax = 0.1 * of_bandwidth * bandwidth if "softmax" in names else 0.0
        rest = of_bandwidth * bandwidth, overhead
        for host in hosts:
            starts.append({group: Constants(of_peak * peak, *rest, host, softmax) for group, peak in peaks.items()})
    return starts


def _solve(
    groups: _Groups, chosen: Set[int], names: Sequence[str], start: Dict[str, Constants]
) -> Tuple[Dict[str, Constants], float]:
    """Search from a start for the constants of the chosen networks; return them and what is left of the errors."""
    from scipy.optimize import least_squares

    shared = [name for name in names if name != "peak"]

    def constants(logarithms: Sequence[float]) -> Dict[str, Constants]:
        values = [math.exp(value) for value in logarithms]
        common = dict(zip(shared, values[len(start) :]))
        return {group: start[group]._replace(peak=peak, **common) for group, peak in zip(start, values)}

    def errors(logarithms: Sequence[float]) -> List[float]:
        tried = constants(logarithms)
        found = [math.log(ratio) for i, ratio in enumerate(groups.ratios(tried)) if i in chosen]
        return found + [_PULL * math.log(each.peak / each.bandwidth / _BALANCE) for each in tried.values()]

    any_of_them = next(iter(start.values()))
    first = [each.peak for each in start.values()] + [getattr(any_of_them, name) for name in shared]
    solved = least_squares(errors, [math.log(value) for value in first], loss="soft_l1", f_scale=_SOFT, max_nfev=60)
    return constants([float(value) for value in solved.x]), float(solved.cost)

"""Constants from measurements: all of a device's at once, each pulled towards what devices of its kind have.

Residuals are of logarithms, as a network that takes twice as long may be misjudged by twice as much, and weigh by
Student's t (nu = 4, by reweighting), so that a single odd network does not carry the rest away; the pull of the prior
stays quadratic. The covariance is the inverse of the curvature there (Laplace).
"""

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from .clock import Load, Work
from .estimates import SHARED, Basis, Estimate, Prior, Sheet, before_measuring, constants_of, slopes_of, with_steps
from .runtimes import DeviceError

_NOISE, _FREEDOM = 0.12, 4.0  # the usual deviation of a network, and of the t distribution
_ROUNDS = 3
_PSEUDO = 4.0  # networks that the kind's spread counts as, beside the device's own
_LARGE, _HARDLY = 16, 0.1  # in batches above, what a launch takes on top can't be told from what its kernel takes
_LOOSE = 1.0  # width of a peak or bandwidth that no data sheet tells, around what the measurements come to


class Measured(NamedTuple):
    """A network's launches on a device, and the seconds that they took.

    alone: they are some of a pass, without what it and its host take on top.
    """

    works: Sequence[Work]
    seconds: float
    batch: int = 1
    alone: bool = False


class Groups:
    """What was measured on a device under a runtime, by precision."""

    def __init__(self, measured: Mapping[str, Sequence[Measured]]) -> None:
        self.measured = {name: list(rows) for name, rows in measured.items() if rows}
        self.precisions = tuple(self.measured)
        self.rows = [row for rows in self.measured.values() for row in rows]
        for row in self.rows:
            if not 0 < row.seconds < math.inf:
                raise DeviceError(f"a measured time must be a number above 0, not {row.seconds!r}")
        self.loads = [Load([row.works for row in rows]) for rows in self.measured.values()]
        self.alone = [torch.tensor([row.alone for row in rows], device="cpu") for rows in self.measured.values()]
        self.logs = torch.tensor([math.log(row.seconds) for row in self.rows], dtype=torch.float64, device="cpu")

    def predict(self, points: Tensor, precisions: Sequence[str]) -> Tensor:
        """The logarithms of all networks' times, in a row for each point."""
        times = []
        for load, alone, name in zip(self.loads, self.alone, self.precisions):
            constants = constants_of(points, precisions, name)
            times.append(load.seconds(constants))
            if alone.any():
                times[-1] = torch.where(alone, load.by_network(load.launches(constants)), times[-1])
        return torch.cat(times, -1).log()

    def slopes(self, point: Tensor, precisions: Sequence[str]) -> Tuple[Tensor, Tensor]:
        """The logarithms of the times at a point, and their derivatives: [networks], [networks, constants]."""
        found = self.predict(with_steps(point), precisions)
        return found[0], slopes_of(found).T

    def rates(self) -> Tuple[List[float], float]:
        """Logarithms of the peaks and of the bandwidth that the measurements come to, where nothing else is known."""
        peaks, bandwidths = [], []
        for load, rows in zip(self.loads, self.measured.values()):
            seconds = torch.tensor([row.seconds for row in rows], dtype=torch.float64, device="cpu")
            peaks.append(math.log(max(2.5 * float((load.by_network(load.work.operations) / seconds).median()), 1.0)))
            bandwidths.append(load.by_network(load.work.bytes + load.work.weights) / seconds)
        return peaks, math.log(max(2.5 * float(torch.cat(bandwidths).median()), 1.0))


def before(groups: Groups, prior: Prior, sheet: Sheet, precisions: Sequence[str] = ()) -> Tuple[Tensor, Tensor]:
    """Mean and width of each constant's logarithm before a fit, in all precisions or in those that were measured."""
    names = tuple(precisions) or groups.precisions
    mean, width = before_measuring(prior, names, sheet)
    if not sheet.bandwidth:
        peaks, bandwidth = groups.rates()
        usual = sum(peaks) / len(peaks)
        found = dict(zip(groups.precisions, peaks))
        for i, name in enumerate(names):
            mean[i], width[i] = found.get(name, usual), _LOOSE
        mean[len(names)], width[len(names)] = bandwidth, _LOOSE
    if min(row.batch for row in groups.rows) > _LARGE:
        for name in ("overhead", "start"):
            width[len(names) + SHARED.index(name)] *= _HARDLY
    return mean, width


def fit(measured: Mapping[str, Sequence[Measured]], prior: Prior, sheet: Sheet, source: str = "") -> Estimate:
    """Estimate a device's constants from networks measured on it, by precision; raises DeviceError for odd seconds."""
    groups = Groups(measured)
    if not groups.rows:
        raise DeviceError("no network was measured")
    mean, width = before(groups, prior, sheet)
    return fit_from(groups, mean, width, prior.spread, source=source)


def fit_from(
    groups: Groups,
    mean: Tensor,
    width: Tensor,
    spread: float,
    precisions: Sequence[str] = (),
    starts: Sequence[Tensor] = (),
    source: str = "",
) -> Estimate:
    """Estimate from a prior mean and width; ``starts``: where to search from, the prior's mean by default."""
    names = tuple(precisions) or groups.precisions
    solved = [_solve(groups, names, mean, width, start) for start in starts or _starts(groups, names, mean)]
    point, covariance, _ = min(solved, key=lambda found: found[2])
    spread = unexplained(groups.predict(point[None], names)[0] - groups.logs, spread)
    count = len(groups.rows)
    batches = [row.batch for row in groups.rows]
    return Estimate(names, point, covariance, spread, Basis(count, (min(batches), max(batches)), source))


def unexplained(left: Tensor, usual: float) -> float:
    """The deviation of what a fit leaves, by its median, pulled towards the usual one."""
    own, count = 1.4826 * float(left.abs().median()), len(left)
    return math.sqrt((_PSEUDO * usual**2 + count * own**2) / (_PSEUDO + count))


def _starts(groups: Groups, names: Sequence[str], mean: Tensor) -> List[Tensor]:
    """Where a search begins: there are valleys where the device binds, and where the host does."""
    other, host = mean.clone(), len(names) + SHARED.index("host")
    each = min(row.seconds / max(len(row.works), 1) for row in groups.rows)
    other[host] = math.log(0.9 * each)
    hosted = float(mean[host]) > math.log(1e-7)
    return [mean, other] if hosted and abs(float(other[host] - mean[host])) > 0.3 else [mean]


def _solve(
    groups: Groups, names: Sequence[str], mean: Tensor, width: Tensor, start: Tensor
) -> Tuple[Tensor, Tensor, float]:
    """Search from a start; return the constants' logarithms, their covariance, and what is left of the errors."""
    from scipy.optimize import least_squares

    held: Dict[bytes, Tuple[Tensor, Tensor]] = {}

    def slopes(point: Any) -> Tuple[Tensor, Tensor]:
        key = point.tobytes()
        if key not in held:
            held.clear()
            held[key] = groups.slopes(torch.from_numpy(point), names)
        return held[key]

    def errors(point: Any) -> Any:
        rows = root * (slopes(point)[0] - groups.logs)
        return torch.cat([rows, (torch.from_numpy(point) - mean) / width]).numpy()

    def derivatives(point: Any) -> Any:
        return torch.cat([root[:, None] * slopes(point)[1], torch.diag(1 / width)]).numpy()

    point, weights = start.numpy().copy(), torch.ones(len(groups.rows), dtype=torch.float64, device="cpu")
    noise = _NOISE
    for _ in range(_ROUNDS):
        root = weights.sqrt() / noise
        point = least_squares(errors, point, jac=derivatives, max_nfev=25, xtol=1e-5, ftol=1e-6).x
        left = slopes(point)[0] - groups.logs
        noise = unexplained(left, _NOISE)
        residuals = left / noise
        weights = (_FREEDOM + 1) / (_FREEDOM + residuals**2)
    jacobian = torch.from_numpy(derivatives(point))
    found = torch.from_numpy(point)
    cost = (_FREEDOM + 1) * torch.log1p(residuals**2 / _FREEDOM).sum() + (((found - mean) / width) ** 2).sum()
    return found, torch.linalg.inv(jacobian.T @ jacobian), float(cost)

"""Estimate the clock's constants from the published tables, and say how far off it is and how often its ranges hold.

    python benchmarks/clock.py [--calibrate] [--plot FOLDER] [--details]

Prints a row for each device, runtime and precision: how far off predictions are, as a geometric mean of factors, by
GFLOPs alone with the best constant, by activations alone likewise, with networks left out, with five networks known
(the median of draws) and with the data sheet alone, each with the share of published times inside the range. What is
left out is left out of the priors and of the factors of ranges too, with all sources and configurations of the same
silicon. With --calibrate, the estimates, the priors and the published speeds of devices that have a name are written
to utils/thop/deploy, and the table to docs/clock.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import re
import statistics
import sys
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterable, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
import yaml  # noqa: E402
from common import use_release  # noqa: E402
from pandas import DataFrame  # noqa: E402
from tables import Counted, Row, count_all, key, rows  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402
from training_speed import row_of_clock  # noqa: E402

from utils.thop.deploy.calibration import mean_factor  # noqa: E402
from utils.thop.deploy.clock import Constants  # noqa: E402
from utils.thop.deploy.devices import CATALOGUE, ESTIMATES  # noqa: E402
from utils.thop.deploy.estimates import (  # noqa: E402
    NINE_OF_TEN,
    PRIORS,
    SHARED,
    STATES,
    UNITS,
    Estimate,
    Prior,
    Sheet,
    before_measuring,
    entry_of,
    sheet_peak,
)
from utils.thop.deploy.fitting import Groups, Measured, before, fit_from  # noqa: E402
from utils.thop.deploy.measurements import PUBLISHED, Measurement  # noqa: E402
from utils.thop.deploy.runtimes import all_runtimes  # noqa: E402

# What is taken for likely before any device was measured, for all kinds: mean, in the unit of the files, and width of
# the logarithm. Peaks and bandwidths are hardly pulled at all.
HYPER = {
    "peak": (2.0, 3.0), "bandwidth": (10.0, 2.5), "overhead": (4.0, 1.5), "start": (50.0, 2.0), "host": (10.0, 1.0),
    "overlap": (1.0, 1.1), "depthwise": (2.0, 1.2), "activations": (1.5, 1.2), "dense": (0.9, 0.5),
    "inner": (20.0, 1.5), "softmax": (2.0, 1.2), "norm": (1.5, 1.0), "concat": (0.9, 1.0), "weights": (1.0, 0.5),
    "curve": (0.2, 1.2), "passes": (1.0, 0.4), "lookup": (1000.0, 1.0), "pool": (1.5, 0.7), "leaving": (8.0, 1.0),
    "returned": (5.0, 1.4),
}  # fmt: skip
NO_HOST = (1e-3, 0.01)  # of a runtime that launches a whole network at once
GPU_OVERHEAD = (4.0, 0.6)  # a GPU starts a kernel that is waiting for it in microseconds
HOSTS = {"desktop": (10.0, 0.5), "server": (20.0, 0.4), "module": (40.0, 0.5)}  # PyTorch's Python, an operator
SHARES = {"eager": ((0.8, 0.5), (0.8, 0.5)), "": ((0.5, 0.6), (0.5, 0.6))}
SPREAD = 0.10
_BETWEEN, _DEVICES = 0.6, 3.0  # how unlike devices of a kind are, in widths of the above, worth so many devices
_PASSES, _FOLDS = 4, 10
_DRAWS = {"one": 8, "three": 8, "five": 20}
_QUANTILE = 0.94
_WORTH = 2  # devices that all kinds together, and a normal distribution, count as beside a kind's own
FEWEST = 5  # networks of a table that is shown
TABLE = ROOT / "docs/clock.csv"


@dataclass
class Place:
    """A device under a runtime, with what was published of it."""

    device: str
    runtime: str
    silicon: str
    rows: list[Row] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    posterior: Estimate | None = None

    def settle(self) -> None:
        """Put the rows in the order of their precisions, once all are there."""
        order = sorted(
            range(len(self.rows)), key=lambda i: all_runtimes()[self.runtime].precisions.index(self.rows[i].precision)
        )
        self.rows, self.counted = [self.rows[i] for i in order], [self.counted[i] for i in order]
        self.groups = self.part(range(len(self.rows)))

    def part(self, chosen: Iterable[int]) -> Groups:
        """Some of the networks, by their places."""
        found: dict[str, list[Measured]] = {}
        for i in sorted(chosen):
            row = self.rows[i]
            found.setdefault(row.precision, []).append(Measured(self.counted[i].works, row.seconds, row.shape[0]))
        return Groups(found)

    @property
    def family(self) -> str:
        return all_runtimes()[self.runtime].family

    @property
    def sheet(self) -> Sheet:
        """Its data sheet, where that has a peak for each precision."""
        entry = catalogue().get(self.device, {})
        peaks = {name: value * 1e12 for name, value in entry.get("peaks", {}).items()}
        complete = all(sheet_peak(peaks, one) for one in self.groups.precisions)
        host = entry.get("host", "")
        return Sheet(entry["bandwidth"] * 1e9, peaks, host) if complete and "bandwidth" in entry else Sheet(host=host)


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Any]:
    """What devices.yaml has, whose estimates may be of an older form."""
    found: dict[str, Any] = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    return found


class Score(NamedTuple):
    """Of networks that were left out: logarithms of predicted by published, and these by the range's own width."""

    errors: Tensor
    widths: Tensor

    @property
    def off(self) -> float:
        """The mean factor."""
        return math.exp(float(self.errors.abs().mean()))

    def inside(self, factor: float) -> float:
        """The share inside the range."""
        return float((self.errors.abs() <= factor * self.widths).double().mean())


# ---- priors ----


def hyper(family: str) -> tuple[Tensor, Tensor]:
    """Mean and width of the logarithms, before any device."""
    pairs = [HYPER[name] for name in Constants._fields]
    if "eager" not in family:
        pairs[Constants._fields.index("host")] = NO_HOST
    if family == "gpu-eager":
        pairs[Constants._fields.index("overhead")] = GPU_OVERHEAD
    units = [UNITS.get(name, 1.0) for name in Constants._fields]
    mean = torch.tensor([math.log(value * unit) for (value, _), unit in zip(pairs, units)], dtype=torch.float64)
    return mean, torch.tensor([width for _, width in pairs], dtype=torch.float64)


def _normal(means: Tensor, variances: Tensor, mean: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and width of what devices have, [devices, constants], with a normal prior of the mean and of the width."""
    usual, count = (_BETWEEN * width) ** 2, len(means)
    between, found = usual, mean
    for _ in range(20):
        found = (means.sum(0) / between + mean / width**2) / (count / between + 1 / width**2)
        between = (((means - found) ** 2 + variances).sum(0) + _DEVICES * usual) / (count + _DEVICES)
    return found, (between + 1 / (count / between + 1 / width**2)).sqrt()


def learn(places: Sequence[Place], runtime: str, without: str = "") -> Prior:
    """Learn a prior from all places that were fitted, each piece of silicon weighing the same.

    First that of the kind, and from it that of the runtime's own devices, where the kind has several runtimes.
    """
    known = [place for place in places if place.silicon != without and place.posterior is not None]
    family = all_runtimes()[runtime].family if runtime in all_runtimes() else runtime
    alike = [place for place in known if place.family == family]
    own = [place for place in alike if place.runtime == runtime]
    prior = _learn(alike, family, *hyper(family))
    if not own or len(own) == len(alike):
        return prior
    mean, width = (torch.tensor(values, dtype=torch.float64) for values in (prior.mean, prior.width))
    found = _learn(own, family, mean, width)
    return replace(found, shares=prior.shares, devices=prior.devices)


def _learn(places: Sequence[Place], family: str, mean: Tensor, width: Tensor) -> Prior:
    alike: dict[str, list[Place]] = {}
    for place in places:
        alike.setdefault(place.silicon, []).append(place)
    mean, width = mean.clone(), width.clone()
    means, variances, shares, of_shares = [], [], [], []
    for found in alike.values():
        parts = [(place, place.posterior, len(place.posterior.precisions)) for place in found if place.posterior]
        means.append(torch.stack([known.mean[count:] for _, known, count in parts]).mean(0))
        variances.append(torch.stack([known.covariance.diagonal()[count:] for _, known, count in parts]).mean(0))
        sheets = [_share(known, place.sheet) for place, known, _ in parts if place.sheet.bandwidth]
        if sheets:
            shares.append(torch.stack([share for share, _ in sheets]).mean(0))
            of_shares.append(torch.stack([variance for _, variance in sheets]).mean(0))
    if means:
        mean[1:], width[1:] = _normal(torch.stack(means), torch.stack(variances), mean[1:], width[1:])
    given = SHARES["eager" if "eager" in family and "gpu" in family else ""]
    share = torch.tensor([math.log(value) for value, _ in given], dtype=torch.float64)
    share_width = torch.tensor([spread for _, spread in given], dtype=torch.float64)
    if shares:
        share, share_width = _normal(torch.stack(shares), torch.stack(of_shares), share, share_width)
    pairs = tuple(zip(share.tolist(), share_width.tolist()))
    usual = dict.fromkeys(STATES, NINE_OF_TEN)
    hosts = {name: _host(places, name) for name in HOSTS} if family == "gpu-eager" else {}
    return Prior(tuple(mean.tolist()), tuple(width.tolist()), pairs, SPREAD, usual, len(alike), hosts)  # type: ignore[arg-type]


def _host(places: Sequence[Place], name: str) -> tuple[float, float]:
    """What hosts of a kind need to submit an operator."""
    mean, width = (torch.tensor([value], dtype=torch.float64) for value in HOSTS[name])
    mean = (mean * UNITS["host"]).log()
    found = [place.posterior for place in places if place.posterior is not None and place.sheet.host == name]
    ats = [len(known.precisions) + SHARED.index("host") for known in found]
    if found:
        means = torch.stack([known.mean[at][None] for known, at in zip(found, ats)])
        variances = torch.stack([known.covariance[at, at][None] for known, at in zip(found, ats)])
        mean, width = _normal(means, variances, mean, width)
    return float(mean), float(width)


def _share(known: Estimate, sheet: Sheet) -> tuple[Tensor, Tensor]:
    """The share of a data sheet that a device reaches, of its peaks and of its bandwidth, and their variances."""
    peaks = [sheet_peak(sheet.peaks, name) for name in known.precisions]
    count = len(peaks)
    of_peaks = statistics.fmean(float(known.mean[i]) - math.log(peak) for i, peak in enumerate(peaks) if peak)
    variance = known.covariance.diagonal()
    share = torch.tensor([of_peaks, float(known.mean[count]) - math.log(sheet.bandwidth)], dtype=torch.float64)
    return share, torch.stack([variance[0], variance[count]])


def fit_all(places: Sequence[Place]) -> None:
    """Estimate all devices and the priors of their kinds in turns."""
    runtimes = sorted({place.runtime for place in places})
    with tqdm(total=_PASSES * len(places), desc="fitting", unit="device", file=sys.stderr) as bar:
        for _ in range(_PASSES):
            priors = {runtime: learn(places, runtime) for runtime in runtimes}
            for place in places:
                mean, width = before(place.groups, priors[place.runtime], place.sheet)
                starts = [] if place.posterior is None else [place.posterior.mean]
                source = "; ".join(dict.fromkeys(row.source.partition(":")[0] for row in place.rows))
                place.posterior = fit_from(place.groups, mean, width, SPREAD, starts=starts, source=source)
                bar.update()


# ---- what is left out ----


def _judged(place: Place, known: Estimate, chosen: Sequence[int]) -> Score:
    """Predict some of a place's networks."""
    part = place.part(chosen)
    errors = part.predict(known.mean[None], known.precisions)[0] - part.logs
    batches = [row.batch for row in part.rows]
    widths = []
    for name, load in zip(part.precisions, part.loads):
        widths.append(known.width(load, name, statistics.median_low(batches)))
    return Score(errors, torch.cat(widths))


def networks_left_out(place: Place, prior: Prior) -> tuple[Score, list[int]]:
    """Predict each network by the others, of many by nine tenths."""
    count = len(place.rows)
    folds = min(count, _FOLDS)
    scores, order = [], []
    whole = fit_from(place.groups, *before(place.groups, prior, place.sheet), SPREAD)
    names = place.groups.precisions
    for fold in range(folds):
        out = [i for i in range(count) if i % folds == fold]
        part = place.part(i for i in range(count) if i % folds != fold)
        known = fit_from(part, *before(part, prior, place.sheet, names), SPREAD, names, [whole.mean])
        scores.append(_judged(place, known, out))
        order += out
    return Score(torch.cat([s.errors for s in scores]), torch.cat([s.widths for s in scores])), order


def some_known(place: Place, prior: Prior, count: int, draws: int) -> list[Score]:
    """Predict a place's other networks by a few, drawn at random."""
    draw = random.Random(0)
    names, found = place.groups.precisions, []
    for _ in range(draws):
        chosen = draw.sample(range(len(place.rows)), count)
        part = place.part(chosen)
        known = fit_from(part, *before(part, prior, place.sheet, names), SPREAD, names)
        found.append(_judged(place, known, [i for i in range(len(place.rows)) if i not in chosen]))
    return found


def nothing_known(place: Place, prior: Prior) -> Score | None:
    """Predict a place's networks by its data sheet alone; None without one."""
    sheet, names = place.sheet, place.groups.precisions
    if not sheet.bandwidth:
        return None
    mean, width = before_measuring(prior, names, sheet)
    return _judged(place, Estimate(names, mean, torch.diag(width**2), SPREAD), range(len(place.rows)))


TRANSFORMERS = re.compile(
    r"vit|deit|swin|beit|cait|xcit|coat|crossvit|convit|twins|former|tnt|mvit|nest|visformer|pit_"
)


def kin(row: Row) -> str:
    """The family of a network: YOLO, a transformer, or another classifier."""
    package, _, name = row.model.partition(":")
    if package in ("ul", "ulf", "y5") and not name.endswith("-cls"):
        return "YOLO"
    return "transformers" if TRANSFORMERS.search(name) else "other classifiers"


def families_left_out(places: Sequence[Place]) -> list[tuple[str, str, int, Score]]:
    """Predict all of a family by the other networks of a place, where there are five of them and three of it."""
    found = []
    for place in places:
        prior = learn(places, place.runtime, place.silicon)
        names = place.groups.precisions
        for family in ("YOLO", "transformers", "other classifiers"):
            out = [i for i, row in enumerate(place.rows) if kin(row) == family]
            rest = [i for i in range(len(place.rows)) if i not in out]
            if len(out) >= 3 and len(rest) >= FEWEST:
                part = place.part(rest)
                known = fit_from(part, *before(part, prior, place.sheet, names), SPREAD, names)
                found.append((f"{place.device}, {place.runtime}", family, len(out), _judged(place, known, out)))
    return found


@dataclass
class Judged:
    """A place, and how it was predicted in each state of knowledge."""

    place: Place
    scores: dict[str, list[Score]]
    order: list[int]


def judge(places: Sequence[Place]) -> list[Judged]:
    """Leave out what is to be predicted: its silicon from the priors, and itself."""
    found = []
    for place in tqdm(places, desc="leaving out", unit="device", file=sys.stderr):
        prior = learn(places, place.runtime, place.silicon)
        out, order = networks_left_out(place, prior)
        scores = {"many": [out]}
        for name, draws in _DRAWS.items():
            if len(place.rows) > STATES[name] + 2:
                scores[name] = some_known(place, prior, STATES[name], draws)
        sheet = nothing_known(place, prior)
        if sheet is not None:
            scores["sheet"] = [sheet]
        found.append(Judged(place, scores, order))
    return found


def factor(judged: Sequence[Judged], family: str, state: str, without: str = "") -> float:
    """What widths are multiplied by so that nine of ten lie inside, by the devices of a kind; few lean on all kinds."""
    alike = [one for one in judged if one.place.silicon != without and state in one.scores]
    own = [one for one in alike if one.place.family == family]
    count = len({one.place.silicon for one in own})
    usual = max(math.log(NINE_OF_TEN), math.log(_quantile(alike, state)) if alike else 0.0)
    mine = [math.log(_quantile(own, state))] * count if own else []
    return math.exp((sum(mine) + _WORTH * usual) / (count + _WORTH))


def _quantile(judged: Sequence[Judged], state: str) -> float:
    """The quantile of errors by widths, each piece of silicon weighing the same."""
    by_silicon: dict[str, list[float]] = {}
    for one in judged:
        for score in one.scores[state]:
            by_silicon.setdefault(one.place.silicon, []).extend((score.errors.abs() / score.widths).tolist())
    weighed = sorted((value, 1 / len(values)) for values in by_silicon.values() for value in values)
    total, reached = len(by_silicon), 0.0
    for value, weight in weighed:
        reached += weight
        if reached >= _QUANTILE * total:
            return value
    return weighed[-1][0]


# ---- what is printed and written ----


def alone(place: Place, chosen: Sequence[int], name: str) -> float:
    """How far off predictions are that take time for proportional to one number of a network."""
    found = [getattr(place.counted[i], name) / place.rows[i].seconds for i in chosen]
    return mean_factor([ratio / statistics.median(found) for ratio in found])


def _score(one: Judged, judged: Sequence[Judged], state: str) -> list[float | None]:
    """How far off, and the share inside the range."""
    if state not in one.scores:
        return [None, None]
    scale = factor(judged, one.place.family, state, one.place.silicon)
    off = statistics.median(score.off for score in one.scores[state])
    return [round(off, 3), round(statistics.fmean(score.inside(scale) for score in one.scores[state]), 2)]


COLUMNS = ("kind", "silicon", "device", "runtime", "precision", "batch", "networks", "gflops_alone",
           "activations_alone", "left_out", "inside", "five_known", "five_inside", "sheet_alone",
           "sheet_inside")  # fmt: skip


def table(judged: Sequence[Judged]) -> DataFrame:
    """A row for each device, runtime, precision and batch: how far off predictions are, as a mean factor."""
    rows = []
    for one in judged:
        place = one.place
        groups: dict[tuple[str, int], list[int]] = {}
        for i, row in enumerate(place.rows):
            groups.setdefault((row.precision, 0 if row.precision == "amp" else row.shape[0]), []).append(i)
        for (precision, batch), chosen in groups.items():
            at = [one.order.index(i) for i in chosen]
            out = one.scores["many"][0]
            part = Judged(place, {"many": [Score(out.errors[at], out.widths[at])]}, at)
            single = [round(alone(place, chosen, name), 2) for name in ("flops", "activations")]
            scores = [*_score(part, judged, "many"), *_score(one, judged, "five"), *_score(one, judged, "sheet")]
            where = place.family, place.silicon, place.device, place.runtime, precision, batch or "many"
            rows.append([*where, len(chosen), *single, *scores])
    return DataFrame(rows, columns=list(COLUMNS))


def by_kind(judged: Sequence[Judged], found: DataFrame) -> str:
    """The table of docs/clock.md: medians over the rows of a kind, shares over its places, each weighing the same."""
    heads = ("kind", "silicon", "networks", "GFLOPs alone", "left out", "inside", "five known", "inside",
             "data sheet alone", "inside")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for kind, alike in found.groupby("kind"):
        count = str(alike.silicon.nunique()), str(alike.networks.sum())
        cells = [TITLES[kind], *count, f"x {alike.gflops_alone.median():.2f}"]
        once = alike.drop_duplicates(["device", "runtime"])
        for off, inside, of in (("left_out", "inside", alike), ("five_known", "five_inside", once),
                                ("sheet_alone", "sheet_inside", once)):  # fmt: skip
            known = of[off].dropna()
            cells += [f"x {known.median():.2f}", f"{of[inside].dropna().mean():.0%}"] if len(known) else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shares(judged: Sequence[Judged]) -> str:
    """The share inside the range by state of knowledge and kind, each place weighing the same."""
    lines = []
    for state in STATES:
        known = [one for one in judged if state in one.scores]
        for family in ("", *sorted({one.place.family for one in known})):
            part = [one for one in known if one.place.family == family or not family]
            found = []
            for one in part:
                scale = factor(judged, one.place.family, state, one.place.silicon)
                found.append(statistics.fmean(score.inside(scale) for score in one.scores[state]))
            off = statistics.median(statistics.median(score.off for score in one.scores[state]) for one in part)
            lines.append(
                f"{state:6} {family or 'all':10} {statistics.fmean(found):.0%} of {len(part)}, off by x {off:.3f}"
            )
    return "\n".join(lines)


def details(one: Judged) -> str:
    """Each network of a place with its prediction, left out."""
    errors = dict(zip(one.order, one.scores["many"][0].errors.exp().tolist()))
    lines = [f"{one.place.device}, {one.place.runtime}"]
    for i, ratio in sorted(errors.items(), key=lambda pair: pair[1]):
        row = one.place.rows[i]
        lines.append(f"{row.precision:8} {row.model:40} {row.seconds * 1e3:10.3f} ms, left out x {ratio:.2f}")
    return "\n".join(lines)


def write(places: Sequence[Place], judged: Sequence[Judged]) -> None:
    """Write the priors, and the estimates of the devices that devices.yaml has."""
    found: dict[str, Any] = {}
    families = sorted({place.family for place in places})
    for name in (*families, *sorted({place.runtime for place in places})):
        prior = learn(places, name)
        family = all_runtimes()[name].family if name in all_runtimes() else name
        units = [UNITS.get(name, 1.0) for name in Constants._fields]
        rows_of = zip(Constants._fields, prior.mean, prior.width, units)
        constants = {name: [float(f"{math.exp(m) / unit:.4g}"), round(w, 3)] for name, m, w, unit in rows_of}
        share = {n: [round(math.exp(m), 4), round(w, 3)] for n, (m, w) in zip(("peak", "bandwidth"), prior.shares)}
        factors = {state: round(factor(judged, family, state), 3) for state in STATES}
        found[name] = {"constants": constants, "shares": share, "spread": SPREAD, "factors": factors,
                         "devices": prior.devices}  # fmt: skip
        if prior.hosts:
            hosts = {n: [float(f"{math.exp(m) / UNITS['host']:.4g}"), round(w, 3)] for n, (m, w) in prior.hosts.items()}
            found[name]["hosts"] = hosts
    head = """# What devices of a kind have, learned from all that were measured: `make calibrate` writes this.
# constants: [mean, width of the logarithm]; shares: of the data sheet, likewise; spread: what stays unexplained of a
# network; factors: of the widths of ranges, by what is known of a device.
"""
    PRIORS.write_text(
        head + yaml.safe_dump(found, sort_keys=False, default_flow_style=None, width=110), encoding="utf-8"
    )
    known = [place for place in places if place.device in catalogue()]
    off = {id(one.place): one.scores["many"][0].off for one in judged}
    entries: dict[str, dict[str, Any]] = {}
    for place in known:
        if place.posterior is not None:
            basis = replace(place.posterior.basis, error=off.get(id(place), 0.0))
            entries.setdefault(place.device, {})[place.runtime] = entry_of(replace(place.posterior, basis=basis))
    lines = (f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(entries.items()))
    ESTIMATES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write_published(places: Sequence[Place]) -> None:
    """Write the published speeds of the devices that devices.yaml has."""
    with PUBLISHED.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(Measurement._fields[:5] + ("ms",) + Measurement._fields[6:])
        for place in (place for place in places if place.device in catalogue()):
            for row, counted in zip(place.rows, place.counted):
                numbers = row.shape[0], int(row.decode), f"{row.seconds * 1e3:.6g}"
                what = counted.network, row.model, row.source
                out.writerow([row.device, row.runtime, row.precision, *numbers, *what])


def read_places() -> list[Place]:
    """All published speeds, by device and runtime."""
    wanted = rows()
    counted = count_all(wanted)
    found: dict[tuple[str, str], Place] = {}
    for row in wanted:
        if key(row) in counted:
            place = found.setdefault((row.device, row.runtime), Place(row.device, row.runtime, row.silicon))
            place.rows.append(row)
            place.counted.append(counted[key(row)])
    for place in found.values():
        place.settle()
    return list(found.values())


def main() -> None:
    """Count, fit, print, and write or draw what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calibrate", action="store_true", help="write the estimates, priors and published speeds")
    parser.add_argument("--details", action="store_true", help="show every network")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw predicted against published there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use_release()
    everywhere = read_places()
    places = [place for place in everywhere if not all_runtimes()[place.runtime].refuses]
    fit_all(places)
    judged = judge([place for place in places if _is_shown(place)])
    found = table(judged)
    print(found.drop(columns=["kind", "silicon"]).to_string(index=False))
    print(f"\n{by_kind(judged, found)}")
    print(f"\n{shares(judged)}\n")
    for where, family, count, score in families_left_out([one.place for one in judged]):
        place = next(one.place for one in judged if f"{one.place.device}, {one.place.runtime}" == where)
        inside = score.inside(factor(judged, place.family, "many", place.silicon))
        print(f"| {where} | {family} | {count} | x {score.off:.3f} | {inside:.0%} |")
    print(f"\n{row_of_clock()}")
    if arguments.details:
        print("\n\n".join(["", *map(details, judged)]))
    if arguments.calibrate:
        write(places, judged)
        write_published(everywhere)
        found.to_csv(TABLE, index=False, lineterminator="\n")
        print(f"\nwritten to {', '.join(path.name for path in (ESTIMATES, PRIORS, PUBLISHED, TABLE))}")
    if arguments.plot:
        draw(judged, arguments.plot)


TITLES = {"npu": "NPUs", "gpu": "GPUs", "gpu-eager": "PyTorch, GPUs", "cpu-eager": "PyTorch, CPUs", "cpu": "CPUs"}


def draw(judged: Sequence[Judged], folder: Path) -> None:
    """Draw predictions of networks left out, and how ranges narrow with what is known."""
    from clock_picture import Predicted, clock_figure

    from utils.thop.show.plots import save_figure

    points: dict[str, list[Predicted]] = {}
    reach: dict[str, dict[str, float]] = {}
    for family, title in TITLES.items():
        alike = [one for one in judged if one.place.family == family]
        for one in alike:
            scale = factor(judged, family, "many", one.place.silicon)
            score = one.scores["many"][0]
            for i, error, width in zip(one.order, score.errors.tolist(), score.widths.tolist()):
                seconds, around = one.place.rows[i].seconds, math.exp(scale * width)
                predicted = seconds * math.exp(error)
                points.setdefault(title, []).append(
                    Predicted(seconds, predicted, predicted / around, predicted * around)
                )
        for state in STATES:
            known = [one for one in alike if state in one.scores]
            widths = [float(score.widths.median()) for one in known for score in one.scores[state]]
            if widths:
                label = {"sheet": "sheet", "one": "1", "three": "3", "five": "5"}.get(state, state)
                reach.setdefault(title, {})[label] = math.exp(statistics.median(widths) * factor(judged, family, state))
    save_figure(clock_figure(points, reach), folder / "clock.png")


def _is_shown(place: Place) -> bool:
    """Whether a place has a row in the table."""
    return len(place.rows) >= FEWEST and (place.device in catalogue() or "classifiers" in place.device)


if __name__ == "__main__":
    main()

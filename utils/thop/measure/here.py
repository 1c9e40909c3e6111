"""This machine, measured: small networks under a runtime that is installed here, and the device that they make.

The networks differ in what their time goes to (``networks``). Where a runtime says how long each layer took, the
layers teach too, scaled so that together they take as long as a pass does without a profile.
"""

import os
import tempfile
import timeit
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn

from ..count.record import record
from ..deploy.calibration import Calibration, range_of
from ..deploy.clock import Work, seconds_of, work_of
from ..deploy.estimates import Basis, Estimate, Sheet, prior_of
from ..deploy.fitting import Groups, Measured, before, fit_from, unexplained
from ..deploy.launches import Deployed, as_deployed
from ..deploy.runtimes import DeviceError, Runtime
from ..run import in_few_words
from .logs import LogRow, match_log
from .networks import five_networks
from .sessions import Job, Session, open_session, runtime_here

TURNS, SECONDS = 12, 0.5
"""In how many turns the networks are timed, and how long each in one; every third has a profile, too."""
_FEWEST, _PROFILED = 3, 3  # passes in a turn; one in so many turns has a profile
_WEIGHT = 20  # layers that a whole pass counts as; they are off by more, and would leave little of it
Progress = Callable[[List[Any], str], Iterable[Any]]
"""What shows how far the work is: goes through a list of things that are called so."""


class Setting(NamedTuple):
    """Under what is measured; source: what a file of devices says of it."""

    runtime: Runtime
    precision: str
    threads: int
    source: str


def setting_here(runtime: str, threads: Optional[int] = None, precision: Optional[str] = None) -> Setting:
    """Say under what is measured, all cores and the usual precision by default; raises DeviceError for what can't be.

    That is a runtime that is not known, does not run here or lacks a package, and a precision that takes more than
    networks with random weights.
    """
    found, version = runtime_here(runtime)
    exact, count = found.precision(precision), threads or os.cpu_count() or 1
    if exact != found.precisions[0] and found.name != "pytorch":
        raise DeviceError(f"{found.name} is measured here in {found.precisions[0]} only, not in {exact}")
    place = torch.cuda.get_device_name() if found.kind == "gpu" else f"{count} thread{'s' * (count > 1)}"
    return Setting(found, exact, count, f"measured here, {place}, {version}")


@dataclass
class Timed:
    """A network that is timed; passes: seconds of each; rows: of its layers, the fastest of each."""

    name: str
    deployed: Deployed
    session: Session
    passes: List[float] = field(default_factory=list)
    rows: Dict[str, LogRow] = field(default_factory=dict)

    seconds = property(lambda self: min(self.passes), doc="Of the fastest pass: what else runs makes others longer.")

    def time(self, seconds: float) -> None:
        """Run it for some seconds, at least a few times; a first pass wakes threads, and does not count."""
        timer = timeit.Timer(self.session.run)
        count = max(_FEWEST, int(seconds / timer.timeit(1)))
        self.passes += timer.repeat(count, 1)

    def profile(self) -> None:
        """Learn what its layers take, where the runtime tells."""
        for row in self.session.layers() if self.session.layers else ():
            self.rows[row.name] = min(row, self.rows.get(row.name, row), key=lambda one: one.seconds)

    def whole(self, precision: str) -> Measured:
        """The network as it was measured."""
        return Measured(work_of(self.deployed, precision), self.seconds)

    def layers(self, precision: str) -> List[Measured]:
        """Its layers as if each were a network, scaled so that they take what a pass takes without a profile.

        A profile makes launches longer; and what no launch is of, such as changes of layout, is shared out. Those that
        are alike count as one: sixty of them teach no more.
        """
        if not self.rows:
            return []
        matched = match_log([row for row in self.rows.values() if row.seconds], self.deployed)
        alike: Dict[Tuple[Work, ...], List[Measured]] = {}
        for one in matched.layers(precision, self.seconds / sum(pair.seconds for pair in matched.pairs)):
            alike.setdefault(tuple(one.works), []).append(one)
        return [
            Measured([work for one in those for work in one.works], sum(one.seconds for one in those), alone=True)
            for those in alike.values()
        ]


def time_networks(
    networks: Mapping[str, Tuple[nn.Module, int]], setting: Setting, progress: Progress = lambda work, unit: work
) -> List[Timed]:
    """Time networks in turns, so that what else the machine does meets all of them; each with its image's side.

    Raises DeviceError, with the network's name, where one does not run.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # converters warn
            timed = [
                _ready(name, network, side, setting, Path(tempfile.mkdtemp(dir=folder)))
                for name, (network, side) in progress(list(networks.items()), "network")
            ]
            for turn in progress(list(range(TURNS)), "turn"):
                for one in timed:
                    one.time(SECONDS)
                    if turn % _PROFILED == 0:
                        one.profile()
    finally:
        torch.set_num_threads(threads)
    return timed


def _ready(name: str, network: nn.Module, side: int, setting: Setting, folder: Path) -> Timed:
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    deployed = as_deployed(record(network, (x,), amp=setting.precision == "amp"), setting.runtime)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # where converters say how far they are
            session = open_session(setting.runtime, Job(network, x, folder, setting.threads, setting.precision))
            session.run()
    except Exception as error:  # of a converter, a compiler or a runtime
        reason = in_few_words(error)
        raise DeviceError(f"{setting.runtime.name} does not run the network {name!r} here: {reason}") from error
    return Timed(name, deployed, session)


# ---- the device ----


def _fit(measured: Sequence[Tuple[Measured, List[Measured]]], setting: Setting) -> Estimate:
    """Fit constants to networks, each with its layers."""
    precision, prior = setting.precision, prior_of(setting.runtime)
    wholes, layers = [whole for whole, _ in measured], [layer for _, layers in measured for layer in layers]
    groups = Groups({precision: [*layers, *wholes * (_WEIGHT if layers else 1)]})
    mean, width = before(Groups({precision: wholes}), prior, Sheet())
    found = fit_from(groups, mean, width, prior.spread)
    left = (groups.predict(found.mean[None], (precision,))[0] - groups.logs)[-len(wholes) :]
    # What layers leave unexplained evens out in a whole.
    return replace(found, spread=unexplained(left, prior.spread), basis=Basis(len(wholes), (1, 1), setting.source))


def calibrate_timed(timed: Sequence[Timed], setting: Setting, name: str = "here") -> Calibration:
    """Estimate the device's constants from networks that were timed on it, and from their layers if they tell."""
    precision = setting.precision
    measured = [(one.whole(precision), one.layers(precision)) for one in timed]
    known, ratios = _fit(measured, setting), []
    for i, (whole, _) in enumerate(measured if len(measured) > 1 else ()):
        others = _fit([*measured[:i], *measured[i + 1 :]], setting).constants(precision)
        ratios.append(seconds_of(whole.works, others) / whole.seconds)
    reach = range_of([whole for whole, _ in measured], known, prior_of(setting.runtime), precision)
    rates = tuple(one.deployed.flops / one.seconds for one in timed)
    return Calibration(name, setting.runtime, precision, known, tuple(ratios), rates, (reach,))


def calibrate_here(setting: Setting, name: str, progress: Progress) -> Tuple[Calibration, List[Timed]]:
    """Measure this machine with the five networks, in some 30 seconds beside converting them, and fit its constants."""
    timed = time_networks(five_networks(), setting, progress)
    return calibrate_timed(timed, setting, name), timed

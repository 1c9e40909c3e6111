"""Choice: which networks are fast enough on a device, how likely that is, and which of them nobody beats.

A predicted time is log-normal, with the range that holds nine of ten; so a rate is reached with a probability. A
network is on the front where no other is at least as accurate in less time, by more than times are usually off.
"""

import math
from dataclasses import dataclass, field, replace
from typing import List, Optional, Sequence

from ..answer import Answer, Rows
from .estimates import NINE_OF_TEN
from .prediction import Timing

LIKELY, UNLIKELY = 0.9, 0.1
_CLEARLY = 1.15  # at most: where a range is wide, that of two networks on one device mostly moves together
_USUAL = 0.8 / NINE_OF_TEN  # of the logarithm of a range: what a normal distribution is off on average


@dataclass(frozen=True)
class Candidate:
    """A network at a size, on the device that is asked about.

    seconds, low, high: expected for a pass over ``batch`` images, and what nine of ten lie between; published_seconds:
    what somebody has measured of this very network there; map: published accuracy at this size, in per cent, and
    map_source whose; chance: that it reaches the rate; on_front: no other is at least as accurate in clearly less time;
    error: why there is no time.
    """

    name: str
    family: str
    imgsz: int
    batch: int = 1
    seconds: float = math.nan
    low: float = math.nan
    high: float = math.nan
    published_seconds: Optional[float] = None
    map: Optional[float] = None
    map_source: str = ""
    gflops: float = math.nan
    chance: float = math.nan
    on_front: bool = False
    error: str = ""
    timing: Optional[Timing] = field(default=None, repr=False)

    @property
    def fps(self) -> float:
        """Images a second."""
        return self.batch / self.seconds

    @property
    def reaches(self) -> str:
        """How likely it is to reach the rate, in a word."""
        return "likely" if self.chance >= LIKELY else "unlikely" if self.chance < UNLIKELY else "even"

    def timed(self, timing: Timing, limit: float) -> "Candidate":
        """The same with its time, and the chance that it takes no more than so many seconds."""
        width = math.log(timing.high / timing.seconds) / NINE_OF_TEN
        seconds, low, high = timing.seconds, timing.low, timing.high
        known = timing.published.seconds if timing.published else None
        chance = chance_of(limit, seconds, width)
        found = replace(self, timing=timing, chance=chance, published_seconds=known)
        return replace(found, seconds=seconds, low=low, high=high)


def chance_of(limit: float, seconds: float, width: float) -> float:
    """The probability that a time is at most a limit; width: the standard deviation of its logarithm."""
    return 0.5 * (1 + math.erf(math.log(limit / seconds) / (width * math.sqrt(2))))


@dataclass(frozen=True, repr=False)
class Choice(Answer):
    """The networks that were tried, best first: the most accurate of those that may be fast enough, then the others.

    device, title: where; limit: seconds for a pass; fps: images a second that this comes to; basis: what times rest on;
    task: what the known networks are for.
    """

    device: str
    title: str
    limit: float
    fps: float
    basis: str
    task: str
    rows: List[Candidate]

    @property
    def fast_enough(self) -> List[Candidate]:
        """Those that are not unlikely to reach the rate."""
        return [row for row in self.rows if row.chance >= UNLIKELY]

    @property
    def closest(self) -> Optional[Candidate]:
        """The fastest of all."""
        return min((row for row in self.rows if not row.error), key=lambda row: row.seconds, default=None)


def ranked(rows: Sequence[Candidate]) -> List[Candidate]:
    """Mark the front, and put the best first: those that may be fast enough before others, by accuracy.

    Of a network whose accuracy nobody has published its work says how good it may be.
    """
    known = [row for row in rows if row.map is not None and row.seconds > 0]
    marked = [
        replace(row, on_front=row.map is not None and row.seconds > 0 and not any(_beats(one, row) for one in known))
        for row in rows
    ]
    order = sorted(marked, key=lambda row: (bool(row.error), not row.chance >= UNLIKELY, row.map is None, *_worth(row)))
    return Rows(order)


def _beats(one: Candidate, other: Candidate) -> bool:
    """Whether one is at least as accurate in less time, by more than what times are usually off."""
    usual = min((other.high / other.seconds) ** _USUAL, _CLEARLY) if other.high > 0 else 1.0
    better = (one.map or 0.0, -one.seconds), (other.map or 0.0, -other.seconds)
    return one.map >= other.map and one.seconds * usual <= other.seconds and better[0] > better[1]  # type: ignore[operator]


def _worth(row: Candidate) -> Sequence[float]:
    return (-(row.map or 0.0), row.seconds) if row.map is not None else (-row.gflops, row.seconds)

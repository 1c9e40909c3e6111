"""Room for names beside points: none on another or over the edge, on as few marks and lines as can be.

Every name has the same places to choose from, around its mark and further away, and each place has a price: distance,
and what it covers. What all names together pay is made small by simulated annealing, as in Christensen, Marks and
Shieber, An Empirical Study of Algorithms for Point-Feature Label Placement (ACM Transactions on Graphics, 1995). The
same input gives the same picture.
"""

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

_GAPS = (2, 6, 10, 15, 21, 28, 36, 46, 58, 72, 88)  # points between a mark and its name
_NEAR = 4  # points up to which a name needs no line to its mark
_LEVEL = (0, 8, 1, 15, 7, 9)  # directions in sixteenths of a turn from the right, the best first: beside the mark
_STEEP = (4, 12, 2, 14, 6, 10, 3, 13, 5, 11)  # and above or below it
_SHIFTS = (0.0, 0.5, -0.5, 1.0, -1.0)  # of a name above or below, to the right, in halves of its width
_MARGIN = 0.7  # points around a name that stay free
_NEVER = 2000.0  # the price of being left out, where that shall not be
_DOUBT = 25.0  # the price of leaving it open whose name it is
_STACK = 5
_PLACES, _SHARE = 3000, 30  # how many are searched, of all names together, and of one at least: the fewer, the faster
_MOVES = 80000
_HOT, _COLD = 40.0, 1.0  # how much dearer a place may be that is still tried now and then, at first and at last
_SOFT = 150.0  # the price at first of covering another name, or of crossing its line
_ROUNDS = 4


@dataclass
class _Name:
    """A name, and the places that it can take, the cheapest first.

    boxes: left, bottom, right, top; lines: from the mark to the box, x, y, x, y.
    """

    artist: "Annotation"
    radius: float
    boxes: Any
    lines: Any
    prices: Any


class Placement:
    """The names in one pair of axes, whose limits must not change any more. Lengths are in points."""

    def __init__(self, axes: "Axes") -> None:
        canvas: Any = axes.figure.canvas
        self.axes = axes
        self.renderer = canvas.get_renderer()
        self.scale = 72 / axes.figure.dpi
        self.texts: List[List[float]] = []
        self.marks: List[List[float]] = []
        self.lines: List[List[float]] = []

    def _box(self, artist: Any) -> List[float]:
        return [edge * self.scale for edge in artist.get_window_extent(self.renderer).extents]

    def _place(self, x: float, y: float) -> Any:
        return self.axes.transData.transform((x, y)) * self.scale

    # ---- what is there already, all of which must be known before the first name ----

    def avoid_text(self, artist: Any) -> None:
        """Keep names off a text altogether."""
        left, bottom, right, top = self._box(artist)
        turn = math.radians(artist.get_rotation())
        if not turn:
            self.texts.append([left, bottom, right, top])
            return
        middle, reach = ((left + right) / 2, (bottom + top) / 2), (right - left) / 2 / math.cos(turn)
        for step in range(-10, 11):
            x, y = (middle[i] + reach * step / 10 * way for i, way in enumerate((math.cos(turn), math.sin(turn))))
            self.texts.append([x - 3, y - 3, x + 3, y + 3])

    def avoid_mark(self, x: float, y: float, radius: float) -> None:
        """Keep names off a mark if possible; its place is in the units of the axes."""
        across, up = self._place(x, y)
        self.marks.append([across - radius, up - radius, across + radius, up + radius])

    def avoid_line(self, start: Tuple[float, float], end: Tuple[float, float]) -> None:
        """Keep names off a straight line if possible."""
        first, last = self._place(*start), self._place(*end)
        steps = max(2, int(abs(last - first).max() / 2))
        for i in range(steps + 1):
            across, up = first + (last - first) * i / steps
            self.lines.append([across - 1, up - 1, across + 1, up + 1])

    # ---- names ----

    def write(self, names: Sequence[Tuple[str, float, float, float]], dearest: float = math.inf) -> int:
        """Write names of marks at x, y of a radius; return how many found no room, and are not shown.

        Names of one place are written below each other, a few at a time. Places dearer than ``dearest`` are no room:
        a point of distance costs 1, a mark that is covered 100 and more, a mark that is crossed 25.
        """
        places: Dict[Tuple[float, ...], List[int]] = {}
        for i, (_, x, y, _) in enumerate(names):
            places.setdefault(tuple(self._place(x, y).round()), []).append(i)
        stacks = [same[i : i + _STACK] for same in places.values() for i in range(0, len(same), _STACK)]
        found = [self._name("\n".join(names[i][0] for i in stack), *names[stack[0]][1:], dearest) for stack in stacks]
        chosen = _arrange(found, _NEVER if dearest == math.inf else dearest + 100)
        for i, name in enumerate(found):
            if i in chosen:
                self._show(name, chosen[i])
            else:
                name.artist.remove()
        return sum(len(stack) for i, stack in enumerate(stacks) if i not in chosen)

    def _name(self, text: str, x: float, y: float, radius: float, dearest: float) -> _Name:
        """Write a name for now in the middle of its mark, and find the cheapest places for it."""
        import numpy as np

        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
        style: Any = {"ha": "center", "va": "center", "zorder": 2.5, "bbox": ground, "ma": "left", "linespacing": 1.1}
        artist = self.axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", **style)
        left, bottom, right, top = self._box(artist)
        mark, size = self._place(x, y), np.array([right - left, top - bottom]) + 2 * _MARGIN
        ways, shifts, gaps, prices = _directions()
        meets = mark + ways * (radius + gaps)[:, None]
        centres = meets + shifts * size / 2
        boxes = np.concatenate([centres - size / 2, centres + size / 2], axis=1)
        lines = np.concatenate([mark + ways * (radius + 1), meets], axis=1)
        prices = prices + self._prices(boxes, lines, mark) + np.where(gaps <= _NEAR, self._doubts(boxes, mark), 0)
        order = prices.argsort(kind="stable")[: int(((prices < math.inf) & (prices <= dearest)).sum())]
        return _Name(artist, radius, boxes[order], lines[order], prices[order])

    def _prices(self, boxes: Any, lines: Any, mark: Any) -> Any:
        """What it costs to cover what is there already, and to cross it with lines; infinite where it can't be."""
        import numpy as np

        texts, marks, strokes = (np.array(each).reshape(-1, 4) for each in (self.texts, self.marks, self.lines))
        left, bottom, right, top = (edge * self.scale for edge in self.axes.bbox.extents)
        inside = (boxes[:, 0] > left) & (boxes[:, 1] > bottom) & (boxes[:, 2] < right) & (boxes[:, 3] < top)
        barred = ~inside | (_overlaps(boxes, texts) > 0).any(axis=1) | _hits(lines, texts).any(axis=1)
        covered = _overlaps(boxes, marks)
        prices = 100 * (covered > 0).sum(axis=1) + 0.3 * covered.sum(axis=1) + 2 * _overlaps(boxes, strokes).sum(axis=1)
        around = ((marks[:, :2] < mark) & (mark < marks[:, 2:])).all(axis=1)  # no line can keep off these
        prices += 25 * _hits(lines, marks[~around]).sum(axis=1) + _hits(lines, strokes).sum(axis=1)
        return np.where(barred, math.inf, prices)

    def _doubts(self, boxes: Any, mark: Any) -> Any:
        """What it costs to have no line to the mark, where another is as near."""
        import numpy as np

        marks = np.array(self.marks).reshape(-1, 4)
        others = marks[abs(marks[:, :2] + marks[:, 2:] - 2 * mark).max(axis=1) > 0.2]
        around = boxes + np.array([-_NEAR, -_NEAR, _NEAR, _NEAR])
        return _DOUBT * (_overlaps(around, others) > 0).any(axis=1)

    def _show(self, name: _Name, place: int) -> None:
        left, bottom, right, top = name.boxes[place]
        mark = self._place(*name.artist.xy)
        name.artist.xyann = ((left + right) / 2 - mark[0], (bottom + top) / 2 - mark[1])
        start, end = name.lines[place][:2], name.lines[place][2:]
        if math.dist(start, end) > _NEAR:
            line = {"arrowstyle": "-", "linewidth": 0.5, "color": "black", "shrinkA": 0, "shrinkB": name.radius}
            reached = tuple(end - mark)
            self.axes.annotate("", name.artist.xy, reached, textcoords="offset points", arrowprops=line, zorder=4)


def _directions() -> Tuple[Any, Any, Any, Any]:
    """Return the places around a mark: the way there, how the name's middle is shifted, its distance, its price.

    Shifts are in halves of the name's width and height.
    """
    import numpy as np

    level, steep = np.array(_LEVEL), np.tile(_STEEP, len(_SHIFTS))
    turns = np.concatenate([level, steep]) * math.pi / 8
    ways = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    shifts = ways / abs(ways).max(axis=1, keepdims=True)
    shifts[len(level) :] = np.stack([np.repeat(_SHIFTS, len(_STEEP)), np.sign(ways[len(level) :, 1])], axis=1)
    gaps = np.repeat(_GAPS, len(turns))
    prices = gaps + 0.05 * np.tile(np.arange(len(turns)), len(_GAPS))
    return np.tile(ways, (len(_GAPS), 1)), np.tile(shifts, (len(_GAPS), 1)), gaps, prices


# ---- who takes which place ----


def _arrange(names: Sequence[_Name], unnamed: float) -> Dict[int, int]:
    """Choose a place for each name so that none clash and the sum of prices is low; leave out those that find none.

    ``unnamed`` is the price of being left out. Whoever finds none among the cheapest places, to which the search is
    limited, has a second chance among all.
    """
    import numpy as np

    share = max(_SHARE, _PLACES // max(len(names), 1))
    nowhere = np.full((1, 4), -1e6)
    boxes = [np.concatenate([name.boxes[:share], nowhere]) for name in names]
    lines = [np.concatenate([name.lines[:share], -nowhere]) for name in names]
    prices = [np.append(name.prices[:share], unnamed) for name in names]
    found = _search(prices, _clashes(boxes, lines), 1.25 * unnamed)
    chosen = {i: place for i, place in enumerate(found) if place < len(prices[i]) - 1}
    for i, name in enumerate(names):
        if i not in chosen:
            taken_boxes = np.array([names[j].boxes[place] for j, place in chosen.items()]).reshape(-1, 4)
            taken_lines = np.array([names[j].lines[place] for j, place in chosen.items()]).reshape(-1, 4)
            free = ~_clash(name.boxes, name.lines, taken_boxes, taken_lines).any(axis=1)
            if free.any():
                chosen[i] = int(free.argmax())
    return chosen


def _clashes(boxes: Sequence[Any], lines: Sequence[Any]) -> Any:
    """Which places of different names can't be taken together, over the places of all."""
    import numpy as np

    all_boxes, all_lines = (np.concatenate([np.zeros((0, 4)), *each]) for each in (boxes, lines))
    clashes = np.zeros((len(all_boxes), len(all_boxes)), dtype=bool)
    first = 0
    for these_boxes, these_lines in zip(boxes, lines):
        end = first + len(these_boxes)
        clashes[first:end, end:] = _clash(these_boxes, these_lines, all_boxes[end:], all_lines[end:])
        first = end
    return clashes | clashes.T


def _clash(boxes: Any, lines: Any, other_boxes: Any, other_lines: Any) -> Any:
    """Whether each of the places covers each of the others, or either's line touches the other or its line."""
    touches = (_overlaps(boxes, other_boxes) > 0) | _hits(lines, other_boxes) | _hits(other_lines, boxes).T
    return touches | _cross(lines, other_lines)


class _Choice:
    """Which place each name has taken; places of all names are numbered through, the last of each is to be left out.

    rivals: how many other names stand in the way of each place.
    """

    def __init__(self, prices: Sequence[Any], clashes: Any, clash: float) -> None:
        import numpy as np

        self.clash = clash
        self.ends = np.cumsum([0] + [len(each) for each in prices])
        self.prices = np.concatenate([np.zeros(0), *prices])
        self.clashes = clashes
        self.rivals = np.zeros(len(self.prices))
        self.taken = [int(end) - 1 for end in self.ends[1:]]

    def take(self, name: int, place: int) -> None:
        """Let a name have another place."""
        self.rivals += self.clashes[place].astype(float) - self.clashes[self.taken[name]]
        self.taken[name] = place

    def settle(self, name: int) -> None:
        """Let a name have its cheapest place as the others are."""
        first, end = self.ends[name : name + 2]
        self.take(name, int(first + (self.prices[first:end] + self.clash * self.rivals[first:end]).argmin()))


def _search(prices: Sequence[Any], clashes: Any, clash: float) -> List[int]:
    """Choose a place for each name: its cheapest if all can have that, else what simulated annealing finds.

    ``prices`` has the places of each name, the cheapest first, and the last to be left out; ``clashes`` says of each
    two of all places whether they can't both be taken, ``clash`` is what it costs if they are.
    """
    choice, names = _Choice(prices, clashes, clash), range(len(prices))
    for name in names:
        choice.settle(name)
    draw = random.Random(0).random
    moves = _MOVES if any(place != first for place, first in zip(choice.taken, choice.ends)) else 0
    for step in range(moves):
        heat, rivalry = _HOT * (_COLD / _HOT) ** (step / moves), _SOFT * (clash / _SOFT) ** (step / moves)
        name = int(draw() * len(names))
        first, end = choice.ends[name : name + 2]
        old, new = choice.taken[name], int(first + draw() ** 2 * (end - first))
        dearer = choice.prices[new] - choice.prices[old] + rivalry * (choice.rivals[new] - choice.rivals[old])
        if dearer <= 0 or draw() < math.exp(-dearer / heat):
            choice.take(name, new)
    for _ in range(_ROUNDS):
        for name in names:
            choice.settle(name)
    return [int(place - first) for place, first in zip(choice.taken, choice.ends)]


def _overlaps(boxes: Any, others: Any) -> Any:
    """The area that each of the boxes has in common with each of the others."""
    import numpy as np

    a, b = boxes[:, None], others[None]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    return width.clip(min=0) * height.clip(min=0)


def _hits(lines: Any, boxes: Any) -> Any:
    """Whether each of the lines touches each of the boxes: where it is between both pairs of edges at once."""
    import numpy as np

    first, last = 0.0, 1.0  # of the way along the line
    for low in (0, 1):
        start, way = lines[:, None, low], lines[:, None, low + 2] - lines[:, None, low] + 1e-9
        one, other = (boxes[None, :, low] - start) / way, (boxes[None, :, low + 2] - start) / way
        first, last = np.maximum(first, np.minimum(one, other)), np.minimum(last, np.maximum(one, other))
    return first <= last


def _cross(lines: Any, others: Any) -> Any:
    """Whether each of the lines crosses each of the others: the ends of either are on two sides of the other."""

    def side(line: Any, x: Any, y: Any) -> Any:
        return (line[..., 2] - line[..., 0]) * (y - line[..., 1]) - (line[..., 3] - line[..., 1]) * (x - line[..., 0])

    a, b = lines[:, None], others[None]
    apart = side(a, b[..., 0], b[..., 1]) * side(a, b[..., 2], b[..., 3]) < 0
    return apart & (side(b, a[..., 0], a[..., 1]) * side(b, a[..., 2], a[..., 3]) < 0)


__all__ = ["Placement"]

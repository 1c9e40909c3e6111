"""Room for names beside points: none on another or over the edge, on as few marks and lines as can be.

Every name has the same places to choose from, around its mark and further away, and each place has a price: distance,
and what it covers. One after the other takes the cheapest that is left. The same input gives the same picture.
"""

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple

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
_THRIFT = 6  # the higher, the rarer is a dear place
_TRIES = 600  # names in orders by chance, of all such orders together
_SETTLED = 100  # names in the best of these, which are improved


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
    """Let each name take the cheapest place that those before it leave, in several orders; the best of these stays.

    ``unnamed`` is the price of being left out. By chance a name takes a dearer place, and leaves one to others.
    """
    numbers = list(range(len(names)))
    draw = random.Random(0)
    fewest = sorted(numbers, key=lambda i: len(names[i].prices))
    tried = [_take_in_turn(names, fewest, lambda: 0.0)]
    for _ in range(_TRIES // max(len(names), 1)):
        tried.append(_take_in_turn(names, draw.sample(numbers, len(numbers)), lambda: draw.random() ** _THRIFT))

    def price(chosen: Dict[int, int]) -> float:
        paid = sum(float(names[i].prices[place]) for i, place in chosen.items())
        return paid + unnamed * (len(names) - len(chosen))

    tried.sort(key=price)
    return min([_settled(names, chosen) for chosen in tried[: max(1, _SETTLED // max(len(names), 1))]], key=price)


def _settled(names: Sequence[_Name], chosen: Dict[int, int]) -> Dict[int, int]:
    """Let each name move to the cheapest place that all others leave, three times over."""
    for _ in range(3):
        for i in range(len(names)):
            others = {j: place for j, place in chosen.items() if j != i}
            boxes = _rows([names[j].boxes[place] for j, place in others.items()])
            lines = _rows([names[j].lines[place] for j, place in others.items()])
            free = ~_clash(names[i].boxes, names[i].lines, boxes, lines).any(axis=1)
            chosen = {**others, i: int(free.argmax())} if free.any() else others
    return chosen


def _rows(rows: Sequence[Any]) -> Any:
    """Put rows of four numbers into an array, which may be empty."""
    import numpy as np

    return np.array(rows).reshape(-1, 4)


def _take_in_turn(names: Sequence[_Name], order: Sequence[int], luck: Callable[[], float]) -> Dict[int, int]:
    """Let each name take one of the places that are free by then; ``luck``, 0 to 1, says how far from the cheapest."""
    import numpy as np

    boxes, lines = _rows([]), _rows([])
    chosen: Dict[int, int] = {}
    for i in order:
        name = names[i]
        free = np.flatnonzero(~_clash(name.boxes, name.lines, boxes, lines).any(axis=1))
        if len(free):
            place = chosen[i] = int(free[int(luck() * len(free))])
            boxes, lines = np.vstack([boxes, name.boxes[place]]), np.vstack([lines, name.lines[place]])
    return chosen


def _clash(boxes: Any, lines: Any, other_boxes: Any, other_lines: Any) -> Any:
    """Whether each of the places covers each of the others, or either's line touches the other or its line."""
    touches = (_overlaps(boxes, other_boxes) > 0) | _hits(lines, other_boxes) | _hits(other_lines, boxes).T
    return touches | _cross(lines, other_lines)


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

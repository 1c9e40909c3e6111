"""The arena that a network's activations take on a device.

Runtimes plan it before they run: each launch's results are put at the lowest place that is free for as long as somebody
will read them. That leaves gaps, so the arena is larger than what is alive at once; with channels filled up as the NPU
stores them it is what rknn-toolkit2 reports for an RK3588, to the byte (tests/deploy/graphs).
"""

import math
from typing import Dict, Iterable, List, NamedTuple, Sequence, Set, Tuple

from ..count.calls import View

_BESIDE = 1_000_000_000  # what tells a result's copy from the result


class Uses(NamedTuple):
    """What a launch of the module at ``path`` reads and writes, with channels stored in whole numbers of ``unit``."""

    path: str
    reads: Sequence[View]
    writes: Sequence[View]
    unit: int = 1


def arena(uses: Sequence[Uses], inputs: Set[int], dropped: Set[int], size: int, beside: int = 0) -> Tuple[int, str]:
    """Return the bytes of the arena, and the module at which it is that large.

    inputs: values that are there at the start, as they are; dropped: values that nobody reads and nobody returns; size:
    bytes of an element; beside: bytes of an element that results of the network take a second time, in another type.
    """
    places = _Arena(size)
    last = {view.value: i for i, one in enumerate(uses) for view in one.reads}
    places.put([view for one in uses for view in one.reads if view.value in inputs], "", 1)
    for i, one in enumerate(uses):
        places.put(one.writes, one.path, one.unit)
        if beside:
            returned = [view for view in one.writes if view.value not in last and view.value not in dropped]
            places.put((view._replace(value=view.value + _BESIDE) for view in returned), one.path, one.unit, beside)
        over = (view.value for view in (*one.reads, *one.writes))
        places.release(value for value in over if value in dropped or last.get(value, len(uses)) <= i)
    return places.bytes, places.at


class _Arena:
    """Where values lie, and how far the places have ever reached."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.places: Dict[int, Tuple[int, int]] = {}  # from, to
        self.bytes, self.at = 0, ""

    def put(self, views: Iterable[View], path: str, unit: int, size: int = 0) -> None:
        """Put values at the lowest places that are free and large enough; size: bytes of an element, if of another."""
        for view in views:
            if view.value in self.places:
                continue
            length, start = self._length(view, unit) * (size or self.size), 0
            for begin, end in sorted(self.places.values()):
                if begin - start >= length:
                    break
                start = max(start, end)
            self.places[view.value] = start, start + length
            if start + length > self.bytes:
                self.bytes, self.at = start + length, path

    def _length(self, view: View, unit: int) -> int:
        shape: List[int] = list(view.shape)
        if len(shape) == 4:
            shape[1] = -(-shape[1] // unit) * unit
        return math.prod(shape)

    def release(self, values: Iterable[int]) -> None:
        """Free what nobody will read again."""
        for value in values:
            self.places.pop(value, None)

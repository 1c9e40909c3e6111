"""The storages that a run meets: which value each of them holds, and which are alive at once.

A *value* is what a storage holds between two writes to it. Views share their storage's value; an operator that writes
in place makes a new one. So a chain of calls is known as a chain whatever views lie between its links.
"""

from typing import Dict, List, Tuple

import torch
from torch import Tensor

from ..run import STORAGES_TELL, WeakStorage, storage_of

PlaceOfPhase = Tuple[str, str]
"""A phase of a run and a module's path."""


def in_blocks(size: int, block: int) -> int:
    """A size as an allocator hands it out: rounded up to whole blocks."""
    return -(-size // block) * block


class Held:
    """What is known of one storage; size: 0 unless its life is watched; born: where it came to be."""

    __slots__ = ("born", "reference", "size", "value")

    def __init__(self, value: int, reference: WeakStorage) -> None:
        self.value, self.reference = value, reference
        self.size = 0
        self.born: PlaceOfPhase = ("", "")

    def is_gone(self) -> bool:
        """Say whether the storage is."""
        return self.reference.expired()


class Storages:
    """The storages of one run.

    place: what the run is at; alive: bytes of all that are, peak: the most that it was, reached at peak_place.
    """

    def __init__(self, block: int = 1) -> None:
        self.block = block
        self.held: Dict[int, Held] = {}
        self.values = 0
        self.place: PlaceOfPhase = ("", "")
        self.peak_place: PlaceOfPhase = ("", "")
        self.alive = self.peak = 0

    def of(self, tensor: Tensor) -> Held:
        """Return what is known of a tensor's storage."""
        storage = storage_of(tensor)
        key = storage._cdata
        held = self.held.get(key)
        if held is not None and not STORAGES_TELL and held.is_gone():
            self._forget(key)
            held = None
        if held is None:
            held = self.held[key] = Held(self._next(), WeakStorage(storage, self._forget))
        return held

    def _next(self) -> int:
        self.values += 1
        return self.values

    def _forget(self, key: int) -> None:
        held = self.held.pop(key, None)
        if held is not None:
            self.alive -= held.size

    def written(self, tensor: Tensor) -> Held:
        """A tensor's storage has been written to: it holds a new value."""
        held = self.of(tensor)
        held.value = self._next()
        return held

    def made(self, tensor: Tensor) -> None:
        """A tensor has come to be: its storage is alive, and counts until it is gone."""
        if tensor.layout is not torch.strided or not tensor.numel():
            return
        held = self.of(tensor)
        if held.size:
            return
        held.size, held.born = in_blocks(storage_of(tensor).nbytes(), self.block), self.place
        self.alive += held.size
        if self.alive > self.peak:
            self._bury()
            if self.alive > self.peak:
                self.peak, self.peak_place = self.alive, self.place

    def restart(self) -> Tuple[int, PlaceOfPhase]:
        """Return the peak and where it was, and seek another one from here on."""
        found = self.peak, self.peak_place
        self._bury()
        self.peak, self.peak_place = self.alive, self.place
        return found

    def _bury(self) -> None:
        """Take off what is gone, where storages do not say so."""
        if not STORAGES_TELL:
            for key in [key for key, held in self.held.items() if held.is_gone()]:
                self._forget(key)

    def born_in(self, phase: str) -> List[Tuple[str, int]]:
        """The sizes of what is alive and was made in a phase, each with the path that it was made at."""
        self._bury()
        return [(held.born[1], held.size) for held in self.held.values() if held.size and held.born[0] == phase]

    def let_go(self) -> None:
        """The run is over: its storages need not say any more that they are gone."""
        self.held = {}

"""Fusion: which of the units that a runtime executes form one launch.

A launch begins with a unit, and takes along what its runtime says for what it begins with: point-wise units that
follow, in a certain order, or in any while nobody else reads what lies between.
"""

from typing import Dict, List, Optional, Sequence, Set, Tuple

from .executed import Executed, Unit
from .runtimes import Runtime, Sequences


def fused(program: Executed, runtime: Runtime) -> List[List[Unit]]:
    """Return the units of each launch, in the order in which launches begin."""
    groups = _Fusion(program, runtime).groups()
    return _in_one_function(groups) if runtime.one_function else groups


def _in_one_function(groups: List[List[Unit]]) -> List[List[Unit]]:
    """Put kernels that a compiler generates into one launch with those whose results they read.

    Either the later one may run earlier, as nothing between is waited for, or the earlier one later, as nobody between
    reads it.
    """
    needed = [set().union(*(unit.needs for unit in group)) for group in groups]
    made = [set().union(*(unit.made for unit in group)) for group in groups]
    generated = [all(step.geometry is None for unit in group for step in unit.steps) for group in groups]
    gone: Set[int] = set()
    for i in range(len(groups)):
        own = needed[i] if generated[i] else set()
        for j in reversed(range(i)):
            if j in gone or not generated[j] or not made[j] & own:
                continue
            between = [k for k in range(j + 1, i) if k not in gone]
            early = not any(made[k] & needed[i] for k in between)
            if not early and any(made[j] & needed[k] for k in between):
                continue
            at, other = (j, i) if early else (i, j)
            groups[at] = [*groups[j], *groups[i]]
            needed[at], made[at] = needed[j] | needed[i], made[j] | made[i]
            gone.add(other)
            if early:
                break
    return [group for at, group in enumerate(groups) if at not in gone]


class _Fusion:
    """Lets each unit join the launch that made what it reads, or begin one."""

    def __init__(self, program: Executed, runtime: Runtime) -> None:
        self.program, self.units = program, program.units
        kinds = [_kinds(unit, runtime.tiles) for unit in self.units]
        self.rules = [next((runtime.fuses[kind] for kind in each if kind in runtime.fuses), ()) for each in kinds]
        self.in_place = runtime.sums_in_place
        self.group: Dict[int, int] = {}  # of a unit: the one that its launch begins with
        self.taken: Dict[int, Tuple[Unit, ...]] = {}  # what a launch has taken along, where there is an order
        self.could_join: Dict[int, Dict[int, bool]] = {}  # by the unit that a launch begins with
        self.read_inside: Dict[int, Set[int]] = {}
        self.predicted: Dict[int, List[int]] = {}  # the launches that a unit was thought to join

    def groups(self) -> List[List[Unit]]:
        members: Dict[int, List[int]] = {}
        for i in range(len(self.units)):
            joined = self._joined(i)
            self.group[i] = i if joined is None else joined
            for begun in self.predicted.pop(i, ()):
                if self.group[i] > begun:  # and what was found with it in mind is not so
                    self.could_join.pop(begun, None)
                    self.read_inside.pop(begun, None)
            members.setdefault(self.group[i], []).append(i)
        return [[self.units[i] for i in group] for group in members.values()]

    def _joined(self, i: int) -> Optional[int]:
        """The launch that a unit becomes part of, if any: that which made the last of its operands."""
        unit, makers = self.units[i], self.program.makers(i)
        if not unit.pointwise or not makers:
            return None
        begun = max(self.group[maker] for maker in makers)
        maker = self.program.maker
        values = [value for value in unit.needs if value in maker and self.group[maker[value]] == begun]
        if any(value in self.program.outputs or self._outgrows(unit, value) for value in values):
            return None
        rule = self.rules[begun]
        if isinstance(rule, str):  # in any order
            return begun if all(self._is_read_inside(value, begun) for value in values) else None
        taken = (*self.taken.get(begun, ()), unit)
        if not _in_order(taken, rule) or any(self.program.readers[value] != [i] for value in values):
            return None
        if self.in_place and unit.kinds[0] == "add" and any(self._is_needed_after(value, i) for value in unit.needs):
            return None
        self.taken[begun] = taken
        return begun

    def _is_needed_after(self, value: int, i: int) -> bool:
        """Say whether a value is read by later units than one, or returned."""
        return value in self.program.outputs or max(self.program.readers[value]) > i

    def _outgrows(self, unit: Unit, value: int) -> bool:
        """Say whether a unit spreads a value over more elements, which no kernel has in its registers."""
        return (
            unit.result is not None and "spread" not in unit.kinds and unit.result.elements > self.program.sizes[value]
        )

    def _is_read_inside(self, value: int, begun: int) -> bool:
        """Say whether all who read a value could be in the launch that makes it."""
        known = self.read_inside.setdefault(begun, set())
        if value not in known and all(self._could_join(j, begun) for j in self.program.readers[value]):
            known.add(value)
        return value in known

    def _could_join(self, i: int, begun: int) -> bool:
        """Say whether all that a unit reads is there when the launch runs, or made in it.

        What was found of units that belong to no launch yet holds until one of them has gone another way.
        """
        known = self.could_join.setdefault(begun, {})
        waiting = [i]
        while waiting:
            one = waiting[-1]
            if one in self.group or one in known:
                waiting.pop()
            elif not self.units[one].pointwise:
                known[one] = False
                waiting.pop()
            else:
                makers = [m for m in self.program.makers(one) if not self.group.get(m, begun + 1) <= begun]
                unknown = [maker for maker in makers if maker not in self.group and maker not in known]
                waiting += unknown
                if not unknown:
                    known[one] = all(maker not in self.group and known[maker] for maker in makers)
                    if known[one]:
                        self.predicted.setdefault(one, []).append(begun)
                    waiting.pop()
        return self.group[i] == begun if i in self.group else known[i]


def _kinds(unit: Unit, longest: int) -> Tuple[str, ...]:
    """What a unit is; a product of longer inner products than fit at once is a sum of tiles first of all."""
    geometry = unit.steps[0].geometry
    tiled = bool(longest) and geometry is not None and geometry.inner > longest and "product" in unit.kinds
    return ("tiled", *unit.kinds) if tiled else unit.kinds


def _in_order(taken: Sequence[Unit], sequences: Sequences) -> bool:
    """Say whether one of some sequences has units in this order, whatever else it has between them."""
    return any(_is_part(taken, sequence) for sequence in sequences)


def _is_part(taken: Sequence[Unit], sequence: Sequence[str]) -> bool:
    left = iter(sequence)
    return all(any(not set(unit.kinds).isdisjoint(one.split("|")) for one in left) for unit in taken)

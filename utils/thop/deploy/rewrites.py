"""What compilers make of a network before they fuse: other operators that come to the same.

They know an operator that is written out in several, fold what scales or shifts a product's channels into its weights,
leave out what changes nothing but layout and type, and some take products of concatenations apart.
"""

from collections import Counter
from dataclasses import replace
from itertools import count, groupby, takewhile
from typing import Callable, Container, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch

from ..count.calls import LayerRow, OperatorCall, View
from ..count.facts import OperatorFacts, facts_of
from .executed import Executed, Unit
from .runtimes import Runtime

_WRITTEN_OUT = {
    frozenset(("sigmoid",)): "silu",
    frozenset(("hardsigmoid",)): "hardswish",
    frozenset(("add", "hardtanh")): "hardswish",
    frozenset(("softplus", "tanh")): "mish",
}
"""Activations by what ``x`` is multiplied with."""
_LONGEST = 4  # steps of an activation that is written out
_COPIES = frozenset(("clone", "_to_copy", "contiguous", "_reshape_copy", "as_strided"))
_MAY_BE_IDLE = frozenset(("cat", "pool"))
_GATES, _OF_ROWS = frozenset(("sigmoid", "hardsigmoid")), frozenset(("mean", "native_layer_norm"))
_SHIFTS, _SCALES = frozenset(("add", "sub")), frozenset(("mul", "div"))
_ADD = facts_of(torch.ops.aten.add.Tensor)
Joined = Tuple[Unit, Sequence[Unit]]
"""What stands for a unit, and those that are part of it now."""


def rewritten(program: Executed, runtime: Runtime, whole: Container[str] = ()) -> Executed:
    """Return what a compiler makes of a program; ``whole``: the paths of modules that are one operator."""
    found = _Rewriting(program)
    found.take(found.left_out(runtime))
    found.take(found.folded("channel scale" in runtime.leaves_out))
    found.join(found.activation)
    if runtime.through_onnx:
        found.join(found.concat)
    if runtime.fuses_attention:
        found.join(found.attention)
    if whole:
        found.take(found.joined_modules(whole))
    if runtime.splits_concats:
        found.take(found.products_apart(runtime.splits_concats))
    if runtime.biases_apart:
        found.take(found.biases_apart())
    if runtime.spells:
        found.take(found.spelled_out(runtime.spells))
    if runtime.pads_first:
        found.take(found.padded_first())
    if runtime.lays_out_input:
        found.take(found.laid_out())
    return replace(program, units=found.units)


class _Rewriting:
    """The units of a program, who makes a value, and how many read it; its methods say what stands for them."""

    def __init__(self, program: Executed) -> None:
        self.varying, self.outputs = program.varying, program.outputs
        self.fresh = count(-1_000_000, -1)
        self.take(program.units)

    def take(self, units: Iterable[Unit]) -> None:
        """Go on with units."""
        self.units = list(units)
        self.reads = Counter(value for unit in self.units for value in unit.needs)
        self.made = {value: unit for unit in self.units for value in unit.made}

    def join(self, joined: Callable[[Unit], Joined]) -> None:
        """Go on with what units are joined to, and without the parts that are in another now."""
        pairs = [joined(unit) for unit in self.units]
        gone = {id(part) for _, parts in pairs for part in parts}
        self.take([unit for unit, _ in pairs if id(unit) not in gone])

    def only_read(self, value: int) -> bool:
        """Say whether one unit alone reads a value."""
        return self.reads[value] == 1 and value not in self.outputs

    # ---- what changes nothing ----

    def left_out(self, runtime: Runtime) -> Iterator[Unit]:
        """Leave out what changes layout or type alone, or nothing; whoever has read it reads what it was made of."""
        original: Dict[int, int] = {}
        for unit in self.units:
            unit = _renamed(unit, original)
            if self._is_left_out(unit, runtime):
                original[unit.steps[0].writes[0].value] = unit.steps[0].reads[0].value
            else:
                yield unit

    def _is_left_out(self, unit: Unit, runtime: Runtime) -> bool:
        copies = unit.kinds[0] in _COPIES or not runtime.leaves_out.isdisjoint(unit.kinds)
        if not copies and not any(f"idle {kind}" in runtime.leaves_out for kind in unit.kinds if kind in _MAY_BE_IDLE):
            return False
        step = unit.steps[0]
        if len(unit.needs) != 1 or len(step.writes) != 1 or step.writes[0].value in self.outputs:
            return False
        return copies or step.reads[0].shape == step.writes[0].shape

    # ---- what is folded into a product ----

    def folded(self, scales: bool) -> Iterable[Unit]:
        """Fold what scales and shifts the channels of a product into its weights, a BatchNorm above all."""
        found: Dict[int, Unit] = {}  # by identity, in order
        for unit in self.units:
            product = self._folds_into(unit, scales)
            if product is not None:
                found.pop(id(product))
                bias = unit.steps[0].reads[0].shape[1] if "batch_norm" in unit.kinds else product.folded
                unit = Unit(product.steps + unit.steps, product.kinds, product.needs, bias)
                self.made.update(dict.fromkeys(unit.made, unit))
            found[id(unit)] = unit
        return found.values()

    def _folds_into(self, unit: Unit, scales: bool) -> Optional[Unit]:
        """The product whose result a unit scales or shifts, by a number or one a channel, if nobody else reads it."""
        if len(unit.needs) != 1:
            return None
        (value,) = unit.needs
        product = self.made.get(value)
        if product is None or product.kinds[-1] != "product" or not self.only_read(value) or product.result is None:
            return None
        if "batch_norm" in unit.kinds:
            return None if product.folded else product
        channels = max(product.result.shape[1:2] + product.result.shape[-1:], default=0)
        others = [view for view in unit.steps[0].reads if view.value not in self.varying]
        alone = len(others) == len(unit.steps[0].reads) - 1
        fits = alone and all(view.elements <= channels for view in others)
        kind = unit.kinds[0]
        folded = kind in _SHIFTS or (kind in _SCALES and (scales or "convolution" in product.kinds))
        return product if folded and fits else None

    # ---- what is written out ----

    def activation(self, unit: Unit) -> Joined:
        """Make one of an activation that is written out."""
        chain = self._written_out(unit) if unit.kinds[0] == "mul" and len(unit.needs) == 2 else []
        if not chain:
            return unit, ()
        name = _WRITTEN_OUT.get(frozenset(one.kinds[0] for one in chain), "activation")
        return _one_of([*chain, unit], name, "curve", "pointwise"), chain

    def _written_out(self, last: Unit) -> List[Unit]:
        """The units from ``x`` to what it is multiplied with, if each is made of the one before; else nothing."""
        one, other = last.needs
        for value, x in ((one, other), (other, one)):
            chain: List[Unit] = []
            while value in self.made and self.only_read(value) and len(chain) < _LONGEST:
                unit = self.made[value]
                if not unit.pointwise or len(unit.needs) != 1 or "batch_norm" in unit.kinds:
                    break
                chain.insert(0, unit)
                (value,) = unit.needs
                if value == x:
                    return chain
        return []

    def spelled_out(self, spellings: Mapping[str, Sequence[str]]) -> Iterator[Unit]:
        """Make several of each operator that a runtime does not have, one after the other."""
        for unit in self.units:
            words = next((spellings[kind] for kind in unit.kinds if kind in spellings), None)
            yield from [unit] if words is None or len(unit.steps) > 1 else self._spelled(unit.steps[0], words)

    def _spelled(self, step: OperatorCall, words: Sequence[str]) -> Iterator[Unit]:
        """Yield a unit for each word, which reads what came before; ``x`` too where that is a gate, or one a row."""
        x, out = step.reads[0], step.writes[0]
        row = out._replace(shape=out.shape[:-1], elements=out.elements // max(out.shape[-1], 1), strides=None)
        before: List[View] = []
        again = False
        for i, word in enumerate(words, 1):
            widens = again and word in ("sub", "mul")
            again = word in _GATES or word == "mean" or (again and not widens)
            by_row = again and word not in _GATES
            made = out if i == len(words) else self._new(row if by_row else out)
            weights = [] if by_row or widens else step.reads[1:]
            reads = [*before, *([x] if widens or not before else []), *weights]
            overloads = getattr(torch.ops.aten, word)
            facts = facts_of(overloads.Tensor if "Tensor" in overloads.overloads() else overloads.default)
            one = replace(step, facts=facts, operator=word, reads=reads, writes=[made])
            kinds = (word,) if word in _OF_ROWS else (word, "curve" if word in _GATES else "arithmetic", "pointwise")
            yield Unit([one], kinds, {view.value for view in reads} & self.varying)
            before = [made]

    def biases_apart(self) -> Iterator[Unit]:
        """Add the bias of each linear layer by an operator of its own."""
        for unit in self.units:
            step = unit.steps[0]
            biases = [view for view in step.reads if len(view.shape) == 1 and view.value not in self.varying]
            if unit.kinds[0] != "linear" or len(unit.steps) > 1 or not biases:
                yield unit
                continue
            out, made = step.writes[0], self._new(step.writes[0])
            left = [view for view in step.reads if view not in biases]
            yield replace(unit, steps=[replace(step, reads=left, writes=[made])])
            yield Unit([_other(step, _ADD, [made, *biases], out)], ("add", "arithmetic", "pointwise"), {made.value})

    def laid_out(self) -> Iterator[Unit]:
        """Put a copy before the first convolution of an input, and behind one whose result is returned."""
        clone = facts_of(torch.ops.aten.clone.default)
        for unit in self.units:
            first = "convolution" in unit.kinds and unit.steps[0].reads[0].value not in self.made
            *before, last = self._reading_a_copy(unit, clone) if first else [unit]
            yield from before
            result = unit.result
            makers = [unit, *(self.made[value] for value in unit.needs if unit.pointwise and value in self.made)]
            if any("convolution" in one.kinds for one in makers) and result and result.value in self.outputs:
                made, step = self._new(result), last.steps[-1]
                yield replace(last, steps=[*last.steps[:-1], replace(step, writes=[made])])
                last = Unit([_other(step, clone, [made], result)], ("clone",), {made.value})
            yield last

    def padded_first(self) -> Iterator[Unit]:
        """Put a launch for its padding before each window with a stride whose padding is not the same on both sides."""
        pad = facts_of(torch.ops.aten.constant_pad_nd.default)
        for unit in self.units:
            yield from self._reading_a_copy(unit, pad) if _pads_unevenly(unit.steps[0]) else [unit]

    def _reading_a_copy(self, unit: Unit, facts: OperatorFacts) -> List[Unit]:
        """A unit that makes another tensor of a unit's first operand, and the unit, which reads that."""
        step = unit.steps[0]
        x, made = step.reads[0], self._new(step.reads[0])
        copy = _other(step, facts, [x], made)
        steps = [replace(step, reads=[made, *step.reads[1:]]), *unit.steps[1:]]
        needs = (unit.needs - {x.value}) | {made.value}
        return [Unit([copy], (facts.operator,), {x.value}), replace(unit, steps=steps, needs=needs)]

    def attention(self, unit: Unit) -> Joined:
        """Make one of two products of activations with a softmax between."""
        softmax = self._made_alone(unit, "softmax") if unit.kinds == ("matmul",) else None
        scores = self._made_alone(softmax, "matmul") if softmax is not None else None
        if softmax is None or scores is None:
            return unit, ()
        scale = self._made_alone(scores, "scale")
        parts = [one for one in (scale, scores, softmax) if one is not None]
        return _one_of([*parts, unit], "attention"), parts

    def joined_modules(self, paths: Container[str]) -> Iterator[Unit]:
        """Make one of all that each call of some modules computes."""
        for path, group in groupby(self.units, key=lambda unit: unit.steps[0].path):
            units = list(group)
            yield from [_one_of(units, "attention")] if path in paths else units

    def _made_alone(self, unit: Unit, kind: str) -> Optional[Unit]:
        """The unit that made the first operand, if it is of a kind and nobody else reads that."""
        value = unit.steps[0].reads[0].value
        maker = self.made.get(value)
        return maker if maker is not None and kind in maker.kinds and self.only_read(value) else None

    # ---- concatenations ----

    def concat(self, unit: Unit) -> Joined:
        """Make one of a concat that another alone reads."""
        inner = [self.made[value] for value in unit.needs if value in self.made and self.only_read(value)]
        inner = [one for one in inner if one.kinds[0] == "cat" and unit.kinds[0] == "cat"]
        for one in inner:
            step, held = unit.steps[0], one.made
            reads = [new for view in step.reads for new in (one.steps[0].reads if view.value in held else [view])]
            unit = Unit([replace(step, reads=reads)], unit.kinds, (unit.needs | one.needs) - held)
        return unit, inner

    def products_apart(self, ratio: float) -> List[Unit]:
        """Make of a 1 x 1 convolution of two concatenated maps, with few outputs, a product for each of them."""
        parts: Dict[int, List[Unit]] = {}  # by the identity of the unit that they take the place of
        for unit in self.units:
            geometry = unit.steps[0].geometry
            joined = next((self.made[value] for value in unit.needs if value in self.made), None)
            if joined is None or joined.kinds[0] != "cat" or geometry is None or "convolution" not in unit.kinds:
                continue
            pointwise = set(geometry.kernel) == {1} and geometry.groups == 1
            alone = all(map(self.only_read, joined.made)) and len(joined.steps[0].reads) == 2
            if pointwise and alone and geometry.inner >= ratio * geometry.columns:
                parts[id(joined)] = []
                parts[id(unit)] = list(self._products(unit, joined.steps[0]))
        return [one for unit in self.units for one in parts.get(id(unit), [unit])]

    def _products(self, unit: Unit, joined: OperatorCall) -> Iterator[Unit]:
        """Yield a product for each part of a concat; the last adds what the first came to."""
        step = unit.steps[0]
        out, all_elements = step.writes[0], step.reads[0].elements
        sums: List[View] = []
        for part in joined.reads:
            last = part is joined.reads[-1]
            made = self._new(out)
            product = _share_of(step, part, part.elements / all_elements, made, last)
            steps, needs = [product], {part.value} | {view.value for view in sums}
            if last:
                steps += [_other(step, _ADD, [made, *sums], out), *unit.steps[1:]]
            yield Unit(steps, ("sum", "product") if last else unit.kinds, needs, unit.folded if last else 0)
            sums.append(made)

    def _new(self, like: View) -> View:
        value = next(self.fresh)
        self.varying.add(value)
        return like._replace(value=value)


def _one_of(units: Sequence[Unit], *kinds: str) -> Unit:
    """One unit of several, which needs what none of them makes."""
    needs = set().union(*(unit.needs for unit in units)) - set().union(*(unit.made for unit in units))
    return Unit([step for unit in units for step in unit.steps], kinds, needs)


def _renamed(unit: Unit, original: Dict[int, int]) -> Unit:
    """The same unit, reading what values were made of that are not there any more."""
    if not any(value in original for value in unit.needs):
        return unit
    steps = [
        replace(step, reads=[view._replace(value=original.get(view.value, view.value)) for view in step.reads],
                after=original.get(step.after, step.after) if step.after is not None else None)
        for step in unit.steps
    ]  # fmt: skip
    return replace(unit, steps=steps, needs={original.get(value, value) for value in unit.needs})


def _share_of(step: OperatorCall, part: View, share: float, made: View, with_bias: bool) -> OperatorCall:
    """The product of a part of what a step multiplies."""
    assert step.geometry is not None
    weights = [view._replace(elements=round(view.elements * share)) for view in step.reads[1:] if len(view.shape) > 1]
    weights += [view for view in step.reads[1:] if len(view.shape) < 2 and with_bias]
    geometry = step.geometry._replace(inner=round(step.geometry.inner * share))
    return replace(step, flops=round(step.flops * share), reads=[part, *weights], writes=[made], geometry=geometry)


def _other(step: OperatorCall, facts: OperatorFacts, reads: Sequence[View], made: View) -> OperatorCall:
    """A call in the same module of an operator that multiplies nothing."""
    return replace(step, facts=facts, operator=facts.operator, flops=0, geometry=None, reads=reads, writes=[made])


def _pads_unevenly(step: OperatorCall) -> bool:
    """Say whether a window of 3 and a stride of 2, say, is padded: one side would do, and PyTorch pads both."""
    window = step.geometry.kernel if step.geometry is not None else step.padded_window
    if len(window) != 2:
        return False
    x, out = step.reads[0].shape, step.writes[0].shape
    stride = round(x[-1] / out[-1])
    return stride > 1 and window[-1] > stride and (window[-1] - stride) % 2 == 1 and out[-1] * stride >= x[-1]


# ---- parts of tensors ----


def copy_slices(program: Executed, groups: Sequence[List[Unit]], together: bool) -> Tuple[Executed, List[List[Unit]]]:
    """Copy the parts of tensors that launches read of each other, all parts of one at once or each for itself."""
    copier = _Slices(program, together)
    found = [one for group in groups for one in copier.copied(group)]
    units = [unit for group in found for unit in group]
    return replace(program, units=units), found


class _Slices:
    """The copies of parts that were read so far."""

    def __init__(self, program: Executed, together: bool) -> None:
        self.program, self.together, self.fresh = program, together, count(-1, -1)
        self.copies: Dict[Tuple[int, Tuple[object, ...]], View] = {}
        self.splits: Dict[int, List[OperatorCall]] = {}  # by the value that they are parts of

    def copied(self, group: List[Unit]) -> Iterator[List[Unit]]:
        """Yield the copies that a launch waits for, then itself, reading them."""
        inside = {value for unit in group for value in unit.made}
        read = (view for unit in group for step in unit.steps for view in step.reads)
        if not any(self._is_part(view) and view.value not in inside for view in read):
            yield group
            return
        found = []
        for unit in group:
            steps, needs = [], set(unit.needs)
            for step in unit.steps:
                parts = {id(view) for view in step.reads if view.value not in inside and self._is_part(view)}
                for view in step.reads:
                    if id(view) in parts:
                        yield from self._copy(step, view)
                reads = [self.copies[view.value, view.region] if id(view) in parts else view for view in step.reads]
                steps.append(replace(step, reads=reads) if parts else step)
                if parts:
                    whole = {view.value for view in reads} | {step.after}
                    needs -= {view.value for view in step.reads if view.value not in whole}
                    needs |= {view.value for view in reads if view.value < 0} - inside
            found.append(replace(unit, steps=steps, needs=needs))
        yield found

    def _is_part(self, view: View) -> bool:
        return view.value in self.program.varying and 0 < view.elements < self.program.sizes.get(view.value, 0)

    def _copy(self, reader: OperatorCall, view: View) -> Iterator[List[Unit]]:
        """Note a copy of a part, and yield who makes it where that is new; its module is that of all readers."""
        known = self.splits.setdefault(view.value, [])
        if known:
            row = LayerRow("", path=_common(known[0].path, reader.path))
            for split in known:
                split.layer = row
        if (view.value, view.region) in self.copies:
            return
        copy = self.copies[view.value, view.region] = view._replace(value=next(self.fresh), offset=0, strides=None)
        self.program.varying.add(copy.value)
        if known and self.together and known[0].facts is _SPLIT:
            known[0].reads, known[0].writes = [*known[0].reads, view], [*known[0].writes, copy]
            return
        row = known[0].layer if known else LayerRow("", path=reader.path)
        facts = _STRIDED if _has_a_step(view) else _SPLIT
        split = OperatorCall(row, facts, facts.operator, reads=[view], writes=[copy])
        split.read_bytes = split.written_bytes = view.bytes
        known.append(split)
        yield [Unit([split], ("split",), {view.value})]


_SPLIT = facts_of(torch.ops.aten.split_with_sizes_copy.default)._replace(name="aten::split", operator="split")
_STRIDED = _SPLIT._replace(name="aten::strided_slice", operator="strided_slice")  # every second column, say


def _has_a_step(view: View) -> bool:
    """Say whether no two elements of a part lie beside each other."""
    return view.strides is not None and min((s for n, s in zip(view.shape, view.strides) if n > 1), default=1) > 1


def _common(one: str, other: str) -> str:
    """The path of the module that holds two."""
    pairs = zip(one.split("."), other.split("."))
    return ".".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

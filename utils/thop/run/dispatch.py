"""The dispatch mode of a run for real, and what both modes have in common: every ATen operator passes through one."""

import weakref
from contextlib import contextmanager
from math import prod
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .inputs import NotCountable
from .nested import map_tensors, tensors_in
from .schema import Effects, effects_of
from .shape_rules import SHAPE_RULES
from .shape_tensor import (
    META,
    NeedsValues,
    ShapeTensor,
    alias,
    device_of,
    forget_values,
    in_few_words,
    is_of_a_kernel,
    lacks_values,
    on_meta,
    pass_on,
    shape_tensor,
    without_values,
)
from .torch_private import autocast_is_on, key_of, no_torch_dispatch, no_torch_function, storage_of, take_apart

_DRAWN_LIKE = {"aten::rand_like": Tensor.uniform_, "aten::randn_like": Tensor.normal_}


class OperatorMode(TorchDispatchMode):
    """Runs every ATen operator for real and tells the observer.

    What is not the copy's own is never written to: a write to a tensor of the user's goes to a stand-in, which takes
    its place for the rest of the run. Random numbers come from generators that belong to the run.
    """

    on_shapes = False
    with_gradients = False

    def __init__(self) -> None:
        super().__init__()
        self.report: Callable[..., None] = unobserved
        self.hands_out: Callable[[str], None] = unobserved
        self.taken_apart: Callable[..., None] = unobserved
        self.failure = ""
        self.storages: Dict[int, List[Any]] = {}  # of the run's own tensors with values: weak references to these
        self.references: List[Any] = []  # weak ones, to all tensors that the run has made
        self.stand_ins: Dict[int, Tuple[Tensor, Tensor]] = {}
        self.generators: Dict[torch.device, Any] = {}
        self.rules: Dict[int, Any] = {}  # of shapes, by the operator's identity: operators hash in Python

    # ---- dispatch ----

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        effects = effects_of(func)
        if effects.composite and self._is_taken_apart(effects, args, kwargs):
            with self:
                return take_apart(func, args, kwargs)
        with no_torch_function():
            if self.stand_ins:
                args, kwargs = self._substituted(args), self._substituted(kwargs)
            try:
                out = self.compute(func, effects, args, kwargs)
            except Exception as error:
                if is_of_a_kernel(error):
                    self.fail(error)
                raise
            pass_on(args, out)
            self.report(func, args, kwargs, out)
        return out

    def _is_taken_apart(self, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> bool:
        """Say whether a composite operator runs as others: not where CUDA, or a tensor's class, has a kernel for it.

        With gradients, not where the CPU has one either: what it would keep in between is not there.
        """
        tensors = tensors_in((*args, *kwargs.values()))
        if any(map(is_foreign, tensors)) or (self.with_gradients and effects.on_cpu):
            return False
        device = device_of(tensors) if effects.on_cuda else None
        return device is None or device.type != "cuda"

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler for the first operator, which takes a second."""
        return False

    def fail(self, error: BaseException) -> None:
        """Note what the run has stumbled over: whatever the model makes of it, it would not have met it for real."""
        self.failure = self.failure or in_few_words(error)

    def compute(self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Return the operator's result."""
        tensors = tensors_in((*args, *kwargs.values()))
        if any(type(tensor) is ShapeTensor for tensor in tensors):
            raise NeedsValues(f"{func._schema.name} meets a tensor without values in a real run")
        need_memory(tensors, func._schema.name)
        if effects.written:
            args, kwargs = self._protected(func, effects, args, kwargs)
        out = self._drawn(func, effects, args, kwargs) if effects.random else func(*args, **kwargs)
        self.own(out, effects.is_view and not effects.is_fresh)
        return out

    # ---- what is the run's own ----

    def own(self, made: Any, is_view: bool = False) -> None:
        """Note tensors that the run has made; a view is the run's own if what it is a view of is."""
        if type(made) is ShapeTensor:
            self.references.append(weakref.ref(made))
            return
        for tensor in (made,) if isinstance(made, Tensor) else tensors_in((made,)):
            reference = weakref.ref(tensor)
            self.references.append(reference)
            if type(tensor) is not ShapeTensor and tensor.layout is torch.strided:
                storage = key_of(tensor)
                if storage in self.storages or not is_view:
                    self.storages.setdefault(storage, []).append(reference)

    def is_own(self, tensor: Tensor) -> bool:
        """Say whether a tensor belongs to the run, so that it may be written to."""
        return lacks_values(tensor) or key_of(tensor) in self.storages

    def made(self, module: nn.Module) -> bool:
        """Say whether a module was made in the run, by its tensors."""
        return any(self.is_own(tensor) for tensor in (*module.parameters(), *module.buffers()))

    def alive(self) -> List[Tensor]:
        """Return the tensors of the run that somebody still holds."""
        return [tensor for tensor in [reference() for reference in self.references] if tensor is not None]

    def leftovers(self) -> List[Tensor]:
        """Return those of them that nobody may hold after the run."""
        return self.alive()

    def _protected(self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> Tuple[Any, Dict[str, Any]]:
        """Make stand-ins for the user's own tensors that an operator is about to write to, and pass these instead."""
        for index, name in effects.written:
            target = args[index] if index < len(args) else kwargs.get(name)
            if func._schema.name == "aten::set_":  # it makes the tensor one on other memory, and writes to none
                continue
            for tensor in tensors_in((target,)):
                if tensor.layout is torch.strided and not self.is_own(tensor):
                    self._stand_in_for(tensor)
        return self._substituted(args), self._substituted(kwargs)

    def _stand_in_for(self, tensor: Tensor) -> None:
        size = storage_of(tensor).nbytes() // tensor.element_size()
        whole = torch.as_strided(tensor.detach(), (size,), (1,), 0).clone()
        self.stand_ins[key_of(tensor)] = tensor, whole
        self.own(whole)

    def _substituted(self, value: Any) -> Any:
        return map_tensors(value, self._substitute) if self.stand_ins else value

    def _substitute(self, tensor: Tensor) -> Tensor:
        if lacks_values(tensor) or tensor.layout is not torch.strided:
            return tensor
        _, whole = self.stand_ins.get(key_of(tensor), (None, None))
        if whole is None or whole.dtype is not tensor.dtype:
            return tensor
        with no_torch_dispatch():
            view = torch.as_strided(whole, tensor.shape, tensor.stride(), tensor.storage_offset())
        return self._like_stand_in(view, whole)

    def _like_stand_in(self, view: Tensor, whole: Tensor) -> Tensor:
        return view

    # ---- random numbers ----

    def _drawn(self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Run a random operator with a generator of the run, which goes on where the process's own stands."""
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        device = torch.device(kwargs.get("device") or device_of(tensors_in(args)) or "cpu")
        generator = self._generator(device)
        if effects.has_generator:
            return func(*args, **{**kwargs, "generator": generator})
        overload = getattr(func._overloadpacket, "generator", None)
        if overload is not None:
            return overload(*args, **{**kwargs, "generator": generator})
        if func._schema.name in _DRAWN_LIKE:  # torch before 2.10 has no overload for these
            return _DRAWN_LIKE[func._schema.name](torch.empty_like(*args, **kwargs), generator=generator)
        return self._with_process_generator(device, generator, lambda: func(*args, **kwargs))

    def _generator(self, device: torch.device) -> Any:
        if device not in self.generators:
            generator = torch.Generator(device=device)
            generator.set_state(_process_generator(device).get_state())
            self.generators[device] = generator
        return self.generators[device]

    def _with_process_generator(self, device: torch.device, generator: Any, draw: Callable[[], Any]) -> Any:
        """Run an operator that takes no generator: for as long as it draws, the process's own is the run's."""
        process = _process_generator(device)
        kept = process.get_state()
        try:
            process.set_state(generator.get_state())
            return draw()
        finally:
            generator.set_state(process.get_state())
            process.set_state(kept)

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Keep from the observer what is not the model's doing, or is reported as one operator."""
        heard = self.report, self.taken_apart
        self.report = self.taken_apart = unobserved
        try:
            yield
        finally:
            self.report, self.taken_apart = heard

    def whole(self, func: Any, function: Any, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Call a function of PyTorch that comes to an operator, and report that alone."""
        if autocast_is_on():  # which casts what goes in
            return function(*args, **kwargs)
        rule = self.rules.get(id(func))
        with self.unheard(), no_torch_function():
            out = NotImplemented if rule is None else rule(*args, **kwargs)
            out = function(*args, **kwargs) if out is NotImplemented else out
        with no_torch_function():
            self.own(out)
            self.report(func, args, kwargs, out)
        return out


def need_memory(tensors: Sequence[Tensor], what: str) -> None:
    """Raise NotCountable for a tensor whose storage somebody has made too small: C++ would read beyond its end."""
    for tensor in tensors:
        if tensor.layout is torch.strided and not tensor.is_meta and tensor.numel() and tensor.device.type == "cpu":
            extent = tensor.numel()
            if not tensor.is_contiguous():
                extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
            if storage_of(tensor).nbytes() < (tensor.storage_offset() + extent) * tensor.element_size():
                shape = tuple(tensor.shape)
                raise NotCountable(f"{what} reads a tensor of shape {shape} whose storage was made smaller")


def _process_generator(device: torch.device) -> Any:
    """Return the generator that the process draws from on a device."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def unobserved(*args: Any) -> None:
    """Take the observer's place before the run has begun, and inside of what is reported as one operator."""


_KNOWN_KINDS = (Tensor, ShapeTensor, nn.Parameter, getattr(nn, "Buffer", Tensor))


def is_foreign(tensor: Tensor) -> bool:
    """Say whether a tensor is of a class that has its own way with operators, such as a nested one."""
    return type(tensor) not in _KNOWN_KINDS and not isinstance(tensor, nn.Parameter)


SMALL = 2**14
"""Elements that a constant may have; a larger one is not worth its arithmetic."""


class ShapeMode(OperatorMode):
    """Runs operators on shapes, and for real where all operands are constants."""

    on_shapes = True

    def __init__(self, with_gradients: bool = False) -> None:
        super().__init__()
        self.with_gradients = with_gradients
        self.largest_constant = SMALL
        self.rules = {id(func): rule for func, rule in SHAPE_RULES.items()}
        self.has_values = False

    @contextmanager
    def on_values(self) -> Iterator[None]:
        """Run operators for real for a while, on tensors that have values."""
        before, self.has_values = self.has_values, True
        try:
            yield
        finally:
            self.has_values = before

    def compute(self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> Any:
        if self.has_values:
            return super().compute(func, effects, args, kwargs)
        if effects.is_plain_view and not kwargs and (type(args[0]) is ShapeTensor or type(args[0]) is Tensor):
            return self._view_of_one(func, effects, args)
        rule = self.rules.get(id(func))
        out = NotImplemented if rule is None else rule(*args, **kwargs)
        if out is NotImplemented:
            tensors = tensors_in((*args, *kwargs.values()) if kwargs else args)
            for tensor in filter(is_foreign, tensors):
                raise NeedsValues(f"{func._schema.name} meets a {type(tensor).__name__}")
            if tensors and any(map(lacks_values, tensors)):
                if effects.is_view:
                    out = self._view(func, args, kwargs)
                    self.own(out, is_view=True)
                    return out
                if func._schema.name.startswith("aten::set_"):  # an ordinary tensor on memory that is not there
                    raise NeedsValues("set_() takes a tensor's memory")
                out = self._by_meta_kernel(func, effects, args, kwargs)
            else:
                return self._of_constants(func, effects, args, kwargs, tensors)
        self.own(out)
        return out

    def _view_of_one(self, func: Any, effects: Effects, args: Any) -> Any:
        """Make a view, which most operators of a detector's head are, in as few steps as can be."""
        lacks = lacks_values(args[0])
        out = self._view(func, args, {}) if lacks else func(*args)
        self.own(out, is_view=lacks or not effects.is_fresh)
        return out

    def leftovers(self) -> List[Tensor]:
        """Return those that nobody may hold after the run: constants mean the same in whatever cache they are."""
        return [tensor for tensor in self.alive() if lacks_values(tensor)]

    # ---- operands without values ----

    def _view(self, func: Any, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Let PyTorch make the view; it shares the storage that is not there."""
        with no_torch_dispatch():
            out = func(*args, **kwargs)
        if type(out) is Tensor and not out.is_meta:
            return alias(out, args[0])
        made = map_tensors(out, lambda t: t if type(t) is ShapeTensor or t.is_meta else alias(t, args[0]))
        self.own(made, is_view=True)
        return made

    def _by_meta_kernel(self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Call the operator with all of its tensors on the meta device, and take the result's shape from there."""
        tensors = tensors_in((*args, *kwargs.values()))
        device = kwargs.get("device") or device_of(tensors)
        self._refuse_absent(device, tensors)
        originals: Dict[int, Tuple[Tensor, Tensor]] = {}

        def to_meta(tensor: Tensor) -> Tensor:
            meta = on_meta(tensor)
            originals[id(meta)] = meta, tensor
            return meta

        if func is torch.ops.aten.index.Tensor:
            args = (args[0], _without_masks(args[1]))
        meta_args, meta_kwargs = map_tensors(args, to_meta), map_tensors(kwargs, to_meta)
        if effects.has_device and ("device" in kwargs or not tensors):
            meta_kwargs = {**{k: v for k, v in meta_kwargs.items() if k != "pin_memory"}, "device": META}
        out = func(*meta_args, **meta_kwargs)
        if effects.written:
            self._written(func, effects, args, kwargs, originals)

        def from_meta(tensor: Tensor) -> Tensor:
            _, original = originals.get(id(tensor), (None, None))
            if original is not None:
                return original
            if device is None or torch.device(device).type == "meta" or not tensor.is_meta:
                return tensor
            if tensor.layout is not torch.strided:
                raise NeedsValues(f"{func._schema.name} makes a tensor of layout {tensor.layout}")
            return shape_tensor(tensor.shape, tensor.stride(), tensor.dtype, torch.device(device))

        return map_tensors(out, from_meta)

    @staticmethod
    def _refuse_absent(device: Any, tensors: Sequence[Tensor]) -> None:
        """Leave a move to a device that is not there to a real run, which says what PyTorch says."""
        if device is None or torch.device(device).type != "cuda" or torch.cuda.is_available():
            return
        if not any(tensor.is_cuda for tensor in tensors):
            raise NeedsValues("no CUDA device is available")

    def _written(self, func: Any, effects: Effects, args: Any, kwargs: Any, originals: Dict[int, Any]) -> None:
        """Follow what was written to: shapes that have changed, and constants that have lost their values."""
        resized = any(meta.shape != t.shape or meta.stride() != t.stride() for meta, t in originals.values())
        if resized:
            if torch.Tag.inplace_view not in getattr(func, "tags", ()):
                raise NeedsValues(f"{func._schema.name} resizes a tensor")
            with no_torch_dispatch():
                func(*args, **kwargs)
        for index, name in effects.written:
            for tensor in tensors_in((args[index] if index < len(args) else kwargs.get(name),)):
                if not lacks_values(tensor):
                    self._forget_values(tensor)

    def _forget_values(self, constant: Tensor) -> None:
        """Make a constant, and all that share its memory, tensors without values from here on."""
        storage = key_of(constant)
        if not self.is_own(constant):
            self._stand_in_for(constant)
            owner, whole = self.stand_ins[storage]
            self.stand_ins[storage] = owner, without_values(whole)
            return
        for tensor in [reference() for reference in self.storages.pop(storage, [])]:
            if tensor is not None:
                forget_values(tensor)
        forget_values(constant)

    def _like_stand_in(self, view: Tensor, whole: Tensor) -> Tensor:
        return alias(view, whole) if type(whole) is ShapeTensor and type(view) is not ShapeTensor else view

    # ---- constants ----

    def _of_constants(
        self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any], tensors: List[Tensor]
    ) -> Any:
        """Compute what depends on no input, if it is small; random numbers are not computed at all."""
        if effects.random or not (effects.is_view or self._stays_small(func, effects, args, kwargs, tensors)):
            rule = self.rules.get(id(func))
            if rule is not None and not effects.written:
                out = rule(*map_tensors(args, without_values), **kwargs)
                if out is not NotImplemented:
                    self.own(out)
                    return out
            out = self._by_meta_kernel(func, effects, args, self._somewhere(effects, kwargs, tensors))
            self.own(out)
            return out
        return super().compute(func, effects, args, kwargs)

    @staticmethod
    def _somewhere(effects: Effects, kwargs: Dict[str, Any], tensors: Sequence[Tensor]) -> Dict[str, Any]:
        """Name the device of a result that is made from nothing."""
        if effects.has_device and not tensors and kwargs.get("device") is None:
            return {**kwargs, "device": torch.device("cpu")}
        return kwargs

    def _stays_small(
        self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any], tensors: Sequence[Tensor]
    ) -> bool:
        """Say whether neither the operands nor the result are too large to be computed."""
        bound = _size_bound(func, effects, args, tensors)
        if bound is not None:
            return bound <= self.largest_constant
        try:
            kwargs = self._somewhere(effects, kwargs, tensors)
            out = self._by_meta_kernel(func, effects._replace(written=()), args, kwargs)
        except Exception:
            return True  # how large it gets depends on values, which are known
        return sum(tensor.numel() for tensor in tensors_in((out,))) <= self.largest_constant


def _size_bound(func: Any, effects: Effects, args: Any, tensors: Sequence[Tensor]) -> Optional[int]:
    """Return how many elements operands and result have at most, or None where only PyTorch's kernel can tell."""
    if not tensors:
        if args and isinstance(args[0], (list, tuple)):
            return prod(args[0])
        if func._schema.name == "aten::arange" and all(isinstance(bound, (int, float)) for bound in args):
            start, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
            return abs(int((end - start) / (step or 1))) + 1
        return None
    sizes = [tensor.numel() for tensor in tensors]
    if sum(sizes) > SMALL:
        return sum(sizes)
    if effects.has_sizes:
        return prod(args[1]) if func._schema.name.startswith("aten::new_") else None
    of_one_shape = len({tensor.shape for tensor in tensors if tensor.dim()}) <= 1
    if of_one_shape or func._schema.name in ("aten::cat", "aten::stack"):
        return sum(sizes)
    return prod(sizes) if prod(sizes) <= SMALL else None


def _without_masks(indices: Sequence[Any]) -> List[Any]:
    """Replace masks whose values are known by the indices that they stand for."""
    found: List[Any] = []
    for index in indices:
        is_mask = isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) and not lacks_values(index)
        found.extend(index.nonzero().unbind(1) if is_mask else (index,))
    return found

"""The dispatch mode of a run on shapes alone.

An operand without values makes a result without values: by a shape rule where there is one, by PyTorch's own meta
kernel otherwise, and where only another view of the same memory is made, by PyTorch's own view. What depends on no
input, such as ``torch.arange(n)`` or a small buffer, is a *constant*: it is computed as it stands, so that its value
can be asked for, and means the same in whatever cache it lands. A constant that is written to with what has no value
has none from then on.
"""

from math import prod
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .modes import OperatorMode, is_foreign, need_memory
from .nested import map_tensors, tensors_in
from .operator_rules import SHAPE_RULES
from .schema import Effects
from .shape_tensor import (
    META,
    NeedsValues,
    ShapeTensor,
    alias,
    device_of,
    lacks_values,
    on_meta,
    shape_tensor,
    without_values,
)
from .torch_private import key_of, no_torch_dispatch

SMALL = 2**14
"""Elements that a constant may have; a larger one is not worth its arithmetic."""


class ShapeMode(OperatorMode):
    """Runs operators on shapes, and for real where all operands are constants."""

    on_shapes = True

    def __init__(self, with_gradients: bool = False) -> None:
        super().__init__()
        self.with_gradients = with_gradients
        self.rules = {id(func): rule for func, rule in SHAPE_RULES.items()}

    def compute(self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> Any:
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
                tensor.__class__ = ShapeTensor
        constant.__class__ = ShapeTensor

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
        need_memory(tensors, func._schema.name)
        if effects.written:
            args, kwargs = self._protected(func, effects, args, kwargs)
        out = func(*args, **kwargs)
        self.own(out, effects.is_view and not effects.is_fresh)
        return out

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
            return bound <= SMALL
        try:
            kwargs = self._somewhere(effects, kwargs, tensors)
            out = self._by_meta_kernel(func, effects._replace(written=()), args, kwargs)
        except Exception:
            return True  # how large it gets depends on values, which are known
        return sum(tensor.numel() for tensor in tensors_in((out,))) <= SMALL


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

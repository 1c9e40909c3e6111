"""A tensor without memory: shape, strides, dtype and device are those of a real one, values there are none.

It answers what a model can ask about a tensor as the real one would, its device above all, so that a model takes the
same way with it. Inside a run the dispatch mode works on it; anywhere else, and wherever a value is asked for, it
raises NeedsValues. Aliases share a storage, as real ones do, only that nothing is behind it.
"""

import threading
from typing import Any, NoReturn, Optional, Sequence

import torch
from torch import Tensor, nn

from .torch_private import HAS_STORAGE, guard_pointer, make_alias, make_wrapper, not_led, storage_of

CPU = torch.device("cpu")
META = torch.device("meta")


class NeedsValues(RuntimeError):
    """The model asks for what no tensor without values can tell."""


class _Thread(threading.local):
    """The run that goes on in this thread, if any; runs inside runs take turns."""

    run: Any = None


THREAD = _Thread()


class ShapeTensor(Tensor):
    """A tensor of which only the shape, strides, dtype and device are known."""

    __torch_function__ = not_led
    _of_weights = False
    """Whether it is a weight, or made of nothing but weights."""
    _memory: Any = None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hear of an operator that no mode has taken: the tensor has left its run, or its thread."""
        return _refuse(func._schema.name)

    def __deepcopy__(self, memo: Any) -> Tensor:
        if id(self) not in memo:
            memo[id(self)] = self.detach().clone()
        return memo[id(self)]

    def __copy__(self) -> Tensor:
        return self.detach()

    def __repr__(self, *args: Any, **kwargs: Any) -> str:
        return f"tensor(..., size={tuple(self.shape)}, dtype={self.dtype}, device='{self.device}')"


def _refuse(what: str) -> NoReturn:
    error = NeedsValues(f"{what} needs values, and this tensor comes from a count of shapes, which has none")
    if THREAD.run is not None:
        THREAD.run.fail(error)
    raise error


def _refusal(name: str) -> Any:
    def refuse(self: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse(name)

    refuse.__name__ = name
    return refuse


MEMORY = ("numpy", "tolist", "data_ptr", "untyped_storage", "storage", "_typed_storage", "_storage", "share_memory_",
          "is_shared", "apply_", "map_", "map2_", "__array__", "__dlpack__", "__reduce_ex__", "__reduce__")  # fmt: skip
"""What asks C++ for a tensor's memory, without passing the dispatcher."""
for _name in MEMORY:
    setattr(ShapeTensor, _name, _refusal(_name))


def shape_tensor(
    shape: Sequence[int],
    strides: Optional[Sequence[int]],
    dtype: torch.dtype,
    device: torch.device,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor of these properties; contiguous where no strides are given, which is the quickest."""
    if requires_grad:
        made = make_wrapper(ShapeTensor, shape, strides=strides, dtype=dtype, device=device, requires_grad=True)
    elif strides is None:
        made = make_wrapper(ShapeTensor, shape, dtype=dtype, device=device)
    else:
        made = make_wrapper(ShapeTensor, shape, strides=strides, dtype=dtype, device=device)
    guard_pointer(made)  # or an extension that is handed it outside of the dispatcher reads at address 0
    return made


def alias(view: Tensor, base: Tensor) -> Tensor:
    """Turn a view that PyTorch has made of a tensor without memory into one of the same class, on the same storage."""
    made = make_alias(ShapeTensor, view)
    if not HAS_STORAGE:
        made._memory = storage_of(base)
    return made


def without_values(tensor: Tensor) -> Tensor:
    """Make a tensor without memory that is like a real one; raises NeedsValues for sparse ones and such.

    What is on the meta device counts as if it were on the CPU.
    """
    if tensor.layout is not torch.strided or (type(tensor) is not nn.Parameter and _is_odd(tensor)):
        raise NeedsValues(f"a {type(tensor).__name__} of layout {tensor.layout} and dtype {tensor.dtype}")
    device = CPU if tensor.is_meta else tensor.device
    return shape_tensor(tensor.shape, tensor.stride(), tensor.dtype, device, tensor.requires_grad)


def _is_odd(tensor: Tensor) -> bool:
    return tensor.is_quantized or tensor.is_nested


def on_meta(tensor: Tensor) -> Tensor:
    """Make the meta tensor that PyTorch's own shape kernels take in a tensor's place."""
    if tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def lacks_values(tensor: Tensor) -> bool:
    """Say whether a tensor has no values: one of ours, or one on the meta device."""
    return type(tensor) is ShapeTensor or tensor.is_meta


def device_of(tensors: Sequence[Tensor]) -> Optional[torch.device]:
    """Return the device that an operator on these tensors runs on: numbers in the form of a tensor go with any."""
    for tensor in tensors:
        if tensor.dim() and not tensor.is_meta:
            return tensor.device
    return next((tensor.device for tensor in tensors if not tensor.is_meta), None)


def in_few_words(error: BaseException) -> str:
    """Describe an exception in one short line."""
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first_line}"[:160]

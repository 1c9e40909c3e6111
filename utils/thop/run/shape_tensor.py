"""A tensor without memory: shape, strides, dtype and device are those of a real one, values there are none.

It answers what a model can ask about a tensor as the real one would, its device above all, so that a model takes the
same way with it. Inside a run the dispatch mode works on it; anywhere else, and wherever a value is asked for, it
raises NeedsValues. Aliases share a storage, as real ones do, only that nothing is behind it.
"""

import dis
import signal
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn, Optional, Sequence

import torch
from torch import Tensor, nn

from .nested import tensors_in
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

    __torch_function__ = not_led  # type: ignore[assignment]
    _of_weights = False
    """Whether it is a weight, or made of nothing but weights."""
    _memory: Any = None

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Hear of an operator that no mode has taken: the tensor has left its run, or its thread."""
        return _refuse(func._schema.name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """What a model is told that asks: the class that a tensor with values has."""
        return nn.Parameter if getattr(self, "_is_param", False) else Tensor

    def __deepcopy__(self, memo: Any) -> Tensor:
        if id(self) not in memo:
            memo[id(self)] = self.detach().clone()
        return memo[id(self)]

    def __copy__(self) -> Tensor:
        return self.detach()

    def __repr__(self, *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        return f"tensor(..., size={tuple(self.shape)}, dtype={self.dtype}, device='{self.device}')"


class _AnswersOfType(type):
    """How ``TYPE`` answers: as ``type`` does, but for tensors without values."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and type(args[0]) is ShapeTensor:
            return args[0].__class__
        made = type(*args, **kwargs)
        return cls if made is type else made

    def __eq__(cls, other: Any) -> bool:
        return other is cls or other is type

    def __hash__(cls) -> int:
        return hash(type)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, type)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, type)


TYPE: Any = _AnswersOfType("type", (type,), {"__module__": "builtins"})
"""Stands for ``type`` in the namespaces of a model's code while it runs."""


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
    is_odd = type(tensor) is not nn.Parameter and (tensor.is_quantized or tensor.is_nested)
    if tensor.layout is not torch.strided or is_odd:
        raise NeedsValues(f"a {type(tensor).__name__} of layout {tensor.layout} and dtype {tensor.dtype}")
    device = CPU if tensor.is_meta else tensor.device
    return shape_tensor(tensor.shape, tensor.stride(), tensor.dtype, device, tensor.requires_grad)


def forget_values(tensor: Any) -> None:
    """Make a tensor one without values from here on."""
    if type(tensor) is not ShapeTensor:
        is_parameter = type(tensor) is nn.Parameter
        tensor.__class__ = ShapeTensor
        if is_parameter:
            tensor._is_param = True


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


def mark_weight(tensor: Any) -> None:
    """Note that a tensor of the run is a weight."""
    tensor._of_weights = True


def is_weight(tensor: Tensor) -> bool:
    """Say whether a tensor is a weight."""
    return getattr(tensor, "_of_weights", False) or type(tensor) is nn.Parameter


def pass_on(args: Any, out: Any) -> None:
    """Mark an operator's result if all of its operands are weights, single numbers aside."""
    first = args[0] if args else None
    if type(first) is ShapeTensor:
        if not first._of_weights:
            return
    elif isinstance(first, (list, tuple)):
        first = first[0] if first else None
    if not isinstance(first, Tensor) or not is_weight(first):
        return
    if all(is_weight(tensor) for tensor in tensors_in(args) if tensor.dim()):
        for tensor in tensors_in((out,)):
            mark_weight(tensor)


_OWN_CODE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_KERNEL_ERRORS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, AssertionError)


def _innermost(error: BaseException) -> Any:
    """Return the traceback's last step, which raised the exception; None for one that was never raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def is_of_a_kernel(error: BaseException) -> bool:
    """Say whether an exception comes from PyTorch or from here, and not from a signal's handler in between."""
    if not isinstance(error, _KERNEL_ERRORS):
        return False
    trace = _innermost(error)
    return trace is None or trace.tb_frame.f_code.co_filename.startswith(_OWN_CODE)


def is_of_a_signal(error: BaseException) -> bool:
    """Say whether a signal's handler has raised an exception, whatever was at work then."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(part, "__code__", None) for one in handlers for part in (one, type(one).__call__)}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def is_for_lack_of_values(error: BaseException) -> bool:
    """Say whether a tensor without values may be to blame for an exception that no operator has raised.

    Python code of PyTorch that is handed one, or a function in C that is, may complain of it; what the model's own
    code raises by itself, or a signal's handler, has nothing to do with it.
    """
    if isinstance(error, NeedsValues) or "ShapeTensor" in str(error):
        return True
    if not isinstance(error, (RuntimeError, TypeError)) or (isinstance(error, TypeError) and "ensor" not in str(error)):
        return False
    trace = _innermost(error)
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    return code.co_filename.startswith(_OWN_CODE[1]) or not _raises(code, trace.tb_lasti)


def _raises(code: Any, offset: int) -> bool:
    """Say whether the instruction at an offset is a ``raise``."""
    return any(i.offset == offset and i.opname in ("RAISE_VARARGS", "RERAISE") for i in dis.get_instructions(code))

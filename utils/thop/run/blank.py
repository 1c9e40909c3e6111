"""Build models without values: counting needs shapes, and drawing random weights takes longer than counting does.

Parameters and buffers come to be on the meta device, so filling them costs nothing, and what a constructor runs to
find its strides is run on shapes. Constants (``torch.tensor([8, 16, 32])``) keep their values. Whatever meets a tensor
without values has none itself, and PyTorch refuses to read one: a constructor that needs values fails, it does not
build another model.
"""

from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .nested import tensors_in
from .shape_rules import SHAPE_RULES, empty
from .shape_tensor import META

T = TypeVar("T")
_MAKE_MEMORY = frozenset(
    f"aten::{name}" for name in ("empty", "empty_strided", "zeros", "ones", "full", "rand", "randn")
)
_FILL = frozenset(f"aten::{name}" for name in ("zero_", "fill_", "uniform_", "normal_"))


class BlankBuildFailed(RuntimeError):
    """The constructor needs values; build the model as usual."""


class _BlankMode(TorchDispatchMode):
    """Makes new memory on the meta device, and works there by shape rules, or by PyTorch's own kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Optional[Exception] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, tensors = kwargs or {}, tensors_in(args)
        if not tensors and func._schema.name in _MAKE_MEMORY:
            kwargs = {**{name: value for name, value in kwargs.items() if name != "pin_memory"}, "device": META}
        try:
            out = _by_rule(func, args, kwargs) if tensors and tensors[0].is_meta else NotImplemented
            return func(*args, **kwargs) if out is NotImplemented else out
        except Exception as error:
            self.failure = error
            raise

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler for the first operator, which takes a second."""
        return False


def _by_rule(func: Any, args: Any, kwargs: Any) -> Any:
    """Return the result of an operator, or NotImplemented where PyTorch's kernel has to find it."""
    if func._schema.name in _FILL:
        return args[0]
    if func is torch.ops.aten.native_batch_norm.default:
        return _batch_norm(*args)
    rule = SHAPE_RULES.get(func)
    return NotImplemented if rule is None else rule(*args, **kwargs)


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *rest: Any) -> List[Tensor]:
    """A model that is being built is in training: a mean and a deviation for each channel come beside the result."""
    channels = x.shape[1:2] if training else (0,)
    return [empty(x.shape, x), empty(channels, x), empty(channels, x)]


def built_blank(make: Callable[[], T]) -> T:
    """Build a model without values, or, where its constructor needs them, with random ones that move no generator."""
    try:
        with blank():
            return make()
    except (RuntimeError, TypeError):  # BlankBuildFailed among them
        with torch.random.fork_rng(devices=[]):
            return make()


@contextmanager
def blank() -> Iterator[None]:
    """Let all modules that are made inside have shapes and no values.

    Raises BlankBuildFailed, or what the constructor raises, where that can't be done.
    """
    mode = _BlankMode()
    with torch.no_grad(), mode:
        yield
    if mode.failure is not None:  # the constructor has caught it and taken another way than with real values
        raise BlankBuildFailed(str(mode.failure))

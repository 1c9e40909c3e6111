"""YOLOv5's speed profiler: time and memory of operations on this machine, beside what they compute, read and write."""

import inspect
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch
from torch import Tensor, nn

from ..profile import profile as count
from ..run import in_few_words
from .report import sizes_of

_TITLES = (
    ("Params", 12), ("GFLOPs", 12), ("GPU_mem (GB)", 14), ("forward (ms)", 14), ("backward (ms)", 14), ("input", 24),
    ("output", 24), ("kernel", 12), ("written", 12),
)  # fmt: skip


def _own(input: Any, ops: Any, n: int = 10, device: Any = None) -> None:
    """Stand for the arguments that ``profile`` takes where a checkout has no function of this name."""


def is_replaceable(checkout: Any) -> bool:
    """Say whether a checkout has no ``profile``, or one that takes what YOLOv5's speed profiler takes and no more."""
    if checkout is None:
        return True
    try:
        names = list(inspect.signature(checkout).parameters)
    except (TypeError, ValueError):
        return False
    return names[:2] in (["input", "ops"], ["x", "ops"]) and set(names[2:]) <= {"n", "device"}


def profile(
    checkout: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], emit: Callable[[str], None], select_device: Any
) -> List[Optional[List[Any]]]:
    """Measure and count each operation on each input, and print a row for each.

    checkout: the function that this takes the place of, whose arguments and defaults hold; select_device: turns a
    device's name into a device, where the checkout has such a function.
    """
    bound = inspect.signature(checkout or _own).bind(*args, **kwargs)
    bound.apply_defaults()
    (x, ops), given = list(bound.arguments.values())[:2], bound.arguments
    device = _device(given.get("device"), select_device)
    emit("".join(f"{title:>{width}}" for title, width in _TITLES))
    results: List[Optional[List[Any]]] = []
    for one in x if isinstance(x, list) else [x]:
        for op in ops if isinstance(ops, list) else [ops]:
            row: Optional[List[Any]] = None
            try:
                row = _row(one, op, given.get("n", 10), device)
                emit("".join(f"{_cell(value):>{width}}" for value, (_, width) in zip(row, _TITLES)))
            except Exception as error:
                emit(f"not run: {in_few_words(error)}")
            results.append(row)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return results


def _device(given: Any, select_device: Any) -> torch.device:
    if isinstance(given, torch.device):
        return given
    if select_device:
        chosen: torch.device = select_device(given or "")
        return chosen
    return torch.device(given or ("cuda:0" if torch.cuda.is_available() else "cpu"))


def _cell(value: Any) -> str:
    if isinstance(value, (tuple, str)):
        return str(value)
    return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"


def _row(x: Tensor, op: Any, n: int, device: torch.device) -> List[Any]:
    """Time ``op`` on ``x``, and count it; what can't be counted is not a number."""
    x = x.to(device).detach()
    op = op.to(device) if hasattr(op, "to") else op
    op = op.half() if hasattr(op, "half") and x.dtype is torch.float16 else op
    parameters = sizes_of(op).parameters if isinstance(op, nn.Module) else 0
    try:
        ops, _, kernel, output = count(op, (x,), verbose=False)
    except Exception:  # a plain function, or a module that takes other inputs: timed all the same
        ops = kernel = output = float("nan")
    forward = backward = 0.0
    with _left_as_it_was(op):
        for _ in range(n):
            started = _clock()
            y = op(x.requires_grad_(x.is_floating_point()))
            ran = _clock()
            forward += (ran - started) * 1000 / n
            backward += _backward_ms(y, ran) / n
        memory = torch.cuda.memory_reserved() / 1e9 if torch.cuda.is_available() else 0
    shapes = [tuple(v.shape) if isinstance(v, Tensor) else "list" for v in (x, y)]
    return [parameters, ops * 2 / 1e9, memory, forward, backward, *shapes, kernel, output]


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _backward_ms(y: Any, started: float) -> float:
    """Run backward from the sum of all outputs; not a number where there is nothing to run."""
    try:
        parts = y if isinstance(y, (list, tuple)) else [y]
        total: Any = sum(part.sum() for part in parts)
        total.backward()
    except Exception:
        return float("nan")
    return (_clock() - started) * 1000


@contextmanager
def _left_as_it_was(op: Any) -> Iterator[None]:
    """Give a module's gradients and buffers (running statistics) back after it has been run for timing."""
    if not isinstance(op, nn.Module):
        yield
        return
    gradients = [(p, p.grad) for p in op.parameters()]
    buffers = [(b, b.clone()) for b in op.buffers()]
    for p, _ in gradients:
        p.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for b, value in buffers:
                b.copy_(value)
        for p, gradient in gradients:
            p.grad = gradient

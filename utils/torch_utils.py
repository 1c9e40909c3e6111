# >>> yolov5 memory access >>>
# model_info() and profile() below say what a model costs in memory access beside what it costs in GFLOPs. They win
# over any definition of these names above. patches/apply.py puts this block here and takes it out. MIT licence.
import time as _time
from contextlib import contextmanager as _contextmanager

import torch as _torch

from .thop import profile as _count
from .thop import report as _report
from .thop import summary as _summary

_checkout_model_info = globals().get("model_info")
if hasattr(_checkout_model_info, "counts_memory_access"):  # this file has been loaded a second time
    _checkout_model_info = None


def model_info(model, verbose=False, img_size=640, imgsz=None, detailed=False, depth=None, sort=None):
    """Print the model's summary line with its memory accesses, and return the numbers.

    Args:
        model: a YOLOv5 model, or any torch.nn.Module that takes images.
        verbose: print the checkout's table of parameters and a table of modules too; ``detailed`` says the same.
        img_size: image size as an int or (height, width), rounded up to a multiple of the model's stride; ``imgsz``
            is its other name.
        depth: levels of modules that the table shows, all by default; deeper ones are added to those they belong to.
        sort: None for the modules as they nest, or what to sort them by, the largest first: traffic, read, written,
            accesses, kernel, output, ops, parameters, intensity.

    Returns:
        A ModelInfo, which unpacks to layers, parameters, gradients, GFLOPs, and shows itself as the table in a
        notebook. Where the model can't be counted, the line and ``ModelInfo.error`` say why, and nothing is raised.

    Raises:
        ValueError: there is no such depth or sort.
    """
    _report.check_choice(depth, sort)
    wanted = img_size if imgsz is None else imgsz
    verbose = bool(verbose or detailed)
    info = _summary.show_summary(model, wanted, verbose, _checkout_model_info, _emit)
    info.depth, info.sort = depth, sort
    if verbose and info.profile is not None:
        _emit(info.table())
    return info


model_info.counts_memory_access = True


def profile(input, ops, n=10, device=None):
    """Measure speed and memory of operations, and count what they compute, read and write.

    Args:
        input: an input tensor, or a list of them.
        ops: a module or function of one tensor, or a list of them.
        n: runs to average over.
        device: a torch.device or its name; the best one there is by default.

    Returns:
        For each input and operation a list: parameters, GFLOPs, GPU memory reserved (GB), forward time (ms), backward
        time (ms), input shape, output shape, kernel accesses, output accesses; or None where it could not be run.
    """
    if not isinstance(device, _torch.device):
        select = globals().get("select_device")
        default = "cuda:0" if _torch.cuda.is_available() else "cpu"
        device = select(device or "") if select else _torch.device(device or default)
    names = "Params", "GFLOPs", "GPU_mem (GB)", "forward (ms)", "backward (ms)", "input", "output", "kernel", "written"
    _emit("".join(f"{name:>{width}}" for name, width in zip(names, _SPEED_WIDTHS)))
    results = []
    for x in input if isinstance(input, list) else [input]:
        for op in ops if isinstance(ops, list) else [ops]:
            try:
                row = _speed_row(x, op, n, device)
                _emit("".join(f"{_speed_cell(v):>{width}}" for v, width in zip(row, _SPEED_WIDTHS)))
            except Exception as error:
                row = None
                _emit(f"not run: {_summary.in_few_words(error)}")
            results.append(row)
            if _torch.cuda.is_available():
                _torch.cuda.empty_cache()
    return results


_SPEED_WIDTHS = 12, 12, 14, 14, 14, 24, 24, 12, 12


def _speed_cell(value):
    if isinstance(value, (tuple, str)):
        return str(value)
    return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"


def _speed_row(x, op, n, device):
    """Time ``op`` on ``x``, and count it; what can't be counted is not a number."""
    x = x.to(device).detach()
    op = op.to(device) if hasattr(op, "to") else op
    op = op.half() if hasattr(op, "half") and x.dtype is _torch.float16 else op
    parameters = sum(p.numel() for p in op.parameters()) if isinstance(op, _torch.nn.Module) else 0
    try:
        ops, _, kernel, output = _count(op, (x,), verbose=False)
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
        memory = _torch.cuda.memory_reserved() / 1e9 if _torch.cuda.is_available() else 0
    shapes = [tuple(v.shape) if isinstance(v, _torch.Tensor) else "list" for v in (x, y)]
    return [parameters, ops * 2 / 1e9, memory, forward, backward, *shapes, kernel, output]


def _clock():
    if _torch.cuda.is_available():
        _torch.cuda.synchronize()
    return _time.perf_counter()


def _backward_ms(y, started):
    """Run backward from the sum of all outputs; not a number where there is nothing to run."""
    try:
        parts = y if isinstance(y, (list, tuple)) else [y]
        sum(part.sum() for part in parts).backward()
    except Exception:
        return float("nan")
    return (_clock() - started) * 1000


@_contextmanager
def _left_as_it_was(op):
    """Give a module's gradients and buffers (running statistics) back after it has been run for timing."""
    if not isinstance(op, _torch.nn.Module):
        yield
        return
    gradients = [(p, p.grad) for p in op.parameters()]
    buffers = [(b, b.clone()) for b in op.buffers()]
    for p, _ in gradients:
        p.grad = None
    try:
        yield
    finally:
        with _torch.no_grad():
            for b, value in buffers:
                b.copy_(value)
        for p, gradient in gradients:
            p.grad = gradient


def _emit(text):
    """Print through the checkout's logger where it has one."""
    logger = globals().get("LOGGER") or globals().get("logger")
    (logger.info if logger else print)(text)


# <<< yolov5 memory access <<<

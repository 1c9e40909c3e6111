"""How fast this machine computes and moves data, measured."""

import platform
import re
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence

import torch

from ..run import in_few_words
from ..units import dtype_name

COPY_SECONDS = 0.2
PRODUCT_SECONDS = 0.3
_SHORTEST = 1e-3  # what is timed at once, in seconds: enough for the clock and for the start of a GPU's kernels
_LONG = 15e-3  # a call that takes more than this many seconds is large enough, and the next would take eight times that
_SMALLEST_SIDE = 128
_LARGEST_SIDE = 8192
_MIB = 1 << 20


class MeasureError(RuntimeError):
    """Why something can't be measured, in a few words."""


class Speed(NamedTuple):
    """name: of the processor; bandwidth: bytes a second; peaks: operations a second, two for a multiply-accumulate."""

    name: str
    bandwidth: float
    peaks: Mapping[torch.dtype, float]


def measure(dtypes: Sequence[torch.dtype]) -> Speed:
    """Measure this machine: its current CUDA device, or else its CPU with torch's number of threads.

    It takes about half a second, and on a GPU the time to wake it. The bandwidth is that of a copy far larger than the
    caches, into other memory and in place, counting bytes read and written; a peak is that of matrix products of
    several sizes, as such and as 1 x 1 convolutions. Each figure is the best of many rounds, because a bound needs the
    highest. Nothing is kept, no random number drawn.

    Raises MeasureError for a dtype in which torch can't multiply here, or where memory does not suffice.
    """
    where = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    wanted = list(dict.fromkeys(dtypes))
    try:
        bandwidth = _copy_rate(where)
    except RuntimeError as error:
        raise MeasureError(f"no bandwidth ({in_few_words(error)})") from error
    return Speed(_name(where), bandwidth, {d: _product_rate(d, where, PRODUCT_SECONDS / len(wanted)) for d in wanted})


# ---- the clock ----


class _Work(NamedTuple):
    """Something to time: so many bytes or operations a call."""

    amount: float
    call: Callable[[], Any]


def _best_rate(works: Sequence[_Work], where: torch.device, seconds: float) -> float:
    """The highest amount a second of any of ``works``, timed in turns for so long, each once at least.

    Those far from the best are left out.
    """
    deadline = time.perf_counter() + seconds
    rates = [0.0] * len(works)
    for turn in count():
        for i, work in enumerate(works):
            if not turn or 2 * rates[i] > max(rates):
                rates[i] = max(rates[i], work.amount / _seconds(work.call, where))
        if time.perf_counter() >= deadline:
            return max(rates)
    raise AssertionError


def _seconds(call: Callable[[], Any], where: torch.device) -> float:
    """The seconds of a call, by as many as the clock needs."""
    for repeats in (1, 10, 100):
        _wait_for(where)
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        _wait_for(where)
        taken = time.perf_counter() - started
        if taken > _SHORTEST:
            break
    return taken / repeats


def _wait_for(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


# ---- bytes ----


def _copy_rate(where: torch.device) -> float:
    """Bytes read and written a second.

    A CPU that writes to other memory mostly reads that first, which nobody counts; an operator in place spares it that.
    """
    memory = torch.ones(_memory_bytes(where) // 4, dtype=torch.float32, device=where)
    source, target = memory.chunk(2)
    copied = _Work(4.0 * memory.numel(), partial(target.copy_, source))
    return _best_rate([copied, _Work(8.0 * memory.numel(), memory.relu_)], where, COPY_SECONDS)


def _memory_bytes(where: torch.device) -> int:
    """How much memory to go through: four times what the last cache holds."""
    if where.type == "cuda":
        return min(512 * _MIB, torch.cuda.mem_get_info(where)[0] // 4)
    cache = _last_cache_bytes()
    return min(max(4 * cache, 128 * _MIB), 1024 * _MIB) if cache else 256 * _MIB


def _last_cache_bytes() -> int:
    """Bytes in all third-level caches of the CPU, as Linux tells them; 0 where it does not."""
    sizes: Dict[str, int] = {}
    for cache in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index3"):
        try:
            sizes[(cache / "shared_cpu_list").read_text()] = int((cache / "size").read_text().rstrip("K\n")) * 1024
        except (OSError, ValueError):
            continue
    return sum(sizes.values())


# ---- operations ----


def _product_rate(dtype: torch.dtype, where: torch.device, seconds: float) -> float:
    """Operations a second in ``dtype``, of square matrices: small ones are slow, and for their caches so may large be.

    They are multiplied as such, and as 1 x 1 convolutions: these may be another library's, which rounds to tf32.
    """
    works: List[_Work] = []
    for convolves in (False, True) if dtype.is_floating_point else (False,):
        side = _SMALLEST_SIDE
        try:
            while side <= _LARGEST_SIDE:
                work = _product(side, dtype, where, convolves)
                work.call()  # the first one loads code and reserves memory
                works.append(work)
                if _seconds(work.call, where) > _LONG:
                    break
                side *= 2
        except RuntimeError as error:
            if side == _SMALLEST_SIDE and not convolves:
                raise MeasureError(f"no peak for {dtype_name(dtype)} ({in_few_words(error)})") from error
    return _best_rate(works, where, seconds)


def _product(side: int, dtype: torch.dtype, where: torch.device, convolves: bool) -> _Work:
    a, b = (torch.ones(side, side, dtype=dtype, device=where) for _ in range(2))
    call: Callable[[], Any] = partial(torch.mm, a, b.t(), out=torch.empty_like(a))
    if convolves:
        call = partial(torch.conv2d, a.view(1, side, 16, side // 16), b.view(side, side, 1, 1))
    return _Work(2.0 * side**3, call)


# ---- its name ----


def _name(where: torch.device) -> str:
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine() or "CPU"

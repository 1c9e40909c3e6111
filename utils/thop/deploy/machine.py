"""How fast this machine computes and moves data, measured."""

import math
import platform
import re
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

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


# ---- bytes ----


def _copy_rate(where: torch.device) -> float:
    """Bytes read and written a second.

    A CPU that writes to other memory mostly reads that first, which nobody counts; an operator in place spares it that.
    """
    deadline = time.perf_counter() + COPY_SECONDS
    memory = torch.ones(_memory_bytes(where) // 4, dtype=torch.float32, device=where)
    source, target = memory.chunk(2)
    copied = _Work(4.0 * memory.numel(), partial(target.copy_, source), where)
    return _best_rate([copied, _Work(8.0 * memory.numel(), memory.relu_, where)], deadline)


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
    """Operations a second in ``dtype``."""
    deadline = time.perf_counter() + seconds
    works: List[_Work] = []
    for form in (_product, _convolution) if dtype.is_floating_point else (_product,):
        try:
            works.append(_square(form, _SMALLEST_SIDE, dtype, where))
        except RuntimeError as error:
            if not works:
                raise MeasureError(f"no peak for {dtype_name(dtype)} ({in_few_words(error)})") from error
    return _best_rate(works, deadline)


Form = Callable[[torch.Tensor, torch.Tensor], Callable[[], Any]]


def _square(form: Form, side: int, dtype: torch.dtype, where: torch.device) -> "_Work":
    """A product of square matrices; in the next larger one the sides are twice as long.

    Small products are slow for their overhead, and on some machines so are large ones, for their caches.
    """
    a, b = (torch.ones(side, side, dtype=dtype, device=where) for _ in range(2))
    larger = partial(_square, form, 2 * side, dtype, where) if side < _LARGEST_SIDE else None
    return _Work(2.0 * side**3, form(a, b), where, larger)


def _product(a: torch.Tensor, b: torch.Tensor) -> Callable[[], Any]:
    return partial(torch.mm, a, b.t(), out=torch.empty_like(a))


def _convolution(a: torch.Tensor, b: torch.Tensor) -> Callable[[], Any]:
    """The same product as a 1 x 1 convolution: it may be another library's, and allowed to round float32 to tf32."""
    side = len(a)
    return partial(torch.conv2d, a.view(1, side, 16, side // 16), b.view(side, side, 1, 1))


# ---- the clock ----


class _Work:
    """Something to time: ``amount`` bytes or operations a call.

    seconds: of one call, the fastest so far; larger: makes more of the same work.
    """

    def __init__(
        self,
        amount: float,
        call: Callable[[], Any],
        where: torch.device,
        larger: "Optional[Callable[[], _Work]]" = None,
    ) -> None:
        self.amount, self.call, self.where, self.larger = amount, call, where, larger
        self.seconds = math.inf
        self.time()  # slow, because the first call of a kind also loads code and reserves memory

    @property
    def rate(self) -> float:
        """The amount a second, the highest so far."""
        return self.amount / self.seconds

    def time(self) -> None:
        """Time it once more."""
        repeats = max(1, int(_SHORTEST / self.seconds))
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)
        started = time.perf_counter()
        for _ in range(repeats):
            self.call()
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)
        self.seconds = min(self.seconds, (time.perf_counter() - started) / repeats)

    def grown(self) -> "List[_Work]":
        """The larger work, once, if there is one and this one does not take long."""
        if self.larger is None or self.seconds > _LONG:
            return []
        larger, self.larger = self.larger, None
        try:
            return [larger()]
        except RuntimeError:  # no memory for it
            return []


def _best_rate(works: List[_Work], deadline: float) -> float:
    """The highest amount a second of any of ``works``, timed in turns until ``deadline``, each at least once.

    A larger one joins them as soon as one has been seen to be fast. Those far from the best are left out.
    """
    while True:
        best = max(work.rate for work in works)
        for work in works:
            if work.larger is not None or 2 * work.rate > best:
                work.time()
                works += work.grown()
        if time.perf_counter() >= deadline:
            return max(work.rate for work in works)


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

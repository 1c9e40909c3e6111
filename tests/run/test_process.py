"""The process is after a run as it was before: random state, modes, hooks, threads; whatever way the run ends."""

import gc
import os
import queue
import random
import signal
import sys
import threading
import timeit
import warnings
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Callable, Dict, Iterator, List

import numpy
import pytest
import torch
import torchvision
from releases import ROOT, run_python
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from utils.thop import compare, profile, traffic
from utils.thop.run import Observer, run
from utils.thop.run.shape_tensor import THREAD, ShapeTensor
from utils.torch_utils import model_info

try:
    from torch.utils.flop_counter import FlopCounterMode
except ImportError:  # torch before 2.1
    FlopCounterMode = None  # type: ignore[assignment,misc]

X = torch.rand(2, 4, 9, 9)
AUTOCAST = [name for name in dir(torch) if name.startswith(("is_autocast", "get_autocast"))]


def autocast_state() -> List[Any]:
    found: List[Any] = []
    for name in AUTOCAST:
        for arguments in ((), ("cpu",)):
            with suppress(TypeError), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                found.append((name, getattr(torch, name)(*arguments)))
    return found


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))


def ambient() -> Dict[str, Any]:
    """Everything of the thread and process that a run could leave changed."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": autocast_state(),
        "nesting": (torch.autocast_increment_nesting(), torch.autocast_decrement_nesting())[1],
        "dispatch": [id(m) for m in torch.utils._python_dispatch._get_current_dispatch_mode_stack()],
        "in a mode": getattr(torch.utils._python_dispatch, "is_in_torch_dispatch_mode", bool)(),
        "function": [id(m) for m in torch.overrides._get_current_function_mode_stack()],
        "heard": (torch._C._is_torch_function_enabled(), getattr(torch._C, "_is_torch_function_all_disabled", bool)()),
        "keys": (str(torch._C._dispatch_tls_local_include_set()), str(torch._C._dispatch_tls_local_exclude_set())),
        "collector": gc.isenabled(),
        "call": (nn.Module.__call__, nn.Module._call_impl),
        "hooks": [len(v) for n, v in vars(torch_module).items() if n.startswith("_global") and isinstance(v, dict)],
        "random": (random.getstate(), torch.get_rng_state().tolist(), str(numpy.random.get_state())),
        "defaults": (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
                     torch.is_anomaly_enabled()),
        "files": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
        "run": THREAD.run,
    }  # fmt: skip


# ---- in every ambient state, the same as a real run in that state ----


class Seen(TorchDispatchMode):
    """A user's mode: notes what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: List[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard.append(str(func))
        return func(*args, **(kwargs or {}))


class SeenFunctions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.heard: List[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard.append(func)
        return func(*args, **(kwargs or {}))


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def training_beside() -> Iterator[None]:
    over = threading.Event()

    def train() -> None:
        model = small()
        while not over.is_set():
            model(torch.rand(2, 4, 9, 9)).sum().backward()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


STATES: Dict[str, Callable[[], Any]] = {
    "nothing": nullcontext,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast off": lambda: torch.autocast("cpu", enabled=False),
    "default dtype": default_dtype,
    "default device": lambda: torch.device("cpu") if hasattr(torch.device, "__enter__") else nullcontext(),
    "dispatch mode": Seen,
    "function mode": SeenFunctions,
    "flop counter": lambda: FlopCounterMode(display=False) if FlopCounterMode else nullcontext(),
    "deterministic": deterministic,
    "anomaly": torch.autograd.detect_anomaly,
    "thread beside": training_beside,
}


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l, self.attention = nn.Linear(9, 9), nn.MultiheadAttention(9, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.l(x.flatten(0, 1))
        mask = torch.ones(x.shape[1], x.shape[1]).tril()
        return self.attention(x, x, x, need_weights=False)[0] + mask.to(x.dtype) @ (x @ x.transpose(1, 2)).softmax(-1)


class Grids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.strides = nn.Conv2d(4, 4, 1), torch.tensor([8.0, 16.0])

    def forward(self, x: Tensor) -> Any:
        x = nn.functional.interpolate(self.conv(x), scale_factor=2.0)
        grid = torch.stack(torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij"), -1)
        scales = torch.cat([torch.full((3,), float(s)) for s in self.strides])
        return [x.sigmoid() * grid.sum(-1), torch.einsum("bchw,s->bs", x, scales.to(x.dtype)), x.chunk(2, 1)]


MODELS: Dict[str, Callable[[], Any]] = {
    "small": small,
    "attends": Attends,
    "grids": Grids,
    "encoder": lambda: nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoderLayer(9, 3, 16, batch_first=True)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 2), nn.GroupNorm(2, 6), nn.GELU(), nn.AvgPool2d(2)),
    "norms": lambda: nn.Sequential(nn.LayerNorm(9), nn.Hardswish(), nn.InstanceNorm2d(4), nn.PReLU()),
    "scripted": lambda: nn.Sequential(torch.jit.script(nn.Conv2d(4, 4, 1)), nn.ReLU()),
    "traced": lambda: torch.fx.symbolic_trace(small()),
    "mobilenet": lambda: nn.Sequential(nn.Conv2d(4, 3, 1), torchvision.models.mobilenet_v3_small()),
    "resnet": lambda: nn.Sequential(nn.Conv2d(4, 3, 1), torchvision.models.resnet18()),
    "shared": lambda: (lambda layer: nn.Sequential(layer, nn.ReLU(), layer))(nn.Conv2d(4, 4, 1)),
    "channels last": lambda: small().to(memory_format=torch.channels_last),
}


class Operators(Observer):
    def __init__(self) -> None:
        self.seen: List[Any] = []

    def operator(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        name = func._schema.name
        if name.startswith(("aten::empty", "aten::_nnpack", "aten::detach")):
            return
        results = out if isinstance(out, (list, tuple)) else [out]
        tensors = [result for result in results if isinstance(result, Tensor)]
        self.seen.append((name, [(tuple(t.shape), t.dtype) for t in tensors[:1]]))


def operators_of(model: nn.Module, on_shapes: bool) -> List[Any]:
    observers: List[Operators] = []

    def observe(copied: Any) -> Operators:
        observers.append(Operators())
        return observers[-1]

    outcome = run(model, (X,), observe, on_shapes)
    assert outcome.mode == ("shape" if on_shapes else "real"), outcome.why
    assert not outcome.leftovers
    return observers[-1].seen


def _fused(operator: str) -> str:
    """Call the kernels of attention by one name."""
    return "aten::scaled_dot_product_attention" if "_scaled_dot_product" in operator else operator


def operators_heard(model: nn.Module) -> List[Any]:
    """Run the model itself, under a mode of the test's own."""
    heard: List[Any] = []

    class Hears(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if "aten::linear" in func._schema.name or "aten::conv2d" in func._schema.name:
                return out
            heard.append(_fused(func._schema.name))
            return out

    with torch.no_grad(), Hears():
        model(X)
    return heard


@pytest.mark.parametrize("where", STATES)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_in_every_state(name: str, where: str) -> None:
    if where == "default dtype":
        with default_dtype():
            model = MODELS[name]().to(torch.float32)
    else:
        model = MODELS[name]()
    model.train()
    before_model = {name: value.clone() for name, value in model.state_dict().items()}
    alone, counted_alone = operators_of(model, True), profile(model, (X,), verbose=False)
    with STATES[where]():
        before = ambient()
        on_shapes = operators_of(model, True)
        for_real = operators_of(model, False)
        counted, moved = profile(model, (X,), verbose=False), traffic(model, (X,))
        after = ambient()
        if where == "thread beside":
            after["random"] = before["random"]
        assert after == before
    assert on_shapes == for_real
    if where not in ("autocast", "default dtype", "inference_mode"):  # where PyTorch takes other operators itself
        assert on_shapes == alone
    assert tuple(counted) == tuple(counted_alone)
    assert counted.mode == moved.mode == "shape"
    assert all(m.training for m in model.modules())
    assert all(torch.equal(value, before_model[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["small", "attends", "grids", "transposed", "resnet"])
@pytest.mark.parametrize("where", ["nothing", "autocast"])
def test_the_operators_are_those_that_a_users_mode_hears(name: str, where: str) -> None:
    model = MODELS[name]().eval()
    if name == "attends":  # or torch 2.0 leads odd numbers of heads, too, into a kernel that a run goes around
        model.attention.train()
    ignored = ("aten::empty", "aten::_nnpack", "aten::detach")
    with STATES[where]():
        heard = [operator for operator in operators_heard(model) if not operator.startswith(ignored)]
        ours = [operator for operator, _ in operators_of(model, True)]
        assert [_fused(operator) for operator in ours] == heard


@pytest.mark.parametrize("kind", [Seen, SeenFunctions])
def test_a_users_mode_hears_nothing(kind: Any) -> None:
    model = small()
    with kind() as mode:
        profile(model, (X,), verbose=False)
        traffic(model, (X,))
        run(model, (X,), lambda copied: Observer(), on_shapes=False)
        assert not [heard for heard in mode.heard if "conv" in str(heard) or "dropout" in str(heard)]
    if FlopCounterMode is None:
        return
    with FlopCounterMode(display=False) as flops:
        profile(model, (X,), verbose=False)
        assert flops.get_total_flops() == 0
        model(X)
        assert flops.get_total_flops() > 0


@pytest.mark.skipif(FlopCounterMode is None, reason="torch before 2.1")
def test_under_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = small()
    expected = tuple(profile(model, (X,), verbose=False))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert tuple(profile(model, (X,), verbose=False)) == expected
    with FakeTensorMode() as mode:
        fake, image = small(), torch.rand(2, 4, 9, 9)
        assert tuple(profile(fake, (image,), verbose=False)) == expected
    assert tuple(profile(fake, (image,), verbose=False)) == expected and mode is not None


def test_global_hooks_hear_nothing() -> None:
    heard: List[Any] = []
    handles = [
        torch_module.register_module_forward_hook(lambda m, i, o: heard.append(m)),
        torch_module.register_module_forward_pre_hook(lambda m, i: heard.append(m)),
        torch_module.register_module_full_backward_hook(lambda m, i, o: heard.append(m)),
    ]
    model = small()
    own: List[Any] = []
    model[0].register_forward_hook(lambda m, i, o: o * 2)
    model[0].register_forward_pre_hook(lambda m, i: own.append(1))
    try:
        counted = profile(model, (X,), verbose=False)
        run(model, (X,), lambda copied: Observer(), on_shapes=False)
    finally:
        for handle in handles:
            handle.remove()
    assert heard == [] and counted.mode == "shape"


class Around(nn.Module):
    """A module around another one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_what_nests_as_deep_as_python_lets_it_is_counted() -> None:
    model: nn.Module = nn.Conv2d(4, 4, 1)
    deeper, limit = model, sys.getrecursionlimit()
    with suppress(RuntimeError):  # a RecursionError, or what PyTorch makes of one
        for _ in range(limit):
            deeper(X)
            model, deeper = deeper, Around(deeper)
    counted = profile(model, (X,), verbose=False)
    assert counted.total_kernel_macs == 16 and counted.mode == "shape"
    assert len(list(counted.root.walk())) > limit // 6 and sys.getrecursionlimit() == limit


def test_a_count_inside_of_a_count() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Conv2d(4, 4, 3)
            self.seen: List[int] = []

        def forward(self, x: Tensor) -> Tensor:
            inner = profile(self.l, (x,), verbose=False)
            moved = traffic(self, (x,)) if not self.seen and not self.seen.append(1) else None  # type: ignore[func-returns-value]
            assert inner.total_kernel_macs == 4 * 4 * 9 and (moved is None or moved.read_bytes)
            return self.l(x)

    counted = profile(Counts(), (X,), verbose=False)
    assert counted.mode == "shape" and counted.total_kernel_macs == 4 * 4 * 9
    rule: Any = lambda m, x, y: m.total_ops.add_(profile(nn.Conv2d(4, 4, 3), (X,), verbose=False)[0])  # noqa: E731
    counted = profile(small(), (X,), custom_ops={nn.Conv2d: rule}, verbose=False)
    assert counted.total_ops > 0 and THREAD.run is None


# ---- random numbers ----


class Draws(nn.Module):
    """Draws from every generator there is."""

    def __init__(self, needs_values: bool = False) -> None:
        super().__init__()
        self.l, self.needs_values = nn.Linear(9, 9), needs_values

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(self.l(x), 0.3, training=True) + torch.rand(9) + torch.randn_like(x) * random.random()
        x = x + torch.normal(0.0, 1.0, (9,)) * float(numpy.random.rand()) + torch.randperm(9)
        x = x + torch.empty(9).uniform_() + torch.bernoulli(torch.full((9,), 0.5)) + torch.randint(3, (9,))
        if self.needs_values and float(x.sum()) != float(x.sum()):
            return x
        return nn.functional.rrelu(x, training=True) if FlopCounterMode else x  # torch 1.13 has no meta kernel for it


@pytest.mark.parametrize("needs_values", [False, True])
def test_the_generators_stand_where_they_stood(needs_values: bool) -> None:
    before = ambient()["random"]
    counted = profile(Draws(needs_values), (X,), verbose=False)
    assert counted.mode == ("real" if needs_values else "shape"), counted.why
    drawn = Draws(needs_values)
    before = ambient()["random"]
    traffic(drawn, (X,))
    assert ambient()["random"] == before


def test_a_training_beside_draws_what_it_would_draw_alone() -> None:
    def train() -> List[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(9, 9), nn.Dropout(0.5), nn.Linear(9, 1))
        for _ in range(60):
            torch.manual_seed(1)
            model(torch.rand(4, 9)).sum().backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.01 * torch.rand_like(p)
        return [float(p.detach().sum()) for p in model.parameters()]

    expected, over, errors = train(), threading.Event(), []

    def count() -> None:
        try:
            while not over.is_set():
                profile(small(), (X,), verbose=False)
        except Exception as error:
            errors.append(error)

    def count_ready_made(models: List[nn.Module]) -> None:
        while not over.is_set():
            for model in models:
                traffic(model, (X,))
                profile(model, (X,), verbose=False)

    models = [small(), Draws(), Draws(True)]
    thread = threading.Thread(target=count_ready_made, args=(models,))
    thread.start()
    try:
        for _ in range(3):
            assert train() == expected
    finally:
        over.set()
        thread.join()
    assert not errors and count is not None


# ---- exceptions and interrupts ----


class TimedOut(Exception):
    pass


CALLS: Any = queue.SimpleQueue()  # of the process, where a run puts nothing back


class Slow(nn.Module):
    def __init__(self, error: Any = None) -> None:
        super().__init__()
        self.l, self.error = nn.Conv2d(4, 4, 1), error

    def forward(self, x: Tensor) -> Tensor:
        CALLS.put(None)
        if self.error is not None:
            raise self.error
        for _ in range(100_000):
            x = self.l(x)
        return x


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
@pytest.mark.parametrize("error", [TimedOut, TimeoutError, RuntimeError, ValueError])
def test_a_timeout_passes_through(error: Any) -> None:
    def handler(*args: Any) -> None:
        raise error("too slow")

    kept = signal.signal(signal.SIGALRM, handler)
    model = Slow()
    assert CALLS.empty()
    before = ambient()
    for milliseconds in range(40, 60, 4):  # wherever it is then, in a rule that counts a layer too
        try:
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1e3)
            with pytest.raises(error, match="too slow"):
                profile(model, (X,), verbose=False)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        CALLS.get_nowait()
        assert CALLS.empty() and ambient() == before
    signal.signal(signal.SIGALRM, kept)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
@pytest.mark.parametrize("ask", [lambda model: compare([model], inputs=(X,)), model_info], ids=["compare", "info"])
def test_a_timeout_ends_what_counts_for_others(ask: Any) -> None:
    def handler(*args: Any) -> None:
        raise TimedOut("too slow")

    kept = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(TimedOut):
            ask(Slow())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
    CALLS.get_nowait()
    assert CALLS.empty()


@pytest.mark.parametrize(
    "error", [RuntimeError, ValueError, OSError, MemoryError, KeyboardInterrupt, StopIteration, AssertionError]
)
def test_the_models_own_exception_passes_through_at_once(error: Any) -> None:
    assert CALLS.empty()
    with pytest.raises(error, match="mine"):
        profile(Slow(error("mine")), (X,), verbose=False)
    CALLS.get_nowait()
    assert CALLS.empty()


class Interrupts:
    """Raises at the n-th line event of our own code, wherever that is."""

    def __init__(self, after: int) -> None:
        self.after = self.left = after
        self.last: Dict[Any, int] = {}  # when each line was come to for the last time: a `with`, when it is left

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if "utils/thop" not in frame.f_code.co_filename.replace(os.sep, "/"):
            return None
        if event == "line":
            self.left -= 1
            self.last[frame.f_code, frame.f_lineno] = self.after - self.left
            if self.left == 0:
                raise KeyboardInterrupt("now")
        return self


def interrupt_once(after: int, count: Callable[[], Any]) -> Interrupts:
    """Interrupt a count at that line of it."""
    tracer = Interrupts(after)
    kept = sys.gettrace()
    sys.settrace(tracer)
    try:
        count()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(kept)
    return tracer


@pytest.mark.parametrize("where", ["nothing", "autocast", "dispatch mode"])
def test_an_interrupt_at_any_line_leaves_nothing(where: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.SiLU())
    kept: List[Any] = []
    model[0].register_forward_hook(lambda m, i, o: kept.append(o))
    expected = {name: value.clone() for name, value in model.state_dict().items()}

    def count() -> None:
        profile(model, (X,), verbose=False)

    with STATES[where]():
        count()
        before = ambient()
        each = sorted(interrupt_once(10**6, count).last.values())
        moments = {*range(1, 50), *each, *range(each[-1] - 150, each[-1])}
        for moment in sorted(moments)[:: 1 if where == "nothing" else 4]:
            assert interrupt_once(moment, count).left == 0
            assert ambient() == before, moment
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    gc.collect()
    assert kept == [] and not [o for o in gc.get_objects() if type(o) is ShapeTensor]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
def test_ctrl_c_at_random_moments() -> None:
    model = small()
    profile(model, (X,), verbose=False)
    before, generator = ambient(), random.Random(0)
    longest = min(timeit.repeat(lambda: profile(model, (X,), verbose=False), number=1, repeat=5))
    interrupted = 0
    kept = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(1e-5, longest))
                profile(model, (X,), verbose=False)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            after = ambient()
            assert after == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
    assert interrupted > 50


FIRST = """
import random, sys
import numpy, torch
from torch import nn
import utils.thop
torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
def state():
    return torch.get_rng_state().tolist(), random.getstate(), [str(part) for part in numpy.random.get_state()]
model, x = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.MultiheadAttention(4, 2).out_proj), torch.zeros(2, 3)
before = state()
for count in (lambda: utils.thop.profile(model, (x,), verbose=False), lambda: utils.thop.traffic(model, (x,)),
              lambda: utils.thop.predict(model, (x,), device="t4")):
    count()
    assert state() == before, count
"""


def test_the_first_count_of_a_process_moves_no_generator() -> None:
    """What is looked up once is looked up without drawing numbers."""
    run_python(["-W", "ignore", "-c", FIRST], ROOT, fresh=True)

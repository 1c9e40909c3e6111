"""Nothing that a run can write to is the user's: weights, statistics, containers, iterators, generators, classes."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import copy
import decimal
import functools
import io
import itertools
import queue
import random
import subprocess
import sys
import threading
import types
import warnings
import weakref
from typing import Any, Callable

import fuzzing
import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from utils.thop import profile, traffic, training
from utils.thop.run import KNOWS_NODES, NotCountable
from utils.thop.show.summary import show_summary

X = torch.ones(2, 4, 8, 8)


class Does(nn.Module):
    """Does something in its forward, beside a convolution and a norm."""

    def __init__(self, what: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.what = what
        self.c, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x: Tensor) -> Tensor:
        self.what(self, x)
        out: Tensor = self.bn(self.c(x))
        return out


def ask_everything(model: nn.Module) -> list[str]:
    """Count a model in each way there is; return the modes of the runs."""
    modes = []
    for ask in (lambda: profile(model, (X,), verbose=False), lambda: traffic(model, X)):
        try:
            modes.append(ask().mode)
        except NotCountable as error:
            assert "storage was made smaller" in str(error)
    with contextlib.suppress(NotCountable, RuntimeError):
        training(model, (X,), amp=False)
    return modes


def check(what: Callable[[Any, Tensor], Any], described: Callable[[], Any] = lambda: None) -> list[str]:
    """Check that nothing of a model, and nothing of what is described, is touched; return the modes of its runs."""
    model = Does(what)
    before = fuzzing.described(model), described()
    modes = ask_everything(model)
    assert (fuzzing.described(model), described()) == before
    return modes


# ---- tensors ----

ON_STATISTICS: dict[str, Callable[[Tensor], Any]] = {
    "data": lambda t: setattr(t, "data", torch.ones(4)),
    "data of another size": lambda t: setattr(t, "data", torch.ones(9)),
    "numpy": lambda t: t.numpy().fill(7),
    "asarray": lambda t: numpy.asarray(t).__setitem__(0, 7),
    "apply_": lambda t: t.apply_(lambda value: 9.0),
    "map_": lambda t: t.map_(t, lambda a, b: 9.0),
    "storage": lambda t: fuzzing.untyped(t).fill_(1),
    "typed storage": lambda t: t.storage().__setitem__(0, 5.0),
    "storage of size 0": lambda t: fuzzing.untyped(t).resize_(0),
    "size 0": lambda t: t.resize_(0),
    "other memory": lambda t: t.set_(torch.ones(4)),
    "attribute": lambda t: setattr(t, "note", 1),
    "requires_grad_": lambda t: t.requires_grad_(),
    "fill_": lambda t: t.fill_(3),
    "shared": lambda t: t.share_memory_(),
    "file": lambda t: fuzzing.untyped(t)._share_fd_cpu_(),
    "through a view": lambda t: t[1:].detach().numpy().fill(2),
    "from numpy": lambda t: torch.from_numpy(t.numpy()).zero_(),
    "unbound": lambda t: Tensor.numpy(t).fill(3),
}


@pytest.mark.parametrize("name", ON_STATISTICS)
def test_statistics_and_buffers_are_the_copys_own(name: str) -> None:
    use = ON_STATISTICS[name]
    assert check(lambda model, x: use(model.bn.running_mean)) == ["shape"] * 2
    assert check(lambda model, x: use(model.bn.running_var)) == ["shape"] * 2
    assert check(lambda model, x: use(model.table)) == ["shape"] * 2


@pytest.mark.parametrize("name", ON_STATISTICS)
def test_weights_are_the_copys_own(name: str) -> None:
    use = ON_STATISTICS[name]

    def write(model: Any, x: Tensor) -> None:
        for tensor in (model.c.weight.detach(), model.c.bias.data):
            try:
                use(tensor)
            except RuntimeError as error:  # the bias has become another
                assert any(words in str(error) for words in ("needs values", "size", "tensor subclasses"))

    check(write)


def test_statistics_that_are_reset_keep_their_version() -> None:
    assert check(lambda model, x: model.bn.reset_running_stats())[:2] == ["shape", "shape"]
    assert check(lambda model, x: model.bn.num_batches_tracked.add_(1))[:2] == ["shape", "shape"]


PROMPT = nn.Parameter(torch.ones(1, 4, 1, 1))
HEAD = nn.Conv2d(4, 4, 1)


class Prompted(nn.Module):
    shared = nn.Parameter(torch.ones(4, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        PROMPT.grad = torch.ones(1, 4, 1, 1)
        out: Tensor = HEAD(self.c(x) * PROMPT + self.shared)
        return out


def test_parameters_that_the_model_does_not_own_get_no_gradient() -> None:
    if KNOWS_NODES:  # or no step is counted
        step = training(Prompted(), (X,), amp=False)
        assert step.peak > 0 and step.gradients == (4 * 4 + 4) * 4
    assert PROMPT.grad is None and Prompted.shared.grad is None and HEAD.weight.grad is None
    traffic(Prompted(), X)
    assert PROMPT.grad is None and PROMPT._version == 0


# ---- a fork's own summary ----


def fuses(mine: Any) -> None:
    mine[0].weight.data.mul_(3)
    mine[1].running_mean.numpy().fill(5)


def prunes(mine: Any) -> None:
    mine[0].weight.set_(torch.zeros(2, 3, 1, 1))
    mine[2].weight.grad = torch.ones(2, 4, 1, 1)


def zeroes(mine: Any) -> None:
    for parameter in mine.parameters():
        parameter.zero_()


def overwrites_memory(mine: Any) -> None:
    fuzzing.untyped(mine[0].weight).fill_(1)


def follows_itself(mine: Any) -> None:
    assert mine.itself[0] is mine
    mine.itself[0][2].bias.fill_(7)


@pytest.mark.parametrize("write", [fuses, prunes, zeroes, overwrites_memory, follows_itself])
def test_a_fork_may_write_to_its_copy(write: Callable[[Any], None]) -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model.itself = [model]
    before, done = fuzzing.described(model), []

    def model_info(model: nn.Module, verbose: bool = False, img_size: int = 640) -> None:
        mine = copy.deepcopy(model)
        with torch.no_grad():
            write(mine)
        done.append(type(mine))
        print("Model summary: 3 layers, 1.0 GFLOPs")

    show_summary(model_info, print, model, (), {})
    assert done == [nn.Sequential] and fuzzing.described(model) == before


# ---- what leads elsewhere ----

COUNT, STATS, LOG = 0, {"n": 0, "deep": [1, (2, {"z": 3})]}, [1]
TUPLE = ({"t": torch.ones(2)}, [1])
SPACE = types.SimpleNamespace(inner=types.SimpleNamespace(deeper={"k": [1]}, t=torch.ones(2)))
KEPT = torch.ones(3)
WEAK: Any = weakref.WeakValueDictionary(k=KEPT)
VARIABLE: Any = contextvars.ContextVar("variable")
VARIABLE.set({"t": KEPT, "past": [1]})
LOCAL: Any = threading.local()
LOCAL.t, LOCAL.past = torch.ones(2), [1]


class Slots:
    __slots__ = ("n", "t")
    n: Any
    t: Any


SLOTS = Slots()
SLOTS.n, SLOTS.t = 0, torch.ones(2)


@functools.lru_cache(maxsize=2)
def cached(n: int) -> Tensor:
    return torch.ones(n)


def rebinds(model: Any, x: Tensor) -> None:
    global COUNT
    COUNT += 1


def imports(model: Any, x: Tensor) -> None:
    here = sys.modules[__name__]
    here.STATS["n"] += 1  # type: ignore[attr-defined]
    here.LOG = [x]  # type: ignore[attr-defined]


def stores_in_a_foreign_module(model: Any, x: Tensor) -> None:
    torch.last_of_all = x  # type: ignore[attr-defined]
    nn.Conv2d.calls = 1  # type: ignore[attr-defined]


def sets(owner: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(owner, name, value)
    return owner


ELSEWHERE: dict[str, Callable[[Any, Tensor], Any]] = {
    "a global": rebinds,
    "a dictionary": lambda m, x: STATS.update(n=x),
    "deep in it": lambda m, x: STATS["deep"][1][1].update(z=x),  # type: ignore[index]
    "a list": lambda m, x: LOG.append(x),
    "a tuple's dictionary": lambda m, x: [TUPLE[0].update(t=x), TUPLE[1].append(x)],  # type: ignore[attr-defined, func-returns-value]
    "a tuple's tensor": lambda m, x: TUPLE[0]["t"].numpy().fill(3),  # type: ignore[index, attr-defined]
    "an attribute of an attribute": lambda m, x: [sets(SPACE.inner, n=x), SPACE.inner.deeper["k"].append(x)],
    "its tensor": lambda m, x: SPACE.inner.t.data.zero_(),
    "slots": lambda m, x: sets(SLOTS, n=x, t=x),
    "the tensor in a slot": lambda m, x: SLOTS.t.zero_(),
    "weak values": lambda m, x: WEAK.update(k=x, other=x),
    "a weak value": lambda m, x: WEAK["k"].numpy().fill(9),
    "a context variable": lambda m, x: VARIABLE.set({"t": x}),
    "what it holds": lambda m, x: (VARIABLE.get()["past"].append(x), VARIABLE.get()["t"].data.zero_()),
    "a thread's own": lambda m, x: [sets(LOCAL, t=x), LOCAL.past.append(x)],
    "a thread's own tensor": lambda m, x: LOCAL.t.data.fill_(3),
    "a cache": lambda m, x: (cached(5), cached(6), cached(7)),
    "a module that is imported": imports,
    "a foreign module": stores_in_a_foreign_module,
}


def everything() -> Any:
    places = {name: value for name, value in globals().items() if name.isupper() and name != "ELSEWHERE"}
    held = {name: fuzzing.described(value) for name, value in places.items()}
    held["VARIABLE"], held["LOCAL"] = fuzzing.described(VARIABLE.get()), fuzzing.described(LOCAL.__dict__)
    return held, cached.cache_info().currsize, hasattr(torch, "last_of_all"), "calls" in vars(nn.Conv2d)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_places_elsewhere_are_as_before(name: str) -> None:
    cached(1)
    assert check(ELSEWHERE[name], everything)[:2] == ["shape", "shape"]


def test_a_closure_and_a_default() -> None:
    past, n = [1], 0
    t = torch.ones(2)

    def keeps(x: Tensor, held: dict[str, Any] = {"t": torch.ones(2)}) -> None:  # noqa: B006, B008
        nonlocal n
        n += 1
        past.append(x)
        t.numpy().fill(3)
        held["t"].zero_()
        keeps.last = x  # type: ignore[attr-defined]

    def state() -> Any:
        return n, fuzzing.described(past), fuzzing.described(t), fuzzing.described(keeps)

    check(lambda model, x: keeps(x), state)


def test_a_class_that_is_shared_with_the_copy() -> None:
    model: Any = nn.Sequential(
        getattr(parametrizations, "weight_norm", parametrizations.orthogonal)(nn.Conv2d(4, 4, 1))
    )

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            parametrize.remove_parametrizations(self.inner[0], "weight")
            out: Tensor = self.inner(x)
            return out

    kind, names = type(model[0]), sorted(vars(type(model[0])))
    expected = model(X)
    for _ in range(2):
        profile(Bare(), (X,), verbose=False)
        traffic(Bare(), X)
    assert type(model[0]) is kind and sorted(vars(kind)) == names
    assert torch.equal(model(X), expected) and parametrize.is_parametrized(model[0])


def test_where_something_was_found_is_said() -> None:
    def hides(model: Any, x: Tensor) -> None:
        sys.modules["torch"].__dict__.setdefault("".join(["_hid", "den"]), [0]).append((x,))

    torch._hidden = [0]  # type: ignore[attr-defined]
    try:
        counted = profile(Does(hides), (X,), verbose=False)
        assert torch._hidden == [0]  # type: ignore[attr-defined]
        assert counted.leftovers == ["a tensor of shape (2, 4, 8, 8) was taken out of a list"]
    finally:
        del torch._hidden  # type: ignore[attr-defined]


# ---- iterators and generators of numbers ----


class Streams(nn.Module):
    def __init__(self, reads: bool, generator: bool = False) -> None:
        super().__init__()
        self.c, self.reads = nn.Conv2d(4, 4, 1), reads
        inner = iter([4, 5, 6])
        self.streams = {
            "list": iter([1, 2, 3]), "zip": zip([1, 2, 3], inner), "map": map(str, [1, 2, 3]),
            "cycle": itertools.cycle([1, 2]), "enumerate": enumerate("abc"), "count": itertools.count(5),
            "chain": itertools.chain([1], [2, 3]), "keys": iter({"a": 1, "b": 2}), "tensors": iter([X, X + 1]),
            "islice": itertools.islice(itertools.count(), 1, 9), "reversed": reversed([1, 2, 3]),
            "filter": filter(None, [1, 2, 3]), "accumulate": itertools.accumulate([1, 2, 3]),
            "product": itertools.product([1, 2], [3, 4]), "starmap": itertools.starmap(max, [(1, 2), (3, 4)]),
            "of a set": iter({1, 2, 3}), "until": iter([1, 2].pop, 0),
        }  # fmt: skip
        self.batches = (i for i in range(3)) if generator else None

    def forward(self, x: Tensor) -> Tensor:
        if self.reads:
            assert len([next(stream) for stream in self.streams.values()]) == len(self.streams)
        if self.reads and self.batches is not None:
            next(self.batches)
        out: Tensor = self.c(x)
        return out


def test_iterators_stay_where_they_are() -> None:
    model = Streams(reads=True)
    for _ in range(2):
        assert profile(model, (X,), verbose=False).mode == "shape"
    traffic(model, X)
    if KNOWS_NODES:
        training(model, (X,), amp=False)
    untouched = Streams(reads=False)
    for name, stream in model.streams.items():
        mine, other = (list(itertools.islice(s, 2)) for s in (stream, untouched.streams[name]))
        assert len(mine) == len(other) == 2
        assert all(a is b or a == b for a, b in zip(mine, other) if not isinstance(a, Tensor)), name


def test_a_generator_may_be_held_and_not_advanced() -> None:
    assert profile(Streams(reads=False, generator=True), (X,), verbose=False)[2] == 16
    model = Streams(reads=True, generator=True)
    for ask in (lambda: profile(model, (X,), verbose=False), lambda: traffic(model, X)):
        with pytest.raises(NotCountable, match="a generator, attribute 'batches'"):
            ask()
    assert model.batches is not None and next(model.batches) == 0


OURS, NUMPYS, TORCHS = random.Random(1), numpy.random.default_rng(2), torch.Generator().manual_seed(3)
ALIAS = random.random


class Dice:
    def __init__(self) -> None:
        self.roll = random.randint

    def __call__(self) -> int:
        return self.roll(1, 6)


DICE = Dice()


@pytest.mark.parametrize(
    "draw",
    [lambda: DICE(), lambda: ALIAS(), lambda: random.shuffle([1, 2, 3]), lambda: numpy.random.rand(2),
     lambda: torch.manual_seed(0), lambda: random.seed(3),
     lambda: torch.set_rng_state(torch.Generator().manual_seed(9).get_state()),
     lambda: getattr(torch, "manual" + "_seed")(7), lambda: (OURS.random(), NUMPYS.random()),
     lambda: torch.rand(2, generator=TORCHS), lambda: __import__("scipy.stats").stats.norm.rvs(size=2),
     lambda: numpy.random.set_state(numpy.random.RandomState(5).get_state())],
)  # fmt: skip
def test_generators_stay_where_they_are(draw: Callable[[], Any]) -> None:
    def state() -> Any:
        ours = fuzzing.described(OURS), fuzzing.described(NUMPYS), fuzzing.described(TORCHS)
        return ours, random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()

    check(lambda model, x: draw(), state)
    check(lambda model, x: draw() if float(x.sum()) > 0 else None, state)


# ---- the process ----


def test_no_call_ends_the_process() -> None:
    """What asks C++ for memory that is not there, in a process that may die of it."""
    code = """
import sys
sys.path[:0] = ["tests"]
import multiprocessing.reduction, pickle, torch
from fuzzing import untyped
from torch import nn
from utils.thop import profile
unbound = getattr(torch.Tensor, "untyped_storage", None) or torch.Tensor._storage
uses = [
    lambda t: t.share_memory_(), lambda t: torch.FloatTensor().new(t.detach().storage()),
    lambda t: torch.empty(0).set_(untyped(t.detach()), 0, (2,), (1,)) + 1,
    lambda t: untyped(t)._share_fd_cpu_(), lambda t: unbound(t)[0],
    lambda t: torch.utils.dlpack.to_dlpack(t.detach()), lambda t: torch.from_dlpack(t.detach()) + 1,
    lambda t: pickle.dumps(t), lambda t: multiprocessing.reduction.ForkingPickler.dumps(t), lambda t: list(t.storage()),
    lambda t: memoryview(t.detach().numpy()), lambda t: torch.save(t, "/dev/null"), lambda t: t.detach().apply_(abs),
    lambda t: getattr(untyped(t), "byteswap", print)(torch.float32), lambda t: untyped(t).clone(), lambda t: t.tolist(),
    lambda t: untyped(t.detach()).resize_(0) and (t * 2).sum(), lambda t: nn.Linear(1, 1).share_memory(),
]
for i, use in enumerate(uses):
    class Uses(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(4, 4, 1)
        def forward(self, x):
            use(self.c.weight)
            use(x)
            return self.c(x)
    try:
        counted = profile(Uses(), (torch.ones(1, 4, 2, 2),), verbose=False)
        assert counted.total_kernel_macs == 16, i
    except RuntimeError as error:
        print(i, error)
print("alive")
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    child = subprocess.run(command, capture_output=True, text=True, cwd=fuzzing.ROOT)
    assert child.returncode == 0 and child.stdout.strip().endswith("alive"), (child.stdout, child.stderr)


def test_made_up_modules_touch_nothing() -> None:
    ran, wrong = fuzzing.run_cases(0, 200)
    assert ran == 200 and wrong == []


# ---- reached by ways that no plain name shows ----


class Outer:
    class Inner:
        n, items, t = 0, [1], torch.ones(3)


class Held:
    items, t, it = [1], torch.ones(3), iter(list(range(20)))

    @classmethod
    def go(cls) -> int:
        return next(cls.it)


class Odd(torch.Tensor):
    pass


ORDER = collections.OrderedDict(a=1, b=2)
QUEUE: queue.Queue[int] = queue.Queue()
for _ in range(4):
    QUEUE.put(1)
STREAM, BYTES = io.StringIO("words"), io.BytesIO(b"words")
MASKED: Any = numpy.ma.masked_array([1.0, 2.0], [False, True])
ODD = torch.ones(3).as_subclass(Odd)
REGISTRY = {"held": Held}
NESTED = types.SimpleNamespace(inner=types.SimpleNamespace(kind=Held))


@functools.singledispatch
def by_kind(value: Any) -> int:
    return 0


def changes_what_is_held(model: Any, x: Tensor) -> None:
    Outer.Inner.n += 1
    Outer.Inner.items.append(2)
    Outer.Inner.t.add_(1)
    REGISTRY["held"].late = 1  # type: ignore[attr-defined]
    NESTED.inner.kind.other = 1
    model.kind.items.append(2)
    model.kind.t.numpy().fill(0)
    next(model.kind.it)
    model.go()
    model.module.CALLS.append(1)
    model.module.COUNT += 1


def changes_containers(model: Any, x: Tensor) -> None:
    ORDER.move_to_end("a")
    QUEUE.get(timeout=1)
    STREAM.read(2)
    BYTES.seek(0, 2)
    BYTES.write(b"more")
    MASKED.mask[0] = True
    by_kind.register(str, lambda value: 1)


OBJECTS: dict[str, Callable[[], Any]] = {
    "iterator": lambda: iter([1, 2]),
    "dictionary": dict,
    "list": list,
    "array": lambda: numpy.zeros(2),
    "bytes": lambda: bytearray(2),
    "namespace": lambda: types.SimpleNamespace(n=0),
    "tensor": lambda: torch.ones(3),
    "set": set,
}
BOUND: dict[str, Callable[[Any], Any]] = {
    "iterator": lambda o: o.__next__,
    "dictionary": lambda o: o.__setitem__,
    "list": lambda o: o.__iadd__,
    "array": lambda o: o.__setitem__,
    "bytes": lambda o: o.__setitem__,
    "namespace": lambda o: o.__setattr__,
    "tensor": lambda o: o.__setitem__,
    "set": lambda o: o.__ior__,
}
ARGUMENTS: dict[str, Any] = {"iterator": (), "list": ([1],), "namespace": ("n", 7), "set": ({1},)}


def test_held_classes_and_modules() -> None:
    module: Any = types.ModuleType("a_module_of_mine")
    module.CALLS, module.COUNT = [1], 0
    model: Any = Does(changes_what_is_held)
    model.kind, model.go, model.module = Held, Held.go, module

    def state() -> Any:
        held = [item for kind in (Outer.Inner, Held) for item in vars(kind).items() if not item[0].startswith("__")]
        return [(name, fuzzing.described(value)) for name, value in held], list(module.CALLS), module.COUNT

    before = state(), fuzzing.described(model)
    assert ask_everything(model) == ["shape"] * 2
    assert (state(), fuzzing.described(model)) == before


def test_containers_of_the_standard_library() -> None:
    def state() -> Any:
        streams = STREAM.tell(), BYTES.tell(), BYTES.getvalue()
        return list(ORDER), list(QUEUE.queue), streams, MASKED.mask.tolist(), len(by_kind.registry)

    before = state()
    ask_everything(Does(changes_containers))
    assert state() == before


@pytest.mark.parametrize("name", OBJECTS)
def test_bound_slots(name: str) -> None:
    held = OBJECTS[name]()
    model: Any = Does(lambda model, x: model.bound(*ARGUMENTS.get(name, (0, 1))))
    model.bound = BOUND[name](held)
    before = fuzzing.described(held), fuzzing.described(model)
    ask_everything(model)
    assert (fuzzing.described(held), fuzzing.described(model)) == before


HOOKS = ("register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
         "register_load_state_dict_pre_hook", "register_state_dict_pre_hook", "register_state_dict_post_hook",
         "register_forward_hook", "register_forward_pre_hook")  # fmt: skip


@pytest.mark.parametrize("name", [name for name in HOOKS if hasattr(nn.Module, name)])
def test_hooks_that_a_forward_registers(name: str) -> None:
    model = Does(lambda model, x: getattr(model.c, name)(lambda *args: None))
    ask_everything(model)
    assert not any(table for key, table in vars(model.c).items() if key.endswith("hooks"))


@pytest.mark.parametrize("write", [lambda t: t.zero_(), lambda t: t.mul_(2), lambda t: setattr(t, "data", t.data * 0)])
def test_tensors_of_other_kinds_in_globals(write: Callable[[Tensor], Any]) -> None:
    sparse = torch.eye(3).to_sparse()

    def state() -> Any:
        return [(t.to_dense().tolist(), t._version) for t in (ODD, sparse)]

    def writes(model: Any, x: Tensor) -> None:
        write(ODD)
        write(sparse)

    before = state()
    ask_everything(Does(writes))
    assert state() == before


def sets_the_process(model: Any, x: Tensor) -> None:
    torch.set_default_dtype(torch.float64)
    torch.backends.cudnn.benchmark = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("high")
    torch.autograd.set_detect_anomaly(True)
    torch.nn.modules.module.register_module_forward_hook(lambda *args: None)
    numpy.seterr(divide="ignore")
    warnings.simplefilter("error")
    decimal.getcontext().prec = 5
    sys.setrecursionlimit(sys.getrecursionlimit() + 10)


def test_settings_of_the_process() -> None:
    def state() -> Any:
        hooks = len(torch.nn.modules.module._global_forward_hooks)
        flags = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()
        settings = torch.get_default_dtype(), torch.get_float32_matmul_precision(), numpy.geterr()
        return hooks, flags, settings, sys.getrecursionlimit(), list(warnings.filters), decimal.getcontext().prec

    before = state()
    ask_everything(Does(sets_the_process))
    assert state() == before


def test_a_fork_restores_its_model_from_a_deep_copy() -> None:
    def model_info(model: nn.Module, verbose: bool = False, img_size: int = 640) -> None:
        backup = copy.deepcopy(model)
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        model.load_state_dict(backup.state_dict())
        print("Model summary: 1.0 GFLOPs")

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = [tensor.clone() for tensor in model.state_dict().values()]
    show_summary(model_info, print, model, (), {})
    assert all(map(torch.equal, before, model.state_dict().values())) and before[0].any()


def test_memory_that_is_not_there_is_no_ordinary_tensors() -> None:
    uses: tuple[Callable[[Any, Tensor], Any], ...] = (
        lambda model, x: torch.empty(0).set_(x).sum().item(),
        lambda model, x: torch.ones(3).set_(x).numpy(),
        lambda model, x: torch.empty(0).set_(x).tolist(),
    )
    for use in uses:
        assert profile(Does(use), (X,), verbose=False).mode == "real"

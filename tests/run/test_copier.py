"""The copy of a model: what is copied and what is shared, whatever it is made of, and the user's own objects alive."""

import copy
import functools
import gc
import os
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from contextlib import suppress
from types import MethodType, SimpleNamespace
from typing import Any, Callable, Dict, List

import numpy
import pytest
import torch
import torchvision
from states import assert_same_state, state
from torch import Tensor, nn

from utils.thop import profile, traffic
from utils.thop.run import NotCountable, run
from utils.thop.run.copier import Copier

X = torch.rand(2, 4, 5, 5)
CONV = 4 * 4


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 1)


def kernel(model: nn.Module, x: Any = X, mode: str = "shape") -> float:
    """Count, check that the model is as it was, and return the kernel accesses."""
    before = state(model)
    objects = {name: id(value) for name, value in model.__dict__.items()}
    counted = profile(model, (x,), verbose=False)
    assert counted.mode == mode, counted.why
    assert_same_state(model, before)
    assert {name: id(value) for name, value in model.__dict__.items()} == objects
    assert traffic(model, (x,)).mode == mode
    return counted.total_kernel_macs


# ---- objects with a construction of their own ----


class Singleton(nn.Module):
    instance: Any = None

    def __new__(cls, *args: Any) -> Any:
        if cls.instance is None:
            cls.instance = super().__new__(cls)
        return cls.instance

    def __init__(self) -> None:
        super().__init__()
        self.l = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.l(x)


class NeedsArguments(nn.Module):
    def __new__(cls, channels: int) -> Any:
        assert channels == 4
        return super().__new__(cls)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.l = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.l(x)


class Slotted(nn.Module):
    __slots__ = ("layer",)

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "layer", conv())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Guarded(nn.Module):
    """Lets no attribute be set once it is finished, and says how it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.l = conv()
        self.finished = True

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "finished", False) and name != "training":
            raise AttributeError(name)
        super().__setattr__(name, value)

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("not to be copied")

    def forward(self, x: Tensor) -> Tensor:
        return self.l(x)


def by_feature_extractor() -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(nn.Sequential(conv(), nn.ReLU(), conv()), {"0": "a"})


@pytest.mark.parametrize(
    "build",
    [Singleton, lambda: NeedsArguments(4), Slotted, Guarded, by_feature_extractor,
     lambda: torch.fx.symbolic_trace(nn.Sequential(conv(), nn.ReLU())),
     lambda: nn.Sequential(torch.fx.symbolic_trace(conv()), nn.ReLU()),
     pytest.param(lambda: torch.export.export(nn.Sequential(conv(), nn.ReLU()), (X,)).module(),
                  marks=pytest.mark.skipif(not hasattr(torch, "export"), reason="torch before 2.1"))],
)  # fmt: skip
def test_what_constructs_itself(build: Callable[[], nn.Module]) -> None:
    model = build()
    with suppress(NotImplementedError):  # what was exported has no eval()
        model.eval()
    assert kernel(model) in (CONV, 0)
    with torch.no_grad():
        assert not any(tensor.is_meta for tensor in model.parameters())
        assert isinstance(model(X), (Tensor, dict))


def test_a_feature_extractor_of_torchvision() -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    whole = torchvision.models.resnet18().eval()
    part = create_feature_extractor(whole, {"layer3": "f"})
    image = torch.zeros(1, 3, 64, 64)
    cut = [n for n in dict(whole.named_parameters()) if "layer4" in n or n.startswith("fc")]
    expected = sum(p.numel() for n, p in whole.named_parameters() if p.dim() > 1 and n not in cut)
    assert kernel(part, image) == expected


# ---- layers that are kept in odd places ----


Pair = namedtuple("Pair", "first second")


class MyList(list):  # type: ignore[type-arg]
    def append(self, value: Any) -> None:
        raise AssertionError("a copy calls nothing of ours")


class MyDict(dict):  # type: ignore[type-arg]
    def __setitem__(self, key: Any, value: Any) -> None:
        raise AssertionError("a copy calls nothing of ours")


class MyPartial(functools.partial):  # type: ignore[type-arg]
    pass


class Kept(nn.Module):
    """Calls one convolution that ``keep`` puts away and ``take`` gets out."""

    def __init__(self, keep: Callable[[nn.Module], Any], take: Callable[[Any], Any]) -> None:
        super().__init__()
        self.kept = keep(conv())
        self.take = take

    def forward(self, x: Tensor) -> Tensor:
        return self.take(self.kept)(x)


def object_array(layer: nn.Module) -> Any:
    array = numpy.empty(2, dtype=object)
    array[1] = layer
    return array


class InSlots:
    __slots__ = ("layer", "other")

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


class WithReduce:
    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __reduce__(self) -> Any:
        return WithReduce, (self.layer,)


@functools.lru_cache(maxsize=None)
def cached_layer(key: int) -> nn.Module:
    return conv()


def in_a_closure(layer: nn.Module) -> Any:
    def call(x: Tensor) -> Tensor:
        return layer(x)

    return call


def mutually_recursive(layer: nn.Module) -> Any:
    def even(x: Tensor, n: int = 2) -> Tensor:
        return layer(x) if n == 0 else odd(x, n - 1)

    def odd(x: Tensor, n: int = 1) -> Tensor:
        return even(x, n - 1)

    return even


KEPT: Dict[str, Any] = {
    "namedtuple": (lambda c: Pair(1, c), lambda k: k.second),
    "namespace": (lambda c: SimpleNamespace(c=[c]), lambda k: k.c[0]),
    "list subclass": (lambda c: MyList([c]), lambda k: k[0]),
    "dict subclass": (lambda c: MyDict(a=c), lambda k: k["a"]),
    "UserDict": (lambda c: UserDict(a=c), lambda k: k["a"]),
    "object array": (object_array, lambda k: k[1]),
    "partial subclass": (lambda c: MyPartial(nn.Sequential.forward, nn.Sequential(c)), lambda k: k),
    "partial": (lambda c: functools.partial(nn.Module.__call__, c), lambda k: k),
    "deque": (lambda c: deque([c], maxlen=3), lambda k: k[0]),
    "defaultdict": (lambda c: defaultdict(lambda: c), lambda k: k["new"]),
    "dict by module": (lambda c: {c: 1}, lambda k: next(iter(k))),
    "dict by parameter": (lambda c: {c.weight: c}, lambda k: next(iter(k.values()))),
    "OrderedDict": (lambda c: OrderedDict(a=(c,)), lambda k: k["a"][0]),
    "slots": (InSlots, lambda k: k.layer),
    "reduce": (WithReduce, lambda k: k.layer),
    "closure": (in_a_closure, lambda k: k),
    "mutually recursive functions": (mutually_recursive, lambda k: k),
    "bound append": (lambda c: [[c].append, c], lambda k: k[1]),
    "frozenset": (lambda c: frozenset([c]), lambda k: next(iter(k))),
    "weakref": (lambda c: (c, weakref.ref(c)), lambda k: k[1]()),
    "proxy": (lambda c: (c, weakref.proxy(c)), lambda k: k[1]),
    "lru_cache": (lambda c: cached_layer, lambda k: k(1)),
    "mapping proxy": (lambda c: types.MappingProxyType({"a": c}), lambda k: k["a"]),
    "iterator": (lambda c: c.__class__ and types.SimpleNamespace(get=[c].__getitem__), lambda k: k.get(0)),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_layer_is_counted_wherever_it_is_kept(name: str) -> None:
    keep, take = KEPT[name]
    assert kernel(Kept(keep, take)) == CONV


GLOBAL = conv()
GLOBAL_NORM = nn.BatchNorm2d(4)


class Elsewhere(nn.Module):
    """Its layers are a global, a class attribute, one behind a cache, and ones that are made as they are needed."""

    shared = conv()
    norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = GLOBAL_NORM(GLOBAL(self.norm(Elsewhere.shared(x))))
        x = nn.Upsample(scale_factor=2)(cached_layer(2)(x))
        if not hasattr(self, "late"):
            self.late = nn.Conv2d(4, 4, 1)
            self.add_module("later", nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
        return self.later(self.late(x))


def test_layers_that_the_model_does_not_hold() -> None:
    model = Elsewhere()
    before = [t.clone() for t in (*GLOBAL_NORM.buffers(), *Elsewhere.norm.buffers())]
    counted = profile(model, (X,), verbose=False)
    assert counted.mode == "shape", counted.why
    assert counted.total_kernel_macs == 5 * CONV
    maps = X.numel()
    assert counted.total_output_macs == maps * (4 + 1) + 4 * maps * 4
    assert all(torch.equal(a, b) for a, b in zip(before, (*GLOBAL_NORM.buffers(), *Elsewhere.norm.buffers())))
    assert GLOBAL_NORM.training and not hasattr(model, "late") and list(model.children()) == []
    real = run(model, (X,), lambda copied: _nothing(), on_shapes=False)
    assert real.mode == "real" and not hasattr(model, "late")
    assert all(torch.equal(a, b) for a, b in zip(before, (*GLOBAL_NORM.buffers(), *Elsewhere.norm.buffers())))


def _nothing() -> Any:
    from utils.thop.run import Observer

    return Observer()


def test_a_tensor_of_somebody_elses_is_not_written_to() -> None:
    seen, table = torch.zeros(4), torch.arange(4.0)

    class Writes(nn.Module):
        def __init__(self, real: bool) -> None:
            super().__init__()
            self.real = real

        def forward(self, x: Tensor) -> Tensor:
            table[1:3] += 1
            seen.add_(x.mean((0, 2, 3)))
            if self.real and float(seen.sum()) <= 0:
                return x
            return x * float(table.sum()) + seen.view(1, -1, 1, 1)

    for real in (False, True):
        counted = profile(Writes(real), (X,), verbose=False)
        assert counted.mode == ("real" if real else "shape"), counted.why
        assert seen.tolist() == [0] * 4 and table.tolist() == [0, 1, 2, 3]


# ---- forwards that were kept and replaced ----


def test_a_saved_forward() -> None:
    layer = conv()
    layer._old_forward = layer.forward  # type: ignore[assignment]
    layer.forward = MethodType(lambda self, x: self._old_forward(x) * 2, layer)  # type: ignore[method-assign]
    assert kernel(nn.Sequential(layer)) == CONV
    layer._older, layer.forward = (
        layer.forward,
        functools.partial(  # type: ignore[method-assign,assignment]
            lambda self, x: self._older(x), layer
        ),
    )
    assert kernel(nn.Sequential(layer, nn.ReLU())) == CONV
    wrapped = conv()
    old = wrapped.forward
    wrapped.forward = lambda x: old(x) + 1  # type: ignore[method-assign]
    assert kernel(nn.Sequential(wrapped)) == CONV


def test_a_saved_forward_of_another_module() -> None:
    class Borrows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.other = conv()
            self.borrowed = self.other.forward

        def forward(self, x: Tensor) -> Tensor:
            return self.borrowed(self.other.forward(x))

    assert kernel(Borrows()) == 2 * CONV


# ---- helpers that hold something of the process ----


class Closes:
    """Closes and deletes what is the user's when it dies."""

    closed: List[str] = []

    def __init__(self, layer: Any, path: str) -> None:
        self.layer, self.file = layer, open(path, "w")  # noqa: SIM115

    def __del__(self) -> None:
        self.file.close()
        Closes.closed.append("closed")


class ClosesToo(nn.Module):
    """A module that does so."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.l, self.file = conv(), open(path, "w")  # noqa: SIM115

    def __del__(self) -> None:
        self.file.close()
        Closes.closed.append("module")

    def forward(self, x: Tensor) -> Tensor:
        assert type(self) is ClosesToo
        return self.l(x)


class Helped(nn.Module):
    def __init__(self, helper: Any) -> None:
        super().__init__()
        self.helper = helper

    def forward(self, x: Tensor) -> Tensor:
        layer = getattr(self.helper, "layer", None)
        return x * 2 if layer is None else layer(x)


def test_the_death_of_a_copy_closes_nothing(tmp_path: Any) -> None:
    Closes.closed.clear()
    models = [
        Helped(Closes(None, str(tmp_path / "a"))),
        Helped(Closes(conv(), str(tmp_path / "b"))),
        ClosesToo(str(tmp_path / "c")),
    ]
    model: Any
    for model, expected in zip(models, (0, CONV, CONV)):
        assert kernel(model) == expected
        file = model.file if isinstance(model, ClosesToo) else model.helper.file
        gc.collect()
        file.write("still open")
        assert not Closes.closed


def test_a_process_a_temporary_file_and_a_thread(tmp_path: Any) -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    temporary = tempfile.NamedTemporaryFile(dir=tmp_path)  # noqa: SIM115
    helper = SimpleNamespace(
        process=process, file=temporary, thread=threading.Thread(), lock=threading.Lock(), layer=conv(),
        folder=tempfile.TemporaryDirectory(dir=tmp_path), event=threading.Event(),
    )  # fmt: skip
    with helper.lock:
        assert kernel(Helped(helper)) == CONV
    gc.collect()
    assert process.returncode == 3 and os.path.exists(temporary.name) and os.path.isdir(helper.folder.name)
    temporary.write(b"x")


def test_a_summary_writer(tmp_path: Any) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    helper = SimpleNamespace(writer=writer, layer=conv())
    assert kernel(Helped(helper)) == CONV
    writer.add_scalar("a", 1, 1)
    writer.close()


class Trainer:
    """Knows the model, and has a data set."""

    def __init__(self) -> None:
        self.images = [numpy.zeros((64, 64)) for _ in range(10)]
        self.options = {"epochs": [1, 2]}
        self.logger = __import__("logging").getLogger("x")
        self.model: Any = None


def test_of_a_trainer_only_what_leads_to_the_model_is_copied() -> None:
    trainer = Trainer()
    model = Helped(trainer)
    trainer.model = model
    copier = Copier(lambda tensor: tensor)
    copy: Any = copier.copy_model(model).model
    assert copy.helper is not trainer and copy.helper.model is copy
    assert all(numpy.shares_memory(a, b) for a, b in zip(copy.helper.images, trainer.images))
    assert copy.helper.logger is trainer.logger
    assert kernel(model) == 0


class CanNotBeCopied:
    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.inner = layer, SimpleNamespace(layer=layer)

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("never")


def test_a_helper_that_can_not_be_copied_is_shared_and_its_layers_are_counted() -> None:
    model: Any = Helped(CanNotBeCopied(conv()))
    assert kernel(model) == CONV
    parameters = list(model.helper.layer.parameters())
    assert all(type(p) is nn.Parameter and not p.is_meta for p in parameters)


def test_a_lazy_layer_stays_lazy() -> None:
    model: Any = nn.Sequential(nn.LazyConv2d(4, 1))
    if hasattr(Tensor, "untyped_storage"):  # torch 1.13 can't materialize a buffer under a mode
        model.append(nn.LazyBatchNorm2d())
    for _ in range(2):
        assert profile(model, (X,), verbose=False).total_kernel_macs == CONV
    assert model[0].has_uninitialized_params() and len(model[0]._forward_pre_hooks) == 1
    model(X)
    assert type(model[0]) is nn.Conv2d


# ---- large structures ----


def twice(levels: int) -> nn.Module:
    module: nn.Module = conv()
    for _ in range(levels):
        outer = nn.Module()
        outer.a = outer.b = module
        outer.forward = functools.partial(lambda m, x: m.a(x), outer)  # type: ignore[method-assign]
        module = outer
    return module


def test_a_module_with_many_places_takes_one_row_a_place() -> None:
    counted = profile(twice(18), (X,), verbose=False)
    assert counted.total_kernel_macs == CONV and counted.total_params == 20
    assert len(list(counted.root.walk())) < 18 * 4
    act = nn.ReLU()
    model = nn.Sequential(*[nn.Sequential(act) for _ in range(2000)])
    counted = profile(model, (X,), verbose=False)
    assert [layer.calls for layer in counted.layers] == [1] * 2000

    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.acts = nn.ModuleList([nn.ModuleList([act]) for _ in range(2000)])

        def forward(self, x: Tensor) -> Tensor:
            for (layer,) in self.acts:
                x = layer(x)
            return x

    assert profile(Loops(), (X,), verbose=False).total_output_macs == 2000 * X.numel()


def test_as_deep_as_a_real_run() -> None:
    def nested(levels: int) -> nn.Module:
        module: nn.Module = conv()
        for _ in range(levels):
            module = nn.Sequential(module)
        return module

    deepest = 0
    for levels in range(200, 400, 10):
        try:
            nested(levels)(X)
            deepest = levels
        except RecursionError:
            break
    counted = profile(nested(deepest - 20), (X,), verbose=False)
    assert counted.mode == "shape" and counted.total_kernel_macs == CONV


# ---- what models do with their own modules ----


class CopiesItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = conv()

    def forward(self, x: Tensor) -> Tensor:
        return copy.deepcopy(self.l)(x)


class Switches(CopiesItself):
    def fused(self, x: Tensor) -> Tensor:
        return self.l(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        self.forward = self.fused  # type: ignore[method-assign]
        return self.l(x)


class WritesWeights(CopiesItself):
    def forward(self, x: Tensor) -> Tensor:
        self.l.weight.mul_(0.5)
        self.l.bias.data.zero_()  # type: ignore[union-attr]
        return self.l(x)


@pytest.mark.parametrize("build", [CopiesItself, Switches, WritesWeights])
def test_what_a_forward_does_with_its_modules(build: Callable[[], nn.Module]) -> None:
    assert kernel(build()) == CONV


# ---- parameters of common layers, which are copied when they are asked for ----


def replaced_weight(m: nn.Conv2d, x: Tensor) -> Tensor:
    m.weight = nn.Parameter(torch.ones(4, 4, 3, 3))
    m.padding = (1, 1)
    return m(x)


def deleted_bias(m: nn.Conv2d, x: Tensor) -> Tensor:
    del m.bias
    m.register_parameter("bias", None)
    return m(x)


def named(m: nn.Conv2d, x: Tensor) -> Tensor:
    assert [name for name, _ in m.named_parameters()] == list(m._parameters) == ["weight", "bias"]
    assert len(m._parameters) == 2 and "weight" in m._parameters and m._parameters == dict(m._parameters)
    assert m.weight.device.type == "cpu" and isinstance(m.weight, nn.Parameter) and m.weight.requires_grad
    assert m.weight is m._parameters["weight"] is dict(m.named_parameters())["weight"] is m._parameters.get("weight")
    assert all(p is q for p, q in zip(m.parameters(), m._parameters.values()))
    return m(x)


def emptied(m: nn.Conv2d, x: Tensor) -> Tensor:
    weight = m._parameters.pop("weight")
    m._parameters["weight"] = weight
    return m(x)


def set_data(m: nn.Conv2d, x: Tensor) -> Tensor:
    m.weight.data = m.weight.data * 2
    for parameter in m.parameters():
        parameter.requires_grad_(False)
        parameter.add_(1)
    return m(x)


def in_double(m: nn.Conv2d, x: Tensor) -> Tensor:
    return m.double()(x.double())


def loaded(m: nn.Conv2d, x: Tensor) -> Tensor:
    m.load_state_dict({name: torch.zeros_like(value) for name, value in m.state_dict().items()})
    return m(x)


def shallow(m: nn.Conv2d, x: Tensor) -> Tensor:
    return copy.copy(m)(x)


class Uses(nn.Module):
    def __init__(self, use: Callable[[nn.Conv2d, Tensor], Tensor]) -> None:
        super().__init__()
        self.use = use
        self.l = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.l, x)


@pytest.mark.parametrize(
    "use, expected",
    [(use, CONV) for use in (deleted_bias, named, emptied, set_data, in_double, loaded, shallow)]
    + [(replaced_weight, 9 * CONV)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_forward_does_with_a_layers_parameters(use: Callable[..., Tensor], expected: int) -> None:
    for conv_first in (False, True):
        model = Uses((lambda m, x: use(m, m(x))) if conv_first else use)
        assert kernel(model) == expected + conv_first * CONV
        assert model.l.weight.requires_grad and model.l.weight.dtype is torch.float32


def test_a_layers_parameter_that_is_held_elsewhere_too_is_one() -> None:
    class Holds(nn.Module):
        def __init__(self, reads: bool) -> None:
            super().__init__()
            self.l, self.reads = conv(), reads
            self.w, self.other = self.l.weight, nn.Linear(4, 4)
            self.tied = nn.Linear(4, 4, bias=False)
            self.tied.weight = self.other.weight

        def forward(self, x: Tensor) -> Tensor:
            if self.reads:
                assert self.l.weight is self.w and self.tied.weight is self.other.weight
                self.w.mul_(2)
            return self.tied(self.l(x))

    class CallsAnother(Holds):
        def forward(self, x: Tensor) -> Tensor:
            return ELSEWHERE[0](super().forward(x))

    sizes = 4 * 4 + 4 + 4 * 4 + 4
    for build in (Holds, CallsAnother):
        for reads in (False, True):
            model = build(reads)
            ELSEWHERE[:] = [nn.Conv2d(4, 4, 1, bias=False)]
            ELSEWHERE[0].weight = model.l.weight
            assert profile(model, (X[..., :4],), verbose=False).total_params == sizes
    ELSEWHERE.clear()


ELSEWHERE: List[nn.Conv2d] = []


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(4, 1, 1))
        self.gain = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


BESIDE = WithBuffer()


@pytest.mark.parametrize("on_shapes", [True, False])
def test_copying_in_a_run_is_no_operator_of_the_models(on_shapes: bool) -> None:
    def beside(m: nn.Conv2d, x: Tensor) -> Tensor:
        out = BESIDE(m(x))
        return out if on_shapes else out * out.sum().item()

    counted = traffic(Uses(beside), (X,))
    assert counted.mode == ("shape" if on_shapes else "real")
    assert not {"clone", "detach", "copy_"} & {name for layer in counted.layers for name in layer.operators}


def test_a_hook_that_takes_itself_off_stays_on_the_model() -> None:
    model = nn.Sequential(conv())
    handles: List[Any] = []
    handles.append(model[0].register_forward_hook(lambda module, inputs, out: handles[0].remove()))
    assert kernel(model) == CONV and len(model[0]._forward_hooks) == 1


@pytest.mark.skipif(not hasattr(torch, "cond"), reason="torch before 2.1")
def test_what_pytorch_shows_to_nobody_is_refused_by_name() -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(torch.tensor(True), lambda y: y * 2, lambda y: y + 1, (x,))

    with pytest.raises(NotCountable, match="Decides calls cond"):
        profile(nn.Sequential(Decides()), (X,), verbose=False)

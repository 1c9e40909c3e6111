"""Nothing of a run stays in the process: whatever a model or a hook keeps outside of itself is as before."""

import functools
import gc
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
import torch
from torch import Tensor, nn

from utils.thop import profile, traffic
from utils.thop.run.shape_tensor import NeedsValues, ShapeTensor, shape_tensor

X = torch.rand(2, 3, 8)
CACHE: Dict[Any, Any] = {}
LIST: List[Any] = []
LAST: Optional[Tensor] = None


class Holder:
    """Somebody's own object, with a place to keep things."""

    def __init__(self) -> None:
        self.kept: Dict[Any, Any] = {}
        self.last: Any = None


HOLDER = Holder()


def mask_in_a_global(n: int, x: Tensor) -> Tensor:
    if n not in CACHE:
        CACHE[n] = torch.tril(torch.ones(n, n))
    return CACHE[n]


@functools.lru_cache(maxsize=None)
def _cached_mask(n: int) -> Tensor:
    return torch.tril(torch.ones(n, n))


def mask_in_a_lru_cache(n: int, x: Tensor) -> Tensor:
    return _cached_mask(n)


def mask_of_the_input_in_a_global(n: int, x: Tensor) -> Tensor:
    if n not in CACHE:
        CACHE[n] = (x.new_ones(n, n).tril() * (1 + 0 * x.sum()), "why")
    return CACHE[n][0]


@functools.lru_cache(maxsize=None)
def _cached_large_mask(n: int) -> Tensor:
    return torch.tril(torch.ones(n * 200, n * 200))


def large_mask_in_a_lru_cache(n: int, x: Tensor) -> Tensor:
    return _cached_large_mask(n)[:n, :n]


def mask_in_an_object(n: int, x: Tensor) -> Tensor:
    if n not in HOLDER.kept:
        HOLDER.kept[n] = torch.tril(torch.ones(n, n)) + 0 * x.sum()
        HOLDER.last = x * 2
    return HOLDER.kept[n]


def mask_by_a_global_statement(n: int, x: Tensor) -> Tensor:
    global LAST
    if LAST is None:
        LAST = torch.tril(torch.ones(n, n)) * x.new_ones(()) + 0 * x.mean()
    return LAST


class ClassAttribute(nn.Module):
    """Keeps its mask for all of its kind."""

    mask: Any = None
    masks: Dict[int, Tensor] = {}

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if ClassAttribute.mask is None:
            ClassAttribute.mask = torch.tril(torch.ones(3, 3)) + 0 * x.sum()
        if 3 not in self.masks:
            self.masks[3] = ClassAttribute.mask * 1
        return self.masks[3] @ ClassAttribute.mask @ self.l(x)


class Masked(nn.Module):
    """Multiplies by a mask that a function makes."""

    def __init__(self, mask: Callable[[int, Tensor], Tensor], needs_values: bool = False) -> None:
        super().__init__()
        self.l = nn.Linear(8, 8)
        self.mask, self.needs_values = mask, needs_values

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask(x.shape[1], x)
        if self.needs_values and not bool((x == x).all()):
            raise ValueError("not a number")
        return mask @ self.l(x)


MASKS = [
    mask_in_a_global,
    mask_in_a_lru_cache,
    mask_of_the_input_in_a_global,
    large_mask_in_a_lru_cache,
    mask_in_an_object,
    mask_by_a_global_statement,
]


@pytest.fixture(autouse=True)
def empty_caches() -> Any:
    global LAST
    CACHE.clear()
    LIST.clear()
    HOLDER.kept.clear()
    HOLDER.last = LAST = ClassAttribute.mask = None
    ClassAttribute.masks.clear()
    _cached_mask.cache_clear()
    _cached_large_mask.cache_clear()
    yield


def tensors_without_values() -> List[Any]:
    gc.collect()
    return [o for o in gc.get_objects() if type(o) is ShapeTensor or (type(o) is Tensor and o.is_meta)]


@pytest.mark.parametrize("needs_values", [False, True])
@pytest.mark.parametrize("mask", MASKS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("count", [lambda m: profile(m, (X,), verbose=False), lambda m: traffic(m, (X,))], ids="pt")
def test_a_mask_that_is_kept_is_a_real_one(mask: Any, needs_values: bool, count: Any) -> None:
    model = Masked(mask, needs_values)
    counted = count(model)
    assert counted.mode == ("real" if needs_values else "shape"), counted.why
    assert not tensors_without_values()
    out = model(X)
    expected = torch.tril(torch.ones(3, 3)) @ model.l(X)
    assert torch.allclose(out, expected)


def test_a_class_attribute_is_as_before() -> None:
    model = ClassAttribute()
    profile(model, (X,), verbose=False)
    assert ClassAttribute.mask is None and ClassAttribute.masks == {}
    assert torch.allclose(model(X), torch.tril(torch.ones(3, 3)) @ torch.tril(torch.ones(3, 3)) @ model.l(X))
    kept = ClassAttribute.mask
    profile(model, (X,), verbose=False)
    assert ClassAttribute.mask is kept


activations: Dict[str, Tensor] = {}


def note(name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, out: Tensor) -> None:
        activations[name] = out
        LIST.append(out)

    return hook


@pytest.mark.parametrize("needs_values", [False, True])
def test_a_notebooks_hook_keeps_what_it_had(needs_values: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Masked(mask_in_a_global, needs_values))
    activations.clear()
    model[0].register_forward_hook(note("a"))
    model[1].register_forward_hook(note("b"))
    profile(model, (X,), verbose=False)
    assert activations == {} and LIST == []
    model(X)
    before, listed = dict(activations), list(LIST)
    profile(model, (X,), verbose=False)
    traffic(model, (X,))
    assert {k: id(v) for k, v in activations.items()} == {k: id(v) for k, v in before.items()}
    assert [id(v) for v in LIST] == [id(v) for v in listed]


def test_what_a_hook_keeps_in_its_closure() -> None:
    kept: Dict[str, Any] = {}
    last = None

    def hook(module: nn.Module, inputs: Any, out: Tensor) -> None:
        nonlocal last
        kept["a"], last = {"deep": [out]}, out

    model = nn.Sequential(nn.Linear(8, 8))
    model[0].register_forward_hook(hook)
    model.register_forward_pre_hook(lambda module, inputs: kept.update(inputs=inputs))
    profile(model, (X,), verbose=False)
    assert kept == {} and last is None
    model(X)
    real = last
    profile(model, (X,), verbose=False)
    assert last is real and kept["a"]["deep"][0] is real and torch.equal(kept["inputs"][0], X)


def test_where_the_code_does_not_show_it() -> None:
    """A container that only a string leads to: the garbage collector knows who holds the tensor."""

    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            __import__("builtins").__dict__.setdefault("_hidden", []).append(x)
            __import__("sys").modules[__name__].__dict__["HOLDER"].__dict__["a" + "b"] = x + 1
            return x * 2

    import builtins

    try:
        profile(Hidden(), (X,), verbose=False)
        assert builtins._hidden == [] and not hasattr(HOLDER, "ab")  # type: ignore[attr-defined]
        assert not tensors_without_values()
    finally:
        del builtins._hidden  # type: ignore[attr-defined]


def test_what_can_not_be_taken_back_is_said() -> None:
    kept: Tuple[Any, ...] = ()

    class Tupled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            HOLDER.__dict__["frozen"] = frozenset([x])
            return x * 2

    import utils.thop.run.runner as runner
    from utils.thop.run import Observer, run

    iterator: List[Any] = []

    class Iterates(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            iterator.append(iter((x, 1)))
            return x * 2

    assert kept == () and runner.run is run
    outcome = run(Iterates(), (X,), lambda copied: Observer())
    assert outcome.mode == "shape"
    if outcome.leftovers:
        assert "2, 3, 8" in outcome.leftovers[0]
    else:
        assert not tensors_without_values()
    HOLDER.__dict__.pop("frozen", None)


class CachedMethod(nn.Module):
    """Caches by itself, which is a key of the cache then."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(8, 8)

    @functools.lru_cache(maxsize=None)  # noqa: B019
    def mask(self, n: int) -> Tensor:
        return torch.tril(torch.ones(n, n))

    def forward(self, x: Tensor) -> Tensor:
        return self.mask(x.shape[1]) @ self.l(x)


def test_a_cached_method_does_not_keep_the_copy() -> None:
    model = CachedMethod()
    counted = profile(model, (X,), verbose=False)
    assert counted.mode == "shape" and counted.leftovers == [] and traffic(model, (X,)).leftovers == []
    gc.collect()
    assert [o for o in gc.get_objects() if type(o) is CachedMethod] == [model]


def test_a_tensor_of_a_run_refuses_in_words() -> None:
    lost = shape_tensor((2, 3), (3, 1), torch.float32, torch.device("cpu"))
    for use in (lambda: lost + 1, lost.numpy, lambda: float(lost.sum()), lost.tolist, lost.data_ptr):
        with pytest.raises(NeedsValues, match="count of shapes"):
            use()


def test_nothing_is_alive_after_a_count(yolo: Any) -> None:
    for build in (lambda: yolo("yolov5n.yaml"), lambda: nn.TransformerEncoderLayer(8, 2)):
        model = build()
        x = torch.zeros(1, 3, 64, 64) if hasattr(model, "yaml") else X
        gc.collect()
        profile(model, (x,), verbose=False)
        traffic(model, (x,))
        gc.disable()
        try:
            left = [o for o in gc.get_objects() if type(o) is ShapeTensor]
            assert not left, [(type(r), repr(r)[:300]) for o in left for r in gc.get_referrers(o) if r is not left]
        finally:
            gc.enable()


def test_an_exception_of_the_model_leaves_nothing_either() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            CACHE["x"] = x * 2
            raise KeyError("the model's own")

    with pytest.raises(KeyError, match="the model's own"):
        profile(Fails(), (X,), verbose=False)
    assert CACHE == {}

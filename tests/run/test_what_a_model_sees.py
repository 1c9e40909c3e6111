"""What a model can ask in a run has the answer that a real run would give: device, autocast, constants' values."""

import builtins
from typing import Any, Callable, Tuple

import pytest
import torch
from torch import Tensor, nn

from utils.thop import profile, traffic

X = torch.rand(2, 4, 9, 9)


class Two(nn.Module):
    """Two ways, of which ``choose`` picks one: 3 x 3 for True."""

    KIND: Any = type

    def __init__(self, choose: Callable[["Two", Tensor], Any]) -> None:
        super().__init__()
        self.heavy, self.light = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.register_buffer("constant", torch.tensor([1.0, 2.0]))
        self.plain = torch.tensor([8.0, 16.0])
        self.scalar = nn.Parameter(torch.tensor(0.5))
        self.choose = choose
        self.kind, self.kinds = type, [type]

    def forward(self, x: Tensor) -> Tensor:
        return self.heavy(x) if self.choose(self, x) else self.light(x)


def reads(x: Tensor) -> bool:
    try:
        x.numpy()
    except (RuntimeError, TypeError):
        return False
    return True


def counts_data(m: Two, x: Tensor) -> bool:
    n = torch.tensor(0)
    n += (x > 2).sum()
    return int(n) == 0


def counts_data_in_a_view(m: Two, x: Tensor) -> bool:
    n = torch.zeros(4)
    n[1:3].add_((x > 2).sum())
    return float(n.sum()) == 0


def counts_data_and_lists(m: Two, x: Tensor) -> bool:
    n = torch.zeros(2)
    n.copy_(x[0, 0, 0, :2] * 0)
    return n.tolist() == [0.0, 0.0]


def buffer_of_data(m: Two, x: Tensor) -> bool:
    m.constant.copy_(x.flatten()[:2] * 0 + 1)
    return bool(m.constant[0] == 1)


ON_SHAPES = {
    "device type": lambda m, x: x.device.type == "cpu",
    "is_cpu": lambda m, x: x.is_cpu and not x.is_cuda and not x.is_meta,
    "weight on the same device": lambda m, x: m.heavy.weight.device == x.device,
    "to its device": lambda m, x: x.to(m.heavy.weight.device).device == torch.device("cpu"),
    "dtype": lambda m, x: x.dtype is torch.float32,
    "strides": lambda m, x: x.stride() == (324, 81, 9, 1) and x.is_contiguous(),
    "isinstance": lambda m, x: isinstance(x, Tensor) and isinstance(m.heavy.weight, nn.Parameter),
    "requires_grad": lambda m, x: m.heavy.weight.requires_grad and not (x * m.heavy.weight.sum()).requires_grad,
    "training": lambda m, x: not m.training and not torch.is_grad_enabled(),
    "plain attribute": lambda m, x: sum(torch.full((1,), s).item() for s in m.plain) == 24,
    "buffer": lambda m, x: float(m.constant[1]) == 2,
    "scalar parameter": lambda m, x: float(m.scalar) == 0.5,
    "arange": lambda m, x: torch.arange(x.shape[2]).tolist()[-1] == 8,
    "like": lambda m, x: float(torch.ones_like(m.plain).sum()) == 2,
    "mask of constants": lambda m, x: x[:, m.constant.repeat(2) > 1].shape == (2, 2, 9, 9),
    "repeat": lambda m, x: x.repeat_interleave(torch.tensor([1, 2, 0, 1]), 1).shape[1] == 4,
    "text": lambda m, x: "tensor" in repr(x),
}  # type: ignore[var-annotated]
NEED_VALUES = {
    "numpy": lambda m, x: reads(x),
    "sum": lambda m, x: bool(x.sum() > 0),
    "item": lambda m, x: x.max().item() < 2,
    "nonzero": lambda m, x: len((x >= 0).nonzero()) == x.numel(),
    "tolist": lambda m, x: len(x.tolist()) == 2 and x.flatten().tolist()[0] < 2,
    "unique": lambda m, x: torch.unique(x > 2).numel() == 1,
    "mask": lambda m, x: x[x < 2].numel() == x.numel(),
    "equal": lambda m, x: torch.equal(x, x),
    "allclose": lambda m, x: torch.allclose(x, x),
    "constant written to": counts_data,
    "view of a constant written to": counts_data_in_a_view,
    "constant copied to": counts_data_and_lists,
    "buffer written to": buffer_of_data,
    "array": lambda m, x: __import__("numpy").asarray(x).shape == (2, 4, 9, 9),
    "contains": lambda m, x: 5.0 not in x,
    "copy": lambda m, x: float(__import__("copy").deepcopy(x).max()) < 2,
    "swallowed": lambda m, x: swallowed(x),
}  # type: ignore[var-annotated]


def swallowed(x: Tensor) -> bool:
    try:
        return bool((x < 2).all())
    except Exception:
        return False


@pytest.mark.parametrize("name", ON_SHAPES)
def test_answers_without_values(name: str) -> None:
    model = Two(ON_SHAPES[name]).eval()
    with torch.no_grad():
        assert model.choose(model, X), "the real answer"
    counted = profile(model, (X,), verbose=False)
    assert counted.mode == "shape", counted.why
    assert counted.total_kernel_macs == 4 * 4 * 9
    assert float(model.constant[1]) == 2 and model.plain.tolist() == [8, 16]


@pytest.mark.parametrize("name", NEED_VALUES)
def test_values_are_asked_for(name: str) -> None:
    model = Two(NEED_VALUES[name]).eval()
    counted = profile(model, (X,), verbose=False)
    assert counted.mode == "real" and counted.why, name
    assert counted.total_kernel_macs == 4 * 4 * 9
    assert model.constant.tolist() == [1, 2] and model.plain.tolist() == [8, 16]


TENSORS_BY_CLASS: Any = {Tensor: True, nn.Parameter: True}


kind_of = type


def by_default(value: Any, kind: Any = type, *, other: Any = type) -> bool:
    return kind(value) is other(value) is Tensor


def by_closure(kind: Any) -> Any:
    return lambda m, x: kind(x) is Tensor


def helped(value: Any) -> bool:
    kind = type(value)
    return kind is Tensor


EXACT_CLASSES: Any = {
    "is": lambda m, x: type(x) is Tensor,
    "is, of a weight": lambda m, x: type(next(m.parameters())) is nn.Parameter,
    "equal": lambda m, x: torch.Tensor == type(x),  # noqa: E721
    "in": lambda m, x: type(x) in (torch.Tensor, list),
    "looked up": lambda m, x: TENSORS_BY_CLASS[type(x)],
    "of another": lambda m, x: type(x) is type(torch.zeros(1)),
    "__class__": lambda m, x: x.__class__ is torch.Tensor,
    "by name": lambda m, x: type(x).__name__ == "Tensor",
    "in a function": lambda m, x: helped(x),
    "handed on": lambda m, x: [*map(type, (x, m.heavy.weight))] == [Tensor, nn.Parameter],
    "by getattr": lambda m, x: getattr(x, "__class__") is Tensor,  # noqa: B009
    "as a class": lambda m, x: isinstance(type(x), type) and not isinstance(x, type) and issubclass(Tensor, object),
    "by another name": lambda m, x: kind_of(x) is Tensor,
    "by default": lambda m, x: by_default(x),
    "in a closure": by_closure(type),
    "of an attribute": lambda m, x: m.kinds[0](x) is m.kind(x) is Tensor,
    "of a class's attribute": lambda m, x: m.KIND(x) is Tensor,
    "evaluated": lambda m, x: eval("type(x) is Tensor", globals(), {"x": x}),
    "of builtins": lambda m, x: builtins.type(x) is Tensor,
    "imported": lambda m, x: __import__("builtins").type(x) is Tensor,
    "of a class": lambda m, x: type(Tensor) is not type and type(Two) is type and {type: True}[type],
    "that makes one": lambda m, x: type("Made", (Tensor,), {}).__mro__[1] is type(x),
}
OF_BUILTINS = ("of builtins", "imported")
OTHER_CLASSES: Any = {
    "of the module": lambda m, x: type(m) is Two,
    "of a layer": lambda m, x: type(next(m.children())) in (nn.Conv2d, nn.Linear),
    "isinstance": lambda m, x: isinstance(x, Tensor) and bool(f"{type(x)}"),
    "a module's name": lambda m, x: m.__class__.__name__ == "Two",
}


@pytest.mark.parametrize("name", {**EXACT_CLASSES, **OTHER_CLASSES})
def test_code_that_asks_for_exact_classes_is_answered_as_by_a_real_tensor(name: str) -> None:
    model = Two({**EXACT_CLASSES, **OTHER_CLASSES}[name]).eval()
    assert model.choose(model, X), "the real answer"
    counted = profile(model, (X,), verbose=False)
    assert counted.total_kernel_macs == 4 * 4 * 9
    assert counted.mode == ("real" if name in OF_BUILTINS else "shape"), counted.why
    assert "type" not in globals() and kind_of is type and Two.KIND is type and model.kind is type
    assert by_default.__defaults__ == by_default.__kwdefaults__["other"].__mro__[:1] == (type,)


def test_on_another_device() -> None:
    """A tensor without memory is on whatever device it is said to be: asked for here without one."""
    from utils.thop.run.shape_tensor import shape_tensor

    x = shape_tensor((2, 3), (3, 1), torch.float32, torch.device("cuda"))
    assert x.is_cuda and x.device.type == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_move_to_a_device_that_is_not_there_says_what_pytorch_says() -> None:
    class Moves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cuda()

    with pytest.raises((RuntimeError, AssertionError)) as expected:
        Moves()(X)
    with pytest.raises(type(expected.value)) as raised:
        profile(Moves(), (X,), verbose=False)
    assert str(raised.value) == str(expected.value)


class Attends(nn.Module):
    """Linear layers, and attention written by hand three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q = k = v = self.l(x)
        a = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        b = torch.einsum("bij,bkj->bik", q, k).softmax(-1).matmul(v)
        return a + b + nn.functional.linear(x, self.l.weight)


def numbers(model: nn.Module, x: Tensor) -> Tuple[Any, ...]:
    counted, moved = profile(model, (x,), verbose=False), traffic(model, (x,))
    assert counted.mode == moved.mode == "shape", (counted.why, moved.why)
    return tuple(counted), moved.flops, moved.read_bytes, moved.written_bytes


def test_inference_mode_around_and_inside() -> None:
    x = torch.rand(2, 5, 8)
    expected = numbers(Attends(), x)
    with torch.inference_mode():
        assert numbers(Attends(), x) == expected
        assert numbers(Attends(), torch.rand(2, 5, 8)) == expected

    class Inside(Attends):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    assert numbers(Inside(), x) == expected


def test_autocast_halves_what_it_casts() -> None:
    x = torch.rand(2, 5, 8)
    model = Attends()

    class Inside(Attends):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    inside = traffic(Inside(), (x,))
    plain = traffic(model, (x,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = traffic(model, (x,))
    rows = {row.operator: row for row in around.operators}
    assert around.mode == inside.mode == "shape"
    assert "_to_copy" in rows and "_to_copy" not in {row.operator for row in plain.operators}
    half = {row.operator: row.written_bytes for row in plain.operators}["bmm"] / 2
    assert rows["bmm"].written_bytes == half
    assert around.read_bytes == inside.read_bytes and around.flops == plain.flops
    layered = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "_to_copy" in {row.operator for row in traffic(layered, (X,)).operators}


def ultralytics_cfgs() -> Any:
    from pathlib import Path

    import ultralytics

    return sorted((Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml"))


@pytest.mark.parametrize("name", ["v8/yolov8.yaml", "v9/yolov9c.yaml", "v10/yolov10n.yaml", "11/yolo11.yaml",
                                  "v8/yolov8-seg.yaml", "v8/yolov8-pose.yaml", "v8/yolov8-obb.yaml"])  # fmt: skip
def test_heads_of_newer_yolos_need_no_arithmetic(name: str) -> None:
    from ultralytics.nn import tasks

    path = next(p for p in ultralytics_cfgs() if p.as_posix().endswith(name))
    kinds = {"-seg": tasks.SegmentationModel, "-pose": tasks.PoseModel, "-obb": tasks.OBBModel}
    build = next((kind for part, kind in kinds.items() if part in name), tasks.DetectionModel)
    model = build(str(path), verbose=False).eval()
    assert numbers(model, torch.zeros(1, 3, 64, 96))[0][0] > 0

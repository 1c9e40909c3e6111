"""The shape run against the real run: the same ledger and the same shapes, and a model that is left alone."""

import contextlib
import re
import threading
import weakref
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
import torch
import torchvision
from layers import torchvision_network
from releases import ALL_CFGS
from states import assert_same_state, state
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from utils.thop import profile
from utils.thop.count.layers import Layers, first_shape
from utils.thop.run import Observer, run
from utils.thop.run.dispatch import ShapeMode
from utils.thop.run.inputs import fitting_size
from utils.thop.run.module_rules import LAYER_RULES
from utils.thop.run.nested import tensors_in
from utils.thop.run.runner import Facts
from utils.thop.run.shape_rules import SHAPE_RULES
from utils.thop.run.shape_tensor import ShapeTensor, without_values


def facts(model: nn.Module, inputs: Tuple[Any, ...], on_shapes: bool) -> Tuple[Any, ...]:
    """Run one way and return the whole ledger, with the shapes and dtypes of all that came out."""
    outcome = run(model, inputs, Layers, on_shapes)
    assert outcome.mode == ("shape" if on_shapes else "real"), outcome.why
    return rows_of(outcome.observer), outcome.observer.missing, shapes(outcome.output)


def rows_of(layers: Layers) -> List[Any]:
    return [
        (layer.path, layer.calls, layer.output_shape, layer.ops, layer.kernel, layer.output)
        for layer in layers.root.walk()
    ]


def shapes(value: Any) -> Any:
    """Replace every tensor of a nested value by its shape, dtype and strides (those that mean something)."""
    if isinstance(value, Facts):
        return value.shape, value.dtype, [s for s, n in zip(value.strides, value.shape) if n > 1], value.device
    if isinstance(value, Tensor):
        return shapes(Facts(tuple(value.shape), value.dtype, tuple(value.stride()), value.device))
    if isinstance(value, dict):
        return {key: shapes(item) for key, item in value.items()}
    return [shapes(item) for item in value] if isinstance(value, (list, tuple)) else type(value)


def assert_both_agree(model: nn.Module, *inputs: Any) -> None:
    assert facts(model, inputs, True) == facts(model, inputs, False)


# ---- YOLOv5 ----


NARROW = [cfg for cfg in ALL_CFGS if not re.search(r"yolov5[sml](6|-seg)?\.yaml", cfg)]
"""With as many channels, the sizes of a network differ in how often blocks repeat: n has the fewest, x the most."""


@pytest.mark.parametrize("cfg", NARROW)
def test_every_cfg_in_every_state(yolo: Any, cfg: str) -> None:
    model = yolo(cfg, width=0.25)
    step = max(int(model.stride.max()), 32)
    assert_both_agree(model.train(), torch.zeros(1, 3, 2 * step, 4 * step))
    assert_both_agree(model.eval(), torch.zeros(3, 3, 2 * step, 2 * step))
    assert_both_agree(model.fuse(), torch.zeros(1, 3, 3 * step, 3 * step))


@pytest.mark.parametrize("cfg", ["yolov5n.yaml", "yolov5s.yaml", "hub/yolov5n6.yaml", "segment/yolov5n-seg.yaml"])
@pytest.mark.parametrize("shape", [(1, 640, 640), (8, 320, 640), (1, 1280, 1280)])
def test_full_sizes(yolo: Any, cfg: str, shape: Tuple[int, int, int]) -> None:
    batch, height, width = shape
    assert_both_agree(yolo(cfg), torch.zeros(batch, 3, height, width))


@pytest.mark.parametrize("cfg", NARROW)
def test_every_cfg_at_full_size_against_meta_kernels(yolo: Any, cfg: str) -> None:
    """A real run of them all would take an hour; PyTorch's own meta kernels know none of our rules either."""
    model = yolo(cfg, width=0.25).eval()
    for batch, height, width in ((1, 1280, 1280), (8, 320, 640)):
        assert_meta_kernels_agree(model, batch, height, width)
    assert_meta_kernels_agree(model.fuse(), 8, 640, 640)


def assert_meta_kernels_agree(model: Any, batch: int, height: int, width: int) -> None:
    image = torch.empty(batch, 3, *fitting_size(model, (height, width)), device="meta")
    by_rules = facts(model, (image,), True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.thop.run.dispatch.SHAPE_RULES", {})
        patch.setattr(LAYER_RULES, "rules", {})
        assert facts(model, (image,), True) == by_rules


def test_a_size_that_was_run_before_leaves_nothing_behind(yolo: Any) -> None:
    measured, untouched = yolo("yolov5n.yaml").eval(), yolo("yolov5n.yaml").eval()
    untouched.load_state_dict(measured.state_dict())
    attributes = plain_attributes(measured)
    profile(measured, (torch.zeros(1, 3, 640, 640),), verbose=False)
    assert plain_attributes(measured) == attributes
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(measured(image)[1], untouched(image)[1]))
        assert torch.equal(measured(image)[0], untouched(image)[0])


def plain_attributes(model: nn.Module) -> List[Any]:
    """Every attribute of every module that is no registry, tensors by identity."""
    return [
        {k: [id(t) for t in v] if isinstance(v, list) else str(v) for k, v in m.__dict__.items() if k[0] != "_"}
        for m in model.modules()
    ]


# ---- torchvision ----

NEEDS_VALUES = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": "proposals are chosen by score",
    "fasterrcnn_mobilenet_v3_large_fpn": "proposals are chosen by score",
    "fasterrcnn_resnet50_fpn": "proposals are chosen by score",
    "fasterrcnn_resnet50_fpn_v2": "proposals are chosen by score",
    "fcos_resnet50_fpn": "boxes are chosen by score",
    "keypointrcnn_resnet50_fpn": "proposals are chosen by score",
    "maskrcnn_resnet50_fpn": "proposals are chosen by score",
    "maskrcnn_resnet50_fpn_v2": "proposals are chosen by score",
    "retinanet_resnet50_fpn": "boxes are chosen by score",
    "retinanet_resnet50_fpn_v2": "boxes are chosen by score",
    "ssd300_vgg16": "boxes are chosen by score",
    "ssdlite320_mobilenet_v3_large": "boxes are chosen by score",
}
LARGE = re.compile(
    r"vit_[lh]|(128|32|16)gf|convnext_(base|large)|efficientnet_(v2_[ml]|b[5-7])|vgg1[369]|resnet1?52|resnet101_2"
    r"|resnext101|swin(_v2)?_b|densenet(169|201)"
)
"""Of the blocks of their smaller sisters; test_layers.py counts them without arithmetic."""


@pytest.mark.parametrize("name", [n for n in torchvision.models.list_models(module=torchvision.models)
                                  if not LARGE.search(n)])  # fmt: skip
def test_torchvision_classifiers(name: str) -> None:
    size = 224 if "vit" in name else 96 if name != "inception_v3" else 128
    assert_both_agree(torchvision_network(name), torch.zeros(1, 3, size, size))


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models.segmentation))
def test_torchvision_segmentation(name: str) -> None:
    assert_both_agree(torchvision_network(name, weights_backbone=None), torch.zeros(1, 3, 64, 96))


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models.detection))
def test_torchvision_detection_falls_back_and_says_so(name: str) -> None:
    options = {"rpn_pre_nms_top_n_test": 30, "rpn_post_nms_top_n_test": 10} if "rcnn" in name else {}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3, **options).eval()
    if hasattr(model, "transform") and "ssd" not in name:
        model.transform.min_size, model.transform.max_size = (64,), 96
    images = [torch.rand(3, 64, 80)]
    counted = profile(model, (images,), verbose=False)
    assert (counted.mode == "real") == (name in NEEDS_VALUES), counted.why
    assert counted.why
    expected = facts(model, (images,), False)
    assert [(x.path, x.output) for x in counted.root.walk()] == [(row[0], row[5]) for row in expected[0]]


def test_the_list_of_models_that_need_values_is_complete() -> None:
    assert set(torchvision.models.list_models(module=torchvision.models.detection)) == set(NEEDS_VALUES)


# ---- other models ----


class Sequences(nn.Module):
    """Recurrent layers and attention, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(12, 8, batch_first=True)
        self.rnn = nn.RNN(8, 8)
        self.cell = nn.LSTMCell(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, x: Tensor) -> Any:
        x = self.rnn(self.gru(self.lstm(x)[0])[0])[0]
        hidden, _ = self.cell(x[:, 0])
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.encoder(self.attention(x, x, x)[0]), hidden


def test_recurrent_and_attention_layers() -> None:
    assert_both_agree(Sequences(), torch.rand(2, 7, 8))


def test_a_transformer_layer_is_counted_part_by_part() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    counted = profile(layer, (torch.rand(2, 7, 8),), verbose=False)
    assert [x.path for x in counted.layers] == ["self_attn", "linear1", "linear2", "norm1", "norm2"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(yolo: Any, dtype: torch.dtype) -> None:
    with skipping_half():
        assert_both_agree(yolo("yolov5n.yaml").to(dtype), torch.zeros(1, 3, 64, 64, dtype=dtype))
        assert_both_agree(torchvision.models.mobilenet_v3_small().to(dtype), torch.zeros(1, 3, 64, 64, dtype=dtype))


@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.mobilenet_v3_small])
def test_channels_last(yolo: Any, build: Callable[[], nn.Module]) -> None:
    image = torch.zeros(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    assert_both_agree(build(), image)
    assert_both_agree(build().to(memory_format=torch.channels_last), image)
    assert_both_agree(yolo("yolov5n.yaml"), image)


def test_an_input_that_is_a_view() -> None:
    assert_both_agree(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 40, 40)[:, :, ::2, 1:])
    assert_both_agree(nn.SiLU(), torch.zeros(4, 6).t())
    assert_both_agree(nn.SiLU(), torch.zeros(1, 6).expand(4, 6))


@pytest.mark.skipif(torch.__version__ < "2.1", reason="torch has no meta kernel for weight norms")
@pytest.mark.parametrize(
    "wrap",
    [
        weight_norm,
        getattr(parametrizations, "weight_norm", weight_norm),
        parametrizations.spectral_norm,
        nn.utils.spectral_norm,
    ],
)
def test_parametrized_weights(wrap: Any) -> None:
    model = nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), nn.SiLU(), wrap(nn.Conv2d(4, 4, 1)))
    x = torch.rand(1, 3, 9, 9)
    before = state(model)
    assert_both_agree(model, x)
    assert_same_state(model, before)
    assert profile(model, (x,), verbose=False).total_kernel_macs == 3 * 4 * 9 + 4 * 4


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="torch before 2.0")
def test_wrappers_are_taken_off(tmp_path: Any) -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    x = torch.rand(1, 3, 9, 9)
    expected = profile(inner, (x,), verbose=False)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(inner)
        assert profile(wrapped, (x,), verbose=False, ret_layer_info=True)[:4] == expected[:4]
    finally:
        torch.distributed.destroy_process_group()
    assert profile(nn.DataParallel(inner), (x,), verbose=False)[:4] == expected[:4]
    compiled = torch.compile(inner)
    assert profile(compiled, (x,), verbose=False)[:4] == expected[:4]
    counted = profile(nn.Sequential(compiled, nn.ReLU()), (x,), verbose=False)
    assert counted.mode == "shape" and counted.total_kernel_macs == expected.total_kernel_macs


def test_two_threads_get_the_same_numbers(yolo: Any) -> None:
    model = yolo("yolov5n.yaml")
    x = torch.zeros(1, 3, 320, 320)
    expected = tuple(profile(model, (x,), verbose=False))
    found: List[Any] = []
    threads = [
        threading.Thread(target=lambda: found.extend(tuple(profile(model, (x,), verbose=False)) for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 20


# ---- models that need care ----


class DataDependent(nn.Module):
    """Takes one of two ways by what is in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.light, self.heavy = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.heavy(x) if x.sum() > 0 else self.light(x)


def test_data_dependent_control_flow_falls_back() -> None:
    dark = profile(DataDependent(), (torch.zeros(1, 3, 8, 8),), verbose=False)
    bright = profile(DataDependent(), (torch.ones(1, 3, 8, 8),), verbose=False)
    assert dark.mode == bright.mode == "real" and dark.why
    assert (dark.total_kernel_macs, bright.total_kernel_macs) == (12, 108)


def test_a_model_that_catches_the_failure_is_not_believed() -> None:
    class Swallows(DataDependent):
        def forward(self, x: Tensor) -> Tensor:
            try:
                bright = bool(x.sum() > 0)
            except RuntimeError:
                bright = False
            return self.heavy(x) if bright else self.light(x)

    counted = profile(Swallows(), (torch.ones(1, 3, 8, 8),), verbose=False)
    assert counted.mode == "real" and counted.total_kernel_macs == 108


class PlainList(nn.Module):
    """Keeps its layers where torch does not look for them."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = [nn.Conv2d(4, 4, 1), {"inner": (nn.Conv2d(4, 4, 1), nn.ReLU())}]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[0](x)  # type: ignore[operator]
        for layer in self.stages[1]["inner"]:  # type: ignore[index]
            x = layer(x)
        return x


class Helper:
    """No module, but it holds some."""

    def __init__(self) -> None:
        self.conv = nn.Conv2d(4, 4, 1)
        self.seen = 0

    def step(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.conv(x)


class WithHelper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper()

    def forward(self, x: Tensor) -> Tensor:
        return self.helper.step(x)


class Rebound(nn.Module):
    """Calls other modules through bound methods, closures, partials and weak references kept as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.method = self.second.forward
        self.closure = lambda x: self.first(x)
        self.default = lambda x, layer=self.first: layer(x)
        self.partial = partial(nn.Sequential.forward, nn.Sequential(self.second))
        self.weak = weakref.ref(self.first)

    def forward(self, x: Tensor) -> Tensor:
        return self.weak()(self.partial(self.default(self.closure(self.method(x)))))  # type: ignore[misc]


class Writes(nn.Module):
    """Writes attributes in forward: a cache, a counter, a buffer, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.cache: Dict[str, Tensor] = {}
        self.calls = 0
        self.kept: List[Tensor] = []
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if "x" not in self.cache:
            self.cache["x"] = self.conv(x)
        self.kept.append(x)
        self.mean += x.mean((0, 2, 3))
        self.mean = self.mean * 2
        return self.cache["x"]


class Circular(nn.Module):
    """A child that knows its parent."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.child = nn.Identity()
        self.child.parent = [self]

    def forward(self, x: Tensor) -> Tensor:
        return self.child.parent[0].conv(self.child(x))


class HeldTwice(nn.Module):
    """The same layer under two names, in two parents, and once more in a list."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(4, 4, 1)
        self.a, self.b = nn.Sequential(conv, nn.ReLU()), nn.Sequential(conv)
        self.c = conv
        self.more = [conv]

    def forward(self, x: Tensor) -> Tensor:
        return self.more[0](self.c(self.b(self.a(x))))


@pytest.mark.parametrize(
    "build, convolutions",
    [(PlainList, 2), (WithHelper, 1), (Rebound, 5), (Writes, 1), (Circular, 1), (HeldTwice, 4)],
)
def test_layers_kept_and_called_in_odd_ways(build: Callable[[], nn.Module], convolutions: int) -> None:
    x = torch.rand(1, 4, 5, 5)
    model = build().eval()
    before = state(model)
    attributes = plain_attributes(model)
    assert_both_agree(model, x)
    counted = profile(model, (x,), verbose=False)
    assert counted.mode == "shape", counted.why
    assert counted.total_kernel_macs == convolutions * 16
    assert_same_state(model, before)
    assert plain_attributes(model) == attributes


def test_helpers_and_caches_are_left_alone() -> None:
    helped, writes = WithHelper(), Writes()
    profile(helped, (torch.rand(1, 4, 5, 5),), verbose=False)
    profile(writes, (torch.rand(1, 4, 5, 5),), verbose=False)
    assert helped.helper.seen == 0
    assert (writes.calls, writes.cache, writes.kept) == (0, {}, [])


def test_a_users_hook_writes_into_the_copy() -> None:
    seen: List[Any] = []
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    model[0].register_forward_hook(lambda module, x, y: seen.append(y))
    model[0].register_forward_pre_hook(lambda module, x: (x[0] * 2,))
    assert_both_agree(model, torch.rand(1, 3, 4, 4))
    assert seen == []
    model(torch.rand(1, 3, 4, 4))
    assert len(seen) == 1 and not seen[0].is_meta


def test_new_tensors_in_forward_follow_the_shape_run() -> None:
    class Makes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grid = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij"))
            scale = torch.tensor([1.0, 2.0])[1]
            count = int(torch.tensor([3]).item())
            return (x + grid.sum(0) * scale + torch.zeros(5, device="cpu") + torch.rand_like(x)).repeat(count, 1, 1, 1)

    assert_both_agree(Makes(), torch.rand(1, 4, 5, 5))


def test_a_scripted_part_is_run_and_named() -> None:
    model = nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 1)), nn.ReLU())
    counted = profile(model, (torch.rand(1, 3, 4, 4),), verbose=False)
    assert tuple(counted) == (4 * 3 * 16, 16, 4 * 3, 64 + 64) and not counted.missing


def test_a_quantized_model_falls_back() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), {nn.Linear})
    counted = profile(model, (torch.rand(2, 4),), verbose=False)
    assert counted.mode == "real" and counted.total_output_macs == 8
    assert any("quantized" in name for name in counted.missing)


# ---- each shape rule against PyTorch ----


def _rule_cases() -> List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]]:
    x = torch.rand(2, 4, 9, 11)
    last = x.contiguous(memory_format=torch.channels_last)
    vector = torch.rand(4)
    cases: List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]] = []
    for image in (x, last, x[:, :, ::2], x.half(), x.double(), torch.rand(2, 4, 1, 1)):
        weight = torch.rand(6, 2, 3, 3).to(image.dtype)
        for w, groups, padding in ((weight, 2, [1, 1]), (weight[:, :, :1, :1], 2, [0, 0])):
            cases.append(("convolution", (image, w, None, [2, 1], padding, [1, 1], False, [0, 0], groups), {}))
            cases.append(("convolution", (image, w, None, [1], padding[:1], [1], False, [0], groups), {}))
        transposed = torch.rand(4, 3, 2, 2).to(image.dtype)
        if image is not last or torch.__version__ >= "2":  # whose CPU kernel has another layout
            cases.append(("convolution", (image, transposed, None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1), {}))
        kind = vector.to(image.dtype)
        cases.append(("native_batch_norm", (image, kind, kind, kind, kind, False, 0.1, 1e-5), {}))
        if kind.dtype is not torch.half or image.is_contiguous():
            cases += _cases_of_trained_norms(image, kind)
        cases += [("zeros_like", (image,), options) for options in ({}, {"memory_format": torch.preserve_format},
                                                                    {"dtype": torch.int64})]  # fmt: skip
        cases.append(("cat", ([image, image], 1), {}))
        cases.append(("cat", ([image, image[:1]], 0), {}))
        cases.append(("cat", ([image, image], -1), {}))
        for other in (2, 2.5, image, image[:, :1], image[0], image.float(), image[0, 0, 0, 0], image.sum().double(),
                      torch.rand(4, 1, 1).to(image.dtype), torch.rand(3, 1, 4, 1, 1).to(image.dtype),
                      image.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)):  # fmt: skip
            cases += [(f"{name}.Tensor", (image, other), {}) for name in ("add", "sub", "mul", "div")]
        cases.append(("pow.Tensor_Scalar", (image, 2), {}))
        cases.append(("clone", (image,), {}))
        cases.append(("cat", ([image[..., 1:], image[..., :1]], 3), {}))
        cases.append(("cat", ([image[0], image[1]], 0), {}))
        cases.append(("stack", ([image[0, 0], image[1, 1]], 2), {}))
        cases.append(("stack", ([image, image], 1), {}))
        cases.append(("clone", (image,), {"memory_format": torch.contiguous_format}))
        cases.append(("clone", (image,), {"memory_format": torch.channels_last}))
        for name in ("silu", "sigmoid", "relu", "tanh", "hardswish", "hardsigmoid", "leaky_relu", "hardtanh", "gelu",
                     "mish", "elu", "softplus", "exp", "sqrt", "rsqrt", "neg", "abs"):  # fmt: skip
            cases.append((name, (image,), {}))
        cases += [("clamp", (image, 0.1, 0.9), {}), ("clamp_min", (image, 0.1), {}), ("clamp_max", (image, 1), {})]
        cases += _cases_of_reductions_and_norms(image)
        for name in ("silu_", "sigmoid_", "relu_", "tanh_", "hardswish_", "hardsigmoid_", "leaky_relu_", "hardtanh_",
                     "elu_"):  # fmt: skip
            cases.append((name, (image.clone(),), {}))
        for other in (image, image[:1, :, :1], kind[:, None, None], kind.float()[:, None, None]):
            cases.append(("add_.Tensor", (image.clone(), other), {"alpha": 2}))
        more: Dict[str, Any] = {"threshold": (0,), "leaky_relu": (0.1, False), "hardtanh": (-1, 1)}
        for gradient in (image.clone(), image.contiguous(), image.contiguous(memory_format=torch.channels_last)):
            for name in ("threshold", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "leaky_relu", "hardtanh",
                         "gelu", "mish"):  # fmt: skip
                cases.append((f"{name}_backward", (gradient, image, *more.get(name, ())), {}))
        if image.shape[-1] > 1:
            cases.append(("max_pool2d_with_indices", (image, [3, 3], [2, 2], [1, 1]), {}))
            cases.append(("max_pool2d_with_indices", (image, [2]), {}))
            cases.append(("max_pool2d_with_indices", (image, [5, 5], [1, 1], [2, 2], [1, 1], True), {}))
            cases.append(("upsample_nearest2d", (image, [18, 22], 2.0, 2.0), {}))
    rows, columns = torch.rand(5, 1).expand(5, 4), torch.rand(1, 4).expand(5, 4)
    boxes = torch.rand(1, 3, 8, 8, 85)
    grid = torch.rand(8, 8, 2).expand(1, 3, 8, 8, 2)
    cases += [
        ("stack", ([rows, columns], 2), {}),
        ("mul.Tensor", (boxes[..., :2], 2), {}),
        ("add.Tensor", (boxes[..., :2], grid), {}),
        ("sub.Tensor", (grid, 0.5), {}),
        ("mul.Tensor", (rows, columns), {}),
        ("mul.Tensor", (torch.rand(5, 1), torch.rand(1, 4)), {}),
        ("pow.Tensor_Scalar", (boxes.permute(0, 1, 4, 2, 3)[:, :, 2:4], 2), {}),
        ("cat", ([boxes[..., :2], boxes[..., 2:]], 4), {}),
        ("sigmoid", (boxes.permute(0, 1, 4, 2, 3),), {}),
        ("sigmoid", (boxes.permute(0, 1, 4, 2, 3)[:, :, :7],), {}),
        ("clone", (boxes.permute(0, 1, 4, 2, 3),), {"memory_format": torch.contiguous_format}),
        ("convolution", (boxes.contiguous(memory_format=torch.channels_last_3d), torch.rand(4, 3, 1, 1, 1), None,
                         [1, 1, 1], [0, 0, 0], [1, 1, 1], False, [0, 0, 0], 1), {}),
    ]  # fmt: skip
    heads = torch.rand(2, 3, 5, 8)
    sliced = torch.rand(2, 5, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
    time_first = torch.rand(5, 2, 3, 8).permute(1, 2, 0, 3)
    cases += [
        ("scaled_dot_product_attention", sliced, {}),
        ("scaled_dot_product_attention", (sliced[0], heads, heads), {}),
        ("scaled_dot_product_attention", (sliced[0][:1], heads[:1], heads[:1]), {}),
        ("scaled_dot_product_attention", (time_first, time_first, time_first), {}),
        ("scaled_dot_product_attention", (time_first[:, :2], heads[:, :2], heads[:, :2]), {}),
        ("scaled_dot_product_attention", (heads, heads, heads), {}),
        ("scaled_dot_product_attention", (heads, heads[:, :, :4], heads[:, :, :4]), {}),
        ("scaled_dot_product_attention", (heads.transpose(1, 2), heads.transpose(1, 2), heads.transpose(1, 2)), {}),
    ]
    for bidirectional in (False, True):
        for batch_first in (False, True):
            for name, kind in (("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn_tanh", nn.RNN), ("rnn_relu", nn.RNN)):
                network: Any = kind(4, 6, 2, bidirectional=bidirectional, batch_first=batch_first)
                x, state = torch.rand(5, 3, 4), torch.zeros(4 if bidirectional else 2, 5 if batch_first else 3, 6)
                states: Any = [state, state] if name == "lstm" else state
                weights = [weight.detach() for weight in network._flat_weights]
                rest = (True, 2, 0.0, False, bidirectional)
                cases.append((f"{name}.input", (x, states, weights, *rest, batch_first), {}))
                if not batch_first:
                    packed, sizes = x.flatten(0, 1)[:5], torch.tensor([3, 2])
                    cases.append((f"{name}.data", (packed, sizes, states, weights, *rest), {}))
    flat = torch.rand(1, 30, 4).transpose(1, 2).view(1, 4, 5, 6)  # channels_last, but for the stride of its one image
    cases += [("relu", (flat,), {}), ("add.Tensor", (flat, flat), {}), ("mul.Tensor", (flat, 2.0), {}),
              ("mul.Tensor", (flat, torch.rand(1, 4, 1, 1)), {}), ("add.Tensor", (torch.rand(1, 4, 1, 1), flat), {}),
              ("mul.Tensor", (flat.mean((2, 3), keepdim=True), flat), {})]  # fmt: skip
    integers = torch.arange(6).view(2, 3)
    cases += [("add.Tensor", (integers, 1.5), {}), ("sigmoid", (integers,), {}), ("add.Tensor", (integers, 1), {})]
    some = [torch.rand(3, 4), torch.rand(5), torch.rand(4, 3).t()]
    for name, rest in (("add_.Scalar", (1.0,)), ("mul_.Scalar", (0.9,)), ("div_.ScalarList", ([1.0, 2.0, 3.0],)),
                       ("lerp_.Scalar", (some, 0.1)), ("addcmul_.Scalar", (some, some, 0.1)), ("sqrt", ()),
                       ("addcdiv_.Scalar", (some, some, -0.1)),
                       ("addcdiv_.ScalarList", (some, some, [1.0, 2.0, 3.0]))):  # fmt: skip
        cases.append((f"_foreach_{name}", ([t.clone() for t in some], *rest), {}))
    return cases


def _cases_of_trained_norms(image: Tensor, kind: Tensor) -> List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]]:
    """With statistics that are saved, and with what they are saved for; a half image has a weight in single too."""
    cases: List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]] = []
    running = kind.float() if kind.dtype is torch.half else kind
    for scale in (running, None) if running is kind else (running,):
        cases.append(("native_batch_norm", (image, scale, scale, running, running, True, 0.1, 1e-5), {}))
        for asked in ([True] * 3, [True, False, False], [False, True, True]) if scale is not None else ():
            saved = image, image, scale, scale, scale, scale, scale, True, 1e-5, asked
            cases.append(("native_batch_norm_backward", saved, {}))
    if kind.dtype is not torch.half:
        wide, means = torch.rand(image.shape[-1]).to(image), torch.rand(*image.shape[:-1], 1).to(image)
        for asked in ([True] * 3, [True, False, False]):
            saved = image, image, [len(wide)], means, means, wide, wide, asked
            cases.append(("native_layer_norm_backward", saved, {}))
    return cases


def _cases_of_reductions_and_norms(image: Tensor) -> List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]]:
    width, kind = image.shape[-1], image.dtype
    scale = torch.rand(width).to(kind)
    both = torch.rand(image.shape[-2:]).to(kind)
    mask = torch.rand(image.shape[-2:]) > 0.5
    numbers = torch.tensor([[1, 0, 1], [0, 0, 1]])
    cases: List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]] = [
        ("masked_fill.Scalar", (image, mask, -1e4), {}),
        ("masked_fill.Scalar", (image, mask[:1, :1], 0), {}),
        ("eq.Scalar", (image, 0), {}),
        ("ne.Scalar", (image, 0.5), {}),
    ]
    if kind is not torch.half:  # whose statistics are of another type on the CPU than PyTorch's meta kernel says
        cases += [
            ("native_layer_norm", (image, [width], scale, scale, 1e-5), {}),
            ("native_layer_norm", (image, [width], None, None, 1e-5), {}),
            ("native_layer_norm", (image.transpose(2, 3), [*both.T.shape], both.T.contiguous(), None, 1e-5), {}),
        ]
    if image.is_contiguous():  # of others the layout is another in each version of PyTorch
        given = [numbers], [numbers[0]], [None, numbers], [numbers, numbers]
        cases += [("index.Tensor", (image, indices), {}) for indices in given]
    if image.is_contiguous():  # or PyTorch's meta kernel lays it out in another way than its CPU kernel
        cases += [("roll", (image, shifts, axes), {}) for shifts, axes in (([1, -1], [2, 3]), ([2], [0]), ([2], []))]
    for dim in (1, -1):
        cases += [("_softmax", (image, dim, False), {}), ("_softmax", (image.transpose(1, 2), dim, False), {})]
        if hasattr(torch.ops.aten, "_safe_softmax"):
            cases.append(("_safe_softmax", (image, dim), {}))
    for axes in ([2, 3], [-1], [1], [0, 3]):
        for keep in (False, True):
            cases += [(name, (image, axes, keep), {}) for name in ("mean.dim", "sum.dim_IntList", "amax")]
            cases.append(("linalg_vector_norm", (image, 2.0, axes, keep), {}))
    cases += [
        ("mean.dim", (image, None), {}),
        ("mean.dim", (image, [2]), {"dtype": torch.float64}),
        ("amax", (image,), {}),
    ]
    rows = image.flatten(0, 2)
    cases += [
        ("mm", (rows, rows.t()), {}),
        ("mm", (rows.t(), rows), {}),
        ("bmm", (image[0], image[0].transpose(1, 2)), {}),
        ("bmm", (image[0].transpose(1, 2), image[0]), {}),
        ("addmm", (scale, rows, torch.rand(width, width).to(kind).t()), {}),
        ("addmm", (rows[:, :1], rows, torch.rand(width, 5).to(kind)), {"beta": 2}),
    ]
    return cases


def _recurrent_cases() -> List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]]:
    """A layer of an LSTM as MKL-DNN runs it in training, forwards and backwards in time."""
    cases: List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]] = []
    for steps, batch, features, hidden, reverse in ((5, 3, 7, 6, False), (4, 2, 16, 32, True)):
        x, states = torch.rand(steps, batch, features), (torch.rand(1, batch, hidden), torch.rand(1, batch, hidden))
        weights = [torch.rand(4 * hidden, size) for size in (features, hidden)] + [torch.rand(4 * hidden)] * 2
        how: Tuple[Any, ...] = (reverse, [], 2, hidden, 1, True, False, False, True)
        cases.append(("mkldnn_rnn_layer", (x, *weights, *states, *how), {}))
    return cases if torch.backends.mkldnn.is_available() else []


@pytest.mark.parametrize(
    "name, args, kwargs", [*_rule_cases(), *_recurrent_cases()], ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_shape_rule_agrees_with_pytorch(name: str, args: Any, kwargs: Any) -> None:
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
    if operator is None:
        pytest.skip("this torch has no such operator")
    assert operator in SHAPE_RULES
    with skipping_half():
        real = operator(*args, **kwargs)
    shaped = torch.utils._pytree.tree_map(shape_of, args)
    with ShapeMode():
        whole = overload in ("input", "data")  # PyTorch takes them apart before a mode hears of them
        by_rule = SHAPE_RULES[operator](*shaped) if whole else operator(*shaped, **kwargs)
    assert shapes(by_rule) == shapes(real)
    assert first_shape(by_rule) == first_shape(real)
    for tensor in tensors_in((by_rule,)):
        assert type(tensor) is ShapeTensor or not tensor.numel()


@contextlib.contextmanager
def skipping_half() -> Iterator[None]:
    """Skip what older CPU kernels can't compute."""
    try:
        yield
    except RuntimeError as error:
        if "not implemented for 'Half'" not in str(error):
            raise
        pytest.skip("this torch has no such kernel for half precision on CPUs")


def shape_of(value: Any) -> Any:
    return without_values(value) if isinstance(value, Tensor) else value


def test_every_shape_rule_has_a_case() -> None:
    names = {name for name, _, _ in [*_rule_cases(), *_recurrent_cases()]}
    for operator in SHAPE_RULES:
        name = operator._schema.name.split("::")[1]
        overload = operator._overloadname
        assert (name if overload == "default" else f"{name}.{overload}") in names


# ---- each layer rule against the layer's own forward ----


class Operators(Observer):
    """Notes every operator with its arguments and results as shapes; reserved memory is nobody's business."""

    def __init__(self) -> None:
        self.seen: List[Any] = []

    def operator(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if not func._schema.name.startswith("aten::empty"):
            numbers = [arg for arg in args if not isinstance(arg, Tensor)]
            self.seen.append(
                (str(func), shapes(args), [list(n) if isinstance(n, tuple) else n for n in numbers], shapes(out))
            )


def operators_seen(model: nn.Module, x: Tensor, on_shapes: bool) -> List[Any]:
    observers: List[Operators] = []

    def observe(copied: Any) -> Operators:
        observers.append(Operators())
        return observers[-1]

    outcome = run(model, (x,), observe, on_shapes)
    return [*observers[-1].seen, shapes(outcome.output)]


IMAGE = torch.rand(2, 4, 9, 11)
LAYERS = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0), bias=False),
    nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4),
    nn.BatchNorm2d(4),
    nn.BatchNorm2d(4, affine=False),
    nn.BatchNorm2d(4, momentum=None),
    nn.SiLU(),
    nn.SiLU(inplace=True),
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.GELU(),
    nn.GELU("tanh"),
]
NORMS = [nn.LayerNorm(11), nn.LayerNorm((9, 11)), nn.LayerNorm(11, elementwise_affine=False)]
NORMS[1].bias = None  # as with bias=False, since torch 2.1
LEFT_TO_FORWARD = [
    nn.Conv2d(4, 6, 3, padding="same"),
    nn.Conv2d(4, 6, 3, padding="valid"),
    nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    weight_norm(nn.Conv2d(4, 6, 3)),
    nn.BatchNorm2d(4, track_running_stats=False),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_layer_rule_is_what_the_forward_comes_to(layer: nn.Module, dtype: Any, memory_format: Any) -> None:
    image = IMAGE.to(dtype).contiguous(memory_format=memory_format)
    layer = nn.Sequential(nn.Identity(), layer).to(dtype)
    assert operators_seen(layer, image, True) == operators_seen(layer, image, False)
    assert operators_seen(layer, image[:1, :, 3:, ::2], True) == operators_seen(layer, image[:1, :, 3:, ::2], False)


@pytest.mark.parametrize("layer", NORMS, ids=str)
def test_a_layer_rule_of_a_norm_over_the_last_axes(layer: nn.Module) -> None:
    layer = nn.Sequential(nn.Identity(), layer)
    for image in (IMAGE, IMAGE.contiguous(memory_format=torch.channels_last), IMAGE[0]):
        assert operators_seen(layer, image, True) == operators_seen(layer, image, False)


@pytest.mark.parametrize("layer", LEFT_TO_FORWARD, ids=str)
def test_a_case_without_a_layer_rule_is_left_to_the_forward(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = operators_seen(layer, IMAGE, True)
    monkeypatch.setattr(LAYER_RULES, "rules", {})
    assert seen == operators_seen(layer, IMAGE, True)


def test_every_layer_rule_has_a_case() -> None:
    assert set(LAYER_RULES.rules) <= {type(layer) for layer in (*LAYERS, *NORMS)}


def test_a_layer_that_is_misused_says_what_pytorch_says() -> None:
    for layer, wrong in (
        (nn.Conv2d(3, 4, 1), IMAGE),
        (nn.Conv2d(4, 4, 20), IMAGE),
        (nn.Conv2d(4, 4, 1), IMAGE.half()),
        (nn.BatchNorm2d(3), IMAGE),
        (nn.BatchNorm2d(4), IMAGE[0]),
    ):
        with pytest.raises((RuntimeError, ValueError)) as expected:
            layer.eval()(wrong)
        with pytest.raises(type(expected.value)) as raised:
            profile(layer, (wrong,), verbose=False)
        assert str(raised.value) == str(expected.value)
    assert profile(nn.Conv2d(4, 4, 3), (IMAGE[0],), verbose=False).total_output_macs == 4 * 7 * 9


def test_a_replaced_method_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([super().forward(x)] * 2, 1)

    by_instance, inner = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1)
    by_instance.forward = lambda x: x[:, :2]  # type: ignore[method-assign]
    inner._conv_forward = lambda x, weight, bias: x[:, :3]  # type: ignore[method-assign]
    for layer, channels in ((Doubled(4, 5, 1), 10), (by_instance, 2), (inner, 3)):
        assert_both_agree(layer, IMAGE)
        assert profile(layer, (IMAGE,), verbose=False).root.output_shape == (2, channels, 9, 11)
    monkeypatch.setattr(nn.SiLU, "forward", lambda self, x: x[:, :1])
    assert profile(nn.SiLU(), (IMAGE,), verbose=False).root.output_shape == (2, 1, 9, 11)

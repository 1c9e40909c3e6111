"""traffic(): against a plain count over a real forward pass, torch's FLOP counter, published figures, and by hand."""

import copy
import weakref
from functools import lru_cache
from typing import Any, Dict, List, Tuple

import pytest
import torch
import torchvision
from layers import torchvision_network
from states import assert_same_state, state
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from utils.thop import profile, traffic
from utils.thop.count.calls import OperatorCall
from utils.thop.count.record import record
from utils.thop.traffic import Traffic, traffic_of

FlopCounterMode = pytest.importorskip("torch.utils.flop_counter", reason="torch before 2.1").FlopCounterMode

# ---- an independent count ----

ALLOCATE = ("empty.", "empty_like", "empty_strided", "new_empty", "_unsafe_view")
WRITE_ONLY = ("copy_.", "fill_.", "zero_.", "new_zeros.")


class PlainCount(TorchDispatchMode):
    """Adds up inputs and outputs of every operator of a real forward pass, told apart by where their memory lies."""

    def __init__(self) -> None:
        super().__init__()
        self.read = self.written = 0
        self.alive = self.peak = 0
        self.known: Dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__
        inputs, outputs = flat((args, list((kwargs or {}).values()))), flat(out)
        if name.startswith("max_pool2d_with_indices") or "attention" in name:
            outputs = outputs[:1]  # indices nobody asked for; statistics kept for a backward pass
        for tensor in flat(out):
            self.watch(tensor)
        in_place = name.split(".")[0].endswith("_")
        if name.startswith(ALLOCATE) or (not in_place and shares_memory(inputs, outputs)):
            return out
        if name.startswith(("index.", "embedding.")):
            self.read += sum(map(size, outputs)) + sum(map(size, inputs[1:]))
        else:
            self.read += sum(map(size, unique(inputs[1:] if name.startswith(WRITE_ONLY) else inputs)))
        self.written += size(inputs[0]) if in_place else sum(map(size, outputs))
        return out

    def watch(self, tensor: Tensor) -> None:
        """Follow a piece of memory from its first tensor to the death of its storage."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        count = storage.nbytes()
        self.alive += count
        self.peak = max(self.peak, self.alive)
        self.known[key] = weakref.finalize(storage, self.died, key, count)

    def died(self, key: int, count: int) -> None:
        self.alive -= count
        self.known.pop(key, None)


def shares_memory(inputs: List[Tensor], outputs: List[Tensor]) -> bool:
    """Say whether the outputs lie in the inputs' memory: they are views."""
    starts = {t.untyped_storage().data_ptr() for t in inputs}
    return bool(outputs) and all(t.untyped_storage().data_ptr() in starts for t in outputs)


def flat(value: Any) -> List[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in flat(v)] if isinstance(value, (list, tuple)) else []


def unique(tensors: List[Tensor]) -> List[Tensor]:
    return list({(t.data_ptr(), t.shape, t.stride()): t for t in tensors}.values())


def size(tensor: Tensor) -> int:
    count = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride()):
        count *= length if stride else 1
    return count


def count_plainly(model: nn.Module, *inputs: Any) -> PlainCount:
    """Run a deep copy for real, in evaluation mode, with attention's inner shortcut off as in training."""
    model = copy.deepcopy(model).eval()
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), PlainCount() as plain:
            for tensor in flat(list(inputs)):
                plain.watch(tensor)
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)
    return plain


def real(model: nn.Module, *inputs: Any) -> Traffic:
    """Our own ledger over a real run."""
    return traffic_of(record(model, inputs, on_shapes=False))


YOLO = (
    *(f"yolov5{size}.yaml" for size in "nsmlx"),
    "hub/yolov5n6.yaml",
    "hub/yolov5s6.yaml",
    "hub/yolov5s-transformer.yaml",
    "segment/yolov5n-seg.yaml",
    "segment/yolov5s-seg.yaml",
)
VISION = ("resnet50", "mobilenet_v3_large", "convnext_tiny", "vit_b_16", "swin_t")


def assert_all_counts_agree(model: nn.Module, *inputs: Any) -> None:
    counted = traffic(model, inputs)
    assert counted.mode == "shape", counted.why
    plain = count_plainly(model, *inputs)
    assert (counted.read_bytes, counted.written_bytes) == (plain.read, plain.written)
    ours = real(model, *inputs)
    assert (ours.read_bytes, ours.written_bytes, ours.flops) == (plain.read, plain.written, counted.flops)
    assert [moves(call) for call in counted.calls if call.bytes] == [moves(call) for call in ours.calls if call.bytes]
    assert counted.peak_activation_bytes == ours.peak_activation_bytes
    assert counted.flops == flops_by_torch(model, *inputs)
    assert counted.uncounted == {}


def moves(call: OperatorCall) -> Tuple[Any, ...]:
    return call.layer.path, call.read_bytes, call.written_bytes, call.flops


def flops_by_torch(model: nn.Module, *inputs: Any) -> int:
    """torch's own count, on the meta device, where attention falls apart into products that it knows."""
    model = copy.deepcopy(model).eval().to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*(x.to("meta") for x in inputs))
    return int(counter.get_total_flops())


@pytest.mark.parametrize("cfg", YOLO)
def test_yolov5_against_a_plain_count(yolo: Any, cfg: str) -> None:
    width, side = 0.25 if cfg in YOLO[2:5] else None, 320 if cfg in YOLO[:2] else 128
    assert_all_counts_agree(yolo(cfg, width), torch.zeros(1, 3, side, side))


@pytest.mark.parametrize("name", VISION)
def test_torchvision_against_a_plain_count(name: str) -> None:
    assert_all_counts_agree(torchvision.models.get_model(name, weights=None), torch.zeros(1, 3, 224, 224))


def test_the_backbone_of_a_detector_against_a_plain_count() -> None:
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    assert_all_counts_agree(detector.backbone, torch.zeros(1, 3, 128, 160))


def test_peak_is_what_was_alive_at_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.ReLU(inplace=True))
    x = torch.zeros(1, 3, 16, 16)
    # the image, and the two outputs of eight channels before and after the first activation
    assert traffic(model, (x,)).peak_activation_bytes == (3 + 8 + 8) * 256 * 4
    assert real(model, x).peak_activation_bytes == (3 + 8 + 8) * 256 * 4


# ---- published figures ----

# Published with the weights, in multiply-accumulates: to three decimals of 1e9.

NOT_COMPARED = {
    "detection": "how many boxes go through the second stage depends on the weights' values",
    "optical_flow": "the figure is given without the size of the two images",
}
PUBLISHED = [
    (name, weight)
    for module in (torchvision.models, torchvision.models.segmentation, torchvision.models.video)
    for name in torchvision.models.list_models(module=module)
    for weight in torchvision.models.get_model_weights(name)
    if "_ops" in weight.meta
]


def published_input(name: str, weight: Any) -> Tuple[Dict[str, Any], Tuple[int, ...]]:
    """Return how to build the model that the figure speaks of, and its input's shape."""
    transforms = weight.transforms()
    crop = getattr(transforms, "crop_size", None) or transforms.resize_size
    sides = tuple(crop) if len(crop) == 2 else (crop[0], crop[0])
    options: Dict[str, Any] = {}
    if "VOC" in weight.name:  # segmentation, trained with the auxiliary head
        options = {"weights_backbone": None, **({} if name.startswith("lraspp") else {"aux_loss": True})}
    if name.startswith("vit") and sides != (224, 224):
        options["image_size"] = sides[0]
    clip = (16,) if weight.name.startswith("KINETICS") else ()
    return options, (1, 3, *clip, *sides)


@pytest.mark.parametrize("name, weight", PUBLISHED, ids=[f"{name}-{w.name}" for name, w in PUBLISHED])
def test_flops_are_the_published_ones(name: str, weight: Any) -> None:
    options, shape = published_input(name, weight)
    assert flops_of(name, shape, **options) / 2e9 == pytest.approx(weight.meta["_ops"], abs=0.00051)


@lru_cache(maxsize=None)
def flops_of(name: str, shape: Tuple[int, ...], **options: Any) -> int:
    """Count a network; several weights of one have the same figure."""
    return traffic(torchvision_network(name, "meta", **options), (torch.empty(shape, device="meta"),)).flops


# ---- worked by hand, in bytes ----

F = 4  # bytes of a float32


def moved(function: Any, *inputs: Any) -> Tuple[int, int]:
    """Bytes read and written by a function of tensors, on shapes; the real run must agree."""

    class Wrapped(nn.Module):
        def forward(self, *args: Any) -> Any:
            return function(*args)

    counted = traffic(Wrapped(), inputs)
    assert counted.mode == "shape", counted.why
    again = real(Wrapped(), *inputs)
    assert (counted.read_bytes, counted.written_bytes) == (again.read_bytes, again.written_bytes)
    return counted.read_bytes, counted.written_bytes


def test_a_convolution_with_groups() -> None:
    counted = traffic(nn.Conv2d(8, 4, 3, groups=4), (torch.rand(1, 8, 6, 6),))
    # input 8 x 36, four filters of 2 x 9 and four biases in; 4 x 16 out
    assert (counted.read_bytes, counted.written_bytes) == ((288 + 72 + 4) * F, 64 * F)
    assert counted.flops == 2 * 64 * 18


def test_a_cat_of_views() -> None:
    x = torch.rand(2, 6)
    # the two halves are read, 2 x 3 each, and 2 x 6 written; cutting moves nothing
    assert moved(lambda x: torch.cat([x[:, 3:], x[:, :3]], 1), x) == (12 * F, 12 * F)
    # the same half twice is read once
    assert moved(lambda x: torch.cat([x[:, :3], x[:, :3]], 1), x) == (6 * F, 12 * F)


def test_an_in_place_add_of_an_expanded_tensor() -> None:
    # 4 x 5 read and written in place; the row of five, stretched over four, is read once
    assert moved(lambda x, y: x.add_(y.expand(4, 5)), torch.rand(4, 5), torch.rand(5)) == (25 * F, 20 * F)


def test_an_embedding() -> None:
    counted = traffic(nn.Embedding(1000, 6), (torch.tensor([[1, 2, 4], [4, 3, 9]]),))
    # six rows of six floats and the six indices of eight bytes, not the table of 1000 rows
    assert (counted.read_bytes, counted.written_bytes) == (36 * F + 6 * 8, 36 * F)


def test_a_transposed_view_made_contiguous() -> None:
    assert moved(lambda x: x.t(), torch.rand(3, 5)) == (0, 0)
    assert moved(lambda x: x.t().contiguous(), torch.rand(3, 5)) == (15 * F, 15 * F)
    assert moved(lambda x: x.reshape(5, 3), torch.rand(3, 5)) == (0, 0)
    assert moved(lambda x: x.t().reshape(3, 5), torch.rand(3, 5)) == (15 * F, 15 * F)


def test_a_half_precision_upsample() -> None:
    counted = traffic(nn.Upsample(scale_factor=2), (torch.rand(1, 3, 4, 4).half(),))
    assert (counted.read_bytes, counted.written_bytes) == (48 * 2, 192 * 2)


@pytest.mark.parametrize(
    "function, inputs, expected",
    [
        (torch.relu, (torch.rand(10),), (10 * F, 10 * F)),
        (torch.relu_, (torch.rand(10),), (10 * F, 10 * F)),
        (lambda x: x * x, (torch.rand(10),), (10 * F, 10 * F)),
        (lambda x, y: x * y, (torch.rand(10), torch.rand(10)), (20 * F, 10 * F)),
        (lambda x: x.expand(7, 10) + 1, (torch.rand(10),), (10 * F, 70 * F)),
        (lambda x: x.double(), (torch.rand(10),), (10 * F, 10 * 8)),
        (lambda x, y: x.copy_(y), (torch.rand(10), torch.rand(10)), (10 * F, 10 * F)),
        (lambda x: x.zero_(), (torch.rand(10),), (0, 10 * F)),
        (lambda x: x.fill_(3), (torch.rand(10),), (0, 10 * F)),
        (torch.zeros_like, (torch.rand(10),), (0, 10 * F)),
        (lambda x: x.new_zeros(3), (torch.rand(10),), (0, 3 * F)),
        (lambda x: torch.arange(6) + 1, (torch.rand(10),), (6 * 8, 12 * 8)),
        (lambda x: torch.empty(6), (torch.rand(10),), (0, 0)),
        (lambda x: x.sum(), (torch.rand(10),), (10 * F, F)),
        (lambda x: x.split(5)[1].view(5, 1), (torch.rand(10),), (0, 0)),
        (lambda x, i: x[i], (torch.rand(10, 3), torch.tensor([1, 1])), (6 * F + 2 * 8, 6 * F)),
        (lambda x, i: x.index_select(0, i), (torch.rand(10, 3), torch.tensor([1, 2])), (6 * F + 2 * 8, 6 * F)),
        (lambda x, i: x.gather(0, i), (torch.rand(10), torch.tensor([1, 2])), (2 * F + 2 * 8, 2 * F)),
        (lambda x, i, v: x.index_put_((i,), v), (torch.rand(10), torch.tensor([1, 2]), torch.rand(2)), (24, 2 * F)),
        (lambda x, i, v: x.scatter_(0, i, v), (torch.rand(10), torch.tensor([1, 2]), torch.rand(2)), (24, 2 * F)),
        (lambda x, y: torch.mm(x, y), (torch.rand(2, 3), torch.rand(3, 4)), ((6 + 12) * F, 8 * F)),
        (lambda x, y: torch.add(x, x, out=y), (torch.rand(10), torch.rand(10)), (10 * F, 10 * F)),
    ],
)
def test_one_operator_each(function: Any, inputs: Any, expected: Tuple[int, int]) -> None:
    assert moved(function, *inputs) == expected


def test_pooling_indices_count_only_where_somebody_keeps_them() -> None:
    x = torch.rand(1, 2, 4, 4)
    assert moved(nn.MaxPool2d(2), x) == (32 * F, 8 * F)
    assert moved(nn.MaxPool2d(2, return_indices=True), x) == (32 * F, 8 * F + 8 * 8)


@pytest.mark.parametrize("shape", [(2, 4, 7, 8), (4, 7, 8)])
def test_attention_is_one_operator(shape: Tuple[int, ...]) -> None:
    attend = nn.functional.scaled_dot_product_attention
    q, k, v = (torch.rand(*shape[:-2], length, 8) for length in (7, 5, 5))
    batch = q.numel() // (7 * 8)
    mask = torch.rand(7, 5)
    read = q.numel() + k.numel() + v.numel()
    assert moved(attend, q, k, v) == (read * F, q.numel() * F)
    assert moved(lambda *qkv: attend(*qkv, attn_mask=mask), q, k, v) == ((read + 35) * F, q.numel() * F)

    class Attend(nn.Module):
        def forward(self, *qkv: Tensor) -> Tensor:
            return attend(*qkv)

    counted = traffic(Attend(), (q, k, v))
    assert [row.operator for row in counted.operators] == ["scaled_dot_product_attention"]
    assert counted.flops == 2 * 2 * batch * 7 * 5 * 8


def test_multihead_attention_is_fused_when_no_weights_are_asked_for() -> None:
    class Asks(nn.Module):
        def __init__(self, weights: bool) -> None:
            super().__init__()
            self.attention, self.weights = nn.MultiheadAttention(8, 2, batch_first=True), weights

        def forward(self, x: Tensor) -> Any:
            return self.attention(x, x, x, need_weights=self.weights)

    x = torch.rand(2, 7, 8)
    fused, apart = ({row.operator for row in traffic(Asks(weights), (x,)).operators} for weights in (False, True))
    assert "scaled_dot_product_attention" in fused and "bmm" not in fused
    assert "scaled_dot_product_attention" not in apart and "bmm" in apart
    assert real(Asks(False), x).read_bytes == traffic(Asks(False), (x,)).read_bytes


# ---- rows ----


def test_rows_sum_to_the_totals(yolo: Any) -> None:
    model = yolo("yolov5s.yaml")
    image = torch.zeros(1, 3, 640, 640)
    counted, ledger = traffic(model, (image,)), profile(model, (image,), verbose=False)
    for rows in (counted.layers, counted.operators, counted.calls):
        assert sum(row.read_bytes for row in rows) == counted.read_bytes
        assert sum(row.written_bytes for row in rows) == counted.written_bytes
        assert sum(row.flops for row in rows) == counted.flops
    assert sum(row.total_ops for row in counted.layers) == ledger.total_ops
    assert sum(row.kernel for row in counted.layers) == ledger.total_kernel_macs
    assert sum(row.output for row in counted.layers) == ledger.total_output_macs
    assert sum(row.parameters for row in counted.layers) == ledger.total_params
    moved_bytes = counted.read_bytes + counted.written_bytes
    assert counted.arithmetic_intensity == pytest.approx(counted.flops / moved_bytes)
    residual = next(row for row in counted.layers if row.path == "model.2.m.0")
    assert (residual.operator, residual.type) == ("add", "Bottleneck")
    assert residual.read_bytes == 2 * residual.written_bytes == 2 * 32 * 160 * 160 * F


def test_calls_come_in_the_order_in_which_they_ran() -> None:
    shared = nn.Conv2d(1, 1, 3, padding=1).half()
    calls = traffic(
        nn.Sequential(shared, nn.Flatten(), nn.Unflatten(1, (1, 8, 8)), shared), (torch.zeros(1, 1, 8, 8).half(),)
    ).calls
    assert [(call.layer.path, call.operator, call.dtype) for call in calls] == [
        ("0", "convolution", torch.float16),
        ("1", "view", None),
        ("2", "view", None),
        ("0", "convolution", torch.float16),
    ]
    assert [(call.flops, call.bytes) for call in calls] == [(1152, 276), (0, 0), (0, 0), (1152, 276)]


def test_half_precision_moves_half(yolo: Any) -> None:
    model = yolo("yolov5n.yaml")
    full = traffic(model, (torch.zeros(1, 3, 64, 64),))
    half = traffic(model.half(), (torch.zeros(1, 3, 64, 64).half(),))
    assert half.written_bytes == pytest.approx(full.written_bytes / 2, rel=0.01)


def test_what_cannot_be_charged_exactly_is_named() -> None:
    class Detects(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> Any:
            return torchvision.ops.nms(boxes, scores, 0.5)

    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]])
    counted = traffic(Detects(), (boxes, torch.tensor([0.9, 0.8, 0.7])))
    assert counted.mode == "real"
    assert counted.uncounted == {"torchvision::nms": (1, "every input is read once and every result written once")}


def test_the_model_is_left_as_it_was(yolo: Any) -> None:
    model = yolo("yolov5n.yaml")
    before = state(model)
    traffic(model, (torch.zeros(1, 3, 64, 64),))
    assert_same_state(model, before)

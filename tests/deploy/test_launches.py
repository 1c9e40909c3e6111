"""The deployed network: by hand, against a second implementation on torch.fx, and against the operator ledger."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from utils.thop import deployed
from utils.thop.count.record import record
from utils.thop.deploy import DeviceError
from utils.thop.deploy.launches import Deployed, as_deployed
from utils.thop.deploy.runtimes import all_runtimes

IMAGE = torch.zeros(1, 3, 64, 64)


class Of(nn.Module):
    """A module of a function and the layers that it uses."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def conv(inside: int, outside: int, kernel: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, padding=kernel // 2, **options)


def shown(network: Deployed) -> list[str]:
    """The launches as texts: operators joined, then elements read and written."""
    return [f"{'+'.join(x.operators)} {x.read_elements}>{x.written_elements}" for x in network.launches]


# ---- what is fused: a case each, 4 channels of 8 x 8 = 256 elements ----

X = torch.zeros(1, 4, 8, 8)
CASES: dict[str, tuple[nn.Module, list[str]]] = {
    "conv, norm, activation": (
        nn.Sequential(conv(4, 4, bias=False), nn.BatchNorm2d(4), nn.SiLU()),
        ["convolution+native_batch_norm+silu 256>256"],
    ),
    "in place": (nn.Sequential(conv(4, 4), nn.ReLU(inplace=True)), ["convolution+relu_ 256>256"]),
    "an activation written out": (
        Of(lambda m, x: (lambda y: y * torch.sigmoid(y))(m.conv(x)), conv=conv(4, 4)),
        ["convolution+sigmoid+mul 256>256"],
    ),
    "a residual joins the later convolution": (
        Of(lambda m, x: x + m.b(functional.relu(m.a(x))), a=conv(4, 4), b=conv(4, 4)),
        ["convolution+relu 256>256", "convolution+add 512>256"],
    ),
    "a residual of two convolutions": (
        Of(lambda m, x: m.a(x) + m.b(x), a=conv(4, 4), b=conv(4, 4)),
        ["convolution 256>256", "convolution+add 512>256"],
    ),
    "what another wants as it is, is not fused": (
        Of(lambda m, x: (lambda y: torch.cat((y, functional.relu(y)), 1))(m.conv(x)), conv=conv(4, 4)),
        ["convolution 256>256", "relu 256>256", "cat 512>512"],
    ),
    "what is returned as it is, is not fused": (
        Of(lambda m, x: (lambda y: (y, functional.relu(y)))(m.conv(x)), conv=conv(4, 4)),
        ["convolution 256>256", "relu 256>256"],
    ),
    "a norm before a convolution stays": (
        Of(lambda m, x: m.conv(functional.relu(m.norm(x))), conv=conv(4, 4), norm=nn.BatchNorm2d(4)),
        ["native_batch_norm+relu 256>256", "convolution 256>256"],
    ),
    "a chain of point-wise operators": (Of(lambda m, x: (x + 1).mul(2).relu()), ["add+mul+relu 256>256"]),
    "views are free": (
        Of(lambda m, x: m.conv(x).flatten(2).transpose(1, 2).add_(1), conv=conv(4, 4)),
        ["convolution+add_ 256>256"],
    ),
    "half of a tensor": (Of(lambda m, x: functional.relu(x.chunk(2, 1)[1])), ["relu 128>128"]),
    "both halves": (
        Of(lambda m, x: torch.cat([functional.relu(y) for y in m.conv(x).chunk(2, 1)], 1), conv=conv(4, 4)),
        ["convolution+relu+relu 256>256", "cat 256>256"],
    ),
    "pooling, without its indices": (nn.Sequential(conv(4, 4), nn.MaxPool2d(2)), ["convolution 256>256",
                                                                                 "max_pool2d_with_indices 256>64"]),
    "nobody asks for it": (Of(lambda m, x: (m.a(x), m.b(x))[1], a=conv(4, 4), b=conv(4, 4)), ["convolution 256>256"]),
    "what depends on no input": (
        Of(lambda m, x: x * (torch.arange(8.0) * 2 + 1).sqrt()),
        ["mul 256>256"],
    ),
    "a part written over": (
        Of(lambda m, x: (lambda y: (y[:, :1].mul_(2), y)[1])(m.conv(x)), conv=conv(4, 4)),
        ["convolution+mul_ 256>64"],
    ),
    "a matrix product": (
        Of(lambda m, x: functional.gelu(m.linear(x.flatten(0, 2))), linear=nn.Linear(8, 16)),
        ["addmm+gelu 256>512"],
    ),
    "attention takes nothing along": (
        Of(lambda m, x: functional.relu(functional.scaled_dot_product_attention(x, x, x))),
        ["scaled_dot_product_attention 256>256", "relu 256>256"],
    ),
    "what spreads a value is not fused": (
        Of(lambda m, x: x * torch.sigmoid(m.conv(x.mean((2, 3), keepdim=True))), conv=conv(4, 4)),
        ["mean 256>4", "convolution+sigmoid 4>4", "mul 260>256"],
    ),
    "a softmax stays by itself": (
        Of(lambda m, x: functional.softmax(m.conv(x), 1) * 2, conv=conv(4, 4)),
        ["convolution 256>256", "_softmax 256>256", "mul 256>256"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_launched_at_once(name: str) -> None:
    model, expected = CASES[name]
    found = [text.replace("_for_cpu", "").replace("_scaled_dot_product_flash_a", "scaled_dot_product_a")
             for text in shown(deployed(model, (X,)))]  # fmt: skip
    assert found == expected


# ---- what each runtime takes along: "relu" and so on behind a convolution, then a residual ----

TAKEN: dict[str, list[str]] = {
    "tensorrt": ["convolution+silu", "convolution+silu+add", "convolution+add+relu"],
    "horizon": ["convolution+silu", "convolution+silu+add", "convolution+add+relu"],
    # a residual fits behind a clamp and before it, but not behind a curve that was looked up
    "rknn": ["convolution+silu", "convolution+silu", "add", "convolution+add+relu"],
    "ncnn": ["convolution", "silu", "convolution", "silu", "add", "convolution", "add", "relu"],
}


@pytest.mark.parametrize("runtime", TAKEN)
def test_a_runtime_fuses_what_its_table_says(runtime: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = functional.silu(m.a(x))
        y = y + functional.silu(m.b(y))
        return functional.relu(y + m.c(y))

    model = Of(forward, a=conv(4, 4), b=conv(4, 4), c=conv(4, 4))
    assert ["+".join(x.operators) for x in deployed(model, (X,), runtime).launches] == TAKEN[runtime]


def test_an_activation_that_is_written_out_is_the_same_to_a_compiler() -> None:
    written = {
        "silu": lambda y: y * torch.sigmoid(y),
        "silu, the other way round": lambda y: y.sigmoid().mul(y),
        "hardswish": lambda y: y * functional.hardtanh(y + 3, 0, 6),
        "mish": lambda y: y * torch.tanh(functional.softplus(y)),
    }
    for name, function in written.items():
        found = deployed(Of(lambda m, x, f=function: f(m.a(x)), a=conv(4, 4)), (X,), "rknn").launches
        assert len(found) == 1, name
    gate = Of(lambda m, x: m.a(x) * torch.sigmoid(m.b(x)), a=conv(4, 4), b=conv(4, 4))
    assert shown(deployed(gate, (X,), "rknn")) == ["convolution 256>256", "convolution+sigmoid 256>256", "mul 512>256"]


def test_parts_of_a_tensor_are_copied_where_a_runtime_does_so() -> None:
    def halves(m: Any, x: Tensor) -> Tensor:
        one, other = m.a(x).chunk(2, 1)
        return torch.cat([one, other, m.b(other)], 1)

    model = Of(halves, a=conv(4, 4), b=conv(2, 2))
    found = {name: shown(deployed(model, (X,), name)) for name in ("pulsar2", "rknn", "tensorrt")}
    assert found["pulsar2"] == ["convolution 256>256", "convolution 128>128", "cat 384>384"]
    assert found["rknn"] == ["convolution 256>256", "split 256>256", "convolution 128>128", "cat 384>384"]
    assert found["tensorrt"] == [
        "convolution 256>256", "split 128>128", "convolution 128>128", "split 128>128", "cat 384>384",
    ]  # fmt: skip


def test_a_convolution_of_a_resized_map_and_another_is_taken_apart_on_rknn() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = functional.interpolate(m.small(x), scale_factor=2.0)
        return functional.silu(m.norm(m.both(torch.cat([y, x], 1))))

    model = Of(forward, small=conv(4, 8, stride=2), both=conv(12, 4), norm=nn.BatchNorm2d(4)).eval()
    small = (torch.zeros(1, 4, 10, 10),)
    network = deployed(model, small, "rknn")
    assert [x.operators for x in network.launches] == [
        ["convolution"], ["upsample_nearest2d"], ["convolution"],
        ["convolution", "add", "native_batch_norm"], ["silu"],
    ]  # fmt: skip
    whole = deployed(model, small, "ncnn")
    assert network.flops == whole.flops and network.weight_elements == whole.weight_elements
    assert len(whole.launches) == 5


def test_memory_holds_whole_tables_and_whole_maps() -> None:
    table = deployed(nn.Sequential(nn.Embedding(1000, 16), nn.Linear(16, 4)), (torch.zeros(1, 5, dtype=torch.long),))
    assert table.weight_bytes == 2 * (16_000 + 64 + 4)  # five rows are read, and all lie there

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        y[:, :2].relu_()
        return m.b(y)

    written = deployed(Of(forward, a=conv(4, 4), b=conv(4, 4)), (X,), "ncnn")
    assert written.arena_bytes >= 2 * 4 * 256 and written.memory("float16").arena_bytes >= 2 * 2 * 256


def test_a_runtime_that_there_is_not() -> None:
    model = conv(4, 4)
    assert len(deployed(nn.Sequential(model, nn.ReLU()), (X,), "pytorch").launches) == 2
    with pytest.raises(DeviceError, match="no runtime is called 'tensorflow'; did you mean tensorrt"):
        deployed(model, (X,), "tensorflow")


# ---- yolov5s by hand ----


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("runtime", ["tensorrt", "rknn", "ncnn"])
def test_yolov5s_by_hand(yolo: Callable[..., Any], fused: bool, runtime: str) -> None:
    model = yolo("yolov5s.yaml").eval()
    weights = sum(c.weight.numel() + (c.bias is not None) * 0 for c in model.modules() if isinstance(c, nn.Conv2d))
    biases = sum(c.out_channels for c in model.modules() if isinstance(c, nn.Conv2d))
    model = model.fuse() if fused else model
    network = deployed(model, (torch.zeros(1, 3, 640, 640),), runtime, decode=False)
    products = [launch for launch in network.launches if launch.product]
    assert len(products) == 60
    assert network.flops == 16_433_561_600  # twice the multiply-accumulates of the layer ledger, 8,216,780,800
    assert network.weight_elements == weights + biases
    assert weights == 7_215_616
    assert all("sigmoid" not in launch.operators for launch in network.launches)


def test_yolov5s_against_hooks_on_the_model(yolo: Callable[..., Any]) -> None:
    """What each layer of the fused model took and gave, with an addition for each shortcut and a copy for each cat."""
    model = yolo("yolov5s.yaml").eval().fuse()
    read: list[int] = []
    written: list[int] = []

    def note(module: nn.Module, inputs: Sequence[Any], out: Any) -> None:
        kind = type(module).__name__
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.Upsample)):
            read.append(inputs[0].numel())
            written.append(out.numel())
        elif kind == "Bottleneck" and module.add:
            read.append(out.numel())
        elif kind == "Concat":
            read.append(out.numel())
            written.append(out.numel())
        elif kind == "C3":
            halves = 2 * inputs[0].numel() // module.cv1.conv.in_channels * module.cv1.conv.out_channels
            read.append(halves)
            written.append(halves)
        elif kind == "SPPF":
            four = 4 * inputs[0].numel() // module.cv1.conv.in_channels * module.cv1.conv.out_channels
            read.append(four)
            written.append(four)

    image = torch.zeros(1, 3, 128, 128)
    for module in model.modules():
        module.register_forward_hook(note)
    with torch.no_grad():
        model(image)
    for module in model.modules():
        module._forward_hooks.clear()
    network = deployed(model, (image,), "tensorrt", decode=False)
    assert (network.read_elements, network.written_elements) == (sum(read), sum(written))


# ---- a second implementation ----


def by_fx(model: nn.Module, image: Tensor) -> tuple[int, int, int]:
    """Follow each convolution's result through what has no other reader: launches, elements read and written.

    Written for chains of torchvision's modules, by names of nodes and not by storages.
    """
    traced = torch.fx.symbolic_trace(model.eval())
    ShapeProp(traced).propagate(image)
    nodes = list(traced.graph.nodes)
    order = {node: i for i, node in enumerate(nodes)}
    modules = dict(traced.named_modules())

    def kind(node: Any) -> str:
        if node.op == "call_module":
            return type(modules[node.target]).__name__
        return getattr(node.target, "__name__", str(node.target))

    def size(node: Any) -> int:
        return int(node.meta["tensor_meta"].shape.numel())

    point_wise = {"BatchNorm2d", "ReLU", "ReLU6", "Hardswish", "Hardsigmoid", "SiLU", "Sigmoid", "add", "iadd", "mul"}
    free = {"Dropout", "flatten", "Flatten", "Identity", "stochastic_depth"}
    head: dict[Any, Any] = {}
    for node in nodes:
        if node.op not in ("call_module", "call_function", "call_method"):
            continue
        head[node] = node
        arguments = [a for a in node.all_input_nodes if a in head]
        if kind(node) in free and arguments:
            head[node] = head[arguments[0]] if kind(node) not in ("flatten", "Flatten") else node
        elif kind(node) in point_wise and arguments:
            last = max(arguments, key=lambda a: order[head[a]])
            alone = len(last.users) == 1 and size(last) == size(node)
            if alone and kind(head[last]) in {"Conv2d", "Linear"} | point_wise:
                head[node] = head[last]
    launches: set[Any] = {h for n, h in head.items() if kind(h) not in free}
    read = written = 0
    for launch in launches:
        members = {node for node, h in head.items() if h is launch}
        outside = {a for node in members for a in node.all_input_nodes if a not in members and a.op != "get_attr"}
        read += sum(map(size, outside))
        written += sum(size(n) for n in members if any(u not in members for u in n.users))
    return len(launches), read, written


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_b0", "vgg16_bn", "regnet_x_400mf"])
def test_a_second_implementation_agrees(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    network = deployed(model, (IMAGE,), "tensorrt")
    launches, read, written = by_fx(model, IMAGE)
    assert len(network.launches) == launches
    assert network.read_elements == pytest.approx(read, rel=0.01)
    assert network.written_elements == pytest.approx(written, rel=0.01)


# ---- against the operator ledger ----

ZOO = ("resnet18", "densenet121", "googlenet", "inception_v3", "shufflenet_v2_x0_5", "mobilenet_v3_small", "vit_b_32",
       "swin_t", "maxvit_t", "convnext_tiny", "squeezenet1_0", "mnasnet0_5")  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_launches_are_what_ran(name: str) -> None:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    side = {"inception_v3": 299, "googlenet": 224, "vit_b_32": 224, "swin_t": 224, "maxvit_t": 224}.get(name, 64)
    counted = record(model, (torch.zeros(2, 3, side, side),))
    steps = {id(step): step for step in counted.steps}
    for runtime in all_runtimes().values():
        network = as_deployed(counted, runtime)
        assert network.flops == counted.flops
        inside = [id(step) for launch in network.launches for step in launch.steps]
        assert len(inside) == len(set(inside))
        left_out = [steps[i] for i in steps.keys() - set(inside)]
        if runtime.eager:
            assert all(not step.bytes for step in left_out)
            moved = sum(step.bytes for step in counted.steps)
            indices = sum(o.elements * 8 for s in counted.steps for o in s.writes if o.dtype == torch.int64)
            launched = sum(o.elements * o.itemsize for x in network.launches for o in [*x.reads, *x.weights, *x.writes])
            assert launched == pytest.approx(moved + indices)
        _assert_in_order(network, counted.inputs)


def _assert_in_order(network: Deployed, given: set[int]) -> None:
    """Whatever a launch reads is there when it runs."""
    ready = set(given)
    for launch in network.launches:
        for operand in launch.reads:
            assert operand.value in ready, (launch.operators, operand)
        ready |= {operand.value for step in launch.steps for operand in step.writes}
    assert network.flow.outputs <= ready


def test_detectors_of_ultralytics_end_at_their_last_convolutions() -> None:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov10n.yaml", verbose=False).eval()
    image = torch.zeros(1, 3, 64, 64)
    whole, cut = deployed(model, (image,), "rknn", decode=True), deployed(model, (image,), "rknn")
    for network in (whole, cut):  # one of its two heads is for training
        heads = {path.split(".")[2][:-1] for x in network.launches for path in x.layers if "model.23." in path}
        assert len(heads & {"cv", "one2one_cv"}) == 1
    assert any("dfl" in path for launch in whole.launches for path in launch.layers)
    assert not [x.operators for x in cut.launches if "model.23" in x.layers or "model.23.dfl" in x.layers]
    ends = [x for x in cut.launches if x.layers[0].endswith((".2", ".2.2")) and x.layers[0].startswith("model.23.")]
    assert len(ends) == 6 and sum(x.written_elements for x in ends) == 84 * (64 + 80)


def test_what_has_an_images_type_and_no_value_of_it_is_made_in_advance() -> None:
    """A mask of ``x.new_zeros``, written part by part, as swin's; random numbers are drawn in each pass."""

    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = x.new_zeros((8, 8))
            mask[:4] = 1
            return (x + mask.eq(0)).relu() + (torch.rand_like(x) if self.training else 0)

    network = deployed(Masked().eval(), (torch.zeros(1, 3, 8, 8),), "tensorrt")
    assert [launch.operators for launch in network.launches] == [["add", "relu", "add"]]
    assert [launch.weight_elements for launch in network.launches] == [64]

    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.randn_like(x)

    network = deployed(Noisy(), (torch.zeros(1, 3, 8, 8),), "tensorrt")
    assert "randn_like" in [name for launch in network.launches for name in launch.operators]


def test_a_detector_that_chooses_by_its_scores() -> None:
    """It is run for real; without a box at the end, all before it has run all the same."""
    model = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None).eval()
    network = deployed(model, ([torch.rand(3, 96, 96)],), "tensorrt")
    assert network.flow.layers.mode == "real"
    assert network.flops == network.flow.flops > 1e10
    assert not network.flow.under(True).amp  # what autocast does would depend on values


def test_a_fused_count_leaves_the_model_alone(yolo: Callable[..., Any]) -> None:
    from states import assert_same_state, state

    model = yolo("yolov5n.yaml").eval()
    before = state(model)
    deployed(model, (IMAGE,), "rknn")
    assert_same_state(model, before)

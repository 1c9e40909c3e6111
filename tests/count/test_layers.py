"""profile(): figures of real models, shared modules, custom rules, and a model that is left as it was."""

import copy
import random
from typing import Any, Dict, Tuple

import numpy
import pytest
import thop as reference
import torch
import torchvision
from layers import torchvision_network
from states import assert_same_state, state
from torch import Tensor, nn

from utils.thop import clever_format, dfs_count, profile
from utils.thop.profile import Profile


class Block(nn.Module):
    """A convolution and an activation that somebody else may hold too."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 3, padding=1), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


IMAGE = torch.rand(1, 4, 8, 8)
ELEMENTS = 4 * 8 * 8


def count(model: nn.Module, *inputs: Any, **options: Any) -> Profile:
    return profile(model, inputs, verbose=False, **options)


def rows(tree: Any, prefix: str = "") -> Dict[str, Tuple[float, ...]]:
    """Flatten a tree to {path: (ops, params, kernel, output)}."""
    flat = {}
    for name, (*totals, children) in tree.items():
        flat[prefix + name] = tuple(totals)
        flat.update(rows(children, f"{prefix}{name}."))
    return flat


@pytest.mark.parametrize("name, kernel, output", [("n", 1_861_888, 38_391_600), ("s", 7_215_616, 74_641_200)])
def test_yolov5_figures(yolo: Any, name: str, kernel: int, output: int) -> None:
    counted = count(yolo(f"yolov5{name}.yaml"), torch.zeros(1, 3, 640, 640))
    assert (counted.total_kernel_macs, counted.total_output_macs) == (kernel, output)


def test_yolov5s_by_family(yolo: Any) -> None:
    counted = count(yolo("yolov5s.yaml"), torch.zeros(1, 3, 640, 640))
    written: Dict[str, float] = {}
    for layer in counted.layers:
        kind = layer.kind.__name__
        written[kind] = written.get(kind, 0) + layer.output
    assert written == {
        "Conv2d": 25_796_400, "BatchNorm2d": 23_654_400, "SiLU": 23_654_400,
        "MaxPool2d": 307_200, "Upsample": 1_228_800,
    }  # fmt: skip
    assert counted.missing == {} and counted.only_moved == {"yolov5.models.common.Concat": 4}


def test_a_shared_module_is_counted_once_a_call_and_in_the_parent_that_called(yolo: Any) -> None:
    act = nn.SiLU()
    model = nn.Sequential(Block(act), nn.Sequential(Block(act), Block(act)))
    counted = count(model, IMAGE, ret_layer_info=True)
    flat = rows(counted[4])
    assert counted.total_output_macs == 6 * ELEMENTS
    assert [flat[path][3] for path in ("0.act", "1.0.act", "1.1.act")] == [ELEMENTS] * 3
    assert [flat[path][3] for path in ("0", "1")] == [2 * ELEMENTS, 4 * ELEMENTS]


def test_rows_sum_to_the_totals(yolo: Any) -> None:
    counted = count(yolo("yolov5s.yaml"), torch.zeros(1, 3, 320, 320), ret_layer_info=True)
    ops, _, kernel, output, tree = counted
    branches: Any = tree

    def check(totals: Any, children: Dict[str, Any], own: Tuple[float, ...]) -> None:
        for index, total in zip((0, 2, 3), totals):
            assert total == sum(child[index] for child in children.values()) + own[index]
        for *inner, grandchildren in children.values():
            if grandchildren:
                check([inner[0], inner[2], inner[3]], grandchildren, (0, 0, 0, 0))

    check((ops, kernel, output), branches, (0, 0, 0, 0))
    assert list(branches) == ["model"] and len(branches["model"][4]) == 25
    assert dfs_count(counted.root)[:4] == counted[:4]


def test_a_module_held_twice_by_one_parent() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 4, 1)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    counted = count(Twice(), IMAGE, ret_layer_info=True)
    assert counted[1:4] == (20, 2 * 16, 2 * ELEMENTS)
    assert rows(counted[4]) == {"first": (2 * 16 * 64, 20, 32, 2 * ELEMENTS)}


def test_a_shared_block_with_parts_of_its_own() -> None:
    block = Block(nn.ReLU())
    counted = count(nn.Sequential(nn.Sequential(block), nn.Sequential(block)), IMAGE, ret_layer_info=True)
    flat = rows(counted[4])
    assert flat["0.0.conv"][3] == flat["1.0.conv"][3] == ELEMENTS
    assert counted.total_output_macs == 4 * ELEMENTS


def test_each_parameter_is_counted_once() -> None:
    tied = nn.Linear(3, 3, bias=False)
    model = nn.Sequential(tied, nn.ReLU(), nn.Linear(3, 3, bias=False), tied)
    model[2].weight = tied.weight
    assert count(model, torch.rand(2, 3)).total_params == 9


def test_a_subclass_is_counted_by_its_nearest_ancestor() -> None:
    class Mine(nn.Conv2d):
        pass

    class Scaled(Mine):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    assert count(Scaled(4, 4, 1), IMAGE)[:4] == count(nn.Conv2d(4, 4, 1), IMAGE)[:4]


def test_custom_rules_go_first_and_thop_rules_go_on_working() -> None:
    def thop_rule(m: Any, x: Any, y: Tensor) -> None:
        m.total_ops += torch.DoubleTensor([7 * y.numel()])

    def full_rule(m: Any, x: Any, y: Tensor) -> None:
        assert all(getattr(m, name).dtype == torch.float64 for name in ("total_ops", "total_params"))
        m.total_ops += 1
        m.total_kernel_macs += 2
        m.total_output_macs += 3

    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.SiLU(), nn.ReLU())
    counted = count(model, IMAGE, custom_ops={nn.Conv2d: thop_rule, nn.SiLU: full_rule})
    assert counted[:4] == (7 * ELEMENTS + 1, 20, 2, 3 + ELEMENTS)
    assert any("custom rule counts no accesses" in name for name in counted.missing)
    assert counted.total_ops - 1 == reference.profile(
        model, (IMAGE,), custom_ops={nn.Conv2d: thop_rule}, verbose=False
    )[0]  # fmt: skip


def test_layers_without_a_rule_are_named(capsys: Any) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.max_pool2d(x, 2)

    counted = profile(nn.Sequential(Doubled(), nn.ReLU()), (IMAGE,), report_missing=True)
    printed = capsys.readouterr().out
    name = f"{Doubled.__module__}.{Doubled.__qualname__}"
    assert counted.missing == {name: 1}
    assert f"not counted: {name}, 1 calls" in printed and "count_activation() counts" in printed
    profile(nn.ReLU(), (IMAGE,), verbose=False)
    assert capsys.readouterr().out == ""


def test_keyword_arguments_reach_the_rules() -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(input=x)
            return self.attention(query=x, value=x, key=x, need_weights=False)[0]

    x = torch.rand(7, 2, 8)
    counted = count(ByName(), x)
    if torch.__version__ >= "2":  # or the reference's hooks do not hear of them
        assert counted.total_ops == reference.profile(ByName(), (x,), verbose=False)[0]
    assert counted.total_ops > 0
    assert counted.total_kernel_macs == 4 * 64


@pytest.mark.parametrize("bad", [{"x": torch.rand(1, 4, 8, 8)}, "image", None])
def test_inputs_must_be_a_tensor_or_a_tuple(bad: Any) -> None:
    with pytest.raises(TypeError, match="inputs must be a tensor or a tuple"):
        profile(nn.ReLU(), bad, verbose=False)


def test_only_a_module_can_be_profiled() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, not str"):
        profile("yolov5s", (IMAGE,), verbose=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(yolo: Any, training: bool) -> None:
    model = yolo("yolov5n.yaml").train(training)
    model.model[3].eval()
    model.model[2].register_forward_hook(lambda *_: None)
    before = state(model)
    count(model, torch.zeros(1, 3, 256, 256))
    assert_same_state(model, before)


def test_the_model_is_left_as_it_was_when_forward_raises(yolo: Any) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("half-way")

    model = yolo("yolov5n.yaml")
    model.model[9].m = Broken()
    before = state(model)
    with pytest.raises(RuntimeError, match="half-way"):
        count(model, torch.zeros(1, 3, 256, 256))
    assert_same_state(model, before)


def test_real_inference_afterwards_gives_the_same_tensors(yolo: Any) -> None:
    measured, untouched = yolo("yolov5n.yaml").eval(), yolo("yolov5n.yaml").eval()
    untouched.load_state_dict(measured.state_dict())
    image = torch.rand(1, 3, 128, 128)
    count(measured, torch.zeros(1, 3, 256, 256))
    with torch.no_grad():
        assert torch.equal(measured(image)[0], untouched(image)[0])


def test_a_model_that_draws_random_numbers_leaves_the_generators_alone() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(3) + random.random() + float(numpy.random.rand())

    model = Noisy()
    before = state(model)
    count(model, torch.rand(0, 3))
    torch.rand(1)
    torch.set_rng_state(before[2])
    assert_same_state(model, before)


def test_inputs_are_left_as_they_were() -> None:
    x = torch.full((2, 2), -1.0)
    count(nn.ReLU(inplace=True), x)
    assert torch.equal(x, torch.full((2, 2), -1.0))


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_operations_of_torchvision_classifiers_equal_the_reference(name: str) -> None:
    model, x = classifier(name)
    assert count(model, x).total_ops == reference.profile(model, (x,), verbose=False)[0]


def classifier(name: str) -> Tuple[nn.Module, Tensor]:
    """Build a torchvision classifier and an image for it, without memory."""
    size = 224 if "vit" in name or name == "inception_v3" else 128
    return torchvision_network(name, "meta"), torch.zeros(1, 3, size, size, device="meta")


@pytest.mark.parametrize(
    "number, text", [(0, "0.00B"), (999, "999.00B"), (1000, "1.00K"), (8311398400, "8.31G"), (2e12, "2.00T")]
)
def test_clever_format(number: float, text: str) -> None:
    assert clever_format(number) == text == reference.clever_format(number)
    assert clever_format([number, 1.0], "%.2f") == (text, "1.00B")


def test_copies_are_not_shared_between_counts() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    first = count(model, IMAGE)
    assert count(copy.deepcopy(model), IMAGE)[:4] == first[:4] == count(model, IMAGE)[:4]


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.LayerNorm(4), nn.SiLU(), nn.ReLU(), nn.GELU(), nn.Linear(4, 4)],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_what_a_layer_makes_of_a_constant_is_a_weight(layer: nn.Module) -> None:
    """A product with it reads weights, in a run on shapes and in a real one."""

    class Guided(nn.Module):
        def __init__(self, layer: nn.Module, real: bool) -> None:
            super().__init__()
            self.layer, self.real = layer, real
            self.guide = torch.zeros(1, 2, 4, 4, device=next(layer.parameters(), torch.zeros(())).device)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.real and float(x.sum()) > 1e9:
                x = x + 1
            return x @ self.layer(self.guide.clone())

    own = 0 if not hasattr(layer, "in_features") and not hasattr(layer, "kernel_size") else layer.weight.numel()
    for device, real in (("meta", False), ("cpu", False), ("cpu", True)):
        model = Guided(copy.deepcopy(layer).to(device).eval(), real)
        found = profile(model, (torch.zeros(1, 2, 4, 4, device=device),), verbose=False)
        assert (found.mode, found[2]) == ("real" if real else "shape", own + 2 * 4 * 4)

"""The method by hand: hooks on the real layers, a real forward pass, the sums; against profile()."""

from typing import Any, Dict

import pytest
import torch
from states import assert_same_state, state
from torch import Tensor, nn

import utils.thop as thop
from utils.thop import add_hooks, dfs_count, profile, remove_hooks


def by_hand(model: nn.Module, *inputs: Any, custom_ops: Any = None) -> Any:
    model.eval()
    before = state(model)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    add_hooks(model, custom_ops)
    try:
        with torch.no_grad():
            model(*inputs)
        return dfs_count(model)
    finally:
        remove_hooks(model)
        assert_same_state(model, before)
        assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
        assert not any(module._forward_hooks for module in model.modules())


def flat(tree: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
    rows = {}
    for name, (*numbers, below) in tree.items():
        rows[prefix + name] = numbers
        rows.update(flat(below, f"{prefix}{name}."))
    return rows


@pytest.mark.parametrize("cfg", ["yolov5s.yaml", "yolov5n.yaml", "segment/yolov5n-seg.yaml"])
def test_hooks_on_a_real_forward_pass_give_the_profile(yolo: Any, cfg: str) -> None:
    model = yolo(cfg)
    side = 640 if cfg == "yolov5s.yaml" else 128
    x = torch.zeros(1, 3, side, side)
    *totals, tree = by_hand(model, x)
    counted = profile(model, (x,), verbose=False, ret_layer_info=True)
    assert tuple(totals) == tuple(counted)[:4]
    ours, theirs = flat(tree), flat(counted[4])
    layers = [name for name in ours if name.endswith((".conv", ".bn"))]  # an activation may be shared by many places
    assert len(layers) > 100 and all(ours[name] == list(theirs[name]) for name in layers)
    assert dfs_count(counted.root)[:4] == tuple(totals)


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 1, bias=False)
        self.b = nn.Sequential(self.a, nn.ReLU())
        self.c = nn.Conv2d(4, 4, 1, bias=False)
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


def test_shared_modules_and_parameters_count_once() -> None:
    x = torch.zeros(1, 4, 5, 5)
    *totals, tree = by_hand(Shares(), x)
    assert totals == [3 * 16 * 25, 16, 3 * 16, 4 * 100]
    assert tree["a"][:4] == (2 * 16 * 25, 16, 2 * 16, 200) and tree["c"][1] == 16
    assert tuple(totals) == tuple(profile(Shares(), (x,), verbose=False))


def test_calls_add_up_and_a_users_rule_goes_first() -> None:
    def rule(module: Any, inputs: Any, output: Tensor) -> None:
        module.total_ops += 5
        module.total_output_macs += 1

    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU()).eval()
    x = torch.zeros(1, 3, 2, 2)
    assert by_hand(model, x, custom_ops={nn.ReLU: rule})[:4] == (12 * 4 + 5, 12, 12, 17)
    add_hooks(model)
    add_hooks(model)  # once is enough
    for _ in range(2):
        model(x)
    assert dfs_count(model)[:4] == (2 * 12 * 4, 12, 2 * 12, 2 * 32) and model[0].total_kernel_macs.item() == 24
    assert "total_ops" not in model.state_dict() and not any("total" in name for name in model.state_dict())
    remove_hooks(model)
    with pytest.raises(ValueError, match=r"no buffers to sum; add_hooks\(\) gives them"):
        dfs_count(model)


def test_a_layer_has_the_four_totals() -> None:
    root = profile(Shares(), (torch.zeros(1, 4, 5, 5),), verbose=False).root
    layer = next(layer for layer in root.walk() if layer.path == "c")
    names = ("total_ops", "total_params", "total_kernel_macs", "total_output_macs")
    assert [getattr(layer, name) for name in names] == [400, 16, 16, 100]
    assert {"add_hooks", "remove_hooks", "dfs_count"} <= set(thop.__all__)

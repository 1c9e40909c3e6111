"""Auxiliary heads: what evaluation does not run, what an export leaves out, and two sets of predictions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from utils.thop import deployed, profile
from utils.thop.deploy.launches import left_out, two_predictions
from utils.thop.profile import not_run_in_training
from utils.thop.show.predictions import auxiliary
from utils.torch_utils import memory_info


class Parts(nn.Module):
    """Parts that are used in all the ways that are no call, and some that are not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.never, self.by_hand = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.aux = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4, bias=False))
        self.attention = nn.MultiheadAttention(4, 2)
        self.tied, self.empty = nn.Linear(4, 4, bias=False), nn.Identity()
        self.tied.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.aux(x) if self.training else x
        x = nn.functional.linear(x, self.by_hand.weight, self.by_hand.bias)
        return self.attention(x, x, x)[0]  # type: ignore[no-any-return]


def test_what_evaluation_does_not_run() -> None:
    model, x = Parts(), torch.zeros(3, 2, 4)
    assert profile(model, (x,), verbose=False).not_run == {"never": 20, "aux": 36}
    assert not_run_in_training(model, (x,)) == {"never": 20}
    info = memory_info(model, inputs=(x,))
    total = sum(p.numel() for p in model.parameters())
    assert f"Not run in evaluation, nor in training: never (20 of {total} parameters)." in info.table()
    assert f"Not run in evaluation, in training only: aux (36 of {total} parameters)." in info.table()
    assert model.training and not hasattr(model.never, "total_ops")


@pytest.mark.parametrize("name, heads", [("googlenet", ["aux1", "aux2"]), ("inception_v3", ["AuxLogits"])])
def test_torchvisions_auxiliary_heads(name: str, heads: list[str]) -> None:
    models: Any = pytest.importorskip("torchvision.models")
    model = getattr(models, name)(weights=None, init_weights=False)
    held = {head: sum(p.numel() for p in model.get_submodule(head).parameters()) for head in heads}
    assert profile(model, (torch.zeros(1, 3, 299, 299),), verbose=False).not_run == held
    table = memory_info(model).table()
    assert f"Not run in evaluation, in training only: {', '.join(heads)} (" in " ".join(table.split())


def test_a_model_that_runs_whole_says_nothing() -> None:
    models: Any = pytest.importorskip("torchvision.models")
    for name in ("resnet18", "vit_b_16", "mobilenet_v3_small"):
        model = getattr(models, name)(weights=None)
        assert profile(model, (torch.zeros(1, 3, 224, 224),), verbose=False).not_run == {}


class Head(nn.Module):
    """A detector's head as YOLOv7 (``dual`` False) or YOLOv9 (True) has it, with an auxiliary one beside it."""

    def __init__(self, dual: bool) -> None:
        super().__init__()
        self.nc, self.nl, self.stride, self.dual = 2, 1, torch.tensor([8.0]), dual
        self.main, self.aux = nn.Conv2d(8, 7, 1), nn.Conv2d(16, 7, 1)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        main, aux = self.main(x), self.aux(y)
        decoded = main.flatten(2).sigmoid()
        if self.dual:
            return [aux.flatten(2).sigmoid(), decoded], [aux, main]
        return decoded, [main]


class Detector(nn.Module):
    """A backbone, a neck that only the auxiliary head reads, and both heads."""

    def __init__(self, dual: bool) -> None:
        super().__init__()
        self.stem, self.neck, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 1, 1), Head(dual)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.head(x, self.neck(x))


def test_what_an_export_leaves_out() -> None:
    network = deployed(Detector(dual=False), (torch.zeros(1, 3, 32, 32),))
    assert left_out(network) == {"neck": 2 * 16 * 16 * 16 * 8 * 9, "head.aux": 2 * 16 * 16 * 16 * 7}
    assert network.flops == 2 * 16 * 16 * (8 * 3 * 9 + 8 * 7) and two_predictions(network) is None


def test_two_sets_of_predictions() -> None:
    network = deployed(Detector(dual=True), (torch.zeros(1, 3, 32, 32),))
    assert left_out(network) == {}
    auxiliary, main = 2 * 16 * 16 * (16 * 8 * 9 + 16 * 7), 2 * 16 * 16 * 8 * 7
    assert two_predictions(network) == ("head", main, auxiliary)


def test_yolov5_has_neither(yolo: Any) -> None:
    network = deployed(yolo("yolov5n.yaml"), (torch.zeros(1, 3, 64, 64),), decode=False)
    assert left_out(network) == {} and two_predictions(network) is None


def test_advice_names_them() -> None:
    single, dual = Detector(dual=False), Detector(dual=True)
    said = auxiliary(memory_info(single, imgsz=32).predict("t4").deployed)
    assert any(text.startswith("An export leaves out neck and head.aux (0.0 GFLOPs)") for text in said)
    assert "An export leaves out neck and head.aux" in repr(memory_info(single, imgsz=32).advice("t4"))
    said = auxiliary(memory_info(dual, imgsz=32).predict("t4").deployed)
    assert any(text.startswith("head gives out two sets of predictions") for text in said)

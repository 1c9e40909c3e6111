"""The recording of a run: what it says of each call, what it costs, and that one is enough."""

import gc
import subprocess
import sys
import tracemalloc
import weakref
from typing import Any, Callable, List

import pytest
import torch
import torchvision
from releases import ROOT
from torch import Tensor, nn

from utils.thop import deployed, predict, profile, traffic, training
from utils.thop.count.record import OperatorCall, Recording, record
from utils.thop.profile import Profile
from utils.thop.run import dispatch
from utils.thop.traffic import traffic_of
from utils.torch_utils import model_info

IMAGE = torch.zeros(1, 3, 224, 224)


class Does(nn.Module):
    """Runs a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, *args: Tensor) -> Any:
        return self.function(self, *args)


def steps_of(function: Callable[..., Any], *args: Tensor) -> List[OperatorCall]:
    return record(Does(function), args).steps


def test_a_chain_is_known_whatever_views_lie_between() -> None:
    first, second = steps_of(lambda m, x: x.relu().view(2, 8).t().sigmoid(), torch.ones(4, 4))
    assert second.reads[0].value == first.writes[0].value
    assert (second.reads[0].shape, second.reads[0].strides) == ((8, 2), (1, 8)) and not second.reads[0].dense
    assert first.writes[0].dense and first.reads[0].value != first.writes[0].value


def test_what_is_written_in_place_holds_a_new_value() -> None:
    made, added, read = steps_of(lambda m, x: (x * 2)[:1].add_(1).sigmoid(), torch.ones(4, 4))
    assert added.reads[0].value == made.writes[0].value != added.writes[0].value == read.reads[0].value
    assert added.after == made.writes[0].value  # the other three rows are kept


def test_the_same_part_is_read_once_and_another_part_is_another() -> None:
    (product,) = steps_of(lambda m, x: x * x, torch.ones(4, 4))
    assert len(product.reads) == 1 and product.read_bytes == 64 and product.written_bytes == 64
    (rows,) = steps_of(lambda m, x: x[:2] * x[2:], torch.ones(4, 4))
    assert [view.offset for view in rows.reads] == [0, 8] and rows.read_bytes == 64 and rows.written_bytes == 32


def test_a_table_is_read_as_far_as_it_is_looked_up() -> None:
    (found,) = steps_of(lambda m, i: torch.embedding(m.weight, i), torch.tensor([1, 2]))
    assert found.read_bytes == 2 * 16 + 2 * 8 and found.reads[0].elements == 8 and found.reads[1].elements == 2


def test_the_recording_sums_to_what_each_answer_says() -> None:
    model = torchvision.models.resnet18().eval()
    recorded = record(model, (IMAGE,))
    counted = profile(model, (IMAGE,), verbose=False)
    assert tuple(Profile.of(recorded.layers)) == tuple(counted)
    assert traffic_of(recorded) == traffic(model, (IMAGE,))
    assert sum(call.bytes for call in recorded.steps) == sum(call.bytes for call in recorded.calls)
    assert traffic_of(recorded) == traffic_of(recorded)  # reading changes nothing


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_large", "vit_b_16", "swin_t"])
def test_a_call_takes_few_bytes(name: str) -> None:
    model = torchvision.models.get_model(name).eval()
    record(model, (IMAGE,))
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        recorded = record(model, (IMAGE,))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    most = 3.0 if sys.version_info >= (3, 11) else 3.5  # KB: objects with attributes were larger
    assert after - before < most * 1024 * len(recorded.calls)


def test_a_recording_goes_with_its_result() -> None:
    model = torchvision.models.resnet18().eval()
    found = deployed(model, (IMAGE,))
    reference = weakref.ref(found.flow)
    assert predict(found, "t4").seconds > 0 and reference() is not None
    del found
    gc.collect()
    assert reference() is None


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """The runs that were begun, by their modes."""
    begun: List[str] = []
    init = dispatch.OperatorMode.__init__

    def note(self: Any) -> None:
        begun.append("shape" if self.on_shapes else "real")
        init(self)

    monkeypatch.setattr(dispatch.OperatorMode, "__init__", note)
    return begun


def test_model_info_its_table_and_its_predictions_are_one_run(runs: List[str]) -> None:
    info: Any = model_info(torchvision.models.resnet18(), imgsz=224)
    assert info.table() and info.to_json() and info.traffic.flops
    for device in ("rk3588", "t4", "jetson-orin-nano", "raspberry-pi-5", "rdk-x5"):
        assert info.predict(device).seconds > 0
    assert runs == ["shape"]


def test_autocast_is_one_more(runs: List[str]) -> None:
    model = torchvision.models.resnet18()
    info: Any = model_info(model, imgsz=224)
    if not hasattr(torch, "get_autocast_dtype"):
        pytest.skip("this torch has no autocast by device")
    for device in ("rtx-3090", "v100"):
        assert info.predict(device, "pytorch", "amp").seconds > 0
    assert runs == ["shape", "shape"]


def test_what_depends_on_values_is_run_for_real_once(runs: List[str]) -> None:
    info: Any = model_info(Does(lambda m, x: x * 2 if x.sum() > 0 else m.weight), imgsz=32)
    assert info.error or info.mode == "real"
    model = Does(lambda m, x: x * 2 if x.sum() > 0 else m.weight)
    del runs[:]
    recorded: Recording = record(model, (torch.ones(4, 4),))
    assert recorded.layers.mode == "real" and recorded.layers.why
    assert runs == ["shape", "real"]
    assert len([call for call in recorded.calls if call.operator == "mul"]) == 1  # of the run that ended


def test_only_the_last_step_of_training_counts() -> None:
    """SGD with momentum and decay, by hand: five passes over the parameters read nine times their bytes."""
    if not hasattr(torch._C, "_current_autograd_node"):
        pytest.skip("a training step takes torch 2.1")
    found = training(nn.Sequential(nn.Linear(64, 32, bias=False)), torch.zeros(8, 64), amp=False)
    size = 64 * 32 * 4
    assert (found.optimizer.read_bytes, found.optimizer.written_bytes) == (9 * size, 5 * size)
    assert found.forward.flops == 2 * 8 * 64 * 32 and found.backward.flops == found.forward.flops


@pytest.mark.filterwarnings("ignore:Sparse")
def test_what_can_not_be_charged_is_named_and_the_count_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(tensor: Tensor) -> int:
        if tensor.layout is not torch.strided:
            raise NotImplementedError("a layout that nobody knows")
        return tensor.numel() * tensor.element_size()

    monkeypatch.setattr("utils.thop.count.record.stored_bytes", fails)
    table = torch.eye(4).to_sparse()
    counted = traffic(Does(lambda m, x: torch.sparse.mm(table, x).relu()), torch.ones(4, 4))
    assert any("a layout that nobody knows" in assumed for _, assumed in counted.uncounted.values())
    assert [call.bytes for call in counted.calls if call.operator == "relu"] == [128]


def test_a_recording_hears_nothing_of_itself() -> None:
    """Not the first time either, when sizes of types are looked up."""
    code = (
        "import torch; from torch import nn; from utils.thop.count.record import record\n"
        "made = [record(nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 8, 8),)) for _ in range(2)]\n"
        "assert made[0].calls == made[1].calls and made[0].peak_activation_bytes == made[1].peak_activation_bytes"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=str(ROOT))

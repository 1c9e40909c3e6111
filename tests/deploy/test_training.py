"""Training without values: against real steps under an independent tracker, PyTorch's counter, published figures."""

from __future__ import annotations

import csv
import gc
import importlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
import torchvision
from releases import ROOT, run_python, yolo_environment
from states import assert_same_state, state
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from tracker import Storages, measure, optimizer_of, scalar, step_of

from utils.thop import training
from utils.thop.command.cli import main
from utils.thop.command.criteria import suppression
from utils.thop.deploy import DeviceError
from utils.thop.deploy.devices import find_device
from utils.thop.deploy.fits import (
    AFTER_FIRST,
    AFTER_LAST,
    AT_MOST,
    SURE,
    answer_for,
    largest_batch,
    memory_in,
    parse_memory,
)
from utils.thop.deploy.steps import GIVEN, ON_VALUES
from utils.thop.deploy.training import Training, bucket_bytes
from utils.thop.deploy.training_time import REACH, step_seconds

Make = Callable[[], nn.Module]


def count(model: nn.Module, x: Tensor, optimizer: str = "SGD") -> Training:
    return training(model, (x,), amp=False, optimizer=optimizer, ema=False)


ZOO: dict[str, tuple[Make, tuple[int, ...]]] = {
    "resnet50": (lambda: torchvision.models.resnet50(weights=None), (2, 3, 128, 128)),
    "mobilenet_v3_large": (lambda: torchvision.models.mobilenet_v3_large(weights=None), (2, 3, 128, 128)),
    "convnext_tiny": (lambda: torchvision.models.convnext_tiny(weights=None), (2, 3, 96, 96)),
    "vit": (lambda: torchvision.models.VisionTransformer(96, 16, 4, 6, 192, 768), (2, 3, 96, 96)),
    # norms of maps whose channels lie last, which PyTorch's own meta kernels lay out in another order
    "caformer_s18": (lambda: pytest.importorskip("timm").create_model("caformer_s18"), (1, 3, 96, 96)),
}


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_the_peak_is_that_of_a_real_step(name: str, optimizer: str) -> None:
    make, shape = ZOO[name]
    torch.manual_seed(0)  # stochastic depth draws, and keeps as much either way
    model, x = make(), torch.zeros(shape)
    found = count(model, x, optimizer)
    peak, kept = measure(model, x, optimizer)
    assert found.peak == pytest.approx(peak, rel=1e-3)
    assert found.kept == pytest.approx(kept, rel=1e-3)
    assert not found.uncounted


@pytest.mark.parametrize(("cfg", "batch", "optimizer"), [("n", 1, "SGD"), ("n", 8, "Adam"), ("s", 2, "SGD")])
def test_so_it_is_for_yolov5(yolo: Callable[..., Any], cfg: str, batch: int, optimizer: str) -> None:
    model, x = yolo(f"yolov5{cfg}.yaml"), torch.zeros(batch, 3, 192, 192)
    before = state(model)
    found = count(model, x, optimizer)
    assert_same_state(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())
    peak, kept = measure(model, x, optimizer)
    assert found.peak == pytest.approx(peak, rel=1e-3)
    assert found.kept == pytest.approx(kept, rel=1e-3)
    parameters = sum(p.numel() for p in model.parameters())
    assert found.weights == found.gradients == 4 * parameters
    assert found.optimizer_state == pytest.approx((4 if optimizer == "SGD" else 8) * parameters, rel=1e-3)


@pytest.mark.parametrize("name", ["yolov5n", "resnet50"])
def test_torchs_profiler_sees_the_same_peak(yolo: Callable[..., Any], name: str) -> None:
    from torch.profiler._memory_profiler import Action

    model = yolo("yolov5n.yaml") if name == "yolov5n" else torchvision.models.resnet50(weights=None)
    x = torch.zeros(2, 3, 192, 192)
    found = count(model, x)
    stepper = optimizer_of("SGD", model.train())

    def step() -> None:
        out = model(x)
        loss = scalar(out)
        loss.backward()
        stepper.step()
        del out, loss
        stepper.zero_grad()

    step()
    with torch.profiler.profile(profile_memory=True, record_shapes=True, with_stack=True) as profiler:
        step()
    alive = peak = 0
    for _, action, _, size in profiler._memory_profile().timeline:
        alive += {Action.PREEXISTING: size, Action.CREATE: size, Action.DESTROY: -size}.get(action, 0)
        peak = max(peak, alive)
    assert found.peak == pytest.approx(peak, rel=0.03)


def test_frozen_layers_cost_less(yolo: Callable[..., Any]) -> None:
    model, x = yolo("yolov5n.yaml"), torch.zeros(2, 3, 192, 192)
    whole = count(model, x)
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(f"model.{i}." for i in range(10))):
            parameter.requires_grad_(False)
    frozen = count(model, x)
    peak, kept = measure(model, x)
    assert frozen.peak == pytest.approx(peak, rel=1e-3)
    assert frozen.kept == pytest.approx(kept, rel=1e-3)
    assert frozen.kept < 0.7 * whole.kept and frozen.gradients < whole.gradients
    assert frozen.backward.flops < whole.backward.flops


class Blocks(nn.Module):
    """Two blocks of convolutions; checkpointed ones are run again in the backward."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        layers = [layer for _ in range(4) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU())]
        self.first, self.second, self.last = nn.Sequential(*layers[:6]), nn.Sequential(*layers[6:]), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = checkpoint(self.second, x, use_reentrant=False) if self.checkpointed else self.second(x)
        out: Tensor = self.last(x)
        return out


def test_checkpoints_keep_less_and_compute_more() -> None:
    x = torch.zeros(2, 8, 64, 64)
    found = {}
    for checkpointed in (False, True):
        model = Blocks(checkpointed)
        found[checkpointed] = count(model, x)
        peak, kept = measure(model, x)
        assert found[checkpointed].peak == pytest.approx(peak, rel=0.01)
        assert found[checkpointed].kept == pytest.approx(kept, rel=0.01)
    assert found[True].kept < 0.7 * found[False].kept
    assert found[True].backward.flops > found[False].backward.flops


class Mixed(nn.Module):
    """A part without gradients, an activation in place, a storage that two keep."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed, self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.fixed(x).sigmoid()
        x = nn.functional.relu_(self.conv(x))
        out: Tensor = self.out(torch.cat((x, x.flip(1)), 1))
        return out


def test_parts_without_gradients_and_in_place() -> None:
    model, x = Mixed(), torch.zeros(2, 3, 48, 48)
    found = count(model, x)
    peak, kept = measure(model, x)
    assert (found.peak, found.kept) == (pytest.approx(peak, rel=1e-3), pytest.approx(kept, rel=1e-3))
    assert found.gradients == 4 * sum(p.numel() for m in (model.conv, model.out) for p in m.parameters())


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(100, 4)

    def forward(self, x: Tensor) -> Any:
        return self.out(self.layer(x)[0][..., :100])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
def test_recurrent_layers_keep_what_they_do(kind: Any, options: dict[str, Any]) -> None:
    for hidden, shape in ((100, (50, 4, 32)), (256, (7, 3, 300))):
        model, x = Recurrent(kind(shape[2], hidden, **options)), torch.zeros(shape)
        found, (peak, kept) = count(model, x), measure(model, x)
        assert (found.peak, found.kept) == (pytest.approx(peak, rel=1e-3), pytest.approx(kept, rel=1e-3))
        assert "recurrent layers" not in found.uncounted
    under_amp = training(model, x)
    assert "cuDNN" in under_amp.uncounted["recurrent layers"][1]
    assert "Recurrent layers: kept as on a CPU; what cuDNN keeps in its place is not known." in str(under_amp)


# ---- work ----


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_large", "convnext_tiny"])
def test_flops_are_those_of_pytorchs_counter(name: str) -> None:
    make, shape = ZOO[name]
    model, x = make().train(), torch.zeros(shape)
    found = count(model, x)
    forward = FlopCounterMode(display=False)
    with forward:
        loss = scalar(model(x))
    backward = FlopCounterMode(display=False)
    with backward:
        loss.backward()
    assert found.forward.flops == forward.get_total_flops()
    assert found.backward.flops == backward.get_total_flops()
    for phase in (found.forward, found.backward, found.optimizer):
        assert sum(flops for _, flops, _ in phase.layers) == phase.flops
        assert sum(moved for _, _, moved in phase.layers) == phase.bytes == sum(call.bytes for call in phase.calls)


def test_the_backward_belongs_to_the_layers_that_went_forward() -> None:
    model = torchvision.models.resnet18(weights=None)
    found = count(model, torch.zeros(1, 3, 64, 64))
    forward = {path: flops for path, flops, _ in found.forward.layers if flops}
    backward = {path: flops for path, flops, _ in found.backward.layers if flops}
    assert forward.keys() == backward.keys()
    first = {"conv1"}  # whose input needs no gradient
    assert all(backward[path] == (1 if path in first else 2) * flops for path, flops in forward.items())


# ---- autocast ----


def test_autocast_keeps_what_a_real_one_does() -> None:
    """Where the lists of CUDA and the CPU agree: convolutions, matrix products, norms of batches, activations."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 28 * 28, 64), nn.Linear(64, 10),
    )  # fmt: skip
    x = torch.zeros(4, 3, 32, 32)
    found = training(model, (x,), amp=True, ema=False, foreach=False)

    def forward(model: nn.Module, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x)

    peak, kept = measure(model, x, forward=forward)
    assert found.peak == pytest.approx(peak, rel=0.01)  # ours is in blocks of 512 bytes
    assert found.kept == pytest.approx(kept, rel=0.02)
    assert not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda")


def test_autocast_halves_most_of_it(yolo: Callable[..., Any]) -> None:
    model, x = yolo("yolov5s.yaml"), torch.empty(8, 3, 320, 320, device="meta")
    half, single = training(model, (x,)), training(model, (x,), amp=False)
    assert 0.5 < half.kept / single.kept < 0.6
    assert half.ema == half.weights + half.buffers
    assert half.peak % 512 == 0


def test_it_takes_no_memory_to_speak_of(yolo: Callable[..., Any]) -> None:
    found = training(yolo("hub/yolov5x6.yaml"), (torch.empty(16, 3, 1280, 1280, device="meta"),))
    assert 40e9 < found.peak < 60e9 and found.peak_at[0] in ("forward", "backward")


# ---- what a GPU reserves ----


MMYOLO = ("yolov5s", "yolov5l", "yolov5s-seg", "yolov5l-seg")


def test_published_reserved_memory(release_7: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from training_memory import TABLE, peak_of

    with TABLE.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    of_mmyolo = [row for row in rows if row["repo_version"] == "mmyolo" and row["model"] in MMYOLO]
    assert len(of_mmyolo) == len(MMYOLO)
    for row in of_mmyolo:  # a loss of its own takes the rest, but for masks, which are counted
        off = 0.02 if "-seg" in row["model"] else 0.08
        assert peak_of(row) == pytest.approx(1e9 * float(row["reported_last_GB"]), rel=off)
    of_v7 = [row for row in rows if row["model"] == "yolov5s" and row["repo_version"].startswith("v7.0")]
    assert len(of_v7) >= 3
    for row in of_v7:
        peak = peak_of(row)
        for reserved, name in ((AFTER_FIRST, "first_epoch"), (AFTER_LAST, "last")):
            part = 1e9 * float(row[f"reported_{name}_GB"]) / reserved.at(peak)
            assert reserved.low < part < reserved.high


def test_as_much_is_reserved_as_there_is() -> None:
    """Small peaks have the most beside them, and none is more than what is reserved."""
    for reserved in (AFTER_FIRST, AFTER_LAST):
        parts = [reserved.at(peak) / peak for peak in (1e8, 1e9, 1e10, 1e12)]
        assert parts == sorted(parts, reverse=True) and parts[-1] == 1


# ---- what fits ----


def line(batch: int, accumulate: int = 1) -> Training:
    """A made-up training: 1 GB, and 0.5 GB an image."""
    from utils.thop.count.phases import Phase

    phases = [Phase() for _ in range(5)]
    peak = int(1e9 + 0.5e9 * batch)
    return Training(0, 0, 0, 0, 0, 0, [], peak, ("", ""), *phases, batch=batch, accumulate=accumulate)


def test_the_three_answers() -> None:
    assert [answer_for(peak, 10e9) for peak in (8e9, SURE * 10e9, 9.2e9, AT_MOST * 10e9, 9.8e9)] == [
        "fits", "fits", "may fit", "may fit", "does not",
    ]  # fmt: skip
    assert line(1).fits("24GB") == "fits" and line(100).fits(24e9) == "does not"
    with pytest.raises(DeviceError, match="8GB"):
        line(1).fits(0)


def test_the_largest_batch_by_hand() -> None:
    counted: list[int] = []

    def count(batch: int) -> Training:
        counted.append(batch)
        return line(batch)

    for memory in (8e9, 12e9, 24e9, 1000e9):
        counted.clear()
        found = largest_batch(count, memory)
        assert found.training.peak <= SURE * memory < line(found.batch + 1).peak
        assert len(counted) == len(set(counted)) <= 7
    assert largest_batch(line, 1.5e9).batch == 0

    def bent(batch: int) -> Training:
        return line(batch * batch)

    assert largest_batch(bent, 100e9).batch == 13  # 1 + 0.5 x 13 x 13 = 85.5 of 88; of 14 it is 99


def test_gradients_of_earlier_batches_vanish_from_43_images_on() -> None:
    def count(batch: int) -> Training:
        found = line(batch, max(round(64 / batch), 1))
        found.peak += 10**10 * (found.accumulate > 1)
        return found

    assert largest_batch(count, 24e9 / SURE).batch == 46  # of 42 it is 32 GB, of 43 it is 22.5
    assert largest_batch(count, 22e9 / SURE).batch == 22


def test_sizes_are_read() -> None:
    found = [parse_memory(text) for text in ("10GB", "10 gb", "11.5G", "8000MB", "24", "16GiB", "much", "-3GB", "0")]
    assert found[:5] == pytest.approx([10.6e9, 10.6e9, 12.19e9, 8.48e9, 25.44e9])
    assert found[5:] == [16 * 2**30, None, None, None]
    assert memory_in(5e9) == 5e9 and memory_in("1GB") == 1.06e9
    for wrong in ("much", -1, 24, float("nan"), True, None):
        with pytest.raises(DeviceError, match="memory must be bytes, or a size"):
            memory_in(wrong)  # type: ignore[arg-type]


def test_the_batches_that_timm_has_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ladder's 32 pairs these few; `python benchmarks/fits.py` judges all."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pytest.importorskip("timm")
    from fits import RTX_3090, answers, pairs, shares

    rows = [row for row in pairs() if row["model"] in ("convnext_tiny", "densenet121", "resnet101", "vgg16")]
    assert len(rows) == 4
    assert [answers(shares(row)) for row in rows] == [("fits", "does not")] * 4
    assert find_device("rtx-3090").memory == RTX_3090


def test_the_time_of_a_step() -> None:
    model = torchvision.models.resnet50(weights=None)
    found = training(model, (torch.empty(192, 3, 224, 224, device="meta"),))
    measured, basis = step_seconds(found, find_device("rtx-3090"))
    guessed, other = step_seconds(found, find_device("rtx-3060"))
    assert measured < guessed and "measured" in basis and "data sheet" in other
    assert 600 < 192 / measured < 1100  # images a second; resnet101 was measured at 571
    with pytest.raises(DeviceError):
        step_seconds(found, find_device("rk3562"))


def test_the_times_that_timm_has_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 44 networks these few; `python benchmarks/training_speed.py` judges all, each left out in turn."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pytest.importorskip("timm")
    from fits import TABLE
    from training_speed import counted

    with TABLE.open(newline="") as lines:
        rows = [r for r in csv.DictReader(lines) if r["model"] in ("densenet121", "resnet101", "vgg16", "mnasnet_140")]
    assert len(rows) == 4
    for row in rows:
        seconds, _ = step_seconds(counted(row), find_device("rtx-3090"))
        assert 1 / REACH < seconds / (float(row["published_step_ms"]) / 1e3) < REACH


# ---- mistakes, and the command ----


def test_what_can_not_be_trained() -> None:
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(DeviceError, match="no optimizer is called 'Lion', only SGD, Adam, AdamW, RMSProp"):
        training(nn.Conv2d(3, 4, 1), (x,), optimizer="Lion")
    with pytest.raises(DeviceError, match="no parameter of the model requires gradients"):
        training(nn.Conv2d(3, 4, 1).requires_grad_(False), (x,))
    with pytest.raises(ValueError, match="mine"):
        training(Raises(), (x,))


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("mine")


def test_the_command(capsys: pytest.CaptureFixture[str], release_7: Any) -> None:
    cfg = str(release_7 / "yolov5" / "models" / "yolov5n.yaml")
    arguments = ["train", cfg, "--imgsz", "320", "--batch", "4", "--device", "t4", "--images", "1000", "--epochs", "3"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert not err
    first, second, *lines = out.splitlines()
    assert first.startswith("yolov5n at 4x3x320x320, autocast to float16, SGD: ")
    assert second.startswith("batch 4 fits into NVIDIA T4 (15.84e9 bytes); the largest that surely does is ")
    assert "kept by the forward for the backward" in out and "prints as GPU_mem" in " ".join(out.split())
    assert "in the validation" in first and "Validation: at most as much" in out  # so small are the images
    assert "Loss: ComputeLoss on made-up objects, 20 an image, as it is." in lines
    assert "an epoch of 1000 images" in out and "3 epochs" in out and "without loading images" in out
    assert max(map(len, out.splitlines())) <= 120 and len(out.splitlines()) <= 40


def test_the_command_on_several_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["train", "torchvision:resnet18", "--imgsz", "64", "--gpus", "2", "--device", "t4", "--images", "640"]
    assert main([*given, "--batch", "32", "--sync-bn"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("resnet18 at 16x3x64x64") and "batch 16 of 32, on each of 2 GPUs, fits into NVIDIA T4" in out
    assert "gradients in buckets (DDP)" in out and "what GPUs exchange" in out and " each, with " in out
    told = {}
    for gpus in ("1", "2"):
        assert main([*given[:4], "--no-val", "--batch", "-1", "--memory", "4GB", "--gpus", gpus, "--json"]) == 0
        told[gpus] = json.loads(capsys.readouterr().out)
        told[gpus].update(told[gpus].pop("totals"))
    assert told["2"]["gpus"] == 2 and told["2"]["buckets"] > 46e6 and not told["1"]["buckets"]
    assert told["1"]["largest_batch"] > told["2"]["largest_batch"] > 0.5 * told["1"]["largest_batch"]


def test_what_the_command_proposes(capsys: pytest.CaptureFixture[str], release_7: Any) -> None:
    cfg = str(release_7 / "yolov5" / "models" / "yolov5n.yaml")
    given = ["train", cfg, "--imgsz", "320", "--no-val", "--optimizer", "adamw", "--memory", "0.4GB"]
    assert main([*given, "--batch", "16"]) == 0
    out = capsys.readouterr().out
    assert "batch 16 does not fit into 0.424e9 bytes" in out
    assert "at 256 x 256 it is " in out and "It fits with --freeze 10: " in out and "use_reentrant=False" in out
    assert main([*given, "--batch", "-1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    told = {**told, **told["totals"]} if "totals" in told else told
    assert told["fits"] == "fits" and told["batch"] == told["largest_batch"] and told["optimizer_name"] == "AdamW"
    assert told["accumulate"] == max(round(64 / told["batch"]), 1) and told["memory"] == pytest.approx(0.4 * 1.06e9)
    assert main(["train", "torchvision:resnet18", "--inputs", "3,3,64,64", "--json"]) == 0
    assert '"batch": 3' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "status", "complaint"),
    [
        (["--memory", "much"], 2, "must be a size such as 8GB"),
        (["--device", "toaster"], 2, "no device is called 'toaster'"),
        (["--device", "rk3588"], 2, "give --memory"),
        (["--optimizer", "Lion"], 2, "no optimizer is called 'Lion', only SGD"),
        (["--batch", "15", "--gpus", "2"], 2, "--batch 15 must be a multiple of --gpus 2"),
        (["--batch", "-1"], 2, "--batch -1 is the largest that fits: give --memory"),
        (["--batch", "-1", "--memory", "0.1GB"], 2, "no batch fits into"),
        (["--imgsz", "256"], 1, "Wrong image height! Expected 224 but got 256!"),
    ],
)
def test_mistakes(wrong: list[str], status: int, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "torchvision:vit_b_16", *wrong]) == status
    out, err = capsys.readouterr()
    assert complaint in err and len(err.splitlines()) == 1 and not out


TEN = ["resnet18", "resnet34", "vgg11", "alexnet", "squeezenet1_0", "squeezenet1_1", "mobilenet_v3_small",
       "mobilenet_v3_large", "shufflenet_v2_x0_5", "yolov5n"]  # fmt: skip


@pytest.mark.parametrize("name", TEN)
def test_the_largest_batch_of_a_training(name: str, yolo: Callable[..., Any]) -> None:
    """Of ten networks and three memories: it fits, and one image more does not surely."""
    model = yolo("yolov5n.yaml") if name == "yolov5n" else torchvision.models.get_model(name)

    found = training(model, torch.empty(4, 3, 64, 64, device="meta"), optimizer="adamw", accumulate=None)
    assert found.recount is not None
    found.recount, batches = lru_cache(None)(found.recount), []  # three searches come by the same batches
    for memory in ("0.4GB", 3e9, "24GB"):
        largest = found.largest_batch(memory)
        batches.append(largest.batch)
        assert largest.training.batch == max(largest.batch, 1)
        assert (largest.training.fits(memory) == "fits") == (largest.batch > 0)
        assert found.recount(largest.batch + 1).fits(memory) != "fits"
    assert batches == sorted(batches) and batches[2] > 7 * batches[1]


def test_the_largest_batch_of_a_model_that_is_gone() -> None:
    model: Any = torchvision.models.resnet18()
    found = training(model, torch.zeros(4, 3, 64, 64, device="meta"))
    with pytest.raises(DeviceError, match="8GB"):
        found.largest_batch("much")
    del model
    gc.collect()
    with pytest.raises(RuntimeError, match="keep it in a variable"):
        found.largest_batch(3e9)


# ---- the step that a loop really takes ----


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_of_earlier_batches_are_alive(yolo: Callable[..., Any], accumulate: int) -> None:
    model, x = yolo("yolov5s.yaml"), torch.zeros(2, 3, 192, 192)
    found = training(model, (x,), amp=False, ema=False, accumulate=accumulate)
    assert found.peak == pytest.approx(measure(model, x, accumulate=accumulate)[0], rel=1e-3)
    assert found.accumulate == accumulate


@pytest.mark.parametrize("cfg", ["yolov5n.yaml", "yolov5s.yaml"])
def test_buckets_of_several_gpus(cfg: str, yolo: Callable[..., Any], tmp_path: Path) -> None:
    """One process alone has them too; YOLOv5's smart_DDP says that the graph is static, and nothing of views."""
    distributed = pytest.importorskip("torch.distributed")
    torch.manual_seed(0)
    model, x = yolo(cfg), torch.zeros(2, 3, 160, 160)
    for parameter in model.model[0].parameters():
        parameter.requires_grad_(False)
    found, alone = training(model, x, amp=False, ema=False, gpus=2), count(model, x)
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model, static_graph=True)
        real, _ = measure(model, x, forward=lambda _, images: wrapped(images))
    finally:
        distributed.destroy_process_group()
    assert found.peak == pytest.approx(real, rel=1e-3)
    assert found.buckets == found.gradients == found.peak - alone.peak > 0.1 * alone.peak


@pytest.mark.parametrize("name", ["resnet50", "vgg11", "mobilenet_v2"])
def test_buckets_are_those_of_pytorch(name: str) -> None:
    distributed = pytest.importorskip("torch.distributed")
    model = torchvision.models.get_model(name)
    given = list(model.parameters())[::-1]
    buckets, _ = distributed._compute_bucket_assignment_by_size(given, [2**20, 25 * 2**20], [False] * len(given))
    sizes = [sum(4 * given[i].numel() for i in bucket) for bucket in buckets]
    assert len(sizes) > 1 and bucket_bytes(model, 512) == sum(512 * -(-size // 512) for size in sizes)


def test_what_several_gpus_share() -> None:
    model = nn.Sequential(nn.Conv2d(3, 200, 1), nn.BatchNorm2d(200), nn.Conv2d(200, 8, 1), nn.BatchNorm2d(8))
    x = torch.empty(8, 3, 8, 8, device="meta")
    alone, found, synced = training(model, x), training(model, x, gpus=4), training(model, x, gpus=4, sync_bn=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert found.buckets == 512 * -(-4 * parameters // 512) == found.peak - alone.peak and not found.statistics
    gathered = 512 * -(-4 * 4 * (2 * 200 + 1) // 512)  # of each GPU means, deviations and a count, as floats
    assert synced.statistics == 2 * 512 + 2 * gathered == synced.peak - found.peak
    assert training(model, x, accumulate=None, gpus=4).accumulate == 2
    assert not training(model, x, sync_bn=True).statistics
    assert found.recount is not None and found.recount(2).gpus == 4
    assert {"gradients in buckets (DDP)", "gathered statistics (SyncBatchNorm)"} <= synced.parts().keys()
    with pytest.raises(DeviceError, match="gpus must be a whole number from 1 up, not 0"):
        training(model, x, gpus=0)


def test_as_many_batches_as_train_py_takes() -> None:
    model = nn.Conv2d(3, 4, 1)
    found = {batch: training(model, torch.zeros(batch, 3, 8, 8), accumulate=None).accumulate for batch in (4, 42, 43)}
    assert found == {4: 16, 42: 2, 43: 1}
    with pytest.raises(DeviceError, match="accumulate must be a whole number from 1 up, not 0"):
        training(model, torch.zeros(1, 3, 8, 8), accumulate=0)


def test_the_outputs_of_the_last_step_live_until_they_are_replaced() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 64, 1)), torch.zeros(4, 3, 32, 32)
    found, (peak, _) = count(model, x), measure(model, x)
    assert found.peak == peak
    outputs = 4 * 64 * 32 * 32 * 4
    assert found.peak > 2 * outputs


# ---- the checkout's own loss ----


LOSSES = {
    "v7.0": "yolov5/models/yolov5n.yaml",
    "v7.0 segmentation": "yolov5/models/segment/yolov5n-seg.yaml",
    "yolov8": "ultralytics:yolov8n.yaml",
    "yolov8 segmentation": "ultralytics:yolov8n-seg.yaml",
    "yolov9": "ultralytics:yolov9t.yaml",
    "yolo11 pose": "ultralytics:yolo11n-pose.yaml",
    "rtdetr": "ultralytics:rtdetr-l.yaml",
    "torchvision": "torchvision:resnet18",
    "v3.1": "yolov5-v3.1/models/yolov5s.yaml",
    "v1.0": "yolov5-v1.0/models/yolov5s.yaml",
    "yolov7": "yolov7/cfg/training/yolov7-tiny.yaml",
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_with_the_loss_of_a_checkout(name: str, release_7: Any, tmp_path: Path) -> None:
    text = LOSSES[name]
    if text.startswith("yolov5/"):
        told = step_of(str(release_7 / text), 2, 160)
    elif ":" in text:
        pytest.importorskip(text.partition(":")[0])
        told = step_of(text, 2, 160)
    else:  # of a checkout that goes into no process which has another
        path = Path(os.environ.get("YOLOV5_CHECKOUTS", "")) / text
        if not path.is_file():
            pytest.skip(f"YOLOV5_CHECKOUTS names no folder with {text}")
        command = ["-W", "ignore", str(ROOT / "tests" / "tracker.py"), str(path), "2", "160"]
        told = json.loads(run_python(command, tmp_path, yolo_environment(tmp_path)).stdout.splitlines()[-1])
    assert told["counted"] == pytest.approx(told["measured"], rel=0.01)
    assert told["kept"] == pytest.approx(told["really_kept"], rel=0.01)
    assert told["loss"] == (ON_VALUES if name.startswith(("yolo", "rtdetr")) else GIVEN)
    assert told["counted"] > told["summed"] or name in ("torchvision", "v1.0", "v3.1")


def near(out: Tensor, targets: Tensor) -> Tensor:
    return (out - targets).square().mean()


def chosen(out: Tensor) -> Tensor:
    """A loss that decides by values."""
    return out[out > out.mean()].square().sum()


def test_a_loss_of_ones_own() -> None:
    torch.manual_seed(0)  # how many values are larger than their mean depends on the weights
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)), torch.zeros(4, 3, 24, 24)
    targets = torch.ones(4, 8, 22, 22)
    found = training(model, x, amp=False, ema=False, loss=near, targets=targets)
    real, _ = measure(model, x, loss=lambda out: near(out, targets), made=[targets])
    assert found.peak == pytest.approx(real, rel=1e-3) and found.loss_was == GIVEN
    twice = training(model, torch.cat((x, x)), amp=False, ema=False, loss=near, targets=torch.cat((targets, targets)))
    assert found.recount is not None and found.recount(8).peak == twice.peak

    state_before = torch.get_rng_state()
    by_values = training(model, x, amp=False, ema=False, loss=chosen)
    assert by_values.loss_was == ON_VALUES and torch.equal(torch.get_rng_state(), state_before)
    assert by_values.peak > found.weights + found.gradients
    real, _ = measure(model, x, loss=chosen)
    assert by_values.peak == pytest.approx(real, rel=0.05)  # half of the values are larger than their mean, or all are

    with pytest.raises(ZeroDivisionError):
        training(model, x, loss=lambda out: 1 / 0)
    with pytest.raises(DeviceError, match="the loss returns no tensor with a gradient, but a int"):
        training(model, x, loss=lambda out: 1)


def test_a_validation_is_a_phase_of_its_own(yolo: Callable[..., Any]) -> None:
    model, x = yolo("yolov5n.yaml"), torch.empty(2, 3, 160, 160, device="meta")
    found, without = training(model, x, validate=True), training(model, x)
    assert found.validation.flops == 2 * found.forward.flops and not without.validation.flops
    assert found.peak == without.peak  # which is larger in the backward
    few = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(inplace=True)).requires_grad_(False)
    few.append(nn.Conv2d(64, 1, 1))
    x = torch.zeros(4, 3, 64, 64)
    larger = training(few, x, amp=False, validate=True)
    assert larger.peak_at == ("validation", "2")
    real = measure_validation(few, x)
    assert larger.peak - larger.ema == pytest.approx(real, rel=1e-3)


def test_suppression_takes_what_the_real_one_does(release_7: Any) -> None:
    """But for the bits of CUDA's kernel."""
    suppress = importlib.import_module("yolov5.utils.general").non_max_suppression
    for boxes, classes in ((3000, 20), (3000, 1), (300, 80)):
        predictions = 0.3 + torch.rand(1, boxes, 5 + classes) / 2
        predictions[..., :4] *= torch.tensor([600, 600, 20, 20])
        with Storages() as tracker:
            suppress(predictions, 0.001, 0.6, multi_label=True)
        bits = min(boxes * classes, 30_000) ** 2 // 8
        said = suppression((predictions, [predictions[..., None]])).nbytes - bits
        assert tracker.peak <= said <= 1.3 * tracker.peak
    assert suppression(torch.zeros(2, 1000)) is None


def test_a_validation_may_be_followed_by_more() -> None:
    few, x = nn.Sequential(nn.Conv2d(3, 64, 1)), torch.zeros(4, 3, 64, 64)
    found = [training(few, x, amp=False, validate=more) for more in (True, lambda out: (out, out.clone()))]
    assert found[1].peak_at == ("validation", "")
    assert found[1].peak - found[0].peak == 4 * 8 * (64 - 3) * 64**2  # in the images' place


def measure_validation(model: nn.Module, x: Tensor) -> int:
    """The peak of a forward on twice as many images, beside what a loop holds after a step."""
    model.train()
    stepper, tracker = optimizer_of("SGD", model), Storages()
    for tensor in (*model.parameters(), *model.buffers(), x):
        tracker.note(tensor)
    with tracker:
        for _ in range(2):
            out = model(x)
            loss = out.sum()
            loss.backward()
            stepper.step()
            stepper.zero_grad()
        tracker.peak = 0
        with torch.no_grad():
            more = x.new_empty((2 * len(x), *x.shape[1:]))
            model.eval()(more)
    return tracker.peak


# ---- checkpointing, to fit ----


def test_a_proposal_takes_what_it_promises(yolo: Callable[..., Any]) -> None:
    """At a memory that holds half of the batch; the snippet makes a real step take no more."""
    model, x = yolo("yolov5m.yaml"), torch.zeros(4, 3, 128, 128)
    found = training(model, x, amp=False, ema=False)
    memory = training(model, x[:2], amp=False, ema=False).peak / SURE
    assert found.fits(memory) != "fits" and found.checkpoint_to_fit(10 * memory) is None
    proposal = found.checkpoint_to_fit(memory)
    assert proposal is not None and proposal.training.fits(memory) == "fits"
    assert proposal.saved == found.peak - proposal.training.peak > 0 and 1 < proposal.work < 1.4
    exec(proposal.snippet, {"model": model})
    peak, _ = measure(model, x)
    assert proposal.training.peak == pytest.approx(peak, rel=0.01)


def test_checkpointed_modules() -> None:
    model, x = Blocks(False), torch.zeros(2, 8, 64, 64)
    found = training(model, x, amp=False, ema=False, checkpoint=["second"])
    assert found.peak == pytest.approx(measure(Blocks(True), x)[0], rel=0.01)
    assert "forward" not in vars(model.second) and training(model, x, checkpoint=["second"]).amp
    for wrong in (["third"], [""], "second"):
        with pytest.raises(DeviceError, match="checkpoint"):
            training(model, x, checkpoint=wrong)
    del model
    gc.collect()
    with pytest.raises(RuntimeError, match="keep it in a variable"):
        found.checkpoint_to_fit("1GB")


class Counts:
    """A loss that writes to itself, to its weights and to what it is given."""

    def __init__(self, by_values: bool) -> None:
        self.by_values, self.calls, self.weight = by_values, 0, torch.ones(8)
        self.seen: list[Tensor] = []

    def __call__(self, out: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(out)
        self.weight.mul_(2)
        targets.zero_()
        return (out[out > 0] if self.by_values else out).sum() * self.weight.sum()


@pytest.mark.parametrize("by_values", [False, True])
def test_a_loss_and_its_targets_are_as_before(by_values: bool) -> None:
    model, loss, targets = nn.Conv2d(3, 8, 1), Counts(by_values), torch.ones(2)
    found = training(model, torch.zeros(2, 3, 8, 8), loss=loss, targets=targets)
    assert found.loss_was == (ON_VALUES if by_values else GIVEN)
    assert not loss.calls and not loss.seen and loss.weight.eq(1).all() and targets.eq(1).all()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("ultralytics:yolo11n-seg.yaml", "Loss: v8SegmentationLoss on made-up objects, 20 an image, run with made-up"),
        ("torchvision:resnet18", "Loss: cross entropy on made-up labels, as it is."),
        (
            "ultralytics:yolo26n-depth.yaml",
            "Loss: the sum of the outputs stands in, as DepthLoss26 can't be run: KeyError",
        ),
    ],
)
def test_the_command_says_what_the_loss_was(model: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(model.partition(":")[0])
    assert main(["train", model, "--imgsz", "160", "--batch", "2", "--no-val"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_head_that_writes_to_its_list_is_not_checkpointed(yolo: Any) -> None:
    """It could not be computed again: its maps are gone. Nor does a memory that nothing fits into raise anything."""
    model = yolo("yolov5n.yaml").train().requires_grad_(True)
    found = training(model, torch.empty(4, 3, 256, 256, device="meta"), optimizer="SGD")
    proposal = found.checkpoint_to_fit(0.6 * found.peak / 0.88)
    assert proposal is not None and not any(name.startswith("model.24") for name in proposal.modules)
    assert found.checkpoint_to_fit(2e6) is None
    with pytest.raises(DeviceError, match='memory must be bytes, or a size such as "8GB", not 24'):
        found.fits(24)

"""The clock: a launch by hand, constants found again from times made with them, and the published tables."""

from __future__ import annotations

import math
import queue
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
import torchvision
from releases import ROOT
from torch import nn

from utils.thop import calibrate, deployed, predict
from utils.thop.deploy import DeviceError
from utils.thop.deploy.clock import Constants, seconds_of, time_launches, work_of
from utils.thop.deploy.devices import find_device, load_devices
from utils.thop.deploy.fitting import Measured, fit, fit_scale, fit_together, mean_factor, spread_of
from utils.thop.deploy.launches import Deployed
from utils.thop.deploy.measurements import FOLDER, NETWORKS, find_measurement, published
from utils.thop.deploy.runtimes import RUNTIMES

NAMES = ("resnet18", "resnet50", "mobilenet_v2", "vgg11", "densenet121", "squeezenet1_0", "shufflenet_v2_x1_0",
         "efficientnet_b0", "regnet_x_400mf", "mnasnet0_5", "googlenet", "alexnet")  # fmt: skip


def conv_net() -> nn.Module:
    """3 x 3 from 4 to 8 channels, a norm, SiLU: 2 x 64 x 36 x 8 FLOPs on 8 x 8."""
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU())


X = torch.zeros(1, 4, 8, 8)


@pytest.fixture(scope="module")
def zoo() -> list[Deployed]:
    """Networks of torchvision as RKNN would run them."""
    options: dict[str, dict[str, Any]] = {"googlenet": {"init_weights": False}}
    models = [torchvision.models.get_model(name, weights=None, **options.get(name, {})).eval() for name in NAMES]
    return [deployed(model, (torch.zeros(1, 3, 224, 224),), "rknn") for model in models]


# ---- by hand ----


@pytest.mark.parametrize(
    ("runtime", "precision", "expected"),
    [
        # one launch: 36,864 FLOPs; 256 read, 512 written, 288 weights and 8 biases
        ("tensorrt", "float16", [max(36864 / 1e9, 2 * 1064 / 1e6)]),
        ("tensorrt", "int8", [max(36864 / 1e9, 1064 / 1e6)]),
        # SiLU in a pass of its own
        ("rknn", "int8", [1064 / 1e6, 1024 / 1e6]),
        # 3 x 3 and stride 1: twice the peak; float32
        ("ncnn", "float32", [max(36864 / 2 / 1e9, 4 * 1064 / 1e6)]),
        # nothing fused, in half precision: 1,056 elements, and layout changes of 2 x (256 + 512); a norm of 512 and 32
        # constants (float32 stays what it is in none of them); SiLU
        ("pytorch", "float16", [2 * 1056 / 1e6 + 2 * 2 * 768 / 1e6, 2 * (1024 + 32) / 1e6, 2 * 1024 / 1e6]),
        ("pytorch-cpu", "float32", [4 * 1056 / 1e6, 4 * (1024 + 32) / 1e6, 4 * 1024 / 1e6]),
    ],
)
def test_launches_by_hand(runtime: str, precision: str, expected: list[float]) -> None:
    network = deployed(conv_net(), (X,), runtime)
    works = work_of(network, precision)
    constants = Constants(1e9, 1e6)
    found = [one.seconds for one in time_launches(network, works, constants)]
    assert found == pytest.approx(expected)
    assert seconds_of(works, constants) == pytest.approx(sum(expected))
    with_starts = seconds_of(works, constants._replace(overhead=0.5))
    assert with_starts == pytest.approx(sum(expected) + 0.5 * len(expected))
    assert seconds_of(works, constants._replace(host=7.0)) == pytest.approx(7.0 * len(expected))


def test_what_binds() -> None:
    network = deployed(conv_net(), (X,), "tensorrt")
    works = work_of(network, "float16")
    for constants, binds in (
        (Constants(1e3, 1e9), "arithmetic"),
        (Constants(1e9, 1e3), "memory"),
        (Constants(1e9, 1e9, overhead=1.0), "starting launches"),
        (Constants(1e9, 1e9, host=1.0), "starting launches"),
    ):
        (one,) = time_launches(network, works, constants)
        assert one.binds == binds
        assert one.seconds == pytest.approx(seconds_of(works, constants))


def test_slices_are_copied_where_a_runtime_does() -> None:
    class Halves(nn.Module):
        def forward(self, x: Any) -> Any:
            a, b = torch.relu(x).chunk(2, 1)
            return torch.relu(a) + torch.nn.functional.max_pool2d(b, 1) + torch.nn.functional.max_pool2d(a, 1)

    network = deployed(Halves(), (X,), "tensorrt")
    works = work_of(network, "int8")
    assert sum(work.starts for work in works) - len(works) == 2  # each half once
    assert sum(work.passes for work in works) == 2 * 256
    assert not sum(work.passes for work in work_of(deployed(Halves(), (X,), "rknn"), "int8"))


# ---- autocast ----


def test_autocast_casts_what_pytorch_casts() -> None:
    """Float16 in place of float32 by the lists of CUDA, and copies of what is cast; the model sees these types."""
    heard: Any = queue.SimpleQueue()  # where a run puts nothing back

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.scale = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Parameter(torch.ones(8, 1, 1))
            self.layer_norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 6)

        def forward(self, x: Any) -> Any:
            seen: dict[str, torch.dtype] = {}
            seen["conv"] = (x := self.conv(x)).dtype
            seen["norm"] = (x := self.norm(x)).dtype
            seen["scaled"] = (x * self.scale).dtype
            seen["layer norm"] = self.layer_norm(x).dtype
            seen["softmax"] = x.softmax(1).dtype
            seen["linear"] = (y := self.linear(x * self.scale)).dtype
            seen["sum"], seen["power"], seen["product"] = y.sum().dtype, (y**2).dtype, (y @ y.transpose(2, 3)).dtype
            seen["upsampled"] = nn.functional.interpolate(y, scale_factor=2).dtype
            q = y.reshape(1, 2, 4, 36)
            seen["attention"] = nn.functional.scaled_dot_product_attention(q.float(), q.float(), q.float()).dtype
            with torch.autocast("cpu", enabled=False):
                seen["disabled"] = self.linear(x.float()).dtype
            heard.put(seen)
            return y

    model = Mixed().eval()
    network = deployed(model, (X,), "pytorch").under(RUNTIMES["pytorch"], "amp")
    seen = [heard.get() for _ in range(heard.qsize())][-1]
    half, single = torch.float16, torch.float32
    assert seen == {
        "conv": half, "norm": half, "scaled": single, "layer norm": single, "softmax": single, "linear": half,
        "sum": single, "power": single, "product": half, "upsampled": half, "attention": half, "disabled": single,
    }  # fmt: skip
    names = [name for launch in network.launches for name in launch.operators]
    assert names[:3] == ["_to_copy"] * 3 and names[3] == "convolution", names
    assert "scaled_dot_product_attention" in names
    assert not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda")


# ---- fitting ----


def made_up(zoo: list[Deployed], constants: Constants, noise: float = 0.0) -> list[tuple[Deployed, float]]:
    """Times by the constants, some of them off by the noise, up and down in turns."""
    times = [seconds_of(work_of(network, "int8"), constants) for network in zoo]
    return [(network, time * math.exp(noise * (-1) ** i)) for i, (network, time) in enumerate(zip(zoo, times))]


@pytest.mark.parametrize(
    "constants",
    [Constants(2e12, 7e9), Constants(5e10, 1e10), Constants(1e13, 2e8), Constants(3e12, 8e9, softmax=4e7)],
)
def test_constants_are_found_again(zoo: list[Deployed], constants: Constants) -> None:
    found = calibrate(made_up(zoo, constants), "int8")
    again = made_up(zoo, found.constants)
    for (_, right), (_, time) in zip(made_up(zoo, constants), again):
        assert time == pytest.approx(right, rel=0.02)
    assert found.error < 1.05
    assert len(found.errors) == len(zoo) and found.precision == "int8"


def test_errors_say_how_far_off_it_is(zoo: list[Deployed]) -> None:
    found = calibrate(made_up(zoo, Constants(2e12, 7e9), noise=0.1), "int8")
    assert 1.08 < found.error < 1.20
    assert found.constants.peak == pytest.approx(2e12, rel=0.3)
    odd = made_up(zoo, Constants(2e12, 7e9))
    odd[3] = odd[3][0], 3 * odd[3][1]  # one measurement is wrong
    robust = calibrate(odd, "int8")
    assert robust.constants.bandwidth == pytest.approx(7e9, rel=0.15)
    assert robust.errors[3] == pytest.approx(1 / 3, rel=0.15)


def test_precisions_share_all_but_the_peak(zoo: list[Deployed]) -> None:
    right = {"int8": Constants(4e12, 5e10, 2e-5), "float16": Constants(2e12, 5e10, 2e-5)}
    groups = {
        name: [Measured(works, seconds_of(works, constants)) for works in (work_of(network, name) for network in zoo)]
        for name, constants in right.items()
    }
    fits = fit_together(groups, [("peak", "bandwidth"), ("peak", "bandwidth", "overhead")])
    for precision, constants in right.items():
        assert fits[precision].constants.peak == pytest.approx(constants.peak, rel=0.05)
        assert fits[precision].constants.bandwidth == pytest.approx(5e10, rel=0.05)
        assert fits[precision].constants.overhead == pytest.approx(2e-5, rel=0.05)


def test_one_scale(zoo: list[Deployed]) -> None:
    sheet = Constants(1e12, 1e10)
    works = [work_of(network, "int8") for network in zoo]
    found = fit_scale([Measured(work, 1.25 * seconds_of(work, sheet)) for work in works], sheet)
    assert (found.constants.peak, found.constants.bandwidth) == pytest.approx((0.8e12, 0.8e10))
    assert found.error == pytest.approx(1) and found.fitted == ("scale",)


def test_factors() -> None:
    assert mean_factor([2, 0.5, 1, 1]) == pytest.approx(math.sqrt(2))
    assert spread_of([1.1] * 8 + [0.5, 3]) == pytest.approx(2)
    assert spread_of([1, 1.5]) == 1.5


def test_what_can_not_be_fitted(zoo: list[Deployed]) -> None:
    good = made_up(zoo[:4], Constants(2e12, 7e9))
    with pytest.raises(DeviceError, match="too few measured networks: 2; it takes 3"):
        calibrate(good[:2], "int8")
    with pytest.raises(DeviceError, match="no network was measured"):
        calibrate([], "int8")
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DeviceError, match="must be a number above 0"):
            calibrate([*good, (zoo[4], bad)], "int8")
    with pytest.raises(DeviceError, match="rknn has no precision 'float64', only int8 and float16"):
        calibrate(good, "float64")
    other = deployed(conv_net(), (X,), "tensorrt")
    with pytest.raises(DeviceError, match="several runtimes: rknn, tensorrt"):
        calibrate([*good, (other, 1.0)])


# ---- predictions ----


def test_a_calibration_predicts(zoo: list[Deployed]) -> None:
    right = Constants(2e12, 7e9)
    board = calibrate(made_up(zoo[1:], right), "int8", name="my-board")
    found = predict(zoo[0], device=board)
    assert found.seconds == pytest.approx(seconds_of(work_of(zoo[0], "int8"), right), rel=0.02)
    assert found.low <= found.seconds <= found.high
    assert found.error == board.error and found.device == "my-board"
    assert sum(one.seconds for one in found.launches) == pytest.approx(found.seconds)
    assert sum(layer.share for layer in found.layers()) == pytest.approx(1)
    with pytest.raises(DeviceError, match="my-board was measured under rknn, not tensorrt"):
        predict(zoo[0], device=board, runtime="tensorrt")


def test_a_device_is_predicted_by_its_figures(yolo: Callable[..., Any]) -> None:
    model = yolo("yolov5s.yaml").eval()
    found = predict(model, "rk3588", decode=False)
    figures = find_device("rk3588").runtimes["rknn"]["int8"]
    network = deployed(model, (torch.zeros(1, 3, 640, 640),), "rknn", decode=False)
    assert found.seconds == seconds_of(work_of(network, "int8"), figures.constants)
    assert (found.runtime.name, found.precision, found.error) == ("rknn", "int8", figures.error)
    assert predict(network, "RK3588").seconds == found.seconds
    measured = find_measurement(model="yolov5s", device="rk3588")
    assert measured is not None and found.low < measured.seconds < found.high
    # another runtime than that which it was deployed for
    assert predict(network, "t4").runtime.name == "tensorrt"


@pytest.mark.parametrize(
    ("device", "options", "runtime", "precision"),
    [
        ("rtx-3060", {}, "tensorrt", "float16"),
        ("a100-80gb", {"runtime": "pytorch"}, "pytorch", "amp"),
        ("jetson-orin-nx", {"precision": "int8"}, "tensorrt", "int8"),
        ("raspberry-pi-5", {"runtime": "pytorch"}, "pytorch-cpu", "float32"),
    ],
)
def test_a_data_sheet_gives_a_range(device: str, options: dict[str, Any], runtime: str, precision: str) -> None:
    model = torchvision.models.resnet50(weights=None).eval()
    found = predict(model, device, inputs=(torch.zeros(8, 3, 224, 224),), **options)
    assert (found.runtime.name, found.precision) == (runtime, precision)
    assert "data sheet" in found.basis
    assert found.low < found.seconds < found.high
    assert found.error > 1
    assert found.seconds == pytest.approx(sum(one.seconds for one in found.launches))


@pytest.mark.parametrize(
    ("device", "options", "message"),
    [
        ("rk9999", {}, "no device is called 'rk9999'; known are this, "),
        ("rk3588", {"runtime": "tensorrt"}, "tensorrt does not run on rk3588"),
        ("rk3588", {"precision": "float64"}, "rknn has no precision 'float64'"),
        ("t4", {"runtime": "tensorflow"}, "no runtime is called 'tensorflow'"),
        ("raspberry-pi-5", {"runtime": "ncnn"}, "nothing is known of raspberry-pi-5"),
        ("rk3566", {"precision": "float16"}, "has no data sheet here"),
    ],
)
def test_what_is_not_known_of_a_device(device: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        predict(conv_net(), device, inputs=(X,), **options)


# ---- what others have published ----


def test_published_tables_are_read() -> None:
    rows = published()
    tables = [file for file in FOLDER.glob("*.csv") if file != NETWORKS]
    assert len(rows) == sum(len(file.read_text().splitlines()) - 1 for file in tables) == 490
    one = find_measurement(model="yolov5x6", device="v100", shape=(32, 3, 1280, 1280))
    assert one is not None and one.seconds == pytest.approx(32 * 19.4e-3)
    known = {"model": "yolov5s", "device": "rk3588", "shape": (1, 3, 640, 640)}
    assert find_measurement(7_235_389, 16_433_561_600, **known) == find_measurement(7_225_885, 16_433_561_600, **known)
    assert find_measurement(7_235_389, 16_433_561_600, **known) is not None  # and not one of a class, or half as wide:
    assert find_measurement(7_022_326, 15_937_536_000, **known) is find_measurement(1_800_000, 4e9, **known) is None
    devices = load_devices()
    assert {row.device for row in rows} <= devices.keys()
    assert all(row.runtime in RUNTIMES and row.precision in RUNTIMES[row.runtime].precisions for row in rows)


TARGETS = {
    ("rk3588", "rknn"): 1.10, ("rk3562", "rknn"): 1.10, ("rk3566", "rknn"): 1.14, ("t4", "tensorrt"): 1.10,
    ("v100", "pytorch"): 1.08, ("aws-p3.2xlarge-cpu", "pytorch-cpu"): 1.05,
    ("jetson-orin-nano-super", "tensorrt"): 1.10, ("rtx-3090", "pytorch"): 1.10, ("rtx-4090", "pytorch"): 1.10,
}  # fmt: skip


@pytest.mark.parametrize(("device", "runtime"), TARGETS)
def test_every_figure_is_as_good_as_it_has_to_be(device: str, runtime: str) -> None:
    for figures in find_device(device).runtimes[runtime].values():
        assert 1 < figures.error <= TARGETS[device, runtime]
        assert figures.spread < 1.35


@pytest.mark.parametrize("device", ["rk3588", "t4"])
def test_a_figure_can_be_made_again(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from published import builder, network

    (runtime,) = find_device(device).runtimes
    measured = []
    for row in published():
        if row.device != device or row.precision not in find_device(device).runtimes[runtime]:
            continue
        try:
            builder(row)
        except KeyError:
            continue
        from utils.thop.deploy.launches import as_deployed

        works = work_of(as_deployed(network(row), RUNTIMES[runtime], row.decode), row.precision)
        measured.append(Measured(works, row.seconds))
    found = fit(measured, RUNTIMES[runtime].fitted)
    (figures,) = find_device(device).runtimes[runtime].values()
    assert figures.networks == len(measured)
    assert found.error == pytest.approx(figures.error, rel=0.01)
    assert found.constants.peak == pytest.approx(figures.constants.peak, rel=0.02)
    assert found.constants.bandwidth == pytest.approx(figures.constants.bandwidth, rel=0.02)


def test_the_sources_name_every_table() -> None:
    text = (FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    assert all(file.name in text for file in Path(FOLDER).glob("*.csv"))

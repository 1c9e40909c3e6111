"""The clock: a launch by hand, constants found again from times made with them, and the published tables."""

from __future__ import annotations

import math
import queue
import re
from typing import Any, Callable

import pytest
import torch
import torchvision
from releases import ROOT
from torch import nn

from utils.thop import calibrate, deployed, predict
from utils.thop.deploy import DeviceError
from utils.thop.deploy.calibration import mean_factor
from utils.thop.deploy.clock import Constants, Load, seconds_of, time_launches, work_of
from utils.thop.deploy.devices import find_device, load_devices
from utils.thop.deploy.estimates import entry_of, prior_of, read_runtimes
from utils.thop.deploy.fitting import Measured, Sheet, fit
from utils.thop.deploy.launches import Deployed
from utils.thop.deploy.measurements import PUBLISHED, find_measurement, published
from utils.thop.deploy.runtimes import all_runtimes

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
        ("rknn", "int8", [1064 / 1e6]),
        # a convolution, and a pass of SiLU
        ("ncnn", "float32", [max(36864 / 1e9, 4 * 1064 / 1e6), 4 * 1024 / 1e6]),
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
    found = [one.seconds for one in time_launches(network, Load([works]), constants)]
    assert found == pytest.approx(expected)
    assert seconds_of(works, constants) == pytest.approx(sum(expected))
    with_starts = seconds_of(works, constants._replace(overhead=0.5))
    assert with_starts == pytest.approx(sum(expected) + 0.5 * len(expected))
    assert seconds_of(works, constants._replace(start=0.5)) == pytest.approx(sum(expected) + 0.5)
    assert seconds_of(works, constants._replace(host=7.0)) == pytest.approx(7.0 * len(expected))


def test_overlap_and_kinds_of_work_by_hand() -> None:
    """Arithmetic of 3 s and memory of 4 s: 4 at once, 7 one after the other, 5 between."""
    network = deployed(conv_net(), (X,), "tensorrt")
    works = work_of(network, "int8")
    at = Constants(36864 / 3, 1064 / 4)
    assert seconds_of(works, at) == pytest.approx(4)
    assert seconds_of(works, at._replace(overlap=1e-9)) == pytest.approx(7)
    assert seconds_of(works, at._replace(overlap=1.0)) == pytest.approx(5)
    slow = at._replace(bandwidth=1e9)
    assert seconds_of(works, slow._replace(dense=0.5)) == pytest.approx(1.5)
    assert seconds_of(works, slow._replace(inner=36.0)) == pytest.approx(6)  # 4 channels x 3 x 3
    wide = at._replace(peak=1e9)
    assert seconds_of(works, wide._replace(weights=2.0)) == pytest.approx(4 * (1064 + 296) / 1064)
    assert seconds_of(works, wide._replace(curve=1.0)) == pytest.approx(4 * (1064 + 512) / 1064)


class Kinds(nn.Module):
    """A depthwise convolution, a product of activations, a softmax, a norm over channels, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.LayerNorm(64)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.depthwise(x).flatten(2))
        x = (x @ x.transpose(1, 2)).softmax(-1)
        return torch.cat([x, x], 1)


def test_which_work_is_of_which_kind() -> None:
    works = work_of(deployed(Kinds(), (X,), "rknn"), "int8")
    sums = {name: sum(getattr(work, name) for work in works) for name in works[0]._fields}
    assert sums["depthwise"] == 2 * 4 * 64 * 9 and sums["activations"] == 2 * 4 * 4 * 64
    assert sums["operations"] == sums["depthwise"] + sums["activations"] and sums["dense"] == 0
    assert (sums["softmax"], sums["norm"], sums["concat"], sums["curve"]) == (2 * 16, 2 * 256, 16 + 32, 0)


def test_what_is_returned_and_what_a_cpu_is_given_by_hand() -> None:
    x = torch.zeros(1, 4, 6, 10)

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 5, 1)

        def forward(self, x: torch.Tensor) -> Any:
            x = self.one(x)
            return x.softmax(-1), self.other(x)

    for name, leaves in (("rknn", False), ("horizon", True)):
        works = work_of(deployed(Heads(), x, name), "int8")
        assert sum(work.returned for work in works) == 60 * (8 + 5)
        moved = 2 * 60 * 8  # read and written
        assert sum(work.softmax for work in works) == (0 if leaves else moved)
        # A CPU reads a row three times and writes it twice: for the largest, the exponentials, and the shares.
        assert sum(work.leaving for work in works) == (60 * 8 * 5 if leaves else 0)
        constants = Constants(1e12, 1e9, leaving=4.0, softmax=3.0, returned=7.0)
        kinds = [work._replace(operations=0.0, by_inner=0.0, lookup=0.0) for work in works]
        plain = sum(work.bytes + work.weights for work in works)
        dearer = 60 * 13 * 6 + (60 * 8 * 5 * 3 if leaves else moved * 2)
        assert seconds_of(kinds, constants) == pytest.approx((plain + dearer) / 1e9)


def test_channels_are_computed_in_whole_steps() -> None:
    """Input channels of RKNN and Horizon in 16, outputs in 32; but not those of grouped convolutions."""
    for model, x, flops, padded in (
        (conv_net(), X, 36864, {"rknn": 4 * 4, "horizon": 4 * 4, "tensorrt": 1, "ncnn": 1}),
        (
            nn.Linear(20, 33),
            torch.zeros(5, 20),
            2 * 5 * 20 * 33,
            {"rknn": 32 / 20 * 64 / 33},
        ),
        (nn.ConvTranspose2d(20, 33, 2, 2), torch.zeros(1, 20, 3, 3), 2 * 9 * 20 * 33 * 4, {"rknn": 32 / 20 * 64 / 33}),
        (nn.Conv2d(64, 64, 1), torch.zeros(1, 64, 3, 3), 2 * 9 * 64 * 64, {"rknn": 1}),
        (nn.Conv2d(6, 6, 1, groups=3), torch.zeros(1, 6, 3, 3), 2 * 9 * 6 * 2, {"rknn": 1}),
    ):
        for runtime, factor in padded.items():
            network = deployed(model, (x,), runtime)
            (work,) = (w for w in work_of(network, all_runtimes()[runtime].precisions[0]) if w.operations)
            assert work.operations == pytest.approx(factor * flops) and network.flops == flops


def test_what_binds() -> None:
    network = deployed(conv_net(), (X,), "tensorrt")
    works = work_of(network, "float16")
    for constants, binds in (
        (Constants(1e3, 1e9), "arithmetic"),
        (Constants(1e9, 1e3), "memory"),
        (Constants(1e9, 1e9, overhead=1.0), "starting launches"),
        (Constants(1e9, 1e9, host=1.0), "starting launches"),
    ):
        (one,) = time_launches(network, Load([works]), constants)
        assert one.binds == binds
        assert one.seconds == pytest.approx(seconds_of(works, constants))


def test_slices_are_copied_where_a_runtime_does() -> None:
    class Halves(nn.Module):
        def forward(self, x: Any) -> Any:
            a, b = torch.relu(x).chunk(2, 1)
            return torch.relu(a) + torch.nn.functional.max_pool2d(b, 1) + torch.nn.functional.max_pool2d(a, 1)

    counts = {name: len(deployed(Halves(), (X,), name).launches) for name in ("pulsar2", "rknn", "tensorrt")}
    assert counts["tensorrt"] - counts["pulsar2"] == 2  # each half once
    moved = {name: sum(work.bytes for work in work_of(deployed(Halves(), (X,), name), "int8")) for name in counts}
    assert moved["tensorrt"] - moved["pulsar2"] == 2 * 256


def test_curves_are_looked_up_beside_the_products() -> None:
    network = deployed(
        nn.Sequential(nn.Conv2d(16, 20, 1), nn.SiLU(), nn.Conv2d(20, 20, 1)), (torch.zeros(1, 16, 8, 8),), "rknn"
    )
    works = work_of(network, "int8")
    assert [work.lookup for work in works] == [32 * 64, 0]  # in whole steps of 32 outputs
    constants = Constants(1e6, 1e9, lookup=3000.0)
    times = time_launches(network, Load([works]), constants)
    assert [one.binds for one in times] == ["output stage", "arithmetic"]
    assert times[0].seconds == pytest.approx(3000 * 32 * 64 / 1e6)
    fast = time_launches(network, Load([works]), constants._replace(lookup=1.0))
    assert fast[0].seconds == pytest.approx(2 * 16 * 32 * 64 / 1e6) and fast[0].binds == "arithmetic"


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
    network = deployed(model, (X,), "pytorch").under(all_runtimes()["pytorch"], "amp")
    seen = [heard.get() for _ in range(heard.qsize())][-1]
    half, single = torch.float16, torch.float32
    assert seen == {
        "conv": half, "norm": half, "scaled": single, "layer norm": single, "softmax": single, "linear": half,
        "sum": single, "power": single, "product": half, "upsampled": single, "attention": half, "disabled": single,
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
    [Constants(2e12, 7e9, lookup=900.0), Constants(5e10, 1e10, lookup=900.0), Constants(1e13, 2e9, lookup=900.0),
     Constants(3e12, 8e9, lookup=900.0, softmax=40.0)],
)  # fmt: skip
def test_times_are_found_again(zoo: list[Deployed], constants: Constants) -> None:
    found = calibrate(made_up(zoo, constants), "int8")
    again = made_up(zoo, found.constants)
    for (_, right), (_, time) in zip(made_up(zoo, constants), again):
        assert time == pytest.approx(right, rel=0.2)
    assert found.error < 1.2
    assert len(found.ratios) == len(found.rates) == len(found.ranges) == len(zoo) and found.precision == "int8"
    assert found.odd == 0


def test_each_network_narrows_the_range(zoo: list[Deployed]) -> None:
    ranges = calibrate(made_up(zoo, Constants(2e12, 7e9, lookup=900.0)), "int8").ranges
    assert ranges[0] > ranges[2] > ranges[-1] > 1.05 and ranges[0] > ranges[4]
    one = calibrate(made_up(zoo[:1], Constants(2e12, 7e9)), "int8")
    assert one.ratios == () and one.estimate.basis.networks == 1 and len(one.ranges) == 1


def test_one_odd_measurement_is_named_and_carries_nothing_away(zoo: list[Deployed]) -> None:
    right = Constants(2e12, 7e9)
    odd = made_up(zoo, right)
    odd[3] = odd[3][0], 6 * odd[3][1]
    found = calibrate(odd, "int8")
    assert found.odd == 4
    for (network, _), (_, time) in zip(odd, made_up(zoo, found.constants)):
        assert time == pytest.approx(seconds_of(work_of(network, "int8"), right), rel=0.2)


def test_ranges_hold_for_devices_like_those_that_taught_them(zoo: list[Deployed]) -> None:
    """Devices drawn from the prior, five networks measured with the usual noise: nine of ten others lie inside."""
    prior = prior_of(all_runtimes()["rknn"])
    generator = torch.Generator().manual_seed(1)
    inside = []
    for _ in range(20):
        drawn = torch.tensor(prior.mean) + torch.tensor(prior.width) * torch.randn(len(prior.mean), generator=generator)
        drawn[:2] = torch.tensor([math.log(2e12), math.log(8e9)])
        constants = Constants(*drawn.exp().tolist())
        noise = (prior.spread * torch.randn(len(zoo), generator=generator)).exp().tolist()
        times = [seconds_of(work_of(network, "int8"), constants) * off for network, off in zip(zoo, noise)]
        board = calibrate(list(zip(zoo[:5], times)), "int8")
        for network, seconds in zip(zoo[5:], times[5:]):
            found = predict(network, device=board)
            inside.append(found.low <= seconds <= found.high)
    assert 0.85 <= sum(inside) / len(inside) <= 1.0


def test_precisions_share_all_but_the_peak(zoo: list[Deployed]) -> None:
    right = {
        "int8": Constants(4e12, 5e10, 2e-5, lookup=900.0), "float16": Constants(2e12, 5e10, 2e-5, lookup=900.0)
    }  # fmt: skip
    groups = {
        name: [Measured(works, seconds_of(works, constants)) for works in (work_of(network, name) for network in zoo)]
        for name, constants in right.items()
    }
    found = fit(groups, prior_of(all_runtimes()["rknn"]), Sheet())
    assert found.precisions == ("int8", "float16") and found.basis.networks == 2 * len(zoo)
    for name, rows in groups.items():
        for row in rows:
            assert seconds_of(row.works, found.constants(name)) == pytest.approx(row.seconds, rel=0.12)


def test_an_estimate_goes_through_a_file(zoo: list[Deployed]) -> None:
    known = calibrate(made_up(zoo, Constants(2e12, 7e9)), "int8").estimate
    (again,) = read_runtimes({"rknn": entry_of(known)}, "file").values()
    assert again.mean == pytest.approx(known.mean, abs=1e-3)
    load = Load([work_of(zoo[0], "int8")])
    assert float(again.width(load, "int8")[0]) == pytest.approx(float(known.width(load, "int8")[0]), rel=0.02)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({}, "file: rknn: not a mapping"),
        ({"bandwidth": 5}, "file: rknn: peaks: not a mapping"),
        ({"peaks": {"float32": 1}}, "file: rknn: peaks: float32: rknn has int8 and float16"),
        ({"peaks": {"int8": -1}}, "file: rknn: int8 must be a number above 0, not -1"),
        ({"peaks": {"int8": 1}, "speed": 3}, "file: rknn: speed is not known here"),
        ({"peaks": {"int8": 1}, "covariance": [1, 2]}, "file: rknn: covariance has 210 numbers for these precisions"),
        ({"int8": {"peak": 1, "bandwidth": 5}}, "int8: in the form of version 2.0; make it again with 'calibrate'"),
    ],
)
def test_what_is_no_estimate(entry: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DeviceError, match=re.escape(complaint)):
        read_runtimes({"rknn": entry}, "file")
    with pytest.raises(DeviceError, match="no runtime is called 'onnx'"):
        read_runtimes({"onnx": {"peaks": {"int8": 1}}}, "file")


def test_constants_by_hand_have_the_width_of_what_they_say(zoo: list[Deployed]) -> None:
    """Who sets constants and a spread takes these for sure; without a spread the others are as the kind has them."""
    load = Load([work_of(zoo[0], "int8")])
    sure, unsure = ({"peaks": {"int8": 2}, "bandwidth": 7, **more} for more in ({"spread": 0.2}, {}))
    known = read_runtimes({"rknn": sure}, "file")["rknn"]
    assert float(known.width(load, "int8")[0]) == pytest.approx(0.2)
    assert float(read_runtimes({"rknn": unsure}, "file")["rknn"].width(load, "int8")[0]) > 0.15


def test_factors() -> None:
    assert mean_factor([2, 0.5, 1, 1]) == pytest.approx(math.sqrt(2))
    prior = prior_of(all_runtimes()["rknn"])
    assert prior.factor(0) == prior.factors["sheet"] and prior.factor(5) == prior.factors["five"]
    assert prior.factor(1000) == prior.factors["many"]
    assert prior.factor(4) == pytest.approx((prior.factors["three"] + prior.factors["five"]) / 2)


def test_what_can_not_be_fitted(zoo: list[Deployed]) -> None:
    good = made_up(zoo[:4], Constants(2e12, 7e9))
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
    assert found.seconds == pytest.approx(seconds_of(work_of(zoo[0], "int8"), right), rel=0.15)
    assert found.low < found.seconds < found.high and found.device == "my-board"
    assert found.basis == "11 networks measured on it (measured by the user)"
    assert sum(one.seconds for one in found.launches) == pytest.approx(found.seconds)
    assert sum(layer.share for layer in found.layers()) == pytest.approx(1)
    with pytest.raises(DeviceError, match="my-board was measured under rknn, not tensorrt"):
        predict(zoo[0], device=board, runtime="tensorrt")


def test_a_device_is_predicted_by_its_estimate(yolo: Callable[..., Any]) -> None:
    model = yolo("yolov5s.yaml").eval()
    found = predict(model, "rk3588", decode=False)
    known = find_device("rk3588").runtimes["rknn"]
    network = deployed(model, (torch.zeros(1, 3, 640, 640),), "rknn", decode=False)
    assert found.seconds == seconds_of(work_of(network, "int8"), known.constants("int8"))
    assert (found.runtime.name, found.precision) == ("rknn", "int8")
    assert predict(network, "RK3588").seconds == found.seconds
    measured = found.published
    assert measured is not None and found.low < measured.seconds < found.high
    # another runtime than that which it was deployed for
    assert predict(network, "t4").runtime.name == "tensorrt"


def test_batches_unlike_those_that_were_measured_widen_the_range() -> None:
    model = torchvision.models.resnet50(weights=None).eval()
    reach = []
    for batch in (256, 1):
        found = predict(model, "rtx-3090", runtime="pytorch", inputs=(torch.zeros(batch, 3, 224, 224),))
        reach.append(found.high / found.seconds)
        assert "150 networks measured on it in batches of 64 to 1,024" in found.basis
    assert reach[1] > 1.2 * reach[0]
    assert found.binds == "starting launches"


@pytest.mark.parametrize(
    ("device", "options", "runtime", "precision"),
    [
        ("rtx-3060", {}, "tensorrt", "float16"),
        ("a100-80gb", {"runtime": "pytorch"}, "pytorch", "amp"),
        ("jetson-orin-nx", {"precision": "int8"}, "tensorrt", "int8"),
        ("ryzen-7-8845hs", {"runtime": "pytorch"}, "pytorch-cpu", "float32"),
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
        ("rk9999", {}, "no device is called 'rk9999'; "),
        ("rk3588", {"runtime": "tensorrt"}, "tensorrt does not run on rk3588"),
        ("rk3588", {"precision": "float64"}, "rknn has no precision 'float64'"),
        ("t4", {"runtime": "tensorflow"}, "no runtime is called 'tensorflow'"),
        ("t4", {"runtime": "rknn"}, "rknn does not run on t4"),
        ("rk3566", {"precision": "float16"}, "nothing is known of rk3566 in float16, only in int8"),
        ("rk3588", {"runtime": "horizon"}, r"nothing is known of rk3588 \(.*\) under horizon, only under rknn"),
    ],
)
def test_what_is_not_known_of_a_device(device: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        predict(conv_net(), device, inputs=(X,), **options)


# ---- what others have published ----


def test_published_speeds_are_read() -> None:
    rows = [row for found in published().values() for row in found]
    assert len(rows) == len(PUBLISHED.read_text(encoding="utf-8").splitlines()) - 1 > 2000
    devices = load_devices()
    assert {row.device for row in rows} <= devices.keys()
    assert all(
        row.runtime in all_runtimes() and row.precision in all_runtimes()[row.runtime].precisions for row in rows
    )


def test_a_published_network_is_known_by_what_it_computes(yolo: Callable[..., Any]) -> None:
    """Fused or not, whatever it is called; and not with another activation, width, number of classes or size."""
    model = yolo("yolov5s.yaml").eval()
    x = torch.zeros(1, 3, 640, 640)
    published_ms = {}
    for name, one in {
        "as it is": model,
        "fused": yolo("yolov5s.yaml").eval().fuse(),
        "ReLU": _with_activation(yolo("yolov5s.yaml").eval(), nn.ReLU),
        "leaky": _with_activation(yolo("yolov5s.yaml").eval(), nn.LeakyReLU),
        "n": yolo("yolov5n.yaml").eval(),
        "one class": yolo("yolov5s.yaml", nc=1).eval(),
    }.items():
        found = find_measurement(deployed(one, (x,), "rknn"), "rk3588", "int8")
        published_ms[name] = round(found.seconds * 1e3, 1) if found else None
    # Rockchip's zoo: 48.4 frames a second, 66.2 with ReLU, 82.5 for n
    assert published_ms == {"as it is": 20.7, "fused": 20.7, "ReLU": 15.1, "leaky": None, "n": 12.1, "one class": None}
    assert find_measurement(deployed(model, (torch.zeros(1, 3, 320, 320),), "rknn"), "rk3588", "int8") is None
    assert find_measurement(deployed(model, (x,), "rknn", decode=True), "rk3588", "int8") is not None  # though decoded


def _with_activation(model: Any, kind: Callable[..., nn.Module]) -> Any:
    for module in model.modules():
        if isinstance(getattr(module, "act", None), nn.SiLU):
            module.act = kind(inplace=True)
    return model


def test_every_device_has_its_estimate() -> None:
    """Every device of the tables, by all that was published of it."""
    devices = load_devices()
    for device, runtime, _ in published():
        if all_runtimes()[runtime].refuses:
            continue
        known = devices[device].runtimes[runtime]
        values = torch.linalg.eigvalsh(known.covariance)
        assert values.min() > -1e-3 * values.max() and 0.01 < known.spread < 0.5
        assert known.basis.networks >= 1 and known.basis.source
        assert (known.basis.error > 1) == (known.basis.networks >= 5)


def test_sixty_pieces_of_silicon_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    known = load_devices()
    places = {(name, runtime) for name, one in known.items() for runtime, it in one.runtimes.items()
              if it.basis.networks >= 5 and it.basis.error}  # fmt: skip
    assert len({tables.silicon_of(name) for name, _ in places}) >= 60
    assert len({runtime for _, runtime in places}) >= 14


def test_a_device_has_other_names() -> None:
    aliases = {"rpi5": "raspberry-pi-5", "Pi5": "raspberry-pi-5", "4090": "rtx-4090", "orin-nano": "jetson-orin-nano",
               "Orange Pi 5": "rk3588", "s25": "galaxy-s25"}  # fmt: skip
    assert {alias: find_device(alias).name for alias in aliases} == aliases


def test_cores_and_streams_are_told_apart() -> None:
    assert find_device("ax650n").name == find_device("ax650n", cores=3).name == "ax650n"
    assert find_device("ax650n", cores=1).name == "ax650n-1-core"
    assert find_device("zcu102", streams="many").name == "zcu102-throughput"
    with pytest.raises(DeviceError, match=r"rk3588 .*cores: nothing is known of 3; it was measured with 1"):
        find_device("rk3588", cores=3)
    with pytest.raises(DeviceError, match=r"t4 .*streams: nothing is known of 2; it is not known by their number"):
        find_device("t4", streams="2")


def test_where_ranges_would_be_too_wide_there_is_no_time(yolo: Callable[..., Any]) -> None:
    with pytest.raises(DeviceError, match="no time is predicted under HailoRT: its compiler may split"):
        predict(yolo("yolov5m.yaml").eval(), "hailo-8")
    network = deployed(yolo("yolov5n.yaml").eval(), (torch.zeros(1, 3, 320, 320),), "hailort")
    with pytest.raises(DeviceError, match="no time is predicted under HailoRT"):
        calibrate([(network, 0.01)])


def test_an_estimate_can_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    wanted = [row for row in tables.rows() if (row.device, row.runtime) == ("rk3588", "rknn")]
    known = find_device("rk3588").runtimes["rknn"]
    measured = []
    for row in wanted:
        for _, counted in tables.count_one(row):
            measured.append(Measured(counted.works, row.seconds))
    device = find_device("rk3588")
    found = fit({"int8": measured}, prior_of(all_runtimes()["rknn"]), Sheet(device.bandwidth, device.peaks))
    assert known.basis.networks == len(measured) == 22
    for row in measured:
        again, written = (seconds_of(row.works, each.constants("int8")) for each in (found, known))
        assert again == pytest.approx(written, rel=0.02)


def test_the_sources_name_every_table() -> None:
    folder = ROOT / "benchmarks/published"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"`{file.name}`" in text for file in folder.glob("*.csv"))

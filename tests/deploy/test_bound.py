"""time_bound() by hand and by an independent sum; the devices, their file and the user's; this machine measured."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
import torch
from releases import ROOT
from torch import Tensor, nn
from torch.nn import functional

from utils.thop import traffic
from utils.thop.deploy.bound import TimeBound, time_bound
from utils.thop.deploy.devices import Device, DeviceError, find_device, load_devices, measure_this
from utils.thop.deploy.runtimes import all_runtimes
from utils.thop.traffic import Traffic

NANOSECOND = 1e-9


def board(folder: Path, text: str) -> Path:
    """Write a user's file of devices."""
    path = folder / "boards.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def invented(bandwidth: float, **peaks: float) -> Device:
    """A device, in bytes and operations a second."""
    return Device("invented", "An invention", bandwidth, peaks, {})


# ---- the bound ----


def block() -> nn.Module:
    """A convolution, its norm and its activation: 13,824 FLOPs; 2,224, 2,112 and 2,048 bytes."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))


def test_a_block_by_hand(tmp_path: Path) -> None:
    # At 5 GFLOPS the convolution's 2 x 256 x 27 FLOPs take 2,764.8 ns; at 1 GB/s its bytes (768 of the image, 432 of
    # the weights, 1,024 of the output) take 2,224 ns. The norm reads 1,024 and 4 x 16 bytes and writes 1,024.
    path = board(tmp_path, "my board:\n  bandwidth: 1\n  peaks: {float32: 0.005}\n")
    device = find_device("My_Board", path)
    assert (device.name, device.title, device.bandwidth, device.peaks) == (
        "my-board",
        "my board",
        1e9,
        {"float32": 5e9},
    )
    bound = time_bound(traffic(block(), (torch.zeros(1, 3, 8, 8),)), device)
    assert [row.layer.path for row in bound.layers] == ["0", "1", "2"]
    assert [row.seconds / NANOSECOND for row in bound.layers] == pytest.approx([2764.8, 2112, 2048])
    assert [row.memory_seconds / NANOSECOND for row in bound.layers] == pytest.approx([0, 2112, 2048])
    assert [row.binds for row in bound.layers] == ["arithmetic", "memory", "memory"]
    assert bound.seconds / NANOSECOND == pytest.approx(6924.8)
    assert bound.memory_seconds / NANOSECOND == pytest.approx(4160)
    assert (bound.binds, bound.device) == ("memory", device)


def test_the_peak_is_that_of_the_operands() -> None:
    counted = traffic(block().half(), (torch.zeros(1, 3, 8, 8).half(),))
    bound = time_bound(counted, invented(1e9, float32=1e9, float16=4e9))
    assert bound.layers[0].seconds / NANOSECOND == pytest.approx(13824 / 4)
    assert bound.layers[2].seconds / NANOSECOND == pytest.approx(2048 / 2)


def test_two_calls_of_one_layer_are_bounded_call_by_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.product = nn.Linear(64, 64, bias=False)

        def forward(self, wide: Tensor, narrow: Tensor) -> Any:
            return self.product(wide), self.product(narrow)

    # 100 rows: 819,200 FLOPs and 67,584 bytes; 1 row: 8,192 and 16,896. In sum the layer has 9.8 FLOPs a byte, and a
    # device whose ridge is at 9 would be bound by arithmetic alone; the second call is bound by memory.
    counted = traffic(Twice(), (torch.zeros(100, 64), torch.zeros(1, 64)))
    assert [(call.flops, call.bytes) for call in counted.calls if call.flops] == [(819200, 67584), (8192, 16896)]
    (layer,) = [row for row in time_bound(counted, invented(1e9, float32=9e9)).layers if row.seconds]
    assert layer.seconds / NANOSECOND == pytest.approx(819200 / 9 + 16896)
    assert layer.memory_seconds / NANOSECOND == pytest.approx(16896)
    assert layer.binds == "arithmetic"


@pytest.fixture(scope="module")
def yolov5s(yolo: Any) -> Traffic:
    return traffic(yolo("yolov5s.yaml"), (torch.zeros(1, 3, 640, 640),))


@pytest.mark.parametrize("name", ["jetson-nano", "raspberry-pi-5", "rtx-3090", "a100-80gb"])
def test_yolov5s_against_a_sum_over_its_calls(yolov5s: Traffic, name: str) -> None:
    device = find_device(name)
    peak, bandwidth = device.peaks["float32"], device.bandwidth
    ridge = peak / bandwidth
    heavy = [call for call in yolov5s.calls if call.flops > ridge * call.bytes]
    light = [call for call in yolov5s.calls if call.flops <= ridge * call.bytes]
    by_memory = math.fsum(call.bytes for call in light) / bandwidth
    bound = time_bound(yolov5s, device)
    assert bound.memory_seconds == pytest.approx(by_memory)
    assert bound.seconds == pytest.approx(by_memory + sum(call.flops for call in heavy) / peak)
    assert_between_its_limits(yolov5s, bound)


def assert_between_its_limits(counted: Traffic, bound: TimeBound) -> None:
    """All at once is a lower limit, one after the other without overlap an upper one; layers sum to the whole."""
    arithmetic = counted.flops / bound.device.peaks["float32"]
    memory = (counted.read_bytes + counted.written_bytes) / bound.device.bandwidth
    assert max(arithmetic, memory) < bound.seconds < arithmetic + memory
    assert math.fsum(layer.seconds for layer in bound.layers) == pytest.approx(bound.seconds)
    with_calls = [row for row in counted.layers if any(call.layer is row for call in counted.calls)]
    assert [id(layer.layer) for layer in bound.layers] == [id(row) for row in with_calls]
    assert len(with_calls) > 100


def test_a_lower_peak_makes_arithmetic_bind(yolov5s: Traffic) -> None:
    fast, slow = (time_bound(yolov5s, invented(25e9, float32=peak)) for peak in (20e12, 0.2e12))
    assert (fast.binds, slow.binds) == ("memory", "arithmetic")
    assert fast.seconds < slow.seconds
    assert fast.memory_seconds > slow.memory_seconds
    first = (next(layer for layer in bound.layers if layer.layer.path == "model.1.conv") for bound in (fast, slow))
    assert [layer.binds for layer in first] == ["memory", "arithmetic"]


def test_without_a_peak_for_the_dtype_there_is_no_bound(yolov5s: Traffic) -> None:
    message = r"^rk3588 \(Rockchip .*\) has no peak for float32, only one for tf32, float16, bfloat16 and int8$"
    with pytest.raises(DeviceError, match=message):
        time_bound(yolov5s, find_device("rk3588"))
    without_products = traffic(nn.ReLU(), (torch.zeros(1000),))
    assert time_bound(without_products, invented(1e9)).seconds == pytest.approx(8000 * NANOSECOND)


# ---- devices.yaml ----

REQUIRED = (
    "jetson-nano", "jetson-xavier-nx", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "rk3588",
    "raspberry-pi-5", "t4", "rtx-3060", "rtx-3090", "rtx-4090", "a100-40gb", "a100-80gb", "h100", "ryzen-7-8845hs",
)  # fmt: skip


def test_all_devices_are_complete_and_their_peaks_in_order() -> None:
    devices = load_devices()
    assert set(REQUIRED) <= set(devices)
    for name, device in devices.items():
        assert name == device.name and device.title[0].isupper()
        if not device.bandwidth:
            assert (device.runtimes or all_runtimes()[device.usual].refuses) and not device.peaks, name
            continue
        assert set(device.sources) == {"bandwidth", *device.peaks}
        for source in device.sources.values():
            assert len(source) > 20 and "\n" not in source and not source.endswith(".yaml"), name
        assert 10e9 < device.bandwidth < 1e13, name
        rates = [device.peaks.get(precision) for precision in ("float32", "tf32", "float16", "int8")]
        known = [rate for rate in rates if rate is not None]
        assert known == sorted(known) and known[0] > 0.05e12 and known[-1] < 1e16, name
        assert device.peaks.get("bfloat16", 0) <= device.peaks.get("float16", 0), name
        if None not in rates[2:]:
            assert device.peaks["int8"] == pytest.approx(2 * device.peaks["float16"], rel=0.01), name
        assert 1 < known[0] / device.bandwidth < 200, name  # FLOPs a byte: peak and bandwidth are not in other units


@pytest.mark.parametrize(
    "name, bandwidth, peaks",
    [
        ("jetson-nano", 25.6, {"float32": 0.236, "float16": 0.472}),
        ("t4", 320, {"float32": 8.1, "float16": 65, "int8": 130}),
        ("rtx-3090", 936, {"float32": 35.6, "float16": 142, "bfloat16": 71}),
        ("rtx-4090", 1008, {"float32": 82.6, "bfloat16": 165.2}),
        ("a100-40gb", 1555, {"float32": 19.5, "tf32": 156, "float16": 312, "int8": 624}),
        ("a100-80gb", 2039, {"float32": 19.5, "tf32": 156, "float16": 312, "int8": 624}),
        ("h100", 3350, {"float32": 66.9, "float16": 989.4}),
    ],
)
def test_well_known_figures(name: str, bandwidth: float, peaks: dict[str, float]) -> None:
    device = load_devices()[name]
    assert device.bandwidth == pytest.approx(bandwidth * 1e9)
    assert {precision: device.peaks[precision] for precision in peaks} == pytest.approx(
        {precision: rate * 1e12 for precision, rate in peaks.items()}
    )


@pytest.mark.parametrize(
    "name, precision, units, a_cycle, gigahertz",
    [
        ("jetson-nano", "float32", 128, 1, 0.9216),  # cores; a fused multiply-add each
        ("jetson-xavier-nx", "float32", 384, 1, 1.1),
        ("jetson-xavier-nx", "float16", 48, 64, 1.1),  # tensor cores
        ("jetson-orin-nano", "float16", 32, 256, 0.625),
        ("jetson-orin-nano-super", "int8", 32, 512, 1.02),
        ("jetson-orin-nx", "float16", 32, 256, 0.918),
        ("jetson-orin-nx-super", "float32", 1024, 1, 1.173),
        ("jetson-agx-orin", "int8", 64, 512, 1.3),
        ("rk3588", "float16", 3, 512, 1),
        ("raspberry-pi-5", "float32", 4, 2 * 4, 2.4),
        ("t4", "float16", 320, 64, 1.59),
        ("rtx-3060", "float16", 112, 128, 1.777),
        ("rtx-3090", "bfloat16", 328, 64, 1.695),
        ("rtx-4090", "float32", 16384, 1, 2.52),
        ("a100-40gb", "float16", 432, 256, 1.41),
        ("h100", "float16", 528, 512, 1.83),
        ("ryzen-7-8845hs", "float32", 8, 2 * 8, 5.1),
    ],
)
def test_peaks_are_units_times_clock(name: str, precision: str, units: int, a_cycle: int, gigahertz: float) -> None:
    reckoned = units * a_cycle * 2 * gigahertz * 1e9
    assert load_devices()[name].peaks[precision] == pytest.approx(reckoned, rel=0.01)


def test_names_are_found_as_people_write_them() -> None:
    assert find_device("RTX 3090") == find_device("rtx_3090") == load_devices()["rtx-3090"]
    with pytest.raises(DeviceError, match=r"^no device is called 'a100'; did you mean a100-40gb or a100-80gb\?$"):
        find_device("a100")
    with pytest.raises(DeviceError, match=r"^no device is called 'jetson-nanoo'; did you mean jetson-nano"):
        find_device("jetson-nanoo")
    with pytest.raises(
        DeviceError, match=r"^no device is called 'toaster'; the command 'devices' lists those that are known$"
    ):
        find_device("toaster")


# ---- a file of the user's ----


def test_a_users_file_comes_on_top(tmp_path: Path) -> None:
    text = "T4:\n  bandwidth: 2e2\n  peaks:\n    float16: 50\n    int8: 1e2\n  sources:\n    int8: a letter\n"
    path = board(tmp_path, text)
    devices = load_devices(str(path))
    assert set(devices) == set(load_devices())
    t4 = devices["t4"]
    assert (t4.title, t4.bandwidth, t4.peaks) == ("T4", 200e9, {"float16": 50e12, "int8": 100e12})
    assert t4.sources == {"bandwidth": str(path), "float16": str(path), "int8": "a letter"}
    assert t4.peak(torch.float16) == 50e12


def test_the_example_in_devices_yaml_is_a_users_file(tmp_path: Path) -> None:
    lines = (ROOT / "utils" / "thop" / "deploy" / "devices.yaml").read_text(encoding="utf-8").splitlines()
    example = [line[5:] for line in lines if line.startswith("#     ")]
    device = find_device("my-board", board(tmp_path, "\n".join(example)))
    assert (device.title, device.bandwidth) == ("My board, 4 GB", 12.8e9)
    assert device.peaks == {"float32": 0.05e12, "float16": 0.1e12}
    assert device.sources["float32"] == "4 cores x 8 a cycle x 1.6 GHz"


GOOD = "peaks: {float32: 1}"


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "PATH holds no devices; devices.yaml shows the form"),
        ("just words", "PATH holds no devices; devices.yaml shows the form"),
        ("a: [1\nb: 2", "PATH, line 2 is no valid YAML: expected ',' or ']', but got ':'"),
        ("a: 2020-13-13", "PATH is no valid YAML: ValueError: month must be in 1..12"),
        ("a: 7", "PATH: a: not a mapping; devices.yaml shows the form"),
        (f"a: {{{GOOD}}}", "PATH: a: bandwidth is missing"),
        ("a: {bandwidth: 5}", "PATH: a: peaks is missing"),
        ("a: {bandwidth: 5, peaks: {}}", "PATH: a: peaks is missing"),
        ("a: {bandwidth: 5, peaks: 7}", "PATH: a: peaks: not a mapping; devices.yaml shows the form"),
        (
            f"a: {{bandwidth: 5, {GOOD}, sources: a book}}",
            "PATH: a: sources: not a mapping; devices.yaml shows the form",
        ),
        (f"a: {{bandwidth: 0, {GOOD}}}", "PATH: a: bandwidth must be a number above 0, not 0"),
        (f"a: {{bandwidth: fast, {GOOD}}}", "PATH: a: bandwidth must be a number above 0, not 'fast'"),
        (f"a: {{bandwidth: true, {GOOD}}}", "PATH: a: bandwidth must be a number above 0, not True"),
        (f"a: {{bandwidth: [5], {GOOD}}}", "PATH: a: bandwidth must be a number above 0, not [5]"),
        ("a: {bandwidth: 5, peaks: {float32: -1}}", "PATH: a: float32 must be a number above 0, not -1"),
        ("a: {bandwidth: 5, peaks: {float32: .inf}}", "PATH: a: float32 must be a number above 0, not inf"),
        ("a: {bandwidth: 5, peaks: {float32: .nan}}", "PATH: a: float32 must be a number above 0, not nan"),
        ("a: {bandwidth: 5, peaks: {float32: }}", "PATH: a: float32 must be a number above 0, not None"),
        (
            "a: {bandwidth: 5, peaks: {fp16: 1}}",
            "PATH: a: peaks: fp16 is not known here, only float64, float32, tf32, float16, bfloat16 and int8",
        ),
        (
            f"a: {{bandwith: 5, {GOOD}}}",
            "PATH: a: bandwith is not known here, only title, kind, host, memory, bandwidth, peaks, sources, "
            "runtimes, usual, aliases, cores and streams",
        ),
        (f"This: {{bandwidth: 5, {GOOD}}}", "PATH: This: this name is kept for the machine that is measured"),
    ],
)
def test_a_bad_file_gets_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = board(tmp_path, text)
    with pytest.raises(DeviceError) as caught:
        find_device("t4", path)
    assert str(caught.value) == complaint.replace("PATH", str(path))


def test_a_file_that_cannot_be_read_gets_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(DeviceError) as caught:
        load_devices(missing)
    assert str(caught.value) == f"{missing}: no such file"
    with pytest.raises(DeviceError, match="can't be read"):
        load_devices(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceError) as caught:
        load_devices(binary)
    assert str(caught.value) == f"{binary} is no text in UTF-8"


# ---- this machine ----


def best_rate(amount: float, call: Callable[[], Any]) -> float:
    """The amount a second of the fastest call in a third of a second."""
    call()
    fastest, until = math.inf, time.perf_counter() + 0.3
    while time.perf_counter() < until:
        started = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - started)
    return amount / fastest


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: on a busy machine several wait for the slowest of them, every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_this_machine_against_other_operators() -> None:
    # a sum of arrays far beyond any cache, and a 3 x 3 convolution, to a factor of four
    state = torch.get_rng_state()
    where = "cuda" if torch.cuda.is_available() else "cpu"
    a, b, out = (torch.ones(24 << 20, device=where) for _ in range(3))
    side = 512 if where == "cuda" else 32
    image, kernel = torch.ones(1, 128, side, side, device=where), torch.ones(128, 128, 3, 3, device=where)
    flops = 2.0 * 128 * 128 * 9 * side**2
    devices, bandwidths, peaks = [], [], []
    for _ in range(3):
        devices.append(find_device("This"))
        bandwidths.append(best_rate(3 * 4.0 * a.numel(), lambda: finished(torch.add(a, b, out=out))))
        peaks.append(best_rate(flops, lambda: finished(functional.conv2d(image, kernel, padding=1))))
    assert torch.equal(torch.get_rng_state(), state)
    assert max(bandwidths) / 4 < max(device.bandwidth for device in devices) < max(bandwidths) * 4
    assert max(peaks) / 4 < max(device.peaks["float32"] for device in devices) < max(peaks) * 4
    assert devices[0].name == "this" and devices[0].sources == {"bandwidth": "measured", "float32": "measured"}
    assert devices[0].title.endswith(", 1 thread") or where == "cuda"


def finished(result: Tensor) -> None:
    """Wait for a GPU."""
    if result.is_cuda:
        torch.cuda.synchronize()


def test_measuring_takes_no_time_even_where_a_dtype_is_slow() -> None:
    started = time.perf_counter()
    device = measure_this([torch.float16, torch.float64, torch.float16])
    assert time.perf_counter() - started < 10  # half a second on an idle machine
    assert list(device.peaks) == ["float16", "float64"] and min(device.peaks.values()) > 1e8
    assert measure_this([]).peaks == {}


def test_what_cannot_be_multiplied_is_said() -> None:
    with pytest.raises(DeviceError, match=r"^this machine can't be measured: no peak for bool \(\w+: .*\)$"):
        measure_this([torch.bool])


def test_import_needs_no_yaml_and_measures_nothing() -> None:
    code = "import sys, utils.thop.deploy.bound; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

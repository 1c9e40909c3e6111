"""Profiles of runtimes: real ones are read whole and matched, a device is fitted to one, and all else is refused."""

import math
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import pytest
import torch
import yaml
from releases import LATEST, quiet, release, yolo
from torch import nn

from utils.thop import deployed, predict
from utils.thop.command.cli import main
from utils.thop.deploy.clock import Constants, seconds_of, work_of
from utils.thop.deploy.devices import find_device
from utils.thop.deploy.launches import Deployed
from utils.thop.deploy.runtimes import DeviceError, all_runtimes
from utils.thop.measure.logs import (
    LogRow,
    calibrate_from_log,
    factor_by_time,
    match_log,
    read_log,
)

SAMPLES = Path(__file__).parent / "samples"
RK3588, TABLE = "rknn_yolov8n-nc3_1920.csv", "rknn_yolov8n-nc3_1920_part.txt"
TENSORRT, NCNN = "tensorrt_yolov8n-p2.json", "ncnn_yolov7-mask_part.txt"
MINE = ("openvino.csv", "onnxruntime.json")


def yolov8n(cfg: str = "yolov8n.yaml", nc: int = 3) -> nn.Module:
    """The network of the RK3588's log, as a model of the command line too: test_logs:yolov8n."""
    from ultralytics.nn.tasks import DetectionModel

    with quiet():
        return DetectionModel(cfg, nc=nc, verbose=False).eval().fuse(verbose=False)


@pytest.fixture(scope="module")
def network() -> Deployed:
    return deployed(yolov8n(), (torch.zeros(1, 3, 1920, 1920),), "rknn", decode=False)


# ---- reading ----

READ: Sequence[Tuple[str, str, int, float]] = (
    (RK3588, "rknn", 95, 126.602),
    (TABLE, "rknn", 24, 55.596),
    (TENSORRT, "tensorrt", 142, 3.584512),
    ("tensorrt_googlenet_part.json", "tensorrt", 12, 0.4505391),
    (NCNN, "ncnn", 10, 20.54),
    ("ncnn_yolov5n-vulkan_part.txt", "ncnn", 16, 5.30147),
)
"""Rows and milliseconds, as they were counted by hand."""


@pytest.mark.parametrize(("name", "runtime", "count", "milliseconds"), READ)
def test_every_row_is_read(name: str, runtime: str, count: int, milliseconds: float) -> None:
    rows = read_log(SAMPLES / name, runtime)
    assert len(rows) == count and sum(row.seconds for row in rows) * 1e3 == pytest.approx(milliseconds, rel=1e-9)


def test_what_a_row_says() -> None:
    rows = read_log(SAMPLES / TABLE, "rknn")
    assert rows[2] == LogRow("Conv:/model.1/conv/Conv", "ConvExSwish", 4862 / 1e6, (1, 32, 480, 480))
    assert rows[4].output_shape is None  # (1,16,480,480),...: there are several
    rows = read_log(SAMPLES / NCNN, "ncnn")
    assert rows[5] == LogRow("Conv_64", "Convolution", 11.37 / 1e3, (1, 512, 56, 80))
    assert rows[4] == LogRow("Concat_63", "Concat", 0.62 / 1e3, None)
    rows = read_log(SAMPLES / TENSORRT, "tensorrt")
    assert [row.operator for row in rows[:3]] == ["Reformat", "Conv", "Sigmoid"] and rows[8].operator == "Copy"


def test_openvino_says_its_own_total() -> None:
    rows = read_log(SAMPLES / MINE[0], "openvino")
    lines = (SAMPLES / MINE[0]).read_text().splitlines()
    total = next(line for line in lines if line.startswith("Total"))
    assert sum(row.seconds for row in rows) * 1e3 == pytest.approx(float(total.split(";")[4]), abs=0.001 * len(rows))
    assert len(rows) == sum("EXECUTED" in line for line in lines)


def test_onnx_runtime_says_how_long_each_node_took() -> None:
    rows = read_log(SAMPLES / MINE[1], "onnxruntime")
    text = (SAMPLES / MINE[1]).read_text()
    times = [int(dur) for dur in re.findall(r'"cat":"Node"[^{]*?"dur":(\d+)[^{]*?_kernel_time"', text)]
    assert len(rows) == len(times) and sum(row.seconds for row in rows) * 1e6 == pytest.approx(sum(times))
    assert rows[0] == LogRow("/model.0/conv/Conv", "Conv", times[0] / 1e6, (1, 16, 320, 320))


def test_of_several_runs_it_is_the_median(tmp_path: Path) -> None:
    event = '{{"cat":"Node","name":"a_kernel_time","dur":{},"args":{{"op_name":"Conv"}}}}'
    (tmp_path / "x.json").write_text(f"[{','.join(event.format(dur) for dur in (900, 10, 12))}]")
    assert read_log(tmp_path / "x.json", "onnxruntime") == [LogRow("a", "Conv", 12 / 1e6, None)]


TABLES = {
    "before the cycles were one column": """\
D RKNN: [13:38] ID OpType DataType Target InputShape OutputShape DDR Cycles NPU Cycles Total Cycles Time(us) FullName
D RKNN: [13:38:22.478] 1    Conv     INT8     NPU    (1,3,8,8),(4,3,3,3),(4)  (1,4,8,8) 10 20 20 31 Conv:Conv_0
""",
    "without shapes": "ID   OpType  DataType Target Time(us)\n1    Conv    INT8     NPU    31\n",
}  # fmt: skip


def test_tables_of_other_versions(tmp_path: Path) -> None:
    path = tmp_path / "perf.txt"
    path.write_text(TABLES["before the cycles were one column"])
    assert read_log(path, "rknn") == [LogRow("Conv:Conv_0", "Conv", 31 / 1e6, (1, 4, 8, 8))]
    path.write_text(TABLES["without shapes"])
    assert read_log(path, "rknn") == [LogRow("Conv", "Conv", 31 / 1e6, None)]


# ---- matching ----


def test_the_rk3588_log_matches_to_the_last_row(network: Deployed) -> None:
    matched = match_log(read_log(SAMPLES / RK3588, "rknn"), network)
    assert not matched.rows_left and not matched.launches_left and matched.share == 1.0
    assert sum(pair.seconds for pair in matched.pairs) == pytest.approx(0.126602)
    assert sum(len(pair.launches) for pair in matched.pairs) == len(network.launches)
    several = [pair for pair in matched.pairs if len(pair.launches) > 1]  # three poolings of a name, two split up
    assert [sorted(row.operator for row in pair.rows) for pair in several] == [
        ["MaxPool"] * 3, ["Concat", "ConvExSwish"], ["Concat", "ConvExSwish"]
    ]  # fmt: skip
    matched = match_log(read_log(SAMPLES / TABLE, "rknn"), network)
    left = {row.name for row in matched.rows_left}
    assert left == {"InputOperator:images", "OutputOperator:374", "Conv:/model.22/ReduceSum_2_2conv"}
    assert matched.share > 0.99 and all(pair.fits for pair in matched.pairs)


def test_a_tensorrt_profile_matches() -> None:
    model = yolov8n("yolov8n-p2.yaml", 80)
    matched = match_log(read_log(SAMPLES / TENSORRT, "tensorrt"), deployed(model, (torch.zeros(1, 3, 640, 640),)))
    assert matched.share > 0.8
    convolutions = [pair for pair in matched.pairs if pair.kind == "convolution"]
    assert sum(len(pair.launches) for pair in convolutions) >= 79  # one row may be of two, side by side
    joined = [pair for pair in matched.pairs if pair.kind == "concat"]
    assert len(joined) >= 13 and all(row.operator == "Copy" for pair in joined for row in pair.rows)


@pytest.mark.parametrize("name", MINE)
def test_profiles_of_a_cpu_match(yolo: Callable[..., Any], name: str) -> None:
    runtime = Path(name).stem
    if runtime not in all_runtimes():
        pytest.skip(f"{runtime} is no runtime yet")
    with quiet():
        model = yolo("yolov5n.yaml").eval().fuse()
    plain = deployed(model, (torch.zeros(1, 3, 640, 640),), runtime, decode=False)
    matched = match_log(read_log(SAMPLES / name, runtime), plain)
    assert matched.share > 0.95
    assert not [launch for launch in matched.launches_left if launch.flops]


def test_without_names_shapes_tell() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1))
    plain = deployed(model, (torch.zeros(1, 3, 16, 16),), "ncnn")
    rows = [LogRow(f"conv_{i}", "Convolution", 1e-3 * i, (1, c, 16, 16)) for i, c in ((1, 8), (2, 8), (3, 4))]
    matched = match_log([*rows, LogRow("split_0", "Split", 1e-6, None)], plain)
    assert [pair.launches[0].layers[0] for pair in matched.pairs] == ["0", "2", "3"]
    assert [pair.seconds for pair in matched.pairs] == pytest.approx([1e-3, 2e-3, 3e-3])
    assert [row.name for row in matched.rows_left] == ["split_0"]


# ---- the device ----


def test_a_log_is_enough_to_calibrate(network: Deployed) -> None:
    matched = match_log(read_log(SAMPLES / RK3588, "rknn"), network)
    board = calibrate_from_log(matched, "int8", "board")
    times = board.times
    both = [(pair, time) for pair, time in zip(matched.pairs, times) if pair.kind == "convolution"]
    convolutions = [pair for pair, _ in both]
    assert sum(any("Conv" in row.operator for row in pair.rows) for pair in convolutions) == 63
    assert factor_by_time(convolutions, [time for _, time in both]) < 1.08
    assert factor_by_time(matched.pairs, times) < 1.12
    found = predict(network, board.calibration)
    assert found.seconds < 0.1266 and found.low < 0.119 < found.high and "1 network measured" in found.basis
    extra = board.profiled.constants("int8").overhead - board.calibration.constants.overhead
    assert 5e-5 < extra < 2e-4  # the profiler's own, for each launch


def test_networks_of_the_zoo_are_told_by_one_log(network: Deployed) -> None:
    matched = match_log(read_log(SAMPLES / RK3588, "rknn"), network)
    board = calibrate_from_log(matched, device=find_device("rk3588")).calibration
    errors = []
    for name, published in (("yolov5n", 12.121), ("yolov5s", 20.661), ("yolov5m", 47.847)):
        found = predict(yolo(f"{name}.yaml").eval(), board)
        errors.append(abs(math.log(found.seconds * 1e3 / published)))
        assert found.low * 1e3 < published < found.high * 1e3
    assert math.exp(sum(errors) / len(errors)) < 1.1


def test_what_a_pass_takes_on_top_comes_from_the_total_alone(network: Deployed) -> None:
    matched = match_log(read_log(SAMPLES / RK3588, "rknn"), network)
    prior = calibrate_from_log(matched).calibration.constants.start
    with_total = calibrate_from_log(matched, seconds=0.119).calibration
    assert with_total.ratios[0] == pytest.approx(1.0, abs=0.1) and len(with_total.ratios) == 1
    longer = calibrate_from_log(matched, seconds=0.3).calibration.constants.start
    assert longer > prior
    assert predict(network, with_total).seconds == pytest.approx(with_total.ratios[0] * 0.119, rel=1e-6)


def test_constants_are_found_again(network: Deployed) -> None:
    right = Constants(1.2e12, 9e9, overhead=5e-5, overlap=1.0, lookup=500.0)
    rows = []
    for launch, work in zip(network.launches, work_of(network, "int8")):
        step = launch.steps[0]
        rows.append(LogRow(step.path, "Conv" if launch.flops else step.name[6:], seconds_of([work], right)))
    matched = match_log(rows, network)
    board = calibrate_from_log(matched, "int8")
    assert factor_by_time(matched.pairs, board.times) < 1.03
    assert math.isclose(board.calibration.constants.bandwidth, 9e9, rel_tol=0.15)


# ---- what is refused ----


def spoiled(tmp_path: Path) -> Dict[str, Tuple[str, str, str]]:
    """Files that are no profile of a runtime, with what is said of them."""
    csv = (SAMPLES / RK3588).read_text()
    tensorrt, counters = (SAMPLES / TENSORRT).read_text(), (SAMPLES / MINE[0]).read_text()
    runs, ncnn = (SAMPLES / MINE[1]).read_text(), (SAMPLES / NCNN).read_text()
    times = re.compile(r"\d+$", re.MULTILINE)
    return {
        "none": ("# Read me\n", "rknn", "is no profile of rknn, tensorrt, openvino, onnxruntime, ncnn"),
        "empty": ("", "ncnn", "is no profile"),
        "other": (tensorrt, "rknn", "is a profile of tensorrt, not of rknn"),
        "another": (ncnn, "openvino", "is a profile of ncnn, not of openvino"),
        "half": (tensorrt[:5000], "tensorrt", "is a profile of tensorrt that is cut off or damaged"),
        "runs": (runs[:9000], "onnxruntime", "is a profile of onnxruntime that is cut off or damaged"),
        "counters": (counters[:5000], "openvino", "is a profile of openvino that is cut off or damaged"),
        "head": (csv.splitlines()[0], "rknn", "is a profile of rknn without a row that has a time"),
        "build": ("ID  OpType DataType Target InputShape OutputShape FullName\n1 Conv INT8 NPU (1) (1) Conv:a", "rknn",
                  "without a row that has a time"),
        "zero": (times.sub("0", csv), "rknn", "its times sum up to 0 s, which is no pass: are they in another unit?"),
        "negative": (times.sub("-5", csv), "rknn", "model.0 takes -5e-06 s, which is no time"),
        "long": (times.sub("99000000", csv), "rknn", "are they in another unit?"),
        "words": (times.sub("fast", csv), "rknn", "is cut off or damaged"),
    }  # fmt: skip


NAMES = ("none", "empty", "other", "another", "half", "runs", "counters", "head", "build", "zero", "negative", "long",
         "words")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_profile_is_refused_in_a_line(tmp_path: Path, name: str) -> None:
    text, runtime, complaint = spoiled(tmp_path)[name]
    path = tmp_path / "profile.txt"
    path.write_text(text)
    says(lambda: read_log(path, runtime), complaint)


def says(action: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(DeviceError) as caught:
        action()
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_log_of_another_network_is_refused(network: Deployed) -> None:
    rows = read_log(SAMPLES / TABLE, "rknn")
    small = deployed(yolov8n(), (torch.zeros(1, 3, 640, 640),), "rknn", decode=False)
    says(lambda: match_log(rows, small), "has the shape (1, 16, 960, 960) in the log, and another here")
    other = deployed(nn.Conv2d(3, 8, 3), (torch.zeros(1, 3, 64, 64),), "rknn")
    says(lambda: match_log(rows, other), "only 0% of the log's time fits this network: a log of another one?")


# ---- the command ----

MODEL = ("--model", "test_logs:yolov8n", "--imgsz", "1920", "--runtime", "rknn", "--name", "My Board")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status = main([str(argument) for argument in arguments])
    return (status, *capsys.readouterr())


def test_the_command_calibrates_from_a_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    board, log = tmp_path / "boards.yaml", ("calibrate", "--log", SAMPLES / RK3588, *MODEL)
    status, out, err = run(capsys, *log, "--no-decode", "--ms", "119", "--output", board)
    assert (status, err) == (0, "") and "95 of 95 rows match, 100.0% of 126.6 ms." in out
    assert "largest misfits" in out and re.search(r"The layers are off by x 1\.0\d on average", out)
    assert "and 119.0 ms as it was measured." in out and "without a row" not in out
    known = yaml.safe_load(board.read_text())["my-board"]["runtimes"]["rknn"]
    assert known["networks"] == 1 and known["source"] == f"calibrate {RK3588}"
    status, out, err = run(capsys, "predict", "torchvision:resnet18", "--device", "my-board", "--devices", board)
    assert (status, err) == (0, "") and "from 1 network measured on it" in out
    status, out, err = run(capsys, "calibrate", "--log", SAMPLES / TABLE, *MODEL)  # a part of one
    assert (status, out) == (2, "") and "no rows for 83% of the network's FLOPs: is it cut off?" in err
    lines = (SAMPLES / RK3588).read_text().splitlines()
    shorter = tmp_path / "shorter.csv"
    shorter.write_text("\n".join([*lines[:80], "ConvSigmoid,model.99,102"]) + "\n")
    status, out, err = run(capsys, "calibrate", "--log", shorter, *MODEL)
    assert (status, err) == (0, "") and "79 of 80 rows match" in out
    assert "Rows of no launch here: model.99 (0.102 ms)" in out
    assert re.search(r"Launches without a row: .* and \d+ more\.", out)


def test_what_a_log_does_not_tell_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Whether its size is right where it has no shapes, and whether a total is of the same pass."""
    log = "calibrate", "--log", SAMPLES / RK3588, *MODEL, "--no-decode"
    no_shapes, contradicts = "It tells no shapes, so it could not be checked", "contradicts the log"
    for more, words in ((), [no_shapes]), (["--ms", "119"], [no_shapes]), (["--ms", "200"], [no_shapes, contradicts]):
        status, out, err = run(capsys, *log, *more)
        assert (status, err) == (0, "")
        assert [word for word in (no_shapes, contradicts) if word in out] == words
    status, out, err = run(capsys, *log, "--ms", "0.119")
    assert (status, out) == (2, "") and "--ms 0.119 is no pass of this log, which has 126.6 ms" in err
    smaller = tmp_path / "smaller.csv"
    lines = [line.rpartition(",") for line in (SAMPLES / RK3588).read_text().splitlines()]
    smaller.write_text(
        "\n".join(f"{head},{time if i == 0 else int(time) / 1e3}" for i, (head, _, time) in enumerate(lines))
    )
    status, out, err = run(capsys, "calibrate", "--log", smaller, *MODEL, "--no-decode")
    assert (status, out) == (2, "") and "is it in another unit?" in err and len(err.splitlines()) == 1


def test_mistakes_are_said_in_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log, both = ("--log", SAMPLES / TABLE), "calibrate takes either MEASURED.csv, or --log FILE with --model MODEL"
    board: List[object] = ["--runtime", "rknn", "--name", "b"]
    for arguments, complaint in (
        (board, both),
        (["measured.csv", *log, *MODEL], both),
        ([*log, *board], "--log and --model go together"),
        (["measured.csv", "--ms", "3", *board], "--ms, --imgsz and --batch go with --log"),
        ([*log, *MODEL, "--ms", "0"], "--ms: must be a number above 0, not '0'"),
        (["--log", tmp_path / "none.txt", *MODEL], "none.txt: no such file"),
        ([*log, *MODEL, "--imgsz", "640"], "another here: of another size?"),
        ([*log, "--model", "torchvision:resnet18", *board], "only 0% of the log's time fits this network"),
        ([*log, "--model", "torchvision:resnet19", *board], "torchvision has no such model"),
        ([*log, *MODEL, "--runtime", "tensorrt"], "is a profile of rknn, not of tensorrt"),
    ):
        status, out, err = run(capsys, "calibrate", *arguments)
        assert (status, out) == (2, "") and complaint in err and len(err.splitlines()) == 1


def test_a_log_of_a_network_whose_modules_are_called_alike_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Two thirds of its time have a name that is here, too."""
    status, out, err = run(capsys, "calibrate", "--log", SAMPLES / RK3588, "--runtime", "rknn", "--name", "b",
                           "--model", release(LATEST) / "yolov5/models/yolov5s.yaml")  # fmt: skip
    assert (status, out) == (2, "") and "66% of the log's time fits this network: a log of another one?" in err

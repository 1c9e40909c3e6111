"""The commands predict and calibrate, and the times in summary and compare, against what the library predicts."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
import torchvision
import yaml
from releases import LATEST, release
from releases import yolo as build_yolo

from benchmarks.clock_picture import Predicted, clock_figure
from utils.thop import deployed, predict
from utils.thop.command.cli import main
from utils.thop.deploy.calibration import calibrate
from utils.thop.deploy.clock import Constants, seconds_of, work_of
from utils.thop.show.plots import save_figure, time_figure
from utils.thop.show.report import ModelInfo
from utils.torch_utils import memory_info

MODELS = release(LATEST) / "yolov5" / "models"
CFG = str(MODELS / "yolov5n.yaml")
NAMES = ("resnet18", "mobilenet_v2", "squeezenet1_0", "vgg11", "densenet121")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process; return its status and both outputs."""
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


# ---- predict ----


def test_a_table_of_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "predict", CFG, MODELS / "yolov5s.yaml", "--device", "rk3588", "--no-decode")
    assert (status, err) == (0, "")
    for name, published in (("yolov5n", 12.121), ("yolov5s", 20.661)):
        model = build_yolo(f"{name}.yaml").eval()
        found = predict(model, "rk3588", decode=False)
        line = next(line for line in out.splitlines() if line.startswith(name))
        row = line.split()
        assert float(row[3]) == len(found.launches)
        shown = [float(text) for text in row[4:9]]
        milliseconds = [1e3 * seconds for seconds in (found.seconds, found.low, found.high)]
        assert shown == pytest.approx([*milliseconds, 1 / found.seconds, published], abs=0.051)
        memory = [float(text) for text in row[9:11]]
        assert memory == pytest.approx([found.memory.arena_bytes / 1e6, found.memory.weight_bytes / 1e6], abs=0.051)
        assert line.endswith(found.binds)
    assert "Time is the expected one on Rockchip RK3588" in out and "RKNN, int8" in out
    assert "Least" not in out and "Accesses" not in out
    differences = next(line for line in out.splitlines() if line.strip().startswith("+"))
    assert differences.count("%") == 5  # not of the range, nor of what others have measured


def test_the_other_formats_have_the_same_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = "predict", CFG, "torchvision:resnet18", "--device", "T4", "--imgsz", 320, "--batch", 4
    status, out, err = run(capsys, *arguments, "--json")
    assert (status, err) == (0, "")
    records = json.loads(out)
    model = torchvision.models.resnet18(weights=None).eval()
    found = predict(model, "t4", inputs=(torch.zeros(4, 3, 320, 320),))
    assert records[1]["predicted_seconds"] == pytest.approx(found.seconds)
    assert records[1]["predicted_low_seconds"] == pytest.approx(found.low)
    assert records[1]["images_per_second"] == pytest.approx(4 / found.seconds)
    assert [records[1][key] for key in ("device", "runtime", "precision")] == ["t4", "tensorrt", "float16"]
    assert records[0]["measured_seconds"] is None  # published at another size
    rows = list(csv.DictReader(io.StringIO(run(capsys, *arguments, "--csv")[1])))
    assert [float(row["predicted_seconds"]) for row in rows] == [record["predicted_seconds"] for record in records]
    for option, mark in (("--markdown", "| model |"), ("--latex", r"\toprule")):
        status, out, err = run(capsys, *arguments, option)
        assert status == 0 and mark in out and "images/s" in out
    target = tmp_path / "times.md"
    assert run(capsys, *arguments, "--output", target)[:2] == (0, "")
    assert target.read_text().startswith("| model |")


def test_options_lead_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    base = "predict", CFG, "--json", "--device"

    def seconds(*arguments: object) -> float:
        status, out, _ = run(capsys, *base, *arguments)
        assert status == 0
        return float(json.loads(out)[0]["predicted_seconds"])

    assert seconds("rk3588", "--no-decode") == seconds("rk3588") < seconds("rk3588", "--decode")  # as is usual there
    assert seconds("t4", "--no-decode") < seconds("t4") == seconds("t4", "--decode")
    assert seconds("rk3588") < seconds("rk3566")
    assert seconds("jetson-orin-nano-super", "--precision", "int8") < seconds("jetson-orin-nano-super")
    assert seconds("jetson-orin-nano-super", "--runtime", "pytorch") > seconds("jetson-orin-nano-super")
    assert seconds("t4", "--imgsz", 320) < seconds("t4")
    assert seconds("t4", "--batch", 8) > 4 * seconds("t4")


def test_a_device_of_a_data_sheet_alone(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "predict", CFG, "--device", "jetson-orin-nx")
    assert (status, err) == (0, "")
    assert re.search(r"from its data sheet and \d+ devices like it", out.replace("\n", " "))


def test_one_network_on_many_devices(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "predict", CFG, "--device", "pi5", "--device", "rk3588,hailo-8,rk3588s")
    assert (status, err) == (0, "")
    rows = [line for line in out.splitlines() if line.startswith(("rk3588 ", "raspberry-pi-5 ", "hailo-8"))]
    assert [row.split()[0] for row in rows][:3] == ["rk3588", "raspberry-pi-5", "hailo-8"]  # the fastest first
    found = predict(build_yolo("yolov5n.yaml").eval(), "rk3588")
    assert f"{found.seconds * 1e3:.1f}" in rows[0] and "22 networks" in rows[0]
    assert "hailo-8: no time is predicted under HailoRT" in " ".join(out.split())
    records = json.loads(run(capsys, "predict", CFG, "--device", "all-npus", "--json")[1])
    seconds = [record["predicted_seconds"] for record in records]
    told = [value for value in seconds if value is not None]
    assert len(told) > 20 and told == sorted(told) and len(records) - len(told) == 2  # Hailo's two


def test_what_is_published_of_a_device_without_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "predict", "ultralytics:yolov8n.yaml", "--device", "hailo-8")
    assert status == 0 and "published" in out and re.search(r"^yolov8n +0\.97", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["predict", CFG], "the following arguments are required: --device"),
        (["predict", CFG, "--device", "toaster"], "no device is called 'toaster'"),
        (["predict", CFG, "--device", "rk3588", "--runtime", "onnx"], "no runtime is called 'onnx'"),
        (["predict", CFG, "--device", "rk3588", "--runtime", "tensorrt"], "tensorrt does not run on rk3588"),
        (["predict", CFG, "--device", "t4", "--precision", "int4"], "tensorrt has no precision 'int4'"),
        (["compare", CFG, "--device", "t4", "--precision", "int4"], "tensorrt has no precision 'int4'"),
        (["predict", CFG, "--device", "rk3562", "--runtime", "horizon"], "nothing is known of rk3562"),
        (["compare", CFG, "--device", "rk3562", "--runtime", "horizon"], "nothing is known of rk3562"),
        (["summary", CFG, "--device", "rk3562", "--precision", "float16"], "nothing is known of rk3562 in float16"),
        (["predict", "missing.yaml", "--device", "t4"], "missing.yaml: no such file"),
    ],
)
def test_bad_input_gets_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert complaint in err and len(err.splitlines()) == 1


def test_summary_and_compare_have_both_times(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "compare", CFG, "torchvision:resnet18", "--device", "t4")
    assert status == 0
    head = next(line for line in out.splitlines() if line.startswith("model"))
    assert head.split()[-3:] == ["least", "time", "binds"]
    status, out, _ = run(capsys, "summary", CFG, "--device", "rk3562", "--no-decode")  # it has no data sheet here
    assert status == 0 and "at least" not in out
    assert re.search(r"about [\d.]+ ms \([\d.]+ ms to [\d.]+ ms\); of it .*output stage \d+%", out)
    assert re.search(r"^ReLU in place of SiLU +[\d.]+ +\d+% ", out, re.MULTILINE)


# ---- what to do about it ----


def _ultralytics(cfg: str) -> Any:
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel(cfg, verbose=False)


@pytest.mark.parametrize(
    ("build", "cfg"),
    [
        (build_yolo, "yolov5s.yaml"),
        (build_yolo, "hub/yolov5m6.yaml"),
        (build_yolo, "segment/yolov5s-seg.yaml"),
        (build_yolo, "hub/yolov5s-ghost.yaml"),
        (_ultralytics, "yolo11s.yaml"),
        (_ultralytics, "yolov8m.yaml"),
    ],
)
def test_advice_is_what_comes_of_following_it(build: Callable[[str], Any], cfg: str) -> None:
    """Each changed cfg builds and runs, and takes what was said; so do a smaller image and another activation."""
    model = build(cfg).eval()
    found = memory_info(model, imgsz=640).advice("rk3588")
    assert {"ReLU in place of SiLU", "images of 512 in place of 640"} < {one.what for one in found}
    gains = [one.gain for one in found]
    assert gains == sorted(gains, reverse=True) and min(gains) > 0.04 and any(one.cfg for one in found)
    for one in found:
        side, twin = one.imgsz or 640, model
        if one.cfg is not None:
            twin = type(model)(copy.deepcopy(one.cfg)).eval()
            twin(torch.zeros(1, 3, 64, 64))  # with values
        elif not one.imgsz:
            twin = copy.deepcopy(model)
            for module in twin.modules():
                if isinstance(getattr(module, "act", None), torch.nn.SiLU):
                    module.act = torch.nn.ReLU()
        again = predict(twin, "rk3588", inputs=(torch.zeros(1, 3, side, side),))
        assert again.seconds == pytest.approx(one.seconds, rel=1e-6), one.what
        assert one.before == found.before.seconds


def test_advice_without_a_cfg_and_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    model = torchvision.models.mobilenet_v3_large(weights=None).eval()
    found = memory_info(model, imgsz=224).advice("rk3588")
    assert all(one.cfg is None for one in found) and any(one.imgsz == 192 for one in found)
    status, out, err = run(capsys, "advise", MODELS / "yolov5s.yaml", "--device", "rk3588", "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)["rows"]
    assert all(row["seconds"] < row["before"] and row["price"] for row in rows)
    assert any(row["cfg"] and row["cfg"]["depth_multiple"] for row in rows)
    assert run(capsys, "advise", CFG, "--device", "hailo-8")[0] == 2


def test_model_info_predicts() -> None:
    from utils.torch_utils import model_info

    model = build_yolo("yolov5n.yaml").eval()
    info: ModelInfo = model_info(model, verbose=False, imgsz=640)
    assert info.predict("rk3588", decode=False).seconds == predict(model, "rk3588", decode=False).seconds
    assert info.predict("v100", precision="amp").precision == "amp"


# ---- calibrate ----

RIGHT = Constants(1.5e12, 5e9)


def measured(tmp_path: Path, **columns: object) -> Path:
    """A user's table: times of five networks by constants that they don't know."""
    path = tmp_path / "measured.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "ms", *columns])
        for name in NAMES:
            network = deployed(torchvision.models.get_model(name, weights=None), (torch.zeros(1, 3, 224, 224),), "rknn")
            seconds = seconds_of(work_of(network, "int8"), RIGHT)
            writer.writerow([f"torchvision:{name}", f"{seconds * 1e3:.5f}", *columns.values()])
    return path


def test_a_board_is_made_of_five_networks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    board = tmp_path / "boards.yaml"
    board.write_text("# mine\nother:\n  bandwidth: 5\n  peaks: {float32: 1}\n")
    arguments = "calibrate", measured(tmp_path), "--name", "My Board", "--runtime", "rknn", "--precision", "int8"
    status, out, err = run(capsys, *arguments, "--output", board)
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[2:7]] == list(NAMES)
    assert all(re.search(r" x (1\.[0-2]\d|0\.[89]\d)  .* x [12]\.\d\d$", line) for line in out.splitlines()[2:7])
    reach = [float(line.split()[-1]) for line in out.splitlines()[2:7]]
    assert reach[0] > reach[2] > reach[4]
    assert f"Of ten other networks nine lie within x {reach[4]:.2f}." in out
    text = board.read_text()
    assert text.startswith("# mine\nother:\n")  # to the letter
    known = yaml.safe_load(text)["my-board"]["runtimes"]["rknn"]
    assert known["networks"] == 5 and list(known["peaks"]) == ["int8"]
    options = "--device", "my-board", "--devices", board, "--json"
    status, out, err = run(capsys, "predict", "torchvision:resnet50", *options)
    assert (status, err) == (0, "")
    network = deployed(torchvision.models.resnet50(weights=None), (torch.zeros(1, 3, 224, 224),), "rknn")
    expected = seconds_of(work_of(network, "int8"), RIGHT)
    assert json.loads(out)[0]["predicted_seconds"] == pytest.approx(expected, rel=0.15)
    # another runtime joins it
    again = "calibrate", measured(tmp_path), "--name", "my-board", "--runtime", "rknn", "--precision", "float16"
    assert run(capsys, *again, "--output", board)[0] == 0
    both = yaml.safe_load(board.read_text())["my-board"]["runtimes"]["rknn"]
    assert set(both["peaks"]) == {"int8", "float16"} and both["peaks"]["int8"] == known["peaks"]["int8"]
    _, out, _ = run(capsys, "predict", "torchvision:resnet50", *options)
    assert json.loads(out)[0]["predicted_seconds"] > 0


def test_a_measurement_that_contradicts_all_others_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = measured(tmp_path)
    lines = table.read_text().splitlines()
    model, _, milliseconds = lines[3].partition(",")
    table.write_text("\n".join([*lines[:3], f"{model},{8 * float(milliseconds)}", *lines[4:]]))
    status, out, _ = run(capsys, "calibrate", table, "--name", "b", "--runtime", "rknn")
    assert status == 0 and f"{model.partition(':')[2]} contradicts all others" in out
    table.write_text("\n".join(lines[:2]))  # one network does, with a wider range
    status, out, _ = run(capsys, "calibrate", table, "--name", "b", "--runtime", "rknn")
    assert status == 0 and "Of ten other networks nine lie within x" in out


def test_without_a_file_it_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = measured(tmp_path, imgsz=224, batch=1)
    status, out, _ = run(capsys, "calibrate", table, "--name", "b", "--runtime", "rknn")
    assert status == 0
    shown = yaml.safe_load(out[out.index("\nb:") :])
    assert shown["b"]["kind"] == "npu" and shown["b"]["runtimes"]["rknn"]["networks"] == 5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model,time\nx,1\n", "measured.csv has no column ms; it takes model and ms, and may have imgsz and batch"),
        ("", "measured.csv has no column model"),
        ("model,ms\n", "measured.csv holds no measurements"),
        ("model,ms\ntorchvision:resnet18,-3\n", "line 2: ms must be a number above 0, not '-3'"),
        ("model,ms\ntorchvision:resnet18,fast\n", "line 2: ms must be a number above 0, not 'fast'"),
        ("model,ms\ntorchvision:resnet18\n", "line 2: ms must be a number above 0, not ''"),
        (
            "model,ms,imgsz\ntorchvision:resnet18,3,big\n",
            "line 2: imgsz must be one or two whole numbers from 1 up, not 'big'",
        ),
        ("model,ms,batch\ntorchvision:resnet18,3,0\n", "line 2: batch must be a whole number from 1 up, not '0'"),
        ("model,ms\nresnet18,3\n", "line 2: resnet18: not a model"),
        ("model,ms\ntorchvision:resnet19,3\n", "line 2: torchvision:resnet19: torchvision has no such model"),
    ],
)
def test_a_table_that_does_not_fit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, complaint: str
) -> None:
    table, board = tmp_path / "measured.csv", tmp_path / "boards.yaml"
    table.write_text(text)
    status, out, err = run(capsys, "calibrate", table, "--name", "b", "--runtime", "rknn", "--output", board)
    assert (status, out) == (2, "")
    assert complaint in err and len(err.splitlines()) == 1
    assert not board.exists()


def test_other_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = measured(tmp_path)
    for arguments, complaint in (
        (["--runtime", "rknn", "--name", "this"], "a device can't be called 'this'"),
        (["--runtime", "onnx", "--name", "b"], "no runtime is called 'onnx'"),
        (["--runtime", "rknn", "--name", "b", "--precision", "int4"], "rknn has no precision 'int4'"),
    ):
        status, out, err = run(capsys, "calibrate", table, *arguments)
        assert (status, out) == (2, "") and complaint in err and len(err.splitlines()) == 1
    status, out, err = run(capsys, "calibrate", tmp_path / "none.csv", "--runtime", "rknn", "--name", "b")
    assert status == 2 and "none.csv: no such file" in err


# ---- pictures ----


def test_pictures_are_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "time.svg"
    assert run(capsys, "predict", CFG, "--device", "t4", "--plot", target)[0] == 0
    text = target.read_text()
    assert "Time along the network" in text and "bound by memory" in text and "yolov5n" in text
    kinds = {
        "one": [Predicted(1e-3, 1.1e-3, 1e-3, 1.2e-3), Predicted(2e-2, 2e-2, 1.5e-2, 2.5e-2)],
        "two": [Predicted(0.3, 0.2, 0.1, 0.4)],
    }  # fmt: skip
    reach = {"one": {"data sheet": 2.0, "1": 1.5, "many": 1.1}, "two": {"1": 1.4}}
    save_figure(clock_figure(kinds, reach), tmp_path / "clock.svg")
    text = (tmp_path / "clock.svg").read_text()
    assert "one (2, x 1.05)" in text and "two (1, x 1.50)" in text


def test_bars_are_the_predicted_times() -> None:
    network = deployed(torchvision.models.resnet18(weights=None), (torch.zeros(1, 3, 64, 64),), "rknn")
    times = [(network, seconds_of(work_of(network, "int8"), RIGHT) * factor) for factor in (1, 1, 1)]
    found = predict(network, calibrate(times, "int8"))
    figure = time_figure("resnet18", found)
    heights = [patch.get_height() for patch in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert sum(heights) / 1e3 == pytest.approx(found.seconds)


# ---- order and baseline ----


def test_sorted_and_compared_with_another(capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"torchvision:{name}" for name in ("resnet50", "resnet18", "mobilenet_v2")]
    status, out, _ = run(capsys, "compare", *models, "--sort", "gflops", "--baseline", "resnet18", "--json")
    records = json.loads(out)
    assert status == 0 and [record["model"] for record in records] == ["mobilenet_v2", "resnet18", "resnet50"]
    base = records[1]
    for record in records:
        assert record["gflops_percent"] == pytest.approx(100 * (record["gflops"] / base["gflops"] - 1))
    _, out, _ = run(capsys, "compare", *models, "--sort", "traffic")
    shown = [line.split()[0] for line in out.splitlines() if line.startswith(("resnet", "mobile"))]
    assert shown == ["resnet18", "mobilenet_v2", "resnet50"]
    assert "Percentages are differences to resnet18." in out  # the first of the table
    _, out, _ = run(capsys, "predict", *models, "--device", "t4", "--sort", "time", "--json")
    times = [record["predicted_seconds"] for record in json.loads(out)]
    assert times == sorted(times)
    status, out, err = run(capsys, "compare", *models, "--baseline", "vgg")
    assert (status, out) == (2, "") and "no model is called 'vgg', only resnet50, resnet18 and mobilenet_v2" in err
    assert run(capsys, "compare", *models, "--sort", "beauty")[0] == 2


def test_columns_are_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    models = "torchvision:resnet50", "torchvision:resnet18"
    _, out, _ = run(capsys, "compare", *models, "--columns", "gflops,Time", "--device", "t4")
    assert out.splitlines()[0].split() == ["model", "GFLOPs", "time", "binds"]
    assert "Accesses are" not in out
    status, out, err = run(capsys, "compare", *models, "--columns", "beauty")
    assert (status, out) == (2, "") and "no column is called 'beauty', only params, gflops" in err


def test_the_name_alone_shows_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys)  # tests/test_docs.py types them
    assert (status, err) == (0, "")
    examples = re.findall(r"python -m utils\.thop (.+?)(?:  +#.*)?$", out, re.MULTILINE)[:4]
    assert [example.split()[0] for example in examples] == ["compare", "predict", "choose", "summary"]


def test_a_picture_is_of_one_device(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "two.png"
    status, out, err = run(capsys, "predict", CFG, "--device", "rk3588", "--device", "rpi5", "--plot", path)
    assert (status, out) == (2, "") and "--plot draws one device" in err and not path.exists()

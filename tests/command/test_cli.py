"""The command, as its users run it: in a patched release, in a checkout and here, against what the library counts."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Sequence

import pytest
import torch
import torchvision
import warm
import yaml
from releases import LATEST, ROOT, copy_release, patch, release, yolo_environment
from torch import nn

from utils.thop import deployed, predict, profile, traffic
from utils.thop.answer import frame_of
from utils.thop.command import checkout, cli
from utils.thop.command.checkout import ModelError, alone, read_cfg
from utils.thop.command.cli import main
from utils.thop.command.compare import count_all
from utils.thop.command.models import Built, Setup, Source, build, counted, find, names
from utils.thop.count.record import record
from utils.thop.deploy import Launch
from utils.thop.deploy.bound import time_bound
from utils.thop.deploy.devices import CATALOGUE, find_device, load_devices
from utils.thop.show.comparison import Row, bound_all, comparison_text, grid_of_comparison, notes, records
from utils.thop.show.modules import SORTS
from utils.thop.show.predictions import milliseconds
from utils.thop.show.report import ModelInfo
from utils.thop.traffic import traffic_of

PROGRAM = "python -m utils.thop"
MODELS = release(LATEST) / "yolov5" / "models"
CFG = str(MODELS / "yolov5n.yaml")


def named(texts: Sequence[str]) -> list[tuple[str, Source]]:
    sources = find(texts)
    return list(zip(names(sources), sources))


NETS = """
import time
from pathlib import Path
import torch
from torch import nn

print("a word on stdout")
a_number = 3


def tiny():
    print("another word")
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())


class Refuses(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        raise RuntimeError("I will not")


def number():
    return 3


def slow():
    Path("started").touch()
    time.sleep(60)
"""


def start(arguments: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    """Start the command as a process, away from any network, with its two outputs apart."""
    return subprocess.Popen(
        [sys.executable, "-m", "utils.thop", *arguments],
        cwd=cwd,
        env={**yolo_environment(ROOT / ".cache" / "settings"), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process; return its status and both outputs."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run_in(folder: Path, *arguments: str | Path, pythonpath: Path | None = None) -> tuple[int, str, str]:
    """Run Python in a folder, with what lies there or elsewhere on its path; return its status and both outputs."""
    env = {**yolo_environment(ROOT / ".cache" / "settings"), "PYTHONPATH": str(pythonpath or folder)}
    done = warm.run(list(map(str, arguments)), folder, env, both=False)
    return done.returncode, done.stdout, done.stderr


def counts(model: nn.Module, *shape: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Count a model by the library's two functions, under the names that the command gives to the numbers."""
    inputs = (torch.zeros(shape, dtype=dtype),)
    layers, moved = profile(model, inputs, verbose=False), traffic(model, inputs)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "total_ops": layers.total_ops,
        "gflops": layers.total_ops * 2 / 1e9,
        "kernel": layers.total_kernel_macs,
        "output": layers.total_output_macs,
        "accesses": layers.total_kernel_macs + layers.total_output_macs,
        "flops": moved.flops,
        "read_bytes": moved.read_bytes,
        "written_bytes": moved.written_bytes,
        "traffic_bytes": moved.read_bytes + moved.written_bytes,
        "arithmetic_intensity": moved.flops / (moved.read_bytes + moved.written_bytes),
        "peak_activation_bytes": moved.peak_activation_bytes,
    }


@pytest.fixture(name="nets", scope="module")
def folder_with_nets(tmp_path_factory: pytest.TempPathFactory, yolo: Callable[..., Any]) -> Path:
    """A folder with a module of networks, and a weights file as YOLOv5 saves them."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    checkpoint = {"epoch": -1, "model": yolo("yolov5n.yaml", nc=3).half(), "ema": None, "optimizer": None}
    weights = folder / "yolov5" / "runs" / "best.pt"
    weights.parent.mkdir(parents=True)
    torch.save(checkpoint, weights)
    return folder


@pytest.fixture(name="in_use", scope="module")
def checkout_in_use(yolo: Callable[..., Any]) -> None:
    """Let the release be the checkout of this process, for files that lie in none."""
    build(find([CFG])[0], Setup(), without_values=True)


# ---- as a process ----

SAVE_AND_RUN = """
import runpy, sys, torch
from models.yolo import Model
torch.save({"model": Model("models/yolov5n.yaml").half(), "ema": None}, "Best of all.pt")
print("saved", file=sys.stderr, flush=True)
runpy.run_module("utils.thop", run_name="__main__")
"""


def make_checkout(folder: Path) -> Path:
    """Turn the pip package into what git has: the same modules, which import each other without `yolov5.`."""
    package = release(LATEST) / "yolov5"
    for part in ("models", "utils"):
        shutil.copytree(package / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in folder.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"\b(from|import) yolov5\.", r"\1 ", text), encoding="utf-8")
    return folder


def least_flops(launch: Launch) -> float:
    """A quarter of the products of 3 x 3 convolutions of stride 1, by Winograd's algorithm; all of others'."""
    product = launch.product
    form = product.geometry if product else None
    dense = form is not None and (form.kernel, form.stride, form.groups) == ((3, 3), (1, 1), 1)
    return launch.flops / 4 if dense else launch.flops


def test_summary_in_a_patched_release(tmp_path: Path, yolo: Callable[..., Any]) -> None:
    package = copy_release(LATEST, tmp_path / "release")
    patch(package / "yolov5")
    words = "summary --imgsz 300 500 --batch 2 --half --depth 2 --sort traffic --device Jetson-Nano --plot roofline.svg"
    status, out, err = run_in(package, "-m", "yolov5.utils.thop", *words.split(), "yolov5/models/yolov5n.yaml")
    assert (status, err) == (0, "")
    model = yolo("yolov5n.yaml").half()
    inputs = (torch.zeros(2, 3, 320, 512, dtype=torch.float16),)
    moved = traffic(model, inputs)
    info = ModelInfo(0, 0, 0, None, record(model, inputs))
    first, expected, bound, *rest = out.splitlines()
    table = info.table(2, "traffic").splitlines()
    assert rest[: len(table)] == table

    layers, parameters = len(list(model.modules())), sum(p.numel() for p in model.parameters())
    assert first.startswith("yolov5n at 2x3x320x512, float16 (300x500 is no multiple of the stride): ")
    assert f" {layers} layers, {parameters:,} parameters, {info.gflops:.1f} GFLOPs, " in first
    assert f" {(moved.read_bytes + moved.written_bytes) / 1e6:.1f}MB of traffic (" in first
    assert f", {moved.peak_activation_bytes / 1e6:.1f}MB of activations at the peak" in first

    network = deployed(model, inputs)
    pairs = [(least_flops(launch) / 0.472e12, launch.elements * 2 / 25.6e9) for launch in network.launches]
    assert f": at least {milliseconds(math.fsum(map(max, pairs)))}; " in bound
    prediction = predict(model, "jetson-nano", inputs=inputs)
    where = "NVIDIA Jetson Nano, 4 GB, TensorRT, float16"
    about = f"about {milliseconds(prediction.seconds)} ({milliseconds(prediction.low)} to "
    assert expected.startswith(f"{where}: {about}")
    rows = map(str.split, rest[len(table) + 4 :])
    times = {row[0]: float(row[1]) / 1e3 for row in rows if len(row) == 4 and row[0].startswith("model.")}
    assert list(times) == [f"model.{i}" for i in range(25)]
    by_module = {layer.path: layer.seconds for layer in prediction.layers(2)}
    assert times == pytest.approx(by_module, abs=6e-7)
    assert sum(times.values()) == pytest.approx(prediction.seconds, rel=1e-3)


def least_times(calls: Any, bandwidth: float, peak: float) -> dict[str, float]:
    """The time bound of each layer, by its definition."""
    found: dict[str, float] = {}
    for call in calls:
        least = max(call.flops / peak, (call.read_bytes + call.written_bytes) / bandwidth)
        found[call.layer.path] = found.get(call.layer.path, 0.0) + least
    return found


def test_compare_from_any_folder(nets: Path, tmp_path: Path, yolo: Callable[..., Any]) -> None:
    """What this repository does with a checkout elsewhere, a second one, and what fails."""
    plain = make_checkout(tmp_path / "plain")
    shutil.copy(plain / "models" / "yolov5n.yaml", tmp_path / "own.yml")
    cfgs = plain / "models/yolov5[ns].yaml", plain / "models/hub/yolov5s-LeakyReLU.yaml", tmp_path / "own.yml"
    bad = MODELS / "yolov5n.yaml", plain / "models/hub/anchors.yaml", "nets:Refuses", "nets:number"
    models = *cfgs, "torchvision:resnet18", "nets:tiny", *bad
    command = "-m", "utils.thop", "compare", *models, "--csv", "--device", "this"
    status, out, err = run_in(nets, *command, pythonpath=ROOT)
    last = f"{PROGRAM}: 3 of 10 models failed: anchors, nets:Refuses, nets:number"
    assert (status, err.splitlines()[-1]) == (1, last), err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["model"] for row in rows] == [
        "plain/models/yolov5n.yaml", "yolov5s", "yolov5s-LeakyReLU", "own", "resnet18", "nets:tiny",
        "yolov5/models/yolov5n.yaml", "anchors", "nets:Refuses", "nets:number",
    ]  # fmt: skip
    cfgs = "yolov5n.yaml", "yolov5s.yaml", "hub/yolov5s-LeakyReLU.yaml", "yolov5n.yaml"
    tiny = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    expected = [counts(yolo(cfg), 1, 3, 640, 640) for cfg in cfgs]
    expected += [counts(torchvision.models.resnet18(), 1, 3, 224, 224), counts(tiny, 1, 3, 640, 640)]
    for row, numbers in zip(rows, expected):
        assert {name: float(row[name]) for name in numbers} == numbers and row["error"] == ""
        for name, value in numbers.items():
            percent = (value - expected[0][name]) / expected[0][name] * 100
            assert float(row[f"{name}_percent"]) == pytest.approx(percent, abs=1e-9)
        seconds, of_memory = float(row["time_seconds"]), float(row["time_memory_seconds"])
        assert row["device"] == "this" and 0 < seconds < 10 and 0 <= of_memory <= seconds
        assert row["binds"] == ("arithmetic" if 2 * of_memory < seconds else "memory")
    assert [row["input"] for row in rows[3:6]] == ["1x3x640x640", "1x3x224x224", "1x3x640x640"]
    second = counts(yolo("yolov5n.yaml"), 1, 3, 640, 640)  # in a process of its own
    assert {name: float(rows[6][name]) for name in second} == second and rows[6]["error"] == ""
    assert [row["error"] for row in rows[7:]] == [
        "no YOLOv5 cfg, it has no backbone and no head",
        "RuntimeError: I will not",
        "returned int, not a torch.nn.Module",
    ]
    assert all(value == "" for row in rows[7:] for name, value in row.items() if name in expected[0])


def test_compare_in_a_patched_checkout(tmp_path: Path, yolo: Callable[..., Any]) -> None:
    patch(make_checkout(tmp_path))
    models = "models/yolov5n.yaml", "Best of all.pt", "models/hub/anchors.yaml"
    status, out, err = run_in(tmp_path, "-c", SAVE_AND_RUN, "compare", *models, "--fuse", "--half", "--markdown")
    assert status == 1, err
    table = out[out.index("| model") :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[0] for row in cells] == ["model", "---", "yolov5n", "Best of all.pt", "anchors"]
    assert err.partition("saved\n")[2] == f"{PROGRAM}: 1 of 3 models failed: anchors\n"
    with torch.no_grad():
        fused = counts(yolo("yolov5n.yaml").fuse().half(), 1, 3, 640, 640, dtype=torch.float16)
    scales = 1e6, 1, 1e6, 1e6, 1e6, 1e6, 1, 1e6
    expected = [f"{fused[name] / scale:.1f}" for name, scale in zip(COLUMNS, scales)]
    assert [[cell.split()[0] for cell in row[1:]] for row in cells[2:4]] == [expected, expected]
    assert all(cell.endswith(" (+0.0%)") for cell in cells[3][1:]) and "backbone" in cells[4][1]


def test_a_cfg_in_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "_in_use", None)
    with pytest.raises(ModelError, match=r"lies in no YOLOv5 checkout \(a folder with models/yolo.py\)"):
        checkout.checkout_for(tmp_path / "own.yaml")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_how_a_process_ends(nets: Path) -> None:
    """With one line after bad input, and quietly after an interrupt or where nobody reads on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    unread = start(["devices"], nets)
    interrupted = start(["summary", "nets:slow"], nets)
    signal.signal(signal.SIGINT, before)
    assert unread.stdout is not None
    unread.stdout.close()
    unread.stdout = None
    deadline = time.monotonic() + 240  # other tests start their own processes at the same time
    while not (nets / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    interrupted.send_signal(signal.SIGINT)
    assert finish(interrupted) == (130, "", "a word on stdout\n")
    bad = run_in(nets, "-m", "utils.thop", "compare", CFG, "absent.yaml", pythonpath=ROOT)
    assert bad == (2, "", f"{PROGRAM}: absent.yaml: no such file\n")
    assert finish(unread) == (0, None, "")


# ---- the formats ----

COLUMNS = (
    "parameters", "gflops", "kernel", "output", "accesses", "traffic_bytes", "arithmetic_intensity",
    "peak_activation_bytes", "time_seconds",
)  # fmt: skip
SCALES = {"": 1, "K": 1e3, "M": 1e6, "B": 1, "KB": 1e3, "MB": 1e6, "ms": 1e-3, "us": 1e-6}


@pytest.fixture(name="rows", scope="module")
def compared_rows(yolo: Callable[..., Any]) -> list[Row]:
    """Three models with their time on a device, of which two have one name, and one that fails."""
    texts = [str(MODELS / "yolov5n.yaml"), "torchvision:mobilenet_v3_small", str(MODELS / "hub" / "anchors.yaml")]
    rows = count_all(named([*texts, str(MODELS / "yolov5n.yaml")]), Setup((64, 96)))
    bound_all(rows, find_device("raspberry-pi-5"))
    return rows


def check_cells(rows: list[Row], units: Sequence[str], lines: list[list[str]], below: list[list[str]]) -> None:
    """Compare cells that were read back with the numbers: to the decimals shown, and never with none that tells."""
    numbers = [row.numbers() for row in rows if row.traffic]
    for i, (cells, values) in enumerate(zip(lines, numbers)):
        for cell, unit, name in zip(cells, units, COLUMNS):
            value, decimals = values[name] / SCALES[unit], len(cell.partition(".")[2])
            digits = len(cell.replace(".", "").lstrip("0"))
            off = value * 0.006 if "e" in cell or digits == 3 else 0.51 * 10**-decimals
            assert float(cell) == pytest.approx(value, abs=off)
            assert float(cell) > 0 or values[name] == 0
        shown = below[i - 1] if i else []
        assert len(shown) == len(COLUMNS) * bool(i)
        for cell, name in zip(shown, COLUMNS):
            percent = (values[name] / numbers[0][name] - 1) * 100
            off = percent / 2 if "e" in cell else 0.51 if abs(percent) >= 1000 else 0.051
            assert float(cell.rstrip("%")) == pytest.approx(percent, abs=off)
    assert len(lines) == len(numbers) == len(below) + 1


def test_text_read_back(rows: list[Row]) -> None:
    lines = comparison_text(rows, "text").splitlines()
    assert max(map(len, lines)) <= 120
    first, last = [i for i, line in enumerate(lines) if set(line) == {"-"}]
    cells = [line.split() for line in lines[first + 1 : last]]
    assert " ".join(cells.pop(3)) == "anchors not counted: no YOLOv5 cfg, it has no backbone and no head"
    values, below = ([row for row in cells if row[0].endswith("%") is shown] for shown in (False, True))
    assert [" ".join(row[:-10]) for row in values] == ["yolov5n (1)", "mobilenet_v3_small", "yolov5n (2)"]
    assert [row[-1] for row in values] == [row.bound.binds for row in rows if row.bound]
    named = iter(lines[1].split())
    units = ["" if name in ("gflops", "arithmetic_intensity") else next(named) for name in COLUMNS]
    check_cells(rows, units, [row[-10:-1] for row in values], below)


def test_markdown_read_back(rows: list[Row]) -> None:
    table = comparison_text(rows, "markdown").split("\n\n")[0].splitlines()
    head, _, *cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    assert {len(row) for row in [head, *cells]} == {len(head)} and head[0] == "model" and head[-1] == "binds"
    units = [re.sub(r".*?(?:\((.*)\))?$", r"\1", heading) for heading in head[1:-1]]
    assert cells[1][0] == r"mobilenet\_v3\_small" and cells.pop(2)[1].startswith("not counted: no YOLOv5 cfg")
    split = [[cell.split(" ") for cell in row[1:-1]] for row in cells]
    below = [[cell[1].strip("()") for cell in row] for row in split[1:]]
    check_cells(rows, units, [[cell[0] for cell in row] for row in split], below)


def test_latex_read_back(rows: list[Row]) -> None:
    rows[0].name, kept = r"a_b & 5% {x} \y~^#$", rows[0].name
    lines = comparison_text(rows, "latex").splitlines()
    rows[0].name = kept
    begin, end = lines.index("\\midrule"), lines.index("\\bottomrule")
    assert lines[:2] == ["\\begin{tabular}{lrrrrrrrrrr}", "\\toprule"] and lines[end + 1] == "\\end{tabular}"
    assert all(line.startswith("% ") for line in lines[end + 2 :]) and all(
        line.endswith(" \\\\") for line in lines[2:begin]
    )
    body = [line[: -len(" \\\\")] for line in lines[begin + 1 : end]]
    cells = [re.split(r"(?<!\\) ?& ?", line) for line in body]
    plain = cells[0][0].replace("\\textbackslash{}", "\0").replace("\\textasciitilde{}", "~")
    plain = re.sub(r"\\([&%$#_{}])", r"\1", plain.replace("\\textasciicircum{}", "^")).replace("\0", "\\")
    assert plain == r"a_b & 5% {x} \y~^#$"
    assert cells.pop(3)[1].startswith("\\multicolumn{10}{l}{not counted: ")
    units = [unit.strip("()") for unit in re.split(" ?& ?", lines[3][: -len(" \\\\")])][1:-1]
    values = [row[1:-1] for row in cells if row[0]]
    below = [[cell.replace("$-$", "-").replace("\\%", "%") for cell in row[1:-1]] for row in cells if not row[0]]
    check_cells(rows, units, values, below)


def test_data_read_back(rows: list[Row]) -> None:
    as_json = json.loads(comparison_text(rows, "json"))
    as_csv = list(csv.DictReader(io.StringIO(comparison_text(rows, "csv"))))
    frame = frame_of(records(rows))
    assert records(rows) == as_json and list(frame.columns) == list(as_csv[0]) == list(as_json[0])
    for row, data, line in zip(rows, as_json, as_csv):
        for name, value in row.numbers().items():
            assert data[name] == value and float(line[name]) == value and line[name] == str(value)
    assert as_json[2]["gflops"] is None and as_csv[2]["gflops"] == "" and "backbone" in as_csv[2]["error"]
    first = build(find([rows[0].source])[0], Setup((64, 96))).model
    time_of_first = time_bound(traffic(first, (torch.zeros(1, 3, 64, 96),)), find_device("raspberry-pi-5"))
    assert as_json[0]["time_seconds"] == time_of_first.seconds
    assert as_json[0]["time_memory_seconds"] == time_of_first.memory_seconds
    assert as_json[0]["binds"] == time_of_first.binds and as_json[0]["device"] == "raspberry-pi-5"


def test_numbers_of_any_size_fit_and_tell(rows: list[Row]) -> None:
    tiny, large = Row("t", "t"), Row("x" * 150, "x")
    for row, model, size in ((tiny, nn.Conv2d(3, 1, 1), 1), (large, nn.Conv2d(3, 500, 9), 1000)):
        row.traffic, row.parameters = traffic(model, (torch.zeros(1, 3, size, size),)), 30
        row.input, row.dtype = f"1x3x{size}x{size}", "float32"
    both = [tiny, large]
    bound_all(both, find_device("h100"))
    lines = comparison_text(both, "text").splitlines()
    assert max(map(len, lines)) <= 120 and any(line.startswith("..xx") for line in lines)
    for chosen in ([tiny], [large], both):
        table = comparison_text(chosen, "markdown").split("\n\n")[0].splitlines()
        head, _, *cells = [line.strip("| ").split(" | ") for line in table]
        units = [re.sub(r".*?(?:\((.*)\))?$", r"\1", heading) for heading in head[-10:-1]]
        split = [[cell.split(" ") for cell in row[-10:-1]] for row in cells]
        below = [[cell[1].strip("()") for cell in row if len(cell) > 1] for row in split[1:]]
        check_cells(chosen, units, [[cell[0] for cell in row] for row in split], below)


def test_what_is_left_out_is_not_explained(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "kernel + output; peak is the most memory" in comparison_text(rows, "text")
    monkeypatch.setenv("COLUMNS", "70")
    narrow = " ".join(comparison_text(rows, "text").split())
    assert "without FLOPs/B, peak" in narrow and "peak is the most memory" not in narrow
    assert "Accesses are elements, kernel + output." in narrow and "Binds says what" in narrow


def test_no_bar_is_drawn_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    work = [1, 2]
    assert cli._progress(work) is work
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli._progress(work) is not work and list(cli._progress(work)) == work


def test_remarks_stand_below_the_table(rows: list[Row]) -> None:
    assert notes(rows)[:2] == ["Percentages are differences to yolov5n (1).", "Input 1x3x64x96, float32."]
    least = "Least is the least time that the data sheet of Raspberry Pi 5, "
    assert any(note.startswith(least) for note in grid_of_comparison(rows).sentences)
    assert notes([rows[2], rows[0]])[0] == "No differences, for anchors was not counted."
    assert "%" not in comparison_text([rows[2], rows[0]], "text") + comparison_text([rows[0]], "markdown")
    (rounded,) = count_all(named([CFG]), Setup((65, 32)))
    assert "yolov5n: 65x32 is no multiple of the stride." in notes([rounded])
    samples = Row("samples", rows[0].source, traffic(Samples(), (torch.zeros(1, 3, 4, 4),)))
    assert notes([rounded, samples])[-2:] == [
        "samples *: + 1 kind of layers not counted (test_cli.Samples).",
        "samples *: aten::grid_sampler_2d is not exact: every input element is read once.",
    ]
    for form in ("text", "markdown", "latex"):
        text = comparison_text([rounded, samples], form).replace("\\", "")
        assert "samples *" in text and "yolov5n *" not in text
    assert [record["kinds_not_counted"] for record in records([rounded, samples])] == [0, 1]


class Samples(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.grid_sample(x, torch.zeros(1, 4, 4, 2, device=x.device), align_corners=False)


# ---- finding and building ----


def test_names_tell_models_apart() -> None:
    def named(*texts: str) -> list[str]:
        return names([Source(text, "cfg" if text.endswith("yaml") else "weights") for text in texts])

    assert named("a/x.yaml", "b/y.yaml") == ["x", "y"]
    assert named("r/exp/weights/best.pt", "r/exp2/weights/best.pt", "z.pt") == [
        "exp/weights/best.pt", "exp2/weights/best.pt", "z.pt",
    ]  # fmt: skip
    assert named("a/x.yaml", "a/x.yaml") == ["x (1)", "x (2)"]
    assert named("x.yaml", "a/x.yaml") == ["x.yaml", "a/x.yaml"]


def test_patterns_are_expanded(tmp_path: Path) -> None:
    found = [Path(source.text) for source in find([str(MODELS / "**" / "*.yaml")])]
    assert len(found) == 28
    assert found == [path for path in sorted(MODELS.rglob("*.yaml")) if path.name != "anchors.yaml"]
    odd = tmp_path / "a[1].yaml"
    odd.touch()
    assert [source.text for source in find([str(odd)])] == [str(odd)]


SAME = "yolov5n.yaml", "hub/yolov5s-transformer.yaml", "hub/yolov5-p34.yaml", "segment/yolov5n-seg.yaml"
SAME_TORCHVISION = "resnet18", "swin_t", "shufflenet_v2_x0_5", "lraspp_mobilenet_v3_large"


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of YOLOv5's fused layers, in half()
@pytest.mark.parametrize("setup", [Setup(), Setup((96, 64), 2, True, True)], ids=["plain", "fused, half, two images"])
@pytest.mark.parametrize("cfg", SAME)
def test_a_model_without_values_counts_the_same(yolo: Callable[..., Any], cfg: str, setup: Setup) -> None:
    built = build(find([str(MODELS / cfg)])[0], setup, without_values=True)
    assert all(parameter.is_meta for parameter in built.model.parameters())
    model = yolo(cfg).eval()
    model = model.fuse() if setup.fuse else model
    model = model.half() if setup.half else model
    height, width = setup.imgsz or (640, 640)
    x = torch.zeros(setup.batch, 3, height, width, dtype=torch.float16 if setup.half else torch.float32)
    assert traffic_of(built.record()) == traffic(model, (x,))
    assert torch.equal(built.model.stride, model.stride)
    counted_by_hand = ModelInfo(0, 0, 0, None, record(model, (x,)))
    assert built.info(built.record()).table() == counted_by_hand.table()


@pytest.mark.parametrize("name", SAME_TORCHVISION)
def test_a_torchvision_model_without_values_counts_the_same(name: str) -> None:
    source = find([f"torchvision:{name}"])[0]
    blank, built = build(source, Setup(), without_values=True), build(source, Setup())
    assert all(p.is_meta for p in blank.model.parameters()) and not any(p.is_meta for p in built.model.parameters())
    assert traffic_of(blank.record()) == traffic_of(built.record())


def test_what_a_module_makes_when_it_is_imported_has_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "makes_at_import.py").write_text(
        "import torch\nfrom torch import nn\nTHREE = int(torch.full((1,), 3.0).item())\n"
        "def net():\n    return nn.Conv2d(3, THREE, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    built = build(find(["makes_at_import:net"])[0], Setup((32, 32)), without_values=True)
    assert built.model.weight.is_meta and built.model.out_channels == 3


def test_building_without_values_is_quick() -> None:
    source = find([str(MODELS / "yolov5l.yaml")])[0]

    def seconds(without_values: bool) -> float:
        started = time.perf_counter()
        build(source, Setup(), without_values)
        return time.perf_counter() - started

    seconds(True)
    assert min(seconds(True), seconds(True)) < seconds(False) / 2


def test_a_model_that_needs_values_is_built_with_them() -> None:
    (row,) = count_all(named(["torchvision:ssdlite320_mobilenet_v3_large"]), Setup((64, 64)))
    assert row.traffic is not None and row.traffic.mode == "real" and not row.error
    assert row.remarks()[0].startswith("counted in a real forward pass (")


def test_a_cfg_with_an_activation_leaves_the_next_alone() -> None:
    def activations(cfg: str) -> set[str]:
        model = build(find([str(MODELS / cfg)])[0], Setup(), without_values=True).model
        return {type(m).__name__ for m in model.modules()} & {"SiLU", "LeakyReLU"}

    assert [activations(cfg) for cfg in ("hub/yolov5s-LeakyReLU.yaml", "yolov5n.yaml")] == [{"LeakyReLU"}, {"SiLU"}]


@pytest.mark.usefixtures("in_use")
def test_weights_come_unfused_in_float32_and_leave_no_trace(nets: Path) -> None:
    before = dict(os.environ)
    built = build(find([str(nets / "yolov5" / "runs" / "best.pt")])[0], Setup())
    kinds = {type(m).__name__ for m in built.model.modules()}
    assert "BatchNorm2d" in kinds and {p.dtype for p in built.model.parameters()} == {torch.float32}
    assert dict(os.environ) == before
    from yolov5.models import experimental

    assert experimental.attempt_download.__name__ == "attempt_download"


def test_code_of_a_checkout_is_kept_quiet_and_off_the_network(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    marker = tmp_path / "installed"
    with alone():
        print("a word")
        print("another", file=sys.stderr)
        with pytest.raises(PermissionError, match="refused to use the network"):
            socket.create_connection(("127.0.0.1", 9))
        with pytest.raises(PermissionError, match="refused to run 'pip install"):
            os.system(f"pip install nothing-of-that-name; touch {marker}")
        with pytest.raises(PermissionError, match=r"refused to run .*curl"):
            subprocess.run(["curl", "-o", str(marker), "https://localhost/"], check=True)
        assert subprocess.run([sys.executable, "-c", "pass"]).returncode == 0
    assert not marker.exists() and capfd.readouterr() == ("", "")
    assert os.system(f"{sys.executable} -c pass  # pip") == 0


# ---- what it says ----


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command in this process; return its status and both outputs."""
    status = main([*map(str, arguments)])
    return (status, *capsys.readouterr())


BAD = {
    "unknown command": (["sumary", CFG], "invalid choice: 'sumary'"),
    "no model": (["compare"], "arguments are required: MODEL"),
    "unknown option": (["summary", CFG, "--imgz", "640"], "unrecognized arguments: --imgz 640"),
    "two models": (["summary", CFG, CFG], "summary takes one MODEL; compare shows several"),
    "no such file": (["summary", "absent.yaml"], "absent.yaml: no such file"),
    "a near miss": (["summary", str(MODELS / "yolov5z.yaml")], "yolov5z.yaml: no such file; did you mean "),
    "no such model of timm": (["summary", "timm:resnet5O"], "timm has no such model; did you mean resnet50"),
    "no such cfg of ultralytics": (["summary", "ultralytics:yolo111n.yaml"], "ultralytics has no such model; did you"),
    "weights of ultralytics": (["summary", "ultralytics:yolo11n.pt"], "weights are not fetched here"),
    "sorted by a time of nowhere": (["compare", CFG, "--sort", "time"], "--sort time takes a --device"),
    "a range of nothing": (["summary", CFG, "--inputs", "0..4"], "a range such as 0..1000 follows the shape"),
    "a type of nothing": (["summary", CFG, "--inputs", "int64"], "the type int64 stands before no shape"),
    "no such weights": (["compare", CFG, "absent.pt"], "absent.pt: no such file"),
    "a folder": (["summary", "{tmp}/folder.yaml"], "folder.yaml: a folder; name a file in it"),
    "no match": (["compare", "{tmp}/*.yml"], "*.yml: no file matches"),
    "no cfg": (["summary", "{tmp}/data.yaml"], "data.yaml: no YOLOv5 cfg, it has no backbone and no head"),
    "no yaml": (["summary", "{tmp}/broken.yaml"], "broken.yaml: no valid YAML, line 3: "),
    "an empty cfg": (["summary", "{tmp}/empty.yaml"], "empty.yaml: no YOLOv5 cfg"),
    "an unknown layer": (["summary", "{tmp}/wrong.yaml"], "can't be built: NameError: name 'Convo' is not defined"),
    "weights that are none": (["summary", "{tmp}/none.pt"], "none.pt: can't be opened: "),
    "weights by another name": (["summary", "{tmp}/weights.bin"], "weights.bin: not a model: a cfg"),
    "a pattern for all": (["compare", "{tmp}/*"], "*: not a model"),
    "size 0": (["summary", CFG, "--imgsz", "0"], "one or two whole numbers from 1 up, not '0'"),
    "negative size": (["summary", "--imgsz", "-32", CFG], "from 1 up, not '-32'"),
    "size of a half": (["summary", CFG, "--imgsz", "640", "0.5"], "not '640 0.5'"),
    "size of letters": (["summary", CFG, "--imgsz", "big"], "not 'big'"),
    "batch 0": (["compare", CFG, "--batch", "0"], "whole number from 1 up, not '0'"),
    "depth 0": (["summary", CFG, "--depth", "0"], "whole number from 1 up, not '0'"),
    "unknown column": (["summary", CFG, "--sort", "colour"], "invalid choice: 'colour'"),
    "unknown device": (["summary", CFG, "--device", "jetsen-nano"], "did you mean jetson-nano"),
    "no device file": (["devices", "--devices", "{tmp}/absent.yaml"], "absent.yaml: no such file"),
    "bad device file": (["compare", CFG, "--devices", "{tmp}/data.yaml"], "data.yaml: "),
    "a folder as output": (["compare", CFG, "--output", "{tmp}"], "can't be written: Is a directory"),
    "output in no folder": (["compare", CFG, "--output", "{tmp}/no/x.csv"], "can't be written: No such file"),
    "picture in no folder": (["summary", CFG, "--plot", "{tmp}/no/x.png"], "can't be written: No such file"),
    "unknown picture": (["compare", CFG, "--plot", "{tmp}/x.gif"], "x.gif' must end in .png, .svg or .pdf"),
    "two formats": (["compare", CFG, "--csv", "--json"], "not allowed with argument"),
    "unknown network": (["summary", "torchvision:resnet51"], "no such model; did you mean resnet5"),
    "no module": (["summary", "no_such_module:net"], "No module named 'no_such_module'"),
    "no such function": (["summary", "torchvision.models:resnet51"], "torchvision.models has no resnet51"),
    "no function": (["summary", "nets:a_number"], "a_number, of type int, can't be called"),
    "no network": (["summary", "nets:number"], "returned int, not a torch.nn.Module"),
    "no fuse": (["summary", "torchvision:resnet18", "--fuse"], "ResNet has no fuse()"),
    "no image": (["summary", "torchvision:r3d_18"], "the model has no 2-d convolution"),
}  # fmt: skip


@pytest.mark.usefixtures("in_use")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(
    name: str, nets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nets)
    monkeypatch.syspath_prepend(str(nets))
    wrong = "backbone: [[-1, 1, Convo, [64, 6, 2, 2]]]\nhead: [[-1, 1, Detect, [nc, anchors]]]\n"
    wrong += "nc: 80\ndepth_multiple: 1\nwidth_multiple: 1\nanchors: 3\n"
    (tmp_path / "folder.yaml").mkdir()
    for file, text in {
        "data.yaml": "path: ../datasets\nnc: 80\n", "broken.yaml": "a:\n  - [1, 2\nb: 3\n", "empty.yaml": "",
        "none.pt": "no weights", "weights.bin": "neither", "wrong.yaml": wrong,
    }.items():  # fmt: skip
        (tmp_path / file).write_text(text, encoding="utf-8")
    arguments, message = BAD[name]
    words = [word.format(tmp=tmp_path) for word in arguments]
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, ""), err
    last = err.splitlines()[-1]
    assert last.startswith(f"{PROGRAM}: ") and message in last
    assert set(err.splitlines()[:-1]) <= {"a word on stdout", "another word"}
    assert not (tmp_path / "x.gif").exists()


@pytest.mark.usefixtures("in_use")
def test_weights_are_opened_only_when_named_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Touches:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model": Touches()}, tmp_path / "weights.bin")
    for words in (["summary", "weights.bin"], ["compare", "*"]):
        assert run(capsys, words[0], tmp_path / words[1])[0] == 2 and not (tmp_path / "ran").exists()
    (tmp_path / "weights.bin").rename(tmp_path / "weights.pt")
    status, _, err = run(capsys, "summary", tmp_path / "weights.pt")
    assert status == 2 and len(err.splitlines()) == 1 and (tmp_path / "ran").exists()


def test_help_warns_of_weights(capsys: pytest.CaptureFixture[str]) -> None:
    for command_name in ("summary", "compare"):
        status, out, err = run(capsys, command_name, "--help")
        assert (status, err) == (0, "") and "A weights file runs code when it is opened" in out
    assert all(sort in run(capsys, "summary", "--help")[1] for sort in SORTS)


@pytest.mark.parametrize("suffix, switch", [("csv", ""), ("json", ""), ("md", ""), ("tex", ""), ("txt", "--latex")])
def test_output_goes_where_it_is_told(
    suffix: str, switch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"table.{suffix}"
    target.write_text("what was there before")
    words = ["compare", CFG, "--imgsz", "64", "torchvision:resnet18", "--output", str(target), *switch.split()]
    assert run(capsys, *words) == (0, "", "")
    rows = count_all(named([CFG, "torchvision:resnet18"]), Setup((64, 64)))
    form = {"csv": "csv", "json": "json", "md": "markdown", "tex": "latex", "txt": "latex"}[suffix]
    assert target.read_text(encoding="utf-8") == comparison_text(rows, form)


def test_pictures_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "roofline.svg", tmp_path / "models.svg"
    status, out, err = run(capsys, "summary", CFG, "--imgsz", "64", "--plot", first)
    assert (status, err) == (0, "measuring this machine for the roofline, for want of a --device\n")
    assert "least time" not in out and "yolov5n" in first.read_text(encoding="utf-8")
    status, out, err = run(capsys, "compare", CFG, "torchvision:resnet18", "--imgsz", "64", "--plot", second)
    assert (status, err) == (0, "")
    assert all(name in second.read_text(encoding="utf-8") for name in ("yolov5n", "resnet18", "GFLOPs"))


def test_devices_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each, by kind; those for a number of cores or streams are reached by it."""
    own = tmp_path / "own.yaml"
    own.write_text("My-Board:\n  title: A board\n  bandwidth: 3.2\n  peaks: {float32: 0.0123, int8: 1.5}\n")
    status, out, err = run(capsys, "devices", "--devices", own)
    assert (status, err) == (0, "")
    lines = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    variants = {"ax650n-1-core", "rdk-x5-throughput", "zcu102-throughput", "vck190-throughput",
                "alveo-u50lv-throughput", "alveo-u55c-throughput"}  # fmt: skip
    assert sorted(lines) == sorted(set(load_devices(own)) - variants) and "my-board" in lines
    assert [line for line in out.splitlines() if line and line[0].isupper()][:3] == ["NPUs", "GPUs", "CPUs"]
    (rk3588,) = [line for line in out.splitlines() if line.startswith("  rk3588 ")]
    assert re.search(r"Rockchip RK3588, .*  rknn \d%$", rk3588)
    status, out, _ = run(capsys, "devices", "jetson")
    assert status == 0 and all("jetson" in line for line in out.splitlines() if line.startswith("  "))
    status, out, err = run(capsys, "devices", "rk35888")
    assert (status, out) == (2, "") and "did you mean" in err


def test_a_device_is_told_with_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    scale = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    for name, device in load_devices().items():
        out = run(capsys, "devices", name)[1]
        head, *lines = out.splitlines()
        assert head == f"{name}: {listed[name]['title']}"
        figures = [line.split() for line in lines if re.match(r"  \w+ +[\d.]+ [KMGT](B|B/s|OP/s|FLOP/s)\b", line)]
        found = {one[0]: float(one[1]) * scale[one[2][0]] for one in figures}
        known = {"bandwidth": device.bandwidth, "memory": device.memory, **device.peaks}
        assert found == pytest.approx({figure: value for figure, value in known.items() if value}, rel=1e-3)
        assert all(source in out for source in device.sources.values())
        for runtime, estimate in device.runtimes.items():
            assert f"({runtime}), {', '.join(estimate.precisions)}: {estimate.basis.networks} networks" in out


def test_a_cfg_is_read_as_yolov5_reads_it() -> None:
    for path in MODELS.rglob("yolo*.yaml"):
        assert read_cfg(path) == yaml.safe_load(path.read_text(encoding="ascii", errors="ignore"))


def test_a_failure_in_the_count_is_the_models(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nets)
    monkeypatch.syspath_prepend(str(nets))
    with pytest.raises(RuntimeError, match="I will not"):
        counted(find(["nets:Refuses"])[0], Setup(), Built.record)


class Leaves(nn.Module):
    """Ends the program, or is interrupted."""

    def __init__(self, error: Any) -> None:
        super().__init__()
        self.c, self.error = nn.Conv2d(3, 4, 1), error

    def forward(self, x: Any) -> Any:
        raise self.error


def ends_the_program() -> nn.Module:
    return Leaves(SystemExit(3))


def is_interrupted() -> nn.Module:
    return Leaves(KeyboardInterrupt())


def test_a_forward_that_ends_the_program_is_that_models_error(capsys: pytest.CaptureFixture[str]) -> None:
    here = f"{__name__}:"
    assert main(["compare", f"{here}ends_the_program", "torchvision:resnet18"]) == 1
    printed = capsys.readouterr()
    assert "its forward ends the program (SystemExit: 3)" in printed.out + printed.err and "resnet18" in printed.out
    with pytest.raises(KeyboardInterrupt):
        counted(Source(f"{here}is_interrupted", "callable"), Setup(), Built.record)


def test_a_count_that_depends_on_values_is_the_same_each_time() -> None:
    source = Source("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", "torchvision")
    setup = Setup((320, 320))
    found = [counted(source, setup, lambda built: profile(built.model, built.inputs, verbose=False)) for _ in range(2)]
    assert found[0] == found[1] and found[0].mode == "real"


def test_what_a_pattern_finds_stands_in_the_order_of_its_size(capsys: Any) -> None:
    pattern = str(MODELS / "yolov5*.yaml")
    assert main(["compare", pattern, "--imgsz", "64", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == [f"yolov5{letter}" for letter in "nsmlx"]
    assert rows[0]["gflops_percent"] == 0 and all(row["gflops_percent"] > 0 for row in rows[1:])
    texts = [str(MODELS / f"yolov5{letter}.yaml") for letter in "sn"]
    assert main(["compare", *texts, "--imgsz", "64", "--json", "--baseline", "yolov5n"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["yolov5s", "yolov5n"] and rows[1]["gflops_percent"] == 0


def test_models_of_packages(capsys: Any) -> None:
    words = ["timm:resnet18", "torchvision:resnet18", "ultralytics:yolo11n.yaml", "yolov5n.yaml"]
    assert main(["compare", *words[:3], "--json"]) == 0
    timms, torchvisions, yolo11 = json.loads(capsys.readouterr().out)
    assert timms["gflops"] == torchvisions["gflops"] and timms["input"] == torchvisions["input"] == "1x3x224x224"
    assert yolo11["input"] == "1x3x640x640" and yolo11["parameters"] == 2_624_080 and yolo11["model"] == "yolo11n"


def test_inputs_of_types_and_ranges(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Reads(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.e, self.l = nn.Embedding(50, 8), nn.Linear(8, 2)\n"
        "    def forward(self, words, scale):\n"
        "        assert words.dtype == torch.int64 and scale.dtype == torch.float16\n"
        "        return self.l(self.e(words)) if int(words.max()) > 1 else None\n"
        "def make():\n    return Reads()\n"
    )
    assert main(["compare", "words:make", "--inputs", "int64 1x16", "2..50", "float16", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["error"] == "" and row["mode"] == "real" and row["total_ops"] == 16 * 8 * 2


def test_exports_of_every_command(tmp_path: Path, capsys: Any) -> None:
    for words in (["summary", CFG, "--imgsz", "64"], ["train", CFG, "--imgsz", "64", "--batch", "2"], ["devices"]):
        assert main([*words, "--json"]) == 0 and json.loads(capsys.readouterr().out)
        assert main([*words, "--output", str(tmp_path / "x.csv")]) == 0 and not capsys.readouterr().out
        assert len(list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))) > 5


def test_multiply_adds_are_a_column_on_request(capsys: Any) -> None:
    assert main(["compare", CFG, "--columns", "gflops,multiply-adds", "--imgsz", "640"]) == 0
    head, _, _, row, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "GFLOPs", "multiply-adds"] and row.split() == ["yolov5n", "4.6", "2.3"]
    assert main(["compare", CFG]) == 0 and "multiply-adds" not in capsys.readouterr().out


def test_devices_are_found_without_hyphens(capsys: Any) -> None:
    for name in ("rtx3060", "RTX 3060", "rtx-3060", "jetsonorinnano"):
        assert main(["compare", CFG, "--device", name, "--imgsz", "64"]) == 0

"""How answers read: a few lines at a prompt and in a notebook, all rows as a table, text and picture; by hand."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import utils.thop
from utils.thop import calibrate, compare, deployed, predict, profile, traffic, training
from utils.thop.run.inputs import usual_size
from utils.thop.show.grid import Column, Grid, Line, to_text
from utils.thop.show.summary import memory_info

X = torch.zeros(1, 3, 64, 64)


@pytest.fixture(name="answers", scope="module")
def answers_of_a_network(yolo: Any) -> dict[str, Any]:
    model, names = yolo("yolov5s.yaml"), ("resnet18", "vgg11", "mobilenet_v2")
    networks = [deployed(torchvision.models.get_model(name), X, "rknn") for name in names]
    prediction = predict(model, device="rk3588")
    return {
        "model": model,
        "info": memory_info(model),
        "predict": prediction,
        "timing": prediction.timing(),
        "deployed": deployed(model, (torch.zeros(1, 3, 640, 640),), "rknn"),
        "traffic": traffic(model, torch.zeros(1, 3, 640, 640)),
        "training": training(model, torch.zeros(2, 3, 640, 640)),
        "profile": profile(model, torch.zeros(1, 3, 640, 640), verbose=False),
        "compare": compare([model, "torchvision:resnet18"], device="t4"),
        "calibrate": calibrate([(network, 0.004 * i) for i, network in enumerate(networks, 1)]),
    }


KINDS = ("info", "predict", "timing", "deployed", "traffic", "training", "profile", "compare", "calibrate")
LINES, WIDTH = 40, 120


def is_short(value: Any) -> bool:
    lines = repr(value).split("\n")
    return sum(-(-max(len(line), 1) // WIDTH) for line in lines) <= LINES


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_reads_as_a_few_lines(answers: dict[str, Any], kind: str) -> None:
    answer = answers[kind]
    lines = repr(answer).split("\n")
    assert 2 <= len(lines) <= LINES and max(map(len, lines)) <= WIDTH
    html = answer._repr_html_()
    assert html.count("<tr") <= LINES and "<table" in html and "<script" not in html
    for name in dir(answer):
        value = None if name.startswith("_") else getattr(answer, name)
        assert callable(value) or is_short(value), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_hands_out_its_rows(answers: dict[str, Any], kind: str, tmp_path: Path) -> None:
    answer = answers[kind]
    frame = answer.to_frame()
    assert len(frame) and is_short(frame)
    text = answer.to_json()
    assert json.loads(text) and answer.to_json(path=tmp_path / "a.json") == text
    assert (tmp_path / "a.json").read_text(encoding="utf-8").strip() == text.strip()
    assert answer.to_markdown(path=tmp_path / "a.md").count("|") > 10 and (tmp_path / "a.md").is_file()
    figure = answer.plot(tmp_path / "a.png")
    assert figure.axes and answer.plot().axes and (tmp_path / "a.png").stat().st_size > 5000


def test_rows_sum_to_the_totals(answers: dict[str, Any]) -> None:
    found, prediction, launches = answers["profile"], answers["predict"], answers["deployed"]
    assert found.to_frame()["kernel"].sum() + found.to_frame()["output"].sum() == 81_856_816
    assert f"{found.to_frame()['ops'].sum() * 2 / 1e9:.1f} GFLOPs" in repr(found)
    assert prediction.to_frame()["seconds"].sum() == pytest.approx(prediction.seconds)
    assert launches.to_frame()["flops"].sum() == launches.flops and str(len(launches.launches)) in repr(launches)
    assert answers["traffic"].to_frame()["read_bytes"].sum() == answers["traffic"].read_bytes
    assert answers["training"].to_frame()["kept_bytes"].sum() == answers["training"].kept


def test_lists_and_their_rows_are_short(answers: dict[str, Any]) -> None:
    lists: tuple[Any, ...] = (answers["predict"].launches, answers["predict"].layers(), answers["deployed"].launches,
             answers["traffic"].layers, answers["traffic"].calls, answers["traffic"].operators,
             answers["profile"].layers, answers["training"].kept_by_layer)  # fmt: skip
    for rows in lists:
        assert is_short(rows) and is_short(rows[0]) and len(rows.to_frame()) == len(rows)
    assert is_short(answers["profile"].root) and is_short(answers["deployed"].launches[0].steps[0])


def test_the_line_and_the_answer_agree(answers: dict[str, Any]) -> None:
    info = answers["info"]
    assert info.accesses == info.total_kernel_macs + info.total_output_macs == 81_856_816
    assert "16.6 GFLOPs, 81.9M memory accesses (7.2M kernel + 74.6M output)" in " ".join(repr(info).split())
    assert info.advice("rk3588") and all(str(one).endswith(".") for one in info.advice("rk3588"))


def test_a_table_fits_unless_its_depth_is_asked_for(answers: dict[str, Any]) -> None:
    info = answers["info"]
    text = info.table()
    assert len(text.split("\n")) <= LINES and "depth=5 shows all levels" in text
    assert len(info.table(depth=5).split("\n")) > 200 and len(info.table(sort="traffic").split("\n")) <= LINES
    assert "The 25 heaviest of 198 rows: depth=5 shows all." in " ".join(info.table(sort="traffic").split())


def test_results_hold_the_model_weakly() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    reference, info = weakref.ref(model), memory_info(model, 32)
    held = [info, predict(model, X, device="t4"), training(model, X, amp=False), compare([model])]
    del model
    gc.collect()
    assert reference() is None and len(held) == 4
    assert info.predict("t4").seconds > 0 and info.table() and info.gflops > 0  # all of it was recorded
    with pytest.raises(RuntimeError, match="keep it in a variable"):
        info.predict("v100", "pytorch", "amp")  # another run


def test_names_of_the_package() -> None:
    assert {"compare", "predict", "profile", "traffic", "training"} <= set(dir(utils.thop)) <= {
        *utils.thop.__all__, "__version__"}  # fmt: skip


# ---- what is handed in ----


def test_ultralytics_handle_is_taken_for_its_network(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    from ultralytics import YOLO

    handle = YOLO("yolo11n.yaml")
    network = handle.model
    assert profile(handle, X, verbose=False) == profile(network, X, verbose=False)
    assert memory_info(handle, 64).accesses == memory_info(network, 64).accesses
    assert predict(handle, X, device="t4").seconds == predict(network, X, device="t4").seconds
    assert handle.model is network and not list(tmp_path.iterdir())


class Trains(nn.Module):
    """A module whose train() is something else, inside of another."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.done = nn.Conv2d(3, 4, 1), []  # type: ignore[var-annotated]

    def train(self, data: Any = None, epochs: int = 1) -> Any:  # type: ignore[override]
        raise AssertionError("a training has started")

    def forward(self, x: torch.Tensor) -> Any:
        return self.c(x)


def test_only_pytorchs_train_is_called() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = Trains(), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.inner(x))

    for model in (Trains(), Around()):
        assert profile(model, X, verbose=False).total_ops > 0 and training(model, X, amp=False).peak > 0
        assert "train" not in vars(model) and all("train" not in vars(part) for part in model.modules())


def test_what_is_no_handle_stays_itself() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.model(self.model(x)[:, :3])

    assert profile(Holds(), X, verbose=False).total_kernel_macs == 2 * 12


def test_usual_sizes(yolo: Any) -> None:
    assert usual_size(torchvision.models.resnet18()) == (224, 224) and usual_size(yolo("yolov5n.yaml")) == (640, 640)
    assert usual_size(timm.create_model("tf_efficientnetv2_s")) == (300, 300)
    assert usual_size(nn.Sequential(torchvision.models.resnet18())) == (640, 640)
    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    assert usual_size(detector) == (640, 640)
    model = torchvision.models.resnet18()
    assert predict(model, device="t4").seconds == predict(model, torch.zeros(1, 3, 224, 224), device="t4").seconds


def test_comparing_in_python(yolo: Any) -> None:
    models = {"small": yolo("yolov5n.yaml"), "large": yolo("yolov5s.yaml")}
    found = compare(models, device="t4", sort="time", baseline="large", imgsz=320)
    assert [row.name for row in found.rows] == ["small", "large"]
    assert found.to_frame()["gflops_percent"].tolist()[1] == 0 and found.rows[0].input == "1x3x320x320"
    for row in found.rows:
        assert row.bound and row.prediction and row.bound.seconds <= row.prediction.seconds
    with pytest.raises(ValueError, match="takes a device"):
        compare(models, sort="time")
    with pytest.raises(ValueError, match="no model is called 'huge'"):
        compare(models, baseline="huge")
    assert "x was not" not in repr(compare([nn.Identity()]))


# ---- the width of a terminal ----


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_tables_fit_the_terminal(answers: dict[str, Any], columns: int, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    texts = [answers["info"].table(depth=3), answers["info"].table(sort="traffic")]
    texts += [repr(answers[kind]).partition("\n")[2] for kind in ("compare", "traffic", "deployed")]
    for text in texts:
        assert max(map(len, text.split("\n"))) <= max(columns, 76), text


def test_columns_that_are_left_out_are_named(monkeypatch: Any) -> None:
    columns_ = [Column("name", is_text=True), Column("a", spare=1), Column("b", spare=2), Column("c")]
    grid = Grid(columns_, [Line(["x" * 8, "1" * 9, "2" * 9, "3" * 9])], ["total", "1", "2", "3"])
    monkeypatch.setenv("COLUMNS", "32")
    text = to_text(grid, 100)
    assert "For want of room without b." in text and "1" * 9 in text and "2" * 9 not in text
    monkeypatch.setenv("COLUMNS", "100")
    assert "want of room" not in to_text(grid, 100)

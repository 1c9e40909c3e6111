"""choose: which networks are fast enough on a device, by the same times as predict has, with published accuracies."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from releases import LATEST, release
from releases import yolo as build_yolo
from torch import nn

from utils.thop import choose, predict
from utils.thop.command.cli import main
from utils.thop.count.record import record
from utils.thop.deploy import DeviceError
from utils.thop.deploy.choice import Candidate, chance_of, ranked
from utils.thop.deploy.measurements import accuracies, known_as

YOLOV5 = release(LATEST) / "yolov5"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(YOLOV5)


def test_the_table_of_a_family(in_checkout: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = "choose", "--device", "rk3588", "--fps", 30, "--family", "yolov5", "--imgsz", 320, 640
    picture = tmp_path / "choice.png"
    status, out, err = run(capsys, *arguments, "--plot", picture)
    assert (status, err) == (0, "")
    head, *lines = out.splitlines()
    assert head.startswith("30 images a second on Rockchip RK3588") and " of 20 may reach it" in head
    rows = [line.split() for line in lines if line.startswith("yolov5")]
    assert rows[0][:3] == ["yolov5s", "YOLOv5", "640"] and "37.4" in rows[0] and "*" in rows[0]  # m takes 49 ms
    found = predict(build_yolo("yolov5s.yaml").eval(), "rk3588")
    assert float(rows[0][3]) == pytest.approx(found.seconds * 1e3, rel=0.005)
    assert float(rows[0][7]) == 20.7  # what Rockchip has published
    assert picture.stat().st_size > 20_000
    answer = json.loads(run(capsys, *arguments, "--json")[1])
    assert len(answer["rows"]) == 20 and answer["totals"]["images_per_second"] == 30
    maps = {(row["name"], row["imgsz"]): row["map"] for row in answer["rows"]}
    assert maps["yolov5m", 640] == 45.4 and maps["yolov5m", 320] is None
    table = list(csv.DictReader(io.StringIO(run(capsys, *arguments, "--csv")[1])))
    assert [row["name"] for row in table] == [row["name"] for row in answer["rows"]]


def test_other_tasks(in_checkout: None) -> None:
    found = choose(device="rk3588", fps=20, task="segment", family="yolov5", imgsz=[640])
    assert [row.map for row in found.rows] == [31.7, 23.4, 41.4, 39.9, 37.1]  # s and n may reach it
    assert "of masks" in repr(found)
    (row,) = [row for row in found.rows if row.name == "yolov5n-seg"]
    assert row.published_seconds == pytest.approx(14.4e-3, abs=1e-4)
    assert choose(device="t4", ms=5, task="classify", imgsz=[224]).rows[0].map == 79.5
    with pytest.raises(ValueError, match="task must be one of detect, segment, pose, classify, not 'sing'"):
        choose(device="t4", ms=5, task="sing")


def test_networks_of_ones_own() -> None:
    """Modules, functions that make them, files; each by its own time, and an accuracy only where it is known."""
    cfg = str(YOLOV5 / "models/yolov5n.yaml")
    models = [torchvision.models.resnet18(weights=None), partial(torchvision.models.resnet34, weights=None), cfg]
    found = choose(models, device="t4", ms=3.0, imgsz=[224, 640])
    rows = {(row.name, row.imgsz): row for row in found.rows}
    assert {name for name, _ in rows} == {"ResNet 1", "network 2", "yolov5n"}
    for (name, size), row in rows.items():
        model = {"ResNet 1": models[0], "network 2": models[1]}.get(name)
        model = build_yolo("yolov5n.yaml") if model is None else model if isinstance(model, nn.Module) else model()
        again = predict(model.eval(), "t4", inputs=(torch.zeros(1, 3, size, size),))
        assert (row.seconds, row.low, row.high) == pytest.approx((again.seconds, again.low, again.high))
        width = math.log(again.high / again.seconds) / 1.645
        assert row.chance == pytest.approx(0.5 * math.erfc(math.log(again.seconds / 3e-3) / width / math.sqrt(2)))
        assert row.fps == pytest.approx(1 / again.seconds)
    assert rows["yolov5n", 640].map == 28.0 and rows["yolov5n", 640].family == "YOLOv5"
    assert rows["ResNet 1", 640].map is rows["yolov5n", 224].map is None
    assert "mAP" in repr(found) and len(found.to_frame()) == 6
    in_processes = choose(models, device="t4", ms=3.0, imgsz=[224, 640], jobs=2).rows
    assert [row.name for row in in_processes] == [row.name for row in found.rows]


def test_what_can_not_go_to_another_process_is_said_in_one_line() -> None:
    makers = [lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(3, 9, 3)]
    with pytest.raises(ValueError, match=r"^jobs=2: what is tried can't go to another process \(.*\); leave jobs out$"):
        choose(makers, device="t4", fps=30, imgsz=64, jobs=2)
    assert len(choose(makers, device="t4", fps=30, imgsz=64).rows) == 2


def test_what_fails_is_named_and_the_others_go_on(
    in_checkout: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "nc: 80\ndepth_multiple: 1\nwidth_multiple: 1\nanchors: 3\nbackbone: [[-1, 1, Nothing, [8]]]\nhead: []\n"
    )
    status, out, _ = run(capsys, "choose", broken, "models/yolov5n.yaml", "--device", "rk3588", "--fps", 30)
    assert status == 0 and "yolov5n" in out and "Not counted: broken: " in " ".join(out.split())
    status, out, _ = run(capsys, "choose", "models/yolov5n.yaml", "--device", "rk3588", "--fps", 5000)
    assert status == 0 and "Nothing reaches 5000 images a second; closest comes yolov5n at 320 with" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--device", "rk3588"], "one of the arguments --fps --ms is required"),
        (["--device", "rk3588", "--fps", "0"], "argument --fps: must be a number above 0, not '0'"),
        (["--device", "rk3588", "--ms", "soon"], "argument --ms: must be a number above 0, not 'soon'"),
        (["--device", "toaster", "--fps", "30"], "no device is called 'toaster'"),
        (["--device", "hailo-8", "--fps", "30"], "no time is predicted under HailoRT"),
        (["--device", "t4", "--fps", "30", "--family", "yolov99"], "no family is called 'yolov99', only YOLOv5, "),
        (["missing.yaml", "--device", "t4", "--fps", "30"], "missing.yaml: no such file"),
        (["--device", "t4", "--device", "rk3588", "--fps", "30"], "choose takes one --device; predict shows several"),
    ],
)
def test_bad_input_gets_one_line(
    in_checkout: None, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    status, out, err = run(capsys, "choose", *arguments)
    assert (status, out) == (2, "") and complaint in err and len(err.splitlines()) == 1


def test_bad_input_in_python() -> None:
    model = torchvision.models.resnet18(weights=None)
    for rate in ({}, {"fps": 30, "ms": 3}, {"fps": 0}, {"ms": math.inf}):
        with pytest.raises(ValueError, match=r"either fps|must be a number above 0"):
            choose([model], device="t4", **rate)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="no device is called"):
        choose([model], device="toaster", fps=30)


# ---- what it is made of ----


def test_the_front_is_what_nobody_beats() -> None:
    rows = [Candidate(str(i), "", 640, seconds=s, map=m, chance=1.0) for i, (s, m) in enumerate(
        [(3e-3, 40.0), (1e-3, 30.0), (2e-3, 30.0), (4e-3, 39.0), (5e-3, 45.0), (1e-3, 29.0), (2e-3, None)]
    )]  # fmt: skip
    found = ranked(rows)
    for row in rows:
        beaten = any(o.map is not None and row.map is not None and o is not row and o.seconds <= row.seconds
                     and o.map >= row.map for o in rows)  # fmt: skip
        (marked,) = [one for one in found if one.name == row.name]
        assert marked.on_front == (row.map is not None and not beaten), row
    assert [row.name for row in found] == ["4", "0", "3", "1", "2", "5", "6"]


def test_a_chance_is_that_of_a_log_normal() -> None:
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.2
    for limit in (0.8, 1.0, 1.3):
        share = float((draws.exp() * 2.0 <= limit * 2.0).double().mean())
        assert chance_of(limit * 2.0, 2.0, 0.2) == pytest.approx(share, abs=0.005)


def test_a_known_network_is_recognised_by_its_architecture(yolo: Any) -> None:
    """At any size, fused or not, trained or not; and not with other activations, widths or classes."""

    def name(model: nn.Module, side: int = 640) -> list[str]:
        return [one.name for one in known_as(record(model.eval(), (torch.zeros(1, 3, side, side),)))]

    assert name(yolo("yolov5s.yaml")) == name(yolo("yolov5s.yaml"), 320) == ["yolov5s"]
    assert name(yolo("hub/yolov5n6.yaml")) == ["yolov5n6"]
    cfg = copy.deepcopy(yolo("yolov5s.yaml").yaml)
    cfg["backbone"][0] = [-1, 1, "Focus", [64, 3]]  # the same weights in number, of another kernel
    assert name(type(yolo("yolov5s.yaml"))(cfg)) == []
    assert name(yolo("yolov5s.yaml", nc=1)) == name(torchvision.models.resnet18(weights=None)) == []
    keys = [one.architecture for one in accuracies()]
    assert len(set(keys)) == len(keys) > 90 and all(one.source and 20 < one.map < 80 for one in accuracies())


def test_a_size_is_the_one_that_is_counted() -> None:
    """650 is no multiple of the stride."""
    rows = choose(str(YOLOV5 / "models/yolov5n.yaml"), device="rk3588", fps=30, imgsz=[650]).rows
    assert [row.imgsz for row in rows] == [672]

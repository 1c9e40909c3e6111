"""This machine measured: the command writes a device that predicts, and says in a line what it can't measure."""

import builtins
import re
from pathlib import Path
from typing import Any, List

import pytest
import torch
import yaml
from torch import nn

from utils.thop import predict
from utils.thop.command.cli import main
from utils.thop.deploy.devices import find_device
from utils.thop.measure import here, sessions
from utils.thop.measure.logs import match_log
from utils.thop.measure.networks import five_networks


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status = main([str(argument) for argument in arguments])
    return (status, *capsys.readouterr())


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One turn of the fewest passes."""
    monkeypatch.setattr(here, "TURNS", 1)
    monkeypatch.setattr(here, "SECONDS", 0.0)


def sixth() -> nn.Module:
    """A network of none of the five, as a model of the command line too: test_here:sixth."""
    layers: List[nn.Module] = [nn.Conv2d(3, 48, 3, 2, 1), nn.ReLU(), nn.Conv2d(48, 96, 3, 2, 1), nn.SiLU()]
    for _ in range(4):
        layers += [nn.Conv2d(96, 96, 3, 1, 1), nn.BatchNorm2d(96), nn.SiLU(), nn.Conv2d(96, 96, 1), nn.ReLU()]
    return nn.Sequential(*layers).eval()


@pytest.mark.slow
def test_the_command_measures_this_machine(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    board = tmp_path / "boards.yaml"
    command = "calibrate", "--here", "pytorch", "--threads", 1, "--name", "My PC", "--output", board
    status, out, err = run(capsys, *command)
    assert (status, err) == (0, "")
    assert all(name in out for name in five_networks()) and "by the others" in out and "nine lie within" in out
    assert "range with it" not in out  # all five are there, always
    assert torch.get_num_threads() == threads and torch.equal(torch.random.get_rng_state(), state)
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    entry = yaml.safe_load(board.read_text())["my-pc"]
    known = entry["runtimes"]["pytorch-cpu"]
    assert entry["kind"] == "cpu" and known["networks"] == 5
    assert known["source"] == f"measured here, 1 thread, torch {torch.__version__}"

    options = "--device", "my-pc", "--devices", board
    status, out, err = run(capsys, "predict", "test_here:sixth", "--imgsz", 160, *options)
    assert (status, err) == (0, "") and re.search(r"sixth +\d", out)
    found = predict(sixth(), (torch.zeros(1, 3, 160, 160),), find_device("my-pc", board))
    (one,) = here.time_networks({"sixth": (sixth(), 160)}, here.setting_here("pytorch", 1))
    assert found.basis.startswith(f"5 networks measured on it ({known['source']})")
    assert found.low < found.seconds < found.high and found.low / 10 < one.seconds < found.high * 10


def test_mistakes_are_said_in_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__
    monkeypatch.setattr(sessions, "import_module", lambda name: _absent(name) if name in MISSING else real(name))
    one, both = ["--name", "b"], "calibrate takes either MEASURED.csv, or --log FILE with --model MODEL, or --here"
    for arguments, complaint in (
        (["--here", "openvinno"], "no runtime is called 'openvinno'; did you mean openvino?"),
        (["--here", "rknn"], "rknn can't be measured here, only onnxruntime, openvino, ncnn, tflite, pytorch"),
        (["--here", "tensorrt"], "tensorrt can't be measured here"),
        (["--here", "openvino"], "takes the package openvino: pip install openvino onnx"),
        (["--here", "ncnn"], "takes the package ncnn: pip install ncnn pnnx"),
        (["--here", "tflite"], "takes the package ai_edge_litert: pip install litert-torch"),
        (["--here", "onnxruntime"], "takes the package onnxruntime: pip install onnxruntime onnx"),
        (["--here", "torch-compile", "--precision", "int8"], "torch-compile has no precision 'int8'"),
        (["measured.csv", "--here", "pytorch"], both),
        (["--log", "log.csv", "--model", "yolov5s.yaml", "--here", "pytorch"], both),
        (["--here", "pytorch", "--runtime", "pytorch"], "--here names the runtime itself"),
        (["--here", "pytorch", "--threads", "0"], "--threads: must be a whole number from 1 up, not '0'"),
        (["measured.csv", "--runtime", "rknn", "--threads", "2"], "--threads goes with --here"),
        (["measured.csv"], "the following arguments are required: --runtime"),
        (["--here", "pytorch", "--ms", "3"], "--ms, --imgsz and --batch go with --log"),
        (["--here", "pytorch", "--name", "this"], "a device can't be called 'this'"),
    ):
        status, out, err = run(capsys, "calibrate", *one, *arguments)
        assert (status, out) == (2, "") and complaint in err and len(err.splitlines()) == 1, err


MISSING = ("openvino", "ncnn", "ai_edge_litert", "onnxruntime")


def _absent(name: str) -> None:
    raise ImportError(f"No module named {name!r}")


def test_a_precision_takes_more_than_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "import_module", lambda name: None)
    with pytest.raises(ValueError, match="openvino is measured here in float32 only, not in int8"):
        here.setting_here("openvino", precision="int8")


def test_what_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(runtime: object, job: object) -> sessions.Session:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(here, "open_session", broken)
    with pytest.raises(ValueError, match=r"pytorch-cpu does not run the network 'sixth' here: .*no kernel") as raised:
        here.time_networks({"sixth": (sixth(), 32)}, here.setting_here("pytorch-cpu"))
    assert "\n" not in str(raised.value)


def test_layers_teach_where_a_runtime_tells_them() -> None:
    """A profile that makes all layers longer leaves the whole as long as it is; layers that are alike are one."""
    setting = here.setting_here("pytorch-cpu", 1)
    (timed,) = here.time_networks({"sixth": (sixth(), 64)}, setting)
    assert all(row.seconds > 0 for row in timed.rows.values())
    matched = match_log(list(timed.rows.values()), timed.deployed)
    assert len(matched.pairs) == len(timed.deployed.launches) and not matched.launches_left
    timed.passes = [2 * matched.seconds]
    layers = timed.layers(setting.precision)
    assert sum(len(row.works) for row in layers) == len(timed.deployed.launches)
    kinds = {tuple(row.works) for row in matched.layers(setting.precision)}
    assert len(layers) == len(kinds) < len(matched.pairs) and all(len(set(row.works)) == 1 for row in layers)
    assert sum(row.seconds for row in layers) == pytest.approx(2 * matched.seconds)
    fitted = here.calibrate_timed([timed, timed], setting)
    assert fitted.estimate.basis.networks == 2 and 0.2 < fitted.ratios[0] < 5
    timed.rows = {}
    assert timed.layers(setting.precision) == []
    assert here.calibrate_timed([timed], setting, "mine").name == "mine"


def test_the_five_are_those_of_before() -> None:
    """They are built without a random number, and their activations keep their size: none comes near 0."""
    state = torch.random.get_rng_state()
    networks, again = five_networks(), five_networks()
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, (network, side) in networks.items():
        result = network(torch.ones(1, 3, side, side)).detach()
        assert torch.equal(result, again[name][0](torch.ones(1, 3, side, side)))
        assert 1e-3 < float(result.std()) < 1e9 and re.fullmatch(r"[a-z0-9 ]+", name)

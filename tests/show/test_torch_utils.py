"""model_info() and profile() of utils/torch_utils.py, on their own and behind other YOLOv5s' definitions."""

import logging
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any, List, Tuple

import pytest
import torch
import torchvision
from releases import ROOT
from states import assert_same_state, state
from torch import Tensor, nn

from utils.torch_utils import model_info, profile

LINE = (
    "YOLOv5s summary: 214 layers, 7235389 parameters, 7235389 gradients, 16.6 GFLOPs, "
    "81.9M memory accesses (7.2M kernel + 74.6M output)"
)


class Broken(nn.Module):
    """A model whose forward can't be run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such luck\nand more")


def appended_to(source: str) -> Tuple[ModuleType, List[str]]:
    """Load a module of the given source with the block behind it, as in a checkout; returns what its logger gets."""
    module = ModuleType("utils.checkout_torch_utils")
    module.__package__ = "utils"
    lines: List[str] = []
    logger = logging.getLogger(f"checkout-{id(lines)}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    module.__dict__["LOGGER"] = logger
    block = (ROOT / "utils" / "torch_utils.py").read_text(encoding="utf-8")
    exec(compile(source + "\n" + block, "torch_utils.py", "exec"), module.__dict__)
    return module, lines


def test_the_line_by_itself(yolo: Any, capsys: Any) -> None:
    info = model_info(yolo("yolov5s.yaml"))
    assert capsys.readouterr().out == LINE + "\n"
    assert (info.layers, info.parameters, info.gradients) == (214, 7_235_389, 7_235_389)
    assert (info.total_kernel_macs, info.total_output_macs) == (7_215_616, 74_641_200)
    assert info.total_ops == 8_311_398_400 and info.total_params == 7_235_389
    layers, parameters, gradients, gflops = info
    assert (layers, parameters, gradients, gflops) == (214, 7_235_389, 7_235_389, 16.6227968)


def test_verbose_prints_the_line_and_the_table(yolo: Any, capsys: Any) -> None:
    info = model_info(yolo("yolov5n.yaml"), verbose=True)
    line, table = capsys.readouterr().out.split("\n", 1)
    assert line.startswith("YOLOv5n summary: ") and table == info.table() + "\n"


def test_the_quiet_line_sums_no_bytes_up(yolo: Any) -> None:
    assert "traffic" not in vars(model_info(yolo("yolov5n.yaml")))


def test_depth_and_sort_choose_what_is_printed(yolo: Any, capsys: Any) -> None:
    model = yolo("yolov5n.yaml")
    info = model_info(model, verbose=True, depth=1, sort="kernel")
    printed = capsys.readouterr().out
    plain = model_info(model)
    assert printed.split("\n", 1)[1] == plain.table(1, "kernel") + "\n" != plain.table() + "\n"
    assert info.to_markdown() == plain.to_markdown(1, "kernel")
    assert len(info.to_dataframe()) == len(plain.to_dataframe()) > 100
    for wrong in ({"depth": 0}, {"depth": "1"}, {"depth": True}, {"sort": "bytes"}, {"sort": 3}):
        with pytest.raises(ValueError, match=r"depth must be None|one of traffic, read, written, accesses"):
            model_info(model, **wrong)


@pytest.mark.parametrize(
    "arguments, keywords, size",
    [
        ((), {}, (640, 640)),
        ((False, 320), {}, (320, 320)),
        ((), {"img_size": 320}, (320, 320)),
        ((), {"imgsz": [320, 640]}, (320, 640)),
        ((), {"imgsz": (320, 640), "detailed": False}, (320, 640)),
        ((), {"imgsz": 650}, (672, 672)),
    ],
)
def test_sizes(yolo: Any, capsys: Any, arguments: Any, keywords: Any, size: Tuple[int, int]) -> None:
    info = model_info(yolo("yolov5n.yaml"), *arguments, **keywords)
    assert info.imgsz == size
    assert info.total_output_macs == 38_391_600 * size[0] * size[1] / 640**2
    assert ("at 672x672 (650x650 is no multiple of the stride)" in capsys.readouterr().out) == (size == (672, 672))


@pytest.mark.parametrize("size", [0, -32, "640", 3.5, (640,), (1, 2, 3), None])
def test_bad_sizes_are_told_and_training_goes_on(yolo: Any, capsys: Any, size: Any) -> None:
    info = model_info(yolo("yolov5n.yaml"), img_size=size)
    assert info.profile is None
    assert "image size must be a positive whole number" in capsys.readouterr().out


def test_channels_come_from_the_yaml_or_the_first_convolution(yolo: Any) -> None:
    assert model_info(yolo("yolov5n.yaml", ch=5)).profile is not None
    assert model_info(nn.Sequential(nn.Identity(), nn.Conv2d(6, 4, 3, groups=2)), imgsz=64).total_kernel_macs == 108


def test_a_bare_convolution_is_a_model_too(capsys: Any) -> None:
    info = model_info(nn.Conv2d(3, 8, 3, stride=2), imgsz=65)
    assert info.imgsz == (65, 65) and info.total_output_macs == 8 * 32 * 32


def test_a_model_without_images_is_told(capsys: Any) -> None:
    info = model_info(nn.Linear(3, 4))
    assert "not counted (ValueError: the model has no 2-d convolution" in capsys.readouterr().out
    assert math.isnan(info.gflops) and info.profile is None and "ValueError" in info.error


def test_failure_leaves_the_line_with_the_reason(capsys: Any) -> None:
    model = Broken()
    before = state(model)
    info = model_info(model)
    assert capsys.readouterr().out == (
        "Model summary: 2 layers, 16 parameters, 16 gradients, "
        "GFLOPs and memory accesses not counted (RuntimeError: no such luck)\n"
    )
    assert info.parameters == 16 and math.isnan(info.total_ops)
    assert_same_state(model, before)


def test_the_model_is_left_as_it_was(yolo: Any) -> None:
    model = yolo("yolov5n.yaml")
    before = state(model)
    model_info(model, verbose=True)
    assert_same_state(model, before)


def test_half_precision_and_wrapped_models(yolo: Any) -> None:
    model = yolo("yolov5n.yaml")
    expected = model_info(model).total_output_macs
    assert model_info(model.half()).total_output_macs == expected
    assert model_info(nn.DataParallel(model)).total_output_macs == expected


def test_the_newest_wording_is_kept_to_the_letter(yolo: Any, monkeypatch: Any) -> None:
    import ultralytics.utils.torch_utils as ultralytics

    newest, _ = appended_to("from ultralytics.utils.torch_utils import model_info")
    lines: List[str] = []
    monkeypatch.setattr(ultralytics, "LOGGER", type("Keep", (), {"info": staticmethod(lines.append)}))
    for model in (yolo("yolov5n.yaml"), torchvision.models.resnet18(), yolo("yolov5n.yaml").fuse()):
        layers, parameters, gradients, gflops = ultralytics.model_info(model)
        info = newest.model_info(model)
        newest.model_info(model, detailed=False, imgsz=640)
        theirs, ours, by_name = lines
        assert re.fullmatch(re.escape(theirs) + r", \S+ memory accesses \(\S+ kernel \+ \S+ output\)", ours)
        assert ours == by_name
        assert tuple(info) == (layers, parameters, gradients, pytest.approx(gflops))
        lines.clear()


@pytest.mark.parametrize("size, scale", [("480, 640", 1), ("64, 64", 100)])
def test_the_oldest_wording_without_a_size(yolo: Any, size: str, scale: int) -> None:
    oldest, _ = appended_to(
        f"""
import torch
from copy import deepcopy

def model_info(model, verbose=False):
    from thop import profile
    ops = profile(deepcopy(model), inputs=(torch.zeros(1, 3, {size}),), verbose=False)[0]
    print('Model Summary: %g layers, %g GFLOPS' % (len(list(model.parameters())), ops * 2 / 1e9 * {scale}))
"""
    )
    info = oldest.model_info(yolo("yolov5n.yaml"))
    assert info.imgsz == ((480, 640) if scale == 1 else (640, 640))
    assert info.total_output_macs == 38_391_600 * (0.75 if scale == 1 else 1)


def test_a_checkout_whose_own_function_fails_gets_our_line(yolo: Any) -> None:
    broken, lines = appended_to("def model_info(model, verbose=False, img_size=640):\n    raise KeyError(3)")
    broken.model_info(yolo("yolov5s.yaml"))
    assert lines == [LINE]


def test_loading_the_file_again_does_not_wrap_it_twice(yolo: Any) -> None:
    module, lines = appended_to("")
    block = (Path(ROOT) / "utils" / "torch_utils.py").read_text(encoding="utf-8")
    exec(compile(block, "torch_utils.py", "exec"), module.__dict__)
    module.model_info(yolo("yolov5s.yaml"))
    assert lines == [LINE]


def test_speed_profile_rows(yolo: Any, capsys: Any) -> None:
    model = yolo("yolov5n.yaml")
    sum(y.sum() for y in model(torch.rand(1, 3, 64, 64))).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    x = torch.rand(2, 3, 64, 64)
    ops = [model, nn.SiLU(), torch.sigmoid, nn.Linear(3, 3)]
    before = state(model)
    rows = profile([x, x[:1]], ops, n=2, device=torch.device("cpu"))
    assert not x.requires_grad
    assert len(rows) == 8 and rows[3] is None is rows[7]
    first = rows[0]
    assert first[0] == 1_872_157 and first[1] == pytest.approx(2 * 2281369600 * 2 / 100 / 1e9)
    assert first[2] == 0 and first[3] > 0 and first[4] > 0
    assert first[5:7] == [(2, 3, 64, 64), "list"]
    assert first[7:] == [1_861_888, 38_391_600 * 2 / 100]
    assert rows[1][7:] == [0, 2 * 3 * 64 * 64]
    assert all(math.isnan(rows[2][i]) for i in (1, 7, 8))
    assert_same_state(model, before)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients))
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split()[-2:] == ["kernel", "written"] and "not run: RuntimeError" in printed

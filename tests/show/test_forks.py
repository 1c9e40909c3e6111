"""Forks in small: each has a ``model_info`` of its own, and does with the block behind it what it did without."""

import contextlib
import io
import json
import logging
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import timeit
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import pytest
import thop
import torch
import warm
from releases import ROOT, run_python, yolo_environment
from torch import Tensor, nn

from utils.thop.show import beside

BLOCK = (ROOT / "utils" / "torch_utils.py").read_text(encoding="utf-8")
ADDED = re.compile(
    r"(?: \([\d.]+ exact\))?, (?:[\d.]+ GFLOPs, )?\S+ memory accesses \(\S+ kernel \+ \S+ output\)(?:, at \d+x\d+)?"
)


class Net(nn.Module):
    """Two convolutions of stride 2 each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 16, 3, 2, 1)
        self.stride = torch.tensor([32.0])

    def forward(self, x: Tensor, augment: bool = False) -> Tensor:
        return self.head(self.act(self.stem(x)))


class TwoStreams(Net):
    """Colour and infrared."""

    def __init__(self, infrared: int = 1) -> None:
        super().__init__()
        self.other = nn.Conv2d(infrared, 8, 3, 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.head(self.act(self.stem(x) + self.other(y)))


class Attends(Net):
    """Attention: its cost grows faster than the area."""

    def forward(self, x: Tensor, augment: bool = False) -> Tensor:
        y = super().forward(x).flatten(2)
        return y.transpose(1, 2) @ y


class Heard(NamedTuple):
    """What a program met: a value or exception, and the lines of its standard output and its loggers."""

    value: Any
    lines: List[str]


class Tree:
    """A module ``utils.torch_utils`` of some source, in memory, with or without the block."""

    def __init__(self, source: str, patched: bool) -> None:
        self.lines: List[str] = []
        self.module = ModuleType("utils.a_fork")
        self.module.__package__ = "utils"
        self.logger = logging.getLogger(f"fork-{id(self)}")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        self.logger.addHandler(handler)
        space = self.module.__dict__
        space.update(the_logger=self.logger, nn=nn, torch=torch, lines=self.lines)
        source = textwrap.dedent(source)
        exec(compile(source + ("\n" + BLOCK if patched else ""), "torch_utils.py", "exec"), space)

    def call(self, *args: Any, **kwargs: Any) -> Heard:
        self.lines.clear()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                value = self.module.model_info(*args, **kwargs)  # type: ignore[attr-defined]
            except Exception as error:
                value = error
        return Heard(value, printed.getvalue().splitlines() + self.lines)


def ask(source: str, model: nn.Module, *args: Any, **kwargs: Any) -> Tuple[Heard, Heard]:
    """Call a fork's function without and with the block."""
    return Tree(source, False).call(model, *args, **kwargs), Tree(source, True).call(model, *args, **kwargs)


def assert_only_added(before: Heard, after: Heard) -> str:
    """Check that all is as before, but for our words in one line; return these."""
    assert len(after.lines) == len(before.lines), after.lines
    changed = [(old, new) for old, new in zip(before.lines, after.lines) if old != new]
    assert len(changed) == 1, after.lines
    (old, new) = changed[0]
    end = re.search(r"(?:\s|\x1b\[\d*m)*$", old)
    assert end is not None
    assert new.startswith(old[: end.start()]) and new.endswith(old[end.start() :])
    words = new[end.start() : len(new) - (len(old) - end.start())]
    assert ADDED.fullmatch(words), new
    return words


FLOPS = "profile(deepcopy(model), inputs=(torch.zeros(1, 3, 32, 32),), verbose=False)[0] / 1e9 * 2 * 400"
USUAL = f"""
from copy import deepcopy
def model_info(model, verbose=False, img_size=640):
    n_p = sum(x.numel() for x in model.parameters())
    from thop import profile
    flops = {FLOPS}
    the_logger.info(f"Model Summary: {{len(list(model.modules()))}} layers, {{n_p}} parameters, {{flops:.3f}} GFLOPS")
"""


def varied(*changes: Tuple[str, str], head: str = "") -> str:
    source = USUAL
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return head + source


SIGNATURE = "model, verbose=False, img_size=640"
LOG = "the_logger.info("

CALLS: Dict[str, Tuple[str, Tuple[Any, ...], Dict[str, Any]]] = {
    "usual": (USUAL, (), {}),
    "report": (varied((SIGNATURE, "model, report='summary'")), (), {"report": "summary"}),
    "report by place": (varied((SIGNATURE, "model, report='summary'")), ("full",), {}),
    "resolution": (varied((SIGNATURE, "model, verbose=False, resolution=640")), (), {"resolution": 640}),
    "names": (varied((SIGNATURE, "model, name='', prefix='', rect=False")), (), {"prefix": "x: ", "rect": True}),
    "by name only": (varied((SIGNATURE, "model, *, tag, verbose=False")), (), {"tag": 3}),
    "anything": (varied((SIGNATURE, "model, **options")), (), {"verbose": False, "foo": 1}),
    "anything by place": (varied((SIGNATURE, "*args"), ("n_p =", "model = args[0]\n    n_p =")), (1, 2), {}),
    "no more": (varied((SIGNATURE, "model")), (), {}),
    "another first name": (varied((SIGNATURE, "net"), ("n_p =", "model = net\n    n_p =")), (), {}),
    "returns two": (varied((LOG, "out = 1, flops; the_logger.info("), head="") + "    return out\n", (), {}),
    "returns a string": (USUAL + "    return f'{flops:.2f} G'\n", (), {}),
    "returns the model": (USUAL + "    return model\n", (), {}),
    "returns four others": (USUAL + "    return 1, 2, 3, 4\n", (), {}),
    "returns zero": (USUAL + "    return 0\n", (), {}),
    "prints": (varied((LOG, "print(")), (), {}),
    "prints in pieces": (varied((LOG, "print('a', 'b', end=' ');print(")), (), {}),
    "writes": (varied((LOG, "import sys; sys.stdout.write('\\n' + ")), (), {}),
    "prints to standard error": (
        varied((LOG, "import sys; print(file=sys.stderr, *["), ('GFLOPS")', 'GFLOPS"])')), (), {},
    ),
    "logs by another name": (varied((LOG, "log.info("), head="log = the_logger"), (), {}),
    "logs by the way": (varied((LOG, "say("), head="def say(text):\n    the_logger.warning('%s', text)\n"), (), {}),
    "logs by an object": (
        varied((LOG, "LOG.info("), head="class L:\n    def info(self, t): lines.append(t)\nLOG = L()\n"), (), {},
    ),
    "logs by a changed method": (
        varied((LOG, "LOGGER.info("), head="LOGGER = the_logger\nLOGGER.info = lambda t: lines.append('> ' + t)\n"),
        (), {},
    ),
    "semicolon": (varied((" layers, ", " layers; ")), (), {}),
    "other words": (
        varied(("Model Summary: {len(list(model.modules()))} layers, {n_p} parameters, ", "Net, ")), (), {},
    ),
    "words first": (varied(("{flops:.3f} GFLOPS", "GFLOPs: {flops:.4f}")), (), {}),
    "in colour": (varied((LOG, "print('\\033[1m' + "), ('GFLOPS")', 'GFLOPS" + "\\033[0m  ")')), (), {}),
    "several lines": (varied((LOG, "print('-' * 9 + '\\n' + "), ('GFLOPS")', 'GFLOPS\\n---\\n")')), (), {}),
    "a line each": (varied((" layers, ", " layers\\n"), (" parameters, ", " parameters\\n"), (LOG, "print(")), (), {}),
    "a table before": (varied((LOG, "print('layer  parameters\\n0  432  gradient');the_logger.info(")), (), {}),
    "no figure": (varied((", {flops:.3f} GFLOPS", "")), (), {}),
    "whole": (varied(("zeros(1, 3, 32, 32)", "zeros(1, 3, 640, 640)"), (" * 400", "")), (), {}),
    "whole, by its size": (
        varied(("zeros(1, 3, 32, 32)", "zeros(1, 3, img_size, img_size)"), (" * 400", "")), (), {"img_size": 320},
    ),
    "thop above": (varied(("from thop import profile\n", "\n"), head="from thop import profile\n"), (), {}),
    "thop by its name": (
        varied(("from thop import profile\n", "\n"), ("profile(deep", "thop.profile(deep"),
               head="import thop\n"), (), {},
    ),
    "thop by another": (
        varied(("from thop import profile\n", "\n"), ("profile(deep", "count(deep"),
               head="from thop import profile as count\n"), (), {},
    ),
    "thop in a helper": (
        varied(("from thop import profile\n", "\n"), (f"flops = {FLOPS}", "flops = helper(model)"),
               head=f"def helper(model):\n    from thop import profile\n    return {FLOPS}\n"), (), {},
    ),
    "params by thop": (
        varied(("n_p = ", "from thop import profile\n    n_p = "),
               ("sum(x.numel() for x in model.parameters())",
                "int(profile(deepcopy(model), (torch.zeros(1, 3, 64, 64),), verbose=False)[1])")), (), {},
    ),
    "a layer's details": (
        varied((FLOPS, FLOPS.replace("verbose=False", "verbose=False, ret_layer_info=True"))), (), {},
    ),
    "a rule of its own": (
        varied((FLOPS, FLOPS.replace("verbose=False", "verbose=False, custom_ops={nn.SiLU: rule}")),
               head="def rule(m, x, y): m.total_ops += 7 * y.numel()\n"), (), {},
    ),
    "MACs": (varied((" / 1e9 * 2", " / 1e9")), (), {}),
    "fuses a copy": (varied(("deepcopy(model)", "tidied(deepcopy(model))"), head=(
        "def tidied(m):\n    m.act = nn.Identity()\n    m.stem = nn.Conv2d(3, 8, 1, 2)\n    return m\n")), (), {}),
    "decorated": (varied(("def model_info", "@torch.no_grad()\ndef model_info")), (), {}),
    "wrapped": (varied(("def model_info", "@wrapped\ndef model_info"), head=(
        "import functools\ndef wrapped(f):\n    @functools.wraps(f)\n    def g(*a, **k):\n        return f(*a, **k)\n"
        "    return g\n")), (), {}),
    "an object": (varied(("def model_info(", "class Info:\n  def __call__(self, "),
                         ("\n    ", "\n      "), head="") + "model_info = Info()\n", (), {}),
    "partial": (varied(("def model_info(model", "def info(tag, model")) + (
        "import functools\nmodel_info = functools.partial(info, 'x')\n"), (), {}),
    "its own counter": (varied((FLOPS, "1.5"), ("from thop import profile\n", "\n")), (), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_fork_does_what_it_did_and_says_one_thing_more(name: str) -> None:
    source, args, kwargs = CALLS[name]
    model = Net()
    before, after = ask(source, model, *args, **kwargs)
    assert not isinstance(before.value, Exception), before.value
    words = assert_only_added(before, after)
    if before.value is None:
        kernel = 3 * 8 + 72 * 16 if name == "fuses a copy" else 27 * 8 + 72 * 16
        assert type(after.value).__name__ == "ModelInfo" and after.value.total_kernel_macs == kernel
        assert (after.value.parameters, after.value.layers) == (1392, 4)
    else:
        assert after.value == before.value and type(after.value) is type(before.value)
    assert "__deepcopy__" not in vars(model) and thop.profile.__code__.co_name == "profile"
    assert ("GFLOPs" in words) == (name == "no figure")


SILENT = {
    "nothing": varied((LOG, "str(")),
    "only if verbose": varied((LOG, "if verbose: the_logger.info(")),
    "not on this rank": varied((LOG, "the_logger.debug(")),
    "before anything": varied(("    n_p =", "    return\n    n_p =")),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_fork_that_prints_nothing_goes_on_doing_so(name: str) -> None:
    before, after = ask(SILENT[name], Net())
    assert before.lines == after.lines == []
    assert after.value.total_kernel_macs == 27 * 8 + 72 * 16


def test_verbose_may_mean_to_print_at_all() -> None:
    ultralytics = (SIGNATURE, "model, detailed=False, verbose=True, imgsz=640")
    source = varied(ultralytics, (LOG, "if verbose: the_logger.info("))
    for kwargs in ({}, {"imgsz": 640}, {"detailed": False}, {"detailed": False, "verbose": True}):
        assert_only_added(*ask(source, Net(), **kwargs))
    assert Tree(source, True).call(Net(), verbose=False).lines == []
    for asks in ("detailed", "verbose"):  # a caller who says so wants more than the line, which comes in any case
        _, heard = ask(source, Net(), **{asks: True})
        assert [line.split()[0] for line in sorted(heard.lines)].count("module") == 1


def test_arguments_that_nobody_takes_are_an_error_as_before() -> None:
    for kwargs in ({"foo": 1}, {"report": "x"}):
        before, after = ask(USUAL, Net(), **kwargs)
        assert isinstance(before.value, TypeError) and isinstance(after.value, TypeError)
        assert str(after.value).split("'")[-2] == str(before.value).split("'")[-2]


def test_a_function_of_other_arguments_takes_ours_too() -> None:
    for source in (varied((SIGNATURE, "model")), varied((SIGNATURE, "model, report='summary'"))):
        tree = Tree(source, True)
        info = tree.call(Net(), img_size=320).value
        assert info.imgsz == (320, 320) and info.total_output_macs == 160 * 160 * 16 + 80 * 80 * 16
        assert sum(line.startswith("module ") for line in tree.call(Net(), verbose=True, depth=1).lines) == 1


def gflops(line: str) -> float:
    found = re.search(r"([\d.]+) GFLOPS", line)
    assert found, line
    return float(found[1])


def test_a_line_speaks_of_one_size() -> None:
    unsized = (SIGNATURE, "model, verbose=False")
    whole = varied(unsized, ("zeros(1, 3, 32, 32)", "zeros(1, 3, 480, 640)"), (" * 400", ""))
    ignored = varied(unsized)
    for source, kwargs, size in (
        (whole, {}, (480, 640)), (whole, {"img_size": 320}, (320, 320)), (ignored, {}, (640, 640)),
        (ignored, {"img_size": 320}, (320, 320)), (ignored, {"imgsz": [320, 640]}, (320, 640)),
        (USUAL, {"img_size": 320}, (320, 320)),
    ):  # fmt: skip
        heard = Tree(source, True).call(Net(), **kwargs)
        (line,) = heard.lines
        info = heard.value
        assert info.imgsz == size
        said = "at {}x{}".format(*size) in line
        assert said == (size != (640, 640) and source is not USUAL)
        h, w = size
        assert info.total_output_macs == h * w / 4 * 16 + h * w / 16 * 16
        assert gflops(line) == pytest.approx(info.gflops, abs=0.00051)


def test_sizes_are_handed_on_as_they_came() -> None:
    source = varied((LOG, "print(repr(img_size));the_logger.info("))
    for size, seen in ((320, "320"), ([320, 640], "[320, 640]"), ((320, 640), "(320, 640)"), (330, "352"),
                       ((330, 640), "(352, 640)"), ([33, 1], "[64, 32]"), (320.0, "320.0")):  # fmt: skip
        for args, kwargs in (((False, size), {}), ((), {"img_size": size}), ((), {"imgsz": size})):
            assert Tree(source, True).call(Net(), *args, **kwargs).lines[0] == seen
    assert Tree(source, True).call(Net()).lines[0] == "640"


def test_where_the_checkouts_figure_is_another_ours_stands_behind_it() -> None:
    by_size = varied((SIGNATURE, "model, img_size=640"), (" * 400", " * (img_size / 32) ** 2"))
    macs = varied((" / 1e9 * 2", " / 1e9"))

    def gigaflops(pixels: int) -> float:
        return 2e-9 * (pixels / 4 * 8 * 27 + pixels / 16 * 16 * 72 + (pixels / 16) ** 2 * 16)

    for source, kwargs, size in (
        (USUAL, {}, 640), (macs, {}, 640), (by_size, {}, 640), (by_size, {"img_size": 640}, 640),
        (by_size, {"img_size": 256}, 256),
    ):  # fmt: skip
        _, after = ask(source, Attends(), **kwargs)
        (new,) = after.lines
        exact = gigaflops(size * size)
        shown = 400 * gigaflops(32 * 32) / (2 if source is macs else 1)  # our answer to thop's call, multiplied
        if size == 640:
            assert f" {shown:.3f} GFLOPS ({exact:.3f} exact), " in new and shown < exact
        else:  # the function's own is another
            assert f" {exact:.3f} GFLOPS, " in new
        assert after.value.gflops == pytest.approx(exact)


def test_where_nobody_knows_which_size_the_checkout_has_taken_the_line_says_ours() -> None:
    other = varied((SIGNATURE, "model, resolution=320"), (" * 400", " * (resolution / 32) ** 2"))
    before, after = ask(other, Net())
    assert_only_added(before, after)
    assert (
        " 0.026 GFLOPS (0.103 exact), " in after.lines[0]
        and after.lines[0].endswith(", at 640x640")
        and after.value.imgsz == (640, 640)
    )
    assert_only_added(*ask(other, Net(), resolution=640))


class NoHeirs(Net):
    """A class that does not like to be derived from."""

    def __init_subclass__(cls, **options: Any) -> None:
        raise TypeError("no")


class WithFile(Net):
    """A model whose copy, when it dies, closes what is the model's."""

    class Closes:
        closed = 0

        def __init__(self, of: nn.Module) -> None:
            self.of = of

        def __del__(self) -> None:
            type(self).closed += 1

    def __init__(self) -> None:
        super().__init__()
        self.file = WithFile.Closes(self.stem)


@pytest.mark.parametrize("build", [Net, NoHeirs, WithFile, lambda: nn.DataParallel(Net())])
def test_a_copy_that_a_fork_makes_is_a_copy(build: Callable[[], nn.Module]) -> None:
    changes = """
    def changed(m):
        assert m is not the_model and isinstance(m, nn.Module)
        plain = getattr(m, "module", m)
        assert [n for n, _ in plain.named_parameters()] == [n for n, _ in the_model.named_parameters()]
        assert torch.equal(plain.stem.weight, the_model.stem.weight) and plain.stem is not the_model.stem
        plain.half()
        plain.head, plain.new = nn.Identity(), 1
        return m
    """
    model = build()
    inner = getattr(model, "module", model)
    source = textwrap.dedent(changes) + varied(("deepcopy(model)", "changed(deepcopy(model)).float()"))
    for patched in (False, True):
        tree = Tree(source, patched)
        tree.module.the_model = inner  # type: ignore[attr-defined]
        assert not isinstance(tree.call(model).value, Exception)
        assert inner.stem.weight.dtype is torch.float32 and isinstance(inner.head, nn.Conv2d)
        assert not hasattr(inner, "new") and "__deepcopy__" not in vars(inner)
    assert len(tree.lines) == 1 and "1.6M memory accesses (216 kernel" in tree.lines[0]


def test_two_inputs_are_counted_as_the_checkout_hands_them_in() -> None:
    model = TwoStreams()
    for inputs in ("(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32))",
                   "[torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)]"):  # fmt: skip
        source = varied(("(torch.zeros(1, 3, 32, 32),)", inputs))
        before, after = ask(source, model)
        assert_only_added(before, after)
        assert after.value.total_kernel_macs == 27 * 8 + 72 * 16 + 9 * 8
        assert after.value.traffic.flops == 2 * after.value.total_ops
    info = Tree("", True).call(TwoStreams(3)).value  # nobody hands any in: two images, as its forward takes
    assert info.total_kernel_macs == 27 * 8 * 2 + 72 * 16
    assert Tree("", True).module.memory_info(model, inputs=(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64))).imgsz


def test_two_inputs_are_counted_where_the_checkout_hands_in_one() -> None:
    unless = "\n    except Exception: flops = None"
    tries = ("    flops = ", "    try:\n        flops = "), (" * 2 * 400", f" * 2 * 400{unless}")
    source = varied(*tries, (", {flops:.3f} GFLOPS", " {flops}"))
    before, after = ask(source, TwoStreams(3))
    assert before.lines[0].endswith(" None") and after.lines[0].startswith(before.lines[0])
    words = after.lines[0][len(before.lines[0]) :]
    assert re.fullmatch(r", 0\.\d GFLOPs, \S+ memory accesses \(1\.6K kernel .*\)", words)
    assert after.value.total_kernel_macs == 27 * 8 * 2 + 72 * 16 and after.value.error == ""


def test_channels_are_those_that_the_checkout_hands_in() -> None:
    model: Any = Net()
    model.stem, model.yaml = nn.Conv2d(5, 8, 3, 2, 1), {"ch": 3}
    assert_only_added(*ask(varied(("zeros(1, 3,", "zeros(1, 5,")), model))


class Refuses(Net):
    """What only the checkout's own thop can count."""

    def forward(self, x: Tensor, augment: bool = False) -> Tensor:
        if any(kept.endswith("utils.thop.run.runner") for kept in callers()):
            raise RuntimeError("not with me")
        return super().forward(x)


def callers() -> List[str]:
    frame, found = sys._getframe(), []
    while frame.f_back is not None:
        frame = frame.f_back
        found.append(frame.f_globals.get("__name__", ""))
    return found


def test_the_checkouts_own_figure_stays_where_ours_fails() -> None:
    before, after = ask(USUAL, Refuses())
    assert after.lines == [before.lines[0] + ", memory accesses not counted (RuntimeError: not with me)"]
    assert after.value.profile is None and after.value.error == "RuntimeError: not with me"
    failing = varied(("    flops = ", "    raise KeyError(3)\n    flops = "))
    assert len(Tree(failing, True).call(Net()).lines) == 1


TRY = "try:\n    import thop_x as thop\nexcept ImportError:\n    thop = None\n"


@pytest.mark.parametrize("head, use", [(TRY, "thop."), ("", "from thop import profile\n    ")])
def test_thop_need_not_be_installed(head: str, use: str, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "thop", None)
    source = varied(
        ("from thop import profile\n", "\n"),
        (f"flops = {FLOPS}", (f"{use if 'import' in use else ''}flops = {'' if 'import' in use else use}{FLOPS}")),
        head=head,
    )
    tree = Tree(source, True)
    (line,) = tree.call(Net()).lines
    assert gflops(line) == pytest.approx(Tree(USUAL, True).module.memory_info(Net()).gflops, abs=0.00051)
    assert sys.modules["thop"] is None and tree.module.__dict__.get("thop", None) is None


@pytest.mark.parametrize(
    "source, kept",
    [
        ("from thop import profile", True),
        ("def profile(model, inputs, verbose=True, max_num_obj=8): return max_num_obj", True),
        ("def profile(x, ops, n=3, device=None): pass", False),
        ("def profile(input, ops, n=10, device=None, max_num_obj=0): return 'theirs'", True),
        ("", False),
    ],
)
def test_profile_takes_the_place_of_yolov5s_alone(source: str, kept: bool) -> None:
    before, after = Tree(source, False).module.__dict__.get("profile"), Tree(source, True).module.__dict__["profile"]
    if kept:
        assert after.__code__ == before.__code__ and not hasattr(after, "of_checkout")  # type: ignore[union-attr]
        return
    x, conv, cpu = torch.zeros(1, 3, 8, 8), nn.Conv2d(3, 4, 1), torch.device("cpu")
    calls: List[Callable[[], Any]] = [lambda: after(x, conv, 1, cpu), lambda: after(x, ops=[conv], device=cpu)]
    calls.append((lambda: after(x=x, ops=conv, device=cpu)) if source else lambda: after(input=x, ops=conv, device=cpu))
    for call in calls:
        with contextlib.redirect_stdout(io.StringIO()):
            (row,) = call()
        assert row[7:] == [12, 4 * 8 * 8]


def test_everybody_can_have_the_whole_result() -> None:
    tree = Tree(USUAL + "    return 'theirs'\n", True)
    assert tree.call(Net()).value == "theirs"
    net = Net()  # which the result does not keep
    info = tree.module.memory_info(net, imgsz=(320, 640))
    assert tree.lines == tree.lines and info.imgsz == (320, 640) and info.total_kernel_macs == 27 * 8 + 72 * 16
    assert "module" in info.table() and info.traffic.read_bytes > 0
    assert "image size" in tree.module.memory_info(Net(), imgsz=0).error


def test_other_threads_print_log_and_count_undisturbed() -> None:
    source = varied(
        (LOG, "started.set(); going_on.wait(10); the_logger.info("),
        head=("import threading\nstarted, going_on = threading.Event(), threading.Event()\n"),
    )
    tree = Tree(source, True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        thread = threading.Thread(target=lambda: tree.module.model_info(Net()))  # type: ignore[attr-defined]
        thread.start()
        assert tree.module.started.wait(20)
        print("beside")
        tree.logger.info("1 layers, 2 parameters, 3 GFLOPs")
        ops = thop.profile(Net(), inputs=(torch.zeros(1, 3, 64, 64),), verbose=False)[0]
        tree.module.going_on.set()
        thread.join()
    assert printed.getvalue() == "beside\n" and tree.lines[0] == "1 layers, 2 parameters, 3 GFLOPs"
    assert "memory accesses" in tree.lines[1] and len(tree.lines) == 2
    assert ops == 32 * 32 * 8 * 27 + 16 * 16 * 16 * 72 and sys.stdout is not printed


ON_THE_PATH = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, torch_utils
from torch import nn
import thop
assert "site-packages" in thop.__file__, thop.__file__
model = nn.Sequential(nn.Conv2d(3, 4, 1))
assert len(thop.profile(model, inputs=(torch.zeros(1, 3, 8, 8),), verbose=False)) == 2
torch_utils.model_info(model)
print(torch_utils.memory_info(model).total_kernel_macs)
"""


def test_utils_itself_may_be_on_the_path(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for folder in ("utils", "models"):
        (checkout / folder).mkdir(parents=True)
    for name in ("models/yolo.py", "models/common.py", "utils/general.py", "utils/__init__.py", "train.py"):
        (checkout / name).write_text("")
    (checkout / "utils" / "torch_utils.py").write_text("import torch\n" + USUAL.replace("the_logger.info", "print"))
    apply = [sys.executable, str(ROOT / "patches/apply.py"), str(checkout)]
    done = subprocess.run(apply, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = run_python(["-c", ON_THE_PATH, str(checkout / "utils")], tmp_path)
    line, kernel = done.stdout.splitlines()
    assert ADDED.search(line) and "GFLOPS" in line and kernel == "12.0"


ULTRALYTICS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import ultralytics
assert ultralytics.__file__.startswith(sys.argv[1])
from ultralytics import YOLO
from ultralytics.utils import LOGGER
lines = []
LOGGER.info = lambda *args, **kwargs: lines.append(args[0])
model = YOLO("yolo11n.yaml")
lines.clear()
answers = [model.info(), model.info(verbose=False), model.info(detailed=False, verbose=True), model.model.info()]
print(json.dumps([[None if a is None else [*a][:3] + [round(a[3], 9)] for a in answers], lines]))
"""


def test_the_package_ultralytics_is_a_checkout_too(tmp_path: Path) -> None:
    import ultralytics

    answers = []
    folder = tmp_path / "ultralytics"
    shutil.copytree(Path(ultralytics.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    for patched in (False, True):
        if patched:
            apply = [sys.executable, str(ROOT / "patches/apply.py"), str(folder)]
            assert subprocess.run(apply, capture_output=True).returncode == 0
        done = run_python(["-c", ULTRALYTICS, str(tmp_path)], cwd=tmp_path, env=yolo_environment(tmp_path / "settings"))
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    (values, lines), (new_values, new_lines) = answers
    assert values[1] is None and new_values[1][1:] == values[0][1:]  # what returned nothing returns the count
    assert new_values[::2] == values[::2] and len(new_lines) == len(lines) > 1
    for old, new in zip(lines, new_lines):
        assert new.startswith(old) and ADDED.fullmatch(new[len(old) :]), new


OLD_TORCH = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.__version__ = "1.12.1"
from utils import torch_utils
torch_utils.model_info(torch.nn.Conv2d(3, 4, 1))
assert not hasattr(torch_utils, "memory_info")
"""


def test_an_older_torch_leaves_a_checkout_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "utils"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "torch_utils.py").write_text("def model_info(model):\n    print('as ever')\n" + BLOCK)
    (folder / "thop").symlink_to(ROOT / "utils" / "thop", target_is_directory=True)
    done = run_python(["-c", OLD_TORCH, str(tmp_path)], tmp_path)
    assert done.stdout.splitlines() == [
        "memory accesses are not counted: torch 1.13 or newer is needed, this is 1.12.1", "as ever"
    ]  # fmt: skip


# ---- the command in forks ----

NET_FILE = """
import yaml
from torch import nn
from utils.torch_utils import model_info
{imports}

def parse_model(d, ch):
    return nn.Sequential(*[nn.Conv2d(3, n, 1) for n in d["backbone"]])

class {name}(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.model = parse_model(yaml.safe_load(open(cfg)) if {is_yaml} else {{"backbone": [4]}}, 3)
        self.layers_of_mine, self.flops = self.info()

    def info(self):
        return model_info(self)

    def forward(self, {arguments}):
        return [self.model(part) for part in ({arguments},)]
"""
OWN_INFO = """
import torch
def model_info(model):
    n = len(list(model.modules()))
    print(n, 'layers')
    return n, 2.5
"""


def make_fork(root: Path, module: str, name: str = "Model", arguments: str = "x", imports: str = "") -> Path:
    """Make a patched fork whose networks are built in a module of its own, with cfgs beside it."""
    for folder in ("utils", "models", "nets"):
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").write_text("")
    (root / "train.py").write_text("")
    (root / "utils" / "general.py").write_text("")
    (root / "utils" / "torch_utils.py").write_text(OWN_INFO)
    text = NET_FILE.format(name=name, arguments=arguments, imports=imports, is_yaml=name == "Model")
    (root / (module.replace(".", "/") + ".py")).write_text(text)
    (root / "models" / "anchors.yaml").write_text("anchors: [1, 2]\n")
    (root / "models" / "small.yaml").write_text("backbone: [8]\nhead: [1]\n")
    (root / "models" / "large.yaml").write_text("backbone: [32]\nhead: [1]\n")
    (root / "models" / "dark.cfg").write_text("[net]\nchannels=3\n")
    done = subprocess.run([sys.executable, str(ROOT / "patches/apply.py"), str(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root


def command(root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return warm.run(["-m", "utils.thop", *words], root, both=False)


SEVERAL = """
import contextlib, io, json, sys
from utils.thop.command.cli import main
answers = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    answers.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""


def commands(root: Path, *lines: List[str]) -> List[Tuple[int, str, str]]:
    """Run several commands in one process; return the status and both outputs of each."""
    done = run_python(["-c", SEVERAL, json.dumps(lines)], cwd=root)
    return [(status, out, err) for status, out, err in json.loads(done.stdout.splitlines()[-1])]


def test_a_fork_without_models_yolo_builds_its_own_cfgs(tmp_path: Path) -> None:
    root = make_fork(tmp_path / "a", "nets.network")
    done = command(root, "compare", "models/*.yaml", "--csv", "--imgsz", "64")
    assert done.returncode == 0, done.stderr
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["model", "small", "large"]
    assert [row[rows[0].index("kernel")] for row in rows[1:]] == ["24", "96"]
    darknet = make_fork(tmp_path / "b", "darknet", "Darknet")
    summary = ["summary", "models/dark.cfg", "--imgsz", "64"]
    summed, compared = commands(darknet, summary, ["compare", "models/dark.cfg", "--csv"])
    assert "96" not in summed[2] and compared[1].splitlines()[1].startswith("dark,")


def test_two_streams_in_the_command(tmp_path: Path) -> None:
    root = make_fork(tmp_path, "models.yolo", arguments="x, y")
    asked = {
        "2 of 1x3x64x64": ["--imgsz", "64"], "1x3x64x64 and 1x3x32x32": ["--inputs", "1,3,64,64", "1,3,32,32"],
        "2 of 2x3x64x64": ["--inputs", "2x3x64x64", "2x3x64x64"],
    }  # fmt: skip
    lines = [["summary", "models/small.yaml", *words] for words in (*asked.values(), ["--inputs", "1,3,a"])]
    *found, (_, _, refused) = commands(root, *lines)
    for shown, (status, out, err) in zip(asked, found):
        assert status == 0 and f"at {shown}, float32" in out, err
    assert "must be a shape" in refused


def test_a_reason_is_told_to_its_end(tmp_path: Path) -> None:
    far = tmp_path / ("a_folder_with_a_long_name" * 4)
    root = make_fork(far, "models.yolo", imports="import a_package_of_that_fork")
    done = command(root, "compare", "models/small.yaml", "models/large.yaml")
    assert done.returncode == 1 and "'a_package_of_that_fork'" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 120
    (root / "models" / "yolo.py").unlink()
    done = command(root, "summary", "models/small.yaml")
    assert "name a function that returns one, as package.module:function" in done.stderr


def test_a_pattern_for_none_but_other_files_is_told(tmp_path: Path) -> None:
    root = make_fork(tmp_path, "models.yolo")
    done = command(root, "compare", "models/anch*.yaml")
    assert done.returncode == 2 and "no file that matches is a YOLOv5 cfg" in done.stderr


def test_a_pager_that_is_closed_is_no_error(tmp_path: Path) -> None:
    root = make_fork(tmp_path, "models.yolo")
    for words in (["--check"], ["--revert"], []):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "patches/apply.py"), str(root), *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
        assert (process.wait(), error) == (0, b"")


# ---- interrupts ----


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_an_interrupt_at_any_moment_leaves_the_process_as_it_was() -> None:
    """Timers at random moments of a call."""
    tree, model = Tree("import thop\nLOGGER = the_logger\n" + USUAL, True), Net()
    space = tree.module.__dict__

    def process() -> List[Any]:
        names = {name: id(value) for name, value in space.items() if name != "__builtins__"}
        threads = vars(beside._THREAD).get("listener"), dict(beside._ORIGINALS)
        streams = id(sys.stdout), id(sys.stderr)
        kept = list(vars(model)), len(model.stem._forward_hooks), torch.is_grad_enabled()
        return [streams, logging.Logger.handle, thop.profile.__code__, names, threads, kept, sys.modules.get("thop")]

    tree.call(model)
    before, generator, interrupted = process(), random.Random(0), 0
    longest = min(timeit.repeat(lambda: tree.module.model_info(model), number=1, repeat=5))  # type: ignore[attr-defined]
    kept = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(1e-5, longest))
                tree.module.model_info(model)  # type: ignore[attr-defined]
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            assert process() == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
    assert interrupted > 50
    tree.lines.clear()
    tree.module.model_info(model)  # type: ignore[attr-defined]
    assert len(tree.lines) == 1 and "memory accesses" in tree.lines[0]

"""Our launches against those of the runtimes' own compilers, network by network (graphs/README.md)."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from releases import ROOT, yolo
from torch import nn

from utils.thop import predict
from utils.thop.command.models import task_of
from utils.thop.count.record import Recording, record
from utils.thop.deploy.launches import Launch, as_deployed
from utils.thop.deploy.runtimes import find_runtime

GRAPHS = Path(__file__).with_name("graphs")
FILES = {
    "rknn": "rknn-rk3588",
    "ncnn": "ncnn",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tflite": "tflite",
}
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
MOVES = {"Concat": "cat", "Split": "split", "Slice": "split", "Resize": "resize", "Upsample": "resize", "Pad": "pad"}


# ---- theirs ----


@lru_cache(maxsize=None)
def rows(runtime: str) -> dict[str, list[dict[str, str]]]:
    """The launches of a compiler, by network."""
    found: dict[str, list[dict[str, str]]] = {}
    with (GRAPHS / f"{FILES[runtime]}.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            found.setdefault(row["network"], []).append(row)
    return {name: _merged(graph) for name, graph in found.items() if "head=" not in name}


def _merged(graph: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without what only changes layout; a convolution in tiles, whose activation comes last, is one launch."""
    found: list[dict[str, str]] = []
    tiled: dict[str, dict[str, str]] = {}
    for row in graph:
        first = row["members"].partition(" ")[0]
        if row["operator"] in ("PAD", "PADV2"):
            row["members"] = "Pad@" + first.partition("@")[2]
        elif first.startswith("BatchNormalization") and row["operator"] in ("SUB", "MUL"):  # its activation comes last
            row["members"] = first
        members = [member.partition("@") for member in row["members"].split()]
        if members and all(kind in ("Transpose", "Reshape") for kind, _, _ in members):
            continue
        block = members[0][2].rpartition(".")[0] if members else ""
        if block in tiled and _kinds_of(row["members"]) == {("curve", members[0][2])}:
            tiled[block]["members"] += " " + row["members"]
            continue
        if int(row.get("rows") or 1) > 1:
            tiled.update((path.rpartition(".")[0], row) for kind, _, path in members if kind in PRODUCTS)
        found.append(row)
    return found


def _kinds_of(members: str) -> set[tuple[str, str]]:
    """What a compiler's launch does, by module."""
    found = set()
    for member in members.split():
        kind, _, path = member.partition("@")
        if kind in PRODUCTS:
            found.add(("product", path))
        elif "Pool" in kind or kind == "ReduceMean":
            found.add(("pool", path))
        else:
            words = {"Softmax": "softmax", "LayerNorm": "norm", "RMSNorm": "norm"}
            plain = next((told for word, told in words.items() if word in kind), "add" if kind == "Add" else "curve")
            found.add((MOVES.get(kind, plain), path))
    return _told(found)


# ---- ours ----


def _kinds(launch: Launch) -> set[tuple[str, str]]:
    """What our launch does, by module."""
    multiplies = launch.product is not None
    found = set()
    for step in launch.steps:
        name = step.facts.operator.rstrip("_")
        if step.geometry is not None:
            found.add(("product", step.path))
        elif "batch_norm" in name:
            found |= set() if multiplies else {("curve", step.path)}
        else:
            words = {"pool": "pool", "mean": "pool", "upsample": "resize", "softmax": "softmax", "norm": "norm",
                     "pad": "pad"}  # fmt: skip
            plain = name if name in ("add", "cat", "split") else "curve"
            found.add((next((kind for word, kind in words.items() if word in name), plain), step.path))
    return _told(found)


def _told(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without what ways of naming a product's parts can't agree on: concats that it reads, sums of its own parts."""
    products = {path for kind, path in found if kind == "product"}
    beside = {("add", path) for path in products}
    return {one for one in found if not (products and one[0] in ("cat", "split")) and one not in beside}


@lru_cache(maxsize=None)
def recorded(name: str) -> Recording:
    """A network of the files, counted."""
    package, _, rest = name.partition(":")
    called, *options = rest.split(";")
    side = 224 if package == "tv" else 640
    found = record(_build(package, called, options), (torch.zeros(1, 3, side, side),))
    found.subject.inputs = ()  # tensors without values, which other tests look for
    return found


def _build(package: str, name: str, options: list[str]) -> nn.Module:
    model: Any
    if package == "tv":
        more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        return torchvision.models.get_model(name, weights=None, **more).eval()
    if package == "y5":
        model = yolo(f"{name}.yaml")
        for option in options:
            for module in model.modules():
                if type(module).__name__ == "Conv" and isinstance(module.act, nn.SiLU):
                    module.act = getattr(nn, option.partition("=")[2])()
        return model.eval().fuse()
    from ultralytics.nn import tasks

    logging.disable(logging.INFO)
    model = getattr(tasks, task_of(name))(f"{name}.yaml", verbose=False).eval()
    logging.disable(logging.NOTSET)
    return model.fuse(verbose=False)


def compared(runtime: str, name: str) -> tuple[int, int, int]:
    """How many launches we say, how many there are, and how many hold the same operators of the same modules."""
    ours = as_deployed(recorded(name), find_runtime(runtime), decode=False).launches
    theirs = rows(runtime)[name]
    norms = {step.path for step in recorded(name).steps if step.name == "aten::native_layer_norm"}
    told = [{("norm", one.layers[0])} if set(one.layers) <= norms else _kinds(one) for one in ours]  # or a part of it
    mine, others = (Counter(map(frozenset, kinds)) for kinds in (told, (_kinds_of(r["members"]) for r in theirs)))
    return len(ours), len(theirs), sum((mine & others).values())


@pytest.mark.slow
@pytest.mark.parametrize("runtime", FILES)
def test_launches_are_those_of_the_compiler(runtime: str) -> None:
    found = {name: compared(runtime, name) for name in rows(runtime)}
    assert len(found) >= 20
    equal = [name for name, (ours, theirs, _) in found.items() if ours == theirs]
    assert len(equal) >= 0.9 * len(found), {name: found[name] for name in found if name not in equal}
    for name, (ours, theirs, _) in found.items():
        assert abs(ours - theirs) <= 0.03 * theirs, (name, ours, theirs)
    same, largest = sum(one[2] for one in found.values()), sum(max(one[:2]) for one in found.values())
    assert same >= 0.95 * largest, (same, largest)


@pytest.mark.parametrize("name", ["y5:yolov5s", "ul:yolov8n", "tv:mobilenet_v2"])
def test_a_network_by_all_compilers(name: str) -> None:
    for runtime in FILES:
        if name in rows(runtime):
            ours, theirs, same = compared(runtime, name)
            assert ours == theirs and same >= 0.97 * theirs, runtime


SHOWN = "y5:yolov5s", "ul:yolov8n", "ul:yolo11n", "tv:mobilenet_v3_large", "tv:densenet121"


def table() -> str:
    """The table of docs/clock.md: our number of launches, and the compiler's where it is another."""
    lines = [
        "| network | " + " | ".join(find_runtime(name).title for name in FILES) + " |",
        "| --- |" + " --- |" * len(FILES),
    ]
    for name in SHOWN:
        cells = []
        for runtime in FILES:
            ours, theirs = compared(runtime, name)[:2] if name in rows(runtime) else (0, 0)
            cells.append("" if not ours else str(ours) if ours == theirs else f"{ours}, {theirs}")
        lines.append(
            f"| {name.partition(':')[2].replace(';act=', ', ').replace('hub/', '')} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def test_the_table_of_the_docs() -> None:
    assert table() in (ROOT / "docs/clock.md").read_text(encoding="utf-8")


# ---- memory ----

LIGHT = {"tv:efficientnet_b0", "tv:squeezenet1_1", "tv:shufflenet_v2_x1_0"}  # their weights are filled up
SCRATCH = {  # what the toolkit plans beside results is not known here: of softmax on the CPU, of small resized maps
    "y5:hub/yolov5s-ghost", "y5:segment/yolov5n-seg", "ul:yolo11s", "ul:yolo12n", "tv:mobilenet_v3_large",
    "tv:convnext_tiny",
}  # fmt: skip


def test_memory_is_what_the_compiler_plans() -> None:
    with (GRAPHS / "rknn-memory.csv").open(newline="") as lines:
        planned = [row for row in csv.DictReader(lines) if row["device"] == "rk3588" and "head=" not in row["network"]]
    assert len(planned) >= 20
    runtime = find_runtime("rknn")
    exact = []
    for row in planned:
        memory = as_deployed(recorded(row["network"]), runtime, decode=False).memory("int8")
        assert memory.weight_bytes == pytest.approx(float(row["weight_kb"]) * 1024, rel=0.1) or row["network"] in LIGHT
        off = memory.arena_bytes / (float(row["internal_kb"]) * 1024)
        assert 0.9 <= off <= 1.1 or row["network"] in SCRATCH, (row, memory.arena_bytes / 1024)
        exact += [row["network"]] if abs(off - 1) < 1e-3 else []
    assert len(exact) >= 0.75 * len(planned)


def test_an_rk3566_has_its_results_in_float32_too() -> None:
    with (GRAPHS / "rknn-memory.csv").open(newline="") as lines:
        planned = [row for row in csv.DictReader(lines) if row["device"] == "rk3566" and "head=" not in row["network"]]
    runtime = find_runtime("rknn").on("rk3566")
    ratios = {}
    for row in planned:
        memory = as_deployed(recorded(row["network"]), runtime).memory("int8")
        ratios[row["network"]] = memory.arena_bytes / (float(row["internal_kb"]) * 1024)
    near = [name for name, ratio in ratios.items() if abs(ratio - 1) <= 0.1]
    assert len(near) >= 24 and "y5:yolov5s" in near and "y5:yolov5n" in near and "ul:yolov8n" in near, ratios
    classifiers = [name for name in ratios if name.startswith("tv:") and abs(ratios[name] - 1) < 1e-3]
    assert len(classifiers) >= 9


# ---- what leaves the accelerator ----


def test_what_leaves_the_npu_is_what_the_toolkit_leaves_to_the_cpu() -> None:
    with (GRAPHS / "rknn-operators.csv").open(newline="") as lines:
        left = {(row["operator"], row["device"]): bool(row["cpu"]) for row in csv.DictReader(lines)}
    for chip in ("rk3588", "rk3566"):
        runtime = find_runtime("rknn").on(chip)
        assert all(left[name, chip] for name in runtime.leaves), chip
        whole = [name for name, device in left if device == chip and not left[name, device]]
        assert not set(whole) & set(runtime.leaves) and len(whole) > 10
    assert left["softmax", "rk3566"] and not left["softmax", "rk3588"]


def test_what_leaves_the_npu_is_named_with_its_module_and_the_reason() -> None:
    class Decoding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 8, 3), nn.Softmax(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(self.scale(self.conv(x)))

    image = torch.zeros(1, 3, 32, 32)
    (one,) = predict(Decoding(), image, device="rk3588").leaves
    assert one[:2] == ("exp", "") and "CPU" in one[2]
    names = [name for name, _, _ in predict(Decoding(), image, device="rk3566").leaves]
    assert names == ["softmax", "exp"]
    assert predict(Decoding(), image, device="t4").leaves == ()


# ---- torch.compile, whose kernels have no names ----


def test_kernels_of_torch_compile_by_number() -> None:
    with (GRAPHS / "torch-compile.csv").open(newline="") as lines:
        theirs = {row["network"]: row for row in csv.DictReader(lines)}
    runtime = find_runtime("torch-compile")
    equal, near = 0, 0
    for name, row in theirs.items():
        ours = as_deployed(recorded(name), runtime, decode=False).launches
        products = sum(launch.product is not None for launch in ours)
        assert products == int(row["library"]) or "transformer" in name, name  # attention's are generated there
        equal += len(ours) == int(row["kernels"])
        near += abs(len(ours) - int(row["kernels"])) <= 0.03 * int(row["kernels"])
    # Inductor adds and concatenates YOLOv5n's narrow maps, and Ghost's, in kernels of their own.
    assert len(theirs) >= 20 and equal >= 0.7 * len(theirs) and near >= 0.8 * len(theirs), (equal, near)

"""Build the networks whose deployment is compared, and export them: ONNX, TorchScript, and the graph as plain JSON.

    python networks.py FOLDER ONNX_PACKAGES [NETWORK ...]

Not to be run by hand: `benchmarks/compilers.py` does. Detectors end at their last convolutions.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
YOLOV5 = (
    "yolov5s", "yolov5s;head=sigmoid", "yolov5n", "yolov5m", "yolov5l", "hub/yolov5s6", "hub/yolov5s-ghost",
    "hub/yolov5s-transformer", "hub/yolov3-tiny", "hub/yolov5-bifpn", "hub/yolov5s-LeakyReLU", "yolov5s;act=ReLU",
    "yolov5s;act=Hardswish", "segment/yolov5n-seg",
)  # fmt: skip
ULTRALYTICS = ("yolov8n", "yolov8s", "yolov8m", "yolo11n", "yolo11s", "yolov8n-seg", "yolov10n", "yolov5nu", "yolo12n")
TORCHVISION = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "vgg16", "squeezenet1_1",
    "densenet121", "shufflenet_v2_x1_0", "googlenet", "convnext_tiny",
)  # fmt: skip
NETWORKS = (
    *(f"y5:{name}" for name in YOLOV5),
    *(f"ul:{name}" for name in ULTRALYTICS),
    *(f"tv:{name}" for name in TORCHVISION),
)
OPSETS = (12, 17)


def file_name(network: str) -> str:
    """Return a network's name as a file may have it."""
    return re.sub(r"[^\w.-]", "_", network)


def image_size(network: str) -> int:
    """Return the side of the square image that a network is built for."""
    return 224 if network.startswith("tv:") else 640


def build(network: str) -> Any:
    """Build a network with random weights, in evaluation mode, fused, with a raw head."""
    import torch

    torch.manual_seed(0)
    family, _, rest = network.partition(":")
    name, *options = rest.split(";")
    settings = dict(option.split("=") for option in options)
    builders = {"y5": _yolov5, "ul": _ultralytics, "tv": _torchvision}
    model = builders[family](name, settings)
    for parameter in model.parameters():
        parameter.detach_().requires_grad_(False)
    return model


def _settle(model: Any) -> Any:
    """Give batch norms and biases numbers as training does, lest a compiler drops or shares those that do nothing."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for values in (module.weight, module.running_var):
                torch.nn.init.uniform_(values, 0.8, 1.4)
            for values in (module.bias, module.running_mean):
                torch.nn.init.uniform_(values, -0.2, 0.2)
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and module.bias is not None:
            module.bias.data.add_(torch.empty_like(module.bias).uniform_(-0.1, 0.1))
        elif isinstance(module, torch.nn.MultiheadAttention) and module.in_proj_bias is not None:
            torch.nn.init.uniform_(module.in_proj_bias, -0.1, 0.1)
    return model.eval()


def _use_yolo() -> None:
    """Keep the YOLO packages off the network, and make YOLOv5's release importable."""
    sys.path[:0] = [str(ROOT / "tests")]
    import releases

    os.environ.update(releases.yolo_settings(releases.CACHE / "settings"))
    releases.latest()


def _yolov5(name: str, settings: dict[str, str]) -> Any:
    """Build a model of YOLOv5's release, with another activation if `settings` say so."""
    _use_yolo()
    import releases
    import torch
    from yolov5.models import common

    before = common.Conv.default_act
    if "act" in settings:
        common.Conv.default_act = getattr(torch.nn, settings["act"])()
    try:
        model = releases.yolo(f"{name}.yaml")
    finally:
        common.Conv.default_act = before
    with releases.quiet():
        _settle(model).fuse()
    head = model.model[-1]
    sigmoid = settings.get("head") == "sigmoid"

    def maps(x: list[Any]) -> list[Any]:
        found = [conv(level) for conv, level in zip(head.m, x)]
        if sigmoid:
            found = [each.sigmoid() for each in found]
        return [*found, head.proto(x[0])] if hasattr(head, "proto") else found

    head.forward = maps
    return model


def _ultralytics(name: str, settings: dict[str, str]) -> Any:
    """Build a model of the package `ultralytics` from its cfg."""
    _use_yolo()
    from ultralytics import YOLO

    cfg = {"yolov5nu": "yolov5n"}.get(name, name)
    model = YOLO(f"{cfg}.yaml", verbose=False).model
    _settle(model).fuse(verbose=False)
    head = model.model[-1]
    if getattr(head, "one2one_cv2", None) is not None:
        branches = [head.one2one_cv2, head.one2one_cv3]
    else:
        branches = [head.cv2, head.cv3]
    if hasattr(head, "cv4"):
        branches.append(head.cv4)

    def maps(x: list[Any]) -> list[Any]:
        found = [branch[level](x[level]) for level in range(len(x)) for branch in branches]
        return [*found, head.proto(x[0])] if hasattr(head, "proto") else found

    head.forward = maps
    return model


def _torchvision(name: str, settings: dict[str, str]) -> Any:
    """Build a classifier of torchvision."""
    import torchvision

    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return _settle(getattr(torchvision.models, name)(weights=None, **options))


def module_of(node: str, modules: set[str]) -> str:
    """Return the module that an exported node belongs to: '/model.2/m/m.0/cv1/conv/Conv' -> 'model.2.m.0.cv1.conv'."""
    path: list[str] = []
    for scope in node.split("/")[1:-1]:
        if path and scope.startswith(f"{path[-1]}."):
            path.pop()  # a Sequential's child repeats the name of its parent
        path.append(scope)
    name = ".".join(path)
    while name and name not in modules:  # a module that is called again: m, m_1, m_2
        shorter = re.sub(r"_\d+(?=\.|$)", "", name)
        name = shorter if shorter != name else name.rpartition(".")[0]
    return name


def graph_of(path: Path, modules: set[str]) -> dict[str, Any]:
    """Read an ONNX file: its nodes in order with the modules they belong to, and the shapes of its tensors."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    known = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    shapes = {each.name: [side.dim_value for side in each.type.tensor_type.shape.dim] for each in known}
    weights = {each.name: list(each.dims) for each in model.graph.initializer}
    nodes = [
        {
            "name": node.name,
            "operator": node.op_type,
            "inputs": list(node.input),
            "outputs": list(node.output),
            "module": module_of(node.name, modules),
        }
        for node in model.graph.node
    ]
    outputs = [each.name for each in model.graph.output]
    return {"nodes": nodes, "shapes": shapes, "weights": weights, "outputs": outputs}


def export(network: str, folder: Path) -> None:
    """Write a network's ONNX files, their graphs, and its TorchScript."""
    import torch

    model = build(network)
    size = image_size(network)
    images = torch.zeros(1, 3, size, size)
    modules = {name for name, _ in model.named_modules(remove_duplicate=False)}
    stem = folder / file_name(network)
    with torch.no_grad():
        model(images)
        traced = torch.jit.trace(model, images, check_trace=False)
        traced.save(f"{stem}.pt")
        for opset in OPSETS:
            path = Path(f"{stem}.{opset}.onnx")
            try:
                torch.onnx.export(
                    model, (images,), str(path), opset_version=opset, input_names=["images"], dynamo=False
                )
            except Exception as error:
                path.with_suffix(".error").write_text(few_words(error), encoding="utf-8")
                continue
            path.with_suffix(".json").write_text(json.dumps(graph_of(path, modules)), encoding="utf-8")
    Path(f"{stem}.done").touch()


def few_words(error: BaseException) -> str:
    """Describe an exception in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]


def todo(folder: Path, arguments: list[str]) -> list[tuple[str, Path]]:
    """Return the networks that are wanted and not yet exported, with the files that say so."""
    wanted = [(name, folder / f"{file_name(name)}.done") for name in arguments or NETWORKS]
    return [(name, mark) for name, mark in wanted if not mark.is_file()]


def main() -> None:
    """Export the networks that are named, or all."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    sys.path.append(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for network, _ in todo(folder, sys.argv[3:]):
        print(f"export {network}", flush=True)
        try:
            export(network, folder)
        except Exception as error:
            print(f"  refused: {few_words(error)}", flush=True)


if __name__ == "__main__":
    main()

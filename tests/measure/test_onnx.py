"""Exported networks: their launches are those of the module that they were made of; operators do what ONNX says."""

import copy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from releases import ROOT, quiet
from torch import nn

from utils.thop import predict
from utils.thop.command.cli import main
from utils.thop.count.record import record
from utils.thop.deploy.launches import Deployed, as_deployed, deployed
from utils.thop.deploy.runtimes import DeviceError, find_runtime
from utils.thop.measure.onnx_graph import _OF_TENSORS, _RUN, Node, OnnxNetwork, read_onnx, run_node

NAMES = ("yolov5n", "yolov5s", "hub/yolov5s-ghost", "hub/yolov3-tiny", "segment/yolov5n-seg", "hub/yolov5s-transformer")
Yolo = Callable[..., Any]


def exported(model: Any, file: Path, size: int = 320, **options: Any) -> Path:
    """Export a model as YOLOv5's export.py does."""
    model = copy.deepcopy(model)
    head = model.model[-1]
    head.export, head.inplace, head.dynamic = True, False, bool(options)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 3, size, size),), str(file), dynamo=False, opset_version=17,
                          input_names=["images"], **options)  # fmt: skip
    return file


@pytest.fixture(scope="module")
def yolov5n(yolo: Yolo) -> nn.Module:
    with quiet():
        return yolo("yolov5n.yaml").eval().fuse()


@pytest.fixture(scope="module")
def file(yolov5n: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(yolov5n, tmp_path_factory.mktemp("onnx") / "best.onnx")


def bytes_of(network: Deployed) -> List[int]:
    return [network.flops, network.weight_elements, network.read_elements, network.written_elements]


# ---- networks ----


@pytest.mark.parametrize("name", NAMES)
def test_an_export_is_the_cfg_that_it_was_made_of(yolo: Yolo, tmp_path: Path, name: str) -> None:
    with quiet():
        model = yolo(f"{name}.yaml").eval().fuse()
    recording = read_onnx(exported(model, tmp_path / "best.onnx"))
    for device, runtime in (("rk3588", "rknn"), ("t4", "tensorrt")):
        ours = as_deployed(recording, find_runtime(runtime))
        theirs = deployed(model, (torch.zeros(1, 3, 320, 320),), runtime, decode=True)
        assert bytes_of(ours) == pytest.approx(bytes_of(theirs), rel=0.01)
        expected = predict(theirs, device=device)
        assert predict(ours, device=device).seconds == pytest.approx(expected.seconds, rel=0.01)
        assert convolutions(ours) == convolutions(theirs)


def convolutions(network: Deployed) -> Sequence[str]:
    return [step.path for launch in network.launches for step in launch.steps if "conv" in step.name]


def test_nothing_of_an_export_lacks_a_rule(yolov5n: nn.Module, file: Path) -> None:
    """Its modules cost what those that they were exported from do, up to the heads, where nodes are all there is."""
    ours, theirs = read_onnx(file).layers, record(yolov5n, (torch.zeros(1, 3, 320, 320),)).layers
    assert not ours.missing
    found, expected = ({place.path: place for place in each.root.walk()} for each in (ours, theirs))
    paths = [path for path, place in expected.items() if not path.startswith("model.24") and not place.children]
    shared = [path for path in paths if path in found and found[path].calls]
    assert {"model.0.conv", "model.0.act", "model.9.m", "model.11"} <= set(shared) and len(shared) > 60
    for path in shared:
        if not path.endswith("act"):  # one SiLU is shared by all, each of the file's is its own
            costs = [(at[path].total_ops, at[path].kernel, at[path].output) for at in (found, expected)]
            assert costs[0] == costs[1]


def test_inputs_that_are_no_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["w", "x"], ["y"], name="/table/Gather")]
    table = numpy_helper.from_array(numpy.zeros((100, 8), numpy.float32), "w")
    for sides, said in (([1, 7], "1x7"), ([1, "length"], "its input x is 1x?, no image: give all with --inputs")):
        path = saved(tmp_path, nodes, [table], ("x", sides), ("y", [*sides, 8]), TensorProto.INT64)
        status, out, err = run(capsys, "predict", path, "--device", "t4")
        assert said in " ".join(out.split()) and "640x640" not in out + err and len(err.splitlines()) == status
    status, out, err = run(capsys, "predict", path, "--device", "t4", "--inputs", "int64", "1,9")
    assert (status, err) == (0, "") and "1x9" in out


def test_sides_without_a_number_take_any_size(yolov5n: nn.Module, tmp_path: Path) -> None:
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    path = exported(yolov5n, tmp_path / "best.onnx", dynamic_axes=axes)
    runtime = find_runtime("tensorrt")
    for size in ((480, 640), (64, 96)):
        theirs = deployed(yolov5n, (torch.zeros(1, 3, *size),), "tensorrt")
        assert bytes_of(as_deployed(read_onnx(path, size), runtime)) == pytest.approx(bytes_of(theirs), rel=1e-3)
    usual = deployed(yolov5n, (torch.zeros(1, 3, 640, 640),), "tensorrt")
    assert as_deployed(read_onnx(path), runtime).flops == usual.flops


def test_weights_tell_the_modules_where_nodes_do_not(yolov5n: nn.Module, file: Path, tmp_path: Path) -> None:
    graph = onnx.load(str(file))
    for number, node in enumerate(graph.graph.node):
        node.name = f"{node.op_type}_{number}"
    onnx.save(graph, str(tmp_path / "older.onnx"))
    ours = as_deployed(read_onnx(tmp_path / "older.onnx"), find_runtime("rknn"))
    assert convolutions(ours) == convolutions(deployed(yolov5n, (torch.zeros(1, 3, 320, 320),), "rknn"))


def test_scales_may_be_among_the_weights(tmp_path: Path) -> None:
    """Tools that simplify a graph leave what was computed there."""
    scales = numpy_helper.from_array(numpy.array([1, 1, 2, 2], numpy.float32), "s")
    nodes = [helper.make_node("Resize", ["x", "", "s"], ["y"], name="/up/Resize")]
    path = saved(tmp_path, nodes, [scales], ("x", [1, 3, 8, 8]), ("y", [1, 3, 16, 16]))
    recording = read_onnx(path)
    assert [view.shape for step in recording.steps for view in step.writes] == [(1, 3, 16, 16)]
    assert recording.layers.missing == {}


def test_quantised_graphs_are_what_they_were_made_of(tmp_path: Path) -> None:
    scale, zero = helper.make_tensor("s", 1, [], [0.1]), helper.make_tensor("z", TensorProto.INT8, [], [0])
    weight = numpy_helper.from_array(numpy.zeros((8, 3, 3, 3), numpy.int8), "w")
    bias = numpy_helper.from_array(numpy.zeros(8, numpy.int32), "b")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("DequantizeLinear", ["b", "s"], ["bd"]),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["y"], name="/conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["y", "s", "z"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["yd"]),
    ]
    path = saved(tmp_path, nodes, [scale, zero, weight, bias], ("x", [1, 3, 32, 32]), ("yd", [1, 8, 32, 32]))
    ours = as_deployed(read_onnx(path), find_runtime("rknn"))
    plain = deployed(nn.Conv2d(3, 8, 3, padding=1), (torch.zeros(1, 3, 32, 32),), "rknn")
    assert bytes_of(ours) == bytes_of(plain) and ours.launches[0].layers == ["conv"]


def saved(folder: Path, nodes: Any, constants: Any, given: Any, made: Any, dtype: Any = TensorProto.FLOAT) -> Path:
    """Write a graph of a few nodes; dtype: of its input."""
    types = dtype, TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, shape) for (name, shape), kind in zip((given, made), types)]
    model = helper.make_model(helper.make_graph(nodes, "graph", ends[:1], ends[1:], constants))
    path = folder / "graph.onnx"
    onnx.save(model, str(path))
    return path


# ---- operators ----

X, SMALL = numpy.linspace(-2, 2, 2 * 4 * 6 * 6, dtype=numpy.float32).reshape(2, 4, 6, 6), numpy.float32(0.3)
W = numpy.linspace(-1, 1, 8 * 4 * 3 * 3, dtype=numpy.float32).reshape(8, 4, 3, 3)
B = numpy.arange(8, dtype=numpy.float32)
V = numpy.array([0.5, 1.0, 1.5, 2.0], numpy.float32)
LINE = X.reshape(2, 4, 36)[0]


def whole(*numbers: int) -> Any:
    return numpy.array(numbers, numpy.int64)


PLAIN = ("Abs", "Exp", "Floor", "Ceil", "Round", "Sign", "Erf", "Sin", "Cos", "Atan", "Tanh", "Sigmoid", "Relu", "Neg",
         "Elu", "LeakyRelu", "Softplus", "HardSwish", "Mish", "Identity")  # fmt: skip
COMPARE = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
CASES: List[Any] = [
    *((name, [X], {}) for name in PLAIN),
    *((name, [X + 3], {}) for name in ("Sqrt", "Log", "Reciprocal")),
    ("HardSigmoid", [X], {"alpha": 1 / 6}),
    ("Conv", [X, W, B], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [X, W, B], {"pads": [0, 1, 2, 1]}),
    ("Conv", [X, W[:, :1], B], {"group": 4, "dilations": [2, 2]}),
    ("ConvTranspose", [X, W.reshape(4, 8, 3, 3), B], {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}),
    ("Gemm", [LINE, LINE, V], {"transB": 1}),
    ("Gemm", [LINE, LINE.T.copy()], {}),
    ("MatMul", [X, X.transpose(0, 1, 3, 2).copy()], {}),

    ("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", [X], {}),
    *((name, [X, V.reshape(4, 1, 1)], {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *((name, [X, SMALL], {}) for name in ("Add", "Sub", "Mul", "Div", *COMPARE)),
    ("Pow", [X, numpy.float32(2)], {}),
    ("Where", [X > 0, X, -X], {}),
    ("Clip", [X, numpy.float32(0), numpy.float32(1)], {}),
    ("PRelu", [X, V.reshape(4, 1, 1)], {}),
    ("Softmax", [X], {"axis": 1}),

    ("ReduceMean", [X], {"axes": [2, 3], "keepdims": 0}),
    ("ReduceSum", [X, whole(1)], {}),
    ("ReduceMax", [X], {"axes": [1]}),
    ("ArgMax", [X], {"axis": 1}),
    ("BatchNormalization", [X, V, V, V, V], {}),

    ("LayerNormalization", [X, B[:6], B[:6]], {}),
    ("Resize", [X, None, numpy.array([1, 1, 2, 2], numpy.float32)], {"coordinate_transformation_mode": "asymmetric",
                                                                    "nearest_mode": "floor"}),
    ("Resize", [X, None, None, whole(2, 4, 12, 18)], {"mode": "linear"}),
    ("Concat", [X, X[:, :2]], {"axis": 1}),
    ("Split", [X, whole(1, 3)], {"axis": 1}),
    ("Slice", [X, whole(1, 0), whole(4, 2**62), whole(1, 3), whole(1, 2)], {}),
    ("Slice", [X, whole(-1), whole(-(2**62)), whole(2), whole(-1)], {}),
    ("Reshape", [X, whole(0, 2, -1, 6)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Squeeze", [X[:, :1], whole(1)], {}),
    ("Unsqueeze", [X, whole(0, -1)], {}),
    ("Expand", [X[:, :1], whole(2, 4, 6, 6)], {}),
    ("Tile", [X, whole(1, 2, 1, 1)], {}),
    ("Pad", [X, whole(0, 0, 1, 2, 0, 0, 0, 3)], {}),
    ("Pad", [X, whole(0, 0, 1, 2, 0, 0, 0, 3)], {"mode": "reflect"}),
    ("Gather", [X, whole(2, 0)], {"axis": 1}),
    ("Gather", [X, numpy.array(1)], {"axis": 2}),
    ("GatherElements", [X, numpy.zeros((2, 1, 6, 6), numpy.int64)], {"axis": 1}),
    ("DepthToSpace", [X], {"blocksize": 2, "mode": "CRD"}),
    ("TopK", [X, whole(2)], {"axis": 1}),
    ("Cast", [X], {"to": 7}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "operands", "given"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_an_operator_does_what_onnx_says(kind: str, operands: List[Any], given: Dict[str, Any]) -> None:
    names = [f"x{i}" if one is not None else "" for i, one in enumerate(operands)]
    made = ["y", "z"] if kind in ("Split", "TopK") else ["y"]
    proto = helper.make_node(kind, names, made, **given)
    version = 13 if "axes" in given else 18  # before they became operands
    ends = [[helper.make_tensor_value_info(name, 1, None) for name in side if name] for side in (names, made)]
    graph = helper.make_graph([proto], "one", ends[0], ends[1])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    expected = ReferenceEvaluator(model).run(None, {name: one for name, one in zip(names, operands) if name})
    x, *others = operands
    found = run_node(Node("one", kind, "", given, proto), [torch.from_numpy(x.copy()), *others])
    for ours, theirs in zip(found if isinstance(found, (tuple, list)) else [found], expected):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.double(), torch.from_numpy(theirs.copy()).double(), rtol=1e-4, atol=1e-4)


def test_every_operator_of_the_table_was_compared() -> None:
    too_simple = {"Not", "Equal", "Mod", "Gelu", "Upsample", "Dropout", "SpaceToDepth"}
    assert {*_RUN, *_OF_TENSORS} - {case[0] for case in CASES} == too_simple


# ---- what is wrong ----


def test_what_is_wrong_is_said_in_a_line(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], name="/model.3/NonZero")
    odd = saved(tmp_path, [node], [], ("x", [1, 3, 8, 8]), ("y", [4, 1]))
    images = (torch.zeros(1, 3, 8, 8),)
    says(lambda: OnnxNetwork(odd)(*images), "the operator NonZero of node /model.3/NonZero is not known here")
    says(lambda: read_onnx(file, (64, 64)), "its input images is 1x3x320x320, not 1x3x64x64")
    cut, empty = tmp_path / "cut.onnx", tmp_path / "empty.onnx"
    cut.write_bytes(file.read_bytes()[:9999])
    empty.write_bytes(b"")
    says(lambda: read_onnx(cut), "cut.onnx can't be read")
    says(lambda: read_onnx(empty), "empty.onnx is no ONNX file, or one without a network")
    says(lambda: read_onnx(tmp_path / "none.onnx"), "none.onnx: no such file")
    monkeypatch.setitem(sys.modules, "onnx", None)
    says(lambda: read_onnx(file), "reading it takes the package onnx: pip install onnx")


def says(action: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(DeviceError) as caught:
        action()
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


# ---- the command ----


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status = main([str(argument) for argument in arguments])
    return (status, *capsys.readouterr())


def test_the_command_takes_exports(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    status, out, err = run(capsys, "predict", file, "--device", "rk3588")
    assert (status, err) == (0, "") and "best.onnx" in out and "1x3x320x320" in out
    status, out, err = run(capsys, "predict", file, "--device", "rk3588", "--no-decode")
    assert status == 0 and "--no-decode changes nothing" in err and len(err.splitlines()) == 1
    status, out, err = run(capsys, "summary", file, "--device", "t4")
    assert (status, err) == (0, "") and "model.23" in out and "typically" in out
    status, out, err = run(capsys, "train", file)
    assert (status, out) == (2, "") and "an export has no training" in err
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    status, out, err = run(capsys, "summary", broken)
    assert (status, out) == (2, "") and "broken.onnx: can't be read" in err and len(err.splitlines()) == 1


def test_the_package_does_not_import_it() -> None:
    code = "import sys, utils.thop; sys.exit(any(n == 'onnx' or 'thop.measure' in n for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

"""An ONNX file as a module: each node runs what means the same in PyTorch, so all that is known of operators holds.

Shape arithmetic is done as it comes, by ONNX's own reference in numpy; what is left are the operators that a runtime
executes. Their scopes (``/model.0/conv/Conv``) become modules, so layers have the names that they had in PyTorch.
"""

import math
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..answer import PathLike
from ..count.record import Recording, record
from ..deploy.runtimes import DeviceError, unreadable
from ..run import in_few_words
from ..run.inputs import Size, images_for, usual_size
from .names import module_of

_DTYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
           9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}  # fmt: skip
"""Types by their numbers in ONNX."""


class Node(NamedTuple):
    """A node of the graph; scope: the module that it was exported from; given: its attributes; proto: itself."""

    name: str
    kind: str
    scope: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    given: Dict[str, Any]
    proto: Any


class Scope(nn.Module):
    """A module of the network that was exported: it holds the weights, and runs the nodes, that were its own."""

    def forward(self, node: Node, operands: Sequence[Any]) -> Any:
        """Run a node on tensors, and on arrays where they are constants."""
        return _run_node(node, operands)


def _run_node(node: Node, operands: Sequence[Any]) -> Any:
    if node.kind not in _RUN:
        raise DeviceError(f"the operator {node.kind} of node {node.name} is not known here")
    return _RUN[node.kind](node, *operands)


class OnnxNetwork(nn.Module):
    """The network of an ONNX file, for ``record``, ``predict`` and all that takes a module.

    Weights have shapes and no values. Raises DeviceError, in one line, for a file that is none, without the package
    onnx, and when it is run on another size than the file is for or has an operator that is not known here.
    """

    def __init__(self, path: PathLike) -> None:
        super().__init__()
        self.path = path
        graph = _opened(Path(path)).graph
        self.arrays = {one.name: one for one in graph.initializer}
        self.nodes = list(_nodes(graph, self.arrays))
        self.outputs = [one.name for one in graph.output]
        inputs = [(one.name, one.type.tensor_type.shape.dim) for one in graph.input if one.name not in self.arrays]
        self.takes = {name: tuple(side.dim_value or None for side in sides) for name, sides in inputs}
        self.weights: Dict[str, Tuple[str, str]] = {}  # the module and its parameter that a constant became
        for node in self.nodes:
            self._hold(node)
        image = next((sides for sides in self.takes.values() if len(sides) == 4), (None,) * 4)
        self.yaml = {"ch": image[1] or 3}
        if all(image[1:]):
            self.pretrained_cfg = {"input_size": image[1:]}

    def _hold(self, node: Node) -> None:
        """Make the modules of a node's scope, and parameters of the weights that it is the first to read."""
        module: nn.Module = self
        for part in filter(None, node.scope.split(".")):
            module = module._modules.setdefault(part, Scope())  # type: ignore[assignment]
        for name in node.inputs:
            array = self.arrays.get(name)
            if array is None or name in self.weights or math.prod(array.dims) <= 1:
                continue
            dtype = torch.float32 if node.kind == "DequantizeLinear" else _DTYPES.get(array.data_type, torch.float32)
            if dtype.is_floating_point:
                key = re.sub(r"\W", "_", name[len(node.scope) + 1 :] if name.startswith(f"{node.scope}.") else name)
                held = torch.empty(tuple(array.dims), dtype=dtype, device="meta")
                module._parameters[key] = nn.Parameter(held, requires_grad=False)
                self.weights[name] = node.scope, key

    def forward(self, *inputs: Tensor) -> Any:
        """Run the graph; raises DeviceError, which names the file."""
        try:
            self._check(inputs)
            return self._run(inputs)
        except DeviceError as error:
            raise DeviceError(f"{self.path}: {error}") from error

    def _run(self, inputs: Sequence[Tensor]) -> Any:
        """What depends on no input, and on shapes alone, is an array, all else a tensor."""
        import numpy

        held: Dict[str, Any] = dict(zip(self.takes, inputs))
        for node in self.nodes:
            if node.kind in ("QuantizeLinear", "DequantizeLinear"):  # the runtime's precision says it
                results = self._operand(held, node.inputs[0], as_weight=True)
            elif not any(isinstance(held.get(name), Tensor) for name in node.inputs):
                results = _in_advance(node, [self._operand(held, name) for name in node.inputs])
            elif node.kind == "Shape":
                sides = list(held[node.inputs[0]].shape)
                results = numpy.array(sides[node.given.get("start", 0) : node.given.get("end", None)], numpy.int64)
            else:
                operands = [self._operand(held, name, as_weight=True) for name in node.inputs]
                results = (self.get_submodule(node.scope) if node.scope else _run_node)(node, operands)
            held.update(zip(node.outputs, results if isinstance(results, (tuple, list)) else [results]))
        found = [_tensor(self._operand(held, name)) for name in self.outputs]
        return found[0] if len(found) == 1 else tuple(found)

    def _operand(self, held: Dict[str, Any], name: str, as_weight: bool = False) -> Any:
        """What a name stands for: a tensor that was made, a weight, or a constant's array."""
        if not name or name in held:
            return held.get(name)
        if as_weight and name in self.weights:
            scope, key = self.weights[name]
            return self.get_submodule(scope)._parameters[key]
        from onnx.numpy_helper import to_array

        try:
            held[name] = to_array(self.arrays[name])
        except Exception as error:
            raise DeviceError(f"the constant {name} can't be read: {in_few_words(error)}") from error
        return held[name]

    def _check(self, inputs: Sequence[Tensor]) -> None:
        """Compare the inputs with those that the file is for; sides without a number fit any."""
        if len(inputs) != len(self.takes):
            raise DeviceError(f"it takes {len(self.takes)} inputs, {', '.join(self.takes)}, not {len(inputs)}")
        for (name, wanted), given in zip(self.takes.items(), inputs):
            if wanted and not (len(wanted) == given.dim() and all(w in (g, None) for w, g in zip(wanted, given.shape))):
                form = "x".join(str(side or "?") for side in wanted)
                raise DeviceError(f"its input {name} is {form}, not {'x'.join(map(str, given.shape))}")


def read_onnx(path: PathLike, imgsz: Optional[Size] = None) -> Recording:
    """Record a run of an ONNX file without values, of which all else is read: ``as_deployed``, ``predict_counted``.

    Axes without a number are one image, of ``imgsz`` (height, width), 640 x 640 by default. Raises DeviceError as
    ``OnnxNetwork`` does.
    """
    network = OnnxNetwork(path)
    try:
        return record(network, images_for(network, imgsz or usual_size(network)))
    except ValueError as error:
        raise error if isinstance(error, DeviceError) else DeviceError(f"{path}: {error}") from error


# ---- the file ----


def _opened(path: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise DeviceError(f"{path}: reading it takes the package onnx: pip install onnx") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf has its own, and which one depends on its version
        raise unreadable(path, error) from error
    if not model.graph.node:
        raise DeviceError(f"{path} is no ONNX file, or one without a network")
    return model


def _nodes(graph: Any, weights: Dict[str, Any]) -> Iterator[Node]:
    """Yield the nodes, each with the scope that it belongs to."""
    from onnx.helper import get_attribute_value

    known: Set[str] = set()
    for number, one in enumerate(graph.node):
        name = one.name or f"{one.op_type}_{number}"
        given = {each.name: get_attribute_value(each) for each in one.attribute}
        given = {key: value.decode() if isinstance(value, bytes) else value for key, value in given.items()}
        scope = _scope(name, [each for each in one.input if each in weights], known)
        known.add(scope)
        yield Node(name, one.op_type, scope, tuple(one.input), tuple(one.output), given, one)


def _scope(name: str, weights: Sequence[str], known: Set[str]) -> str:
    """The path of the module that a node was exported from.

    Older exports have no scopes: there a weight's name says it, or the node's own does.
    """
    if "/" in name:
        return module_of([part for part in name.split("/")[:-1] if part], known, strict=False)[0]
    named = [weight[: -len(".weight")] for weight in weights if re.fullmatch(r"[A-Za-z_][\w.]*\.weight", weight)]
    return named[0] if named else name


def _in_advance(node: Node, operands: Sequence[Any]) -> Any:
    """Compute a node whose operands are all known; what is only repeated stays one value in many places."""
    import numpy
    from onnx.reference import ReferenceEvaluator

    if node.kind == "Expand":
        shape = numpy.broadcast_shapes(operands[0].shape, tuple(map(int, operands[1])))
        return numpy.broadcast_to(operands[0], shape)
    try:
        given = {name: value for name, value in zip(node.inputs, operands) if name}
        return [numpy.asarray(value) for value in ReferenceEvaluator(node.proto).run(None, given)]
    except Exception as error:
        raise DeviceError(f"the node {node.name} ({node.kind}) can't be computed: {in_few_words(error)}") from error


# ---- what means the same in PyTorch ----


def _tensor(value: Any) -> Any:
    """A constant as a tensor; what is repeated is still stored once."""
    if value is None or isinstance(value, Tensor):
        return value
    once = (*(slice(0, 1) if stride == 0 else slice(None) for stride in value.strides), ...)
    return torch.from_numpy(value[once].copy()).expand(value.shape)


def _number_or_tensor(value: Any) -> Any:
    """A constant of one element as a number, which no kernel reads."""
    is_number = value is not None and not isinstance(value, Tensor) and value.size == 1
    return value.item() if is_number else _tensor(value)


def _whole(values: Any) -> List[int]:
    """Whole numbers that say how: a shape, axes; raises DeviceError where they depend on an image's values."""
    if isinstance(values, Tensor):
        raise DeviceError("a shape in the file depends on values, which are not known here")
    return [int(value) for value in (values if getattr(values, "ndim", 1) else [values])]


def _of(function: Callable[..., Any], *names: str, **usual: Any) -> Callable[..., Any]:
    """A node that is a function of its operands, of which later ones may be numbers, and of attributes."""

    def run(node: Node, *operands: Any) -> Any:
        if node.kind in ("Add", "Mul") and not isinstance(operands[0], Tensor):
            operands = operands[::-1]
        given = [node.given.get(name, usual.get(name)) for name in names]
        return function(_tensor(operands[0]), *map(_number_or_tensor, operands[1:]), *given)

    return run


def _conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Tensor:
    given, weight, transposed = node.given, _tensor(weight), node.kind == "ConvTranspose"
    none, ones = [0] * (weight.dim() - 2), [1] * (weight.dim() - 2)
    x, pads = (x, given.get("pads", none)[: len(none)]) if transposed else _padded(node, x, len(none), 0.0)
    how = given.get("strides", ones), pads, given.get("dilations", ones), transposed, given.get("output_padding", none)
    return torch.convolution(x, weight, _tensor(bias), *how, given.get("group", 1))


def _padded(node: Node, x: Tensor, count: int, value: float) -> Tuple[Tensor, List[int]]:
    """Pad what a window can't by itself, which pads alike on both sides; return what is left to it."""
    if node.given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise DeviceError(f"the padding {node.given['auto_pad']} of node {node.name} is not known here")
    pads = list(node.given.get("pads", [0] * 2 * count))
    if pads[:count] == pads[count:]:
        return x, pads[:count]
    return F.pad(x, _pairs(pads), value=value), [0] * count


def _pairs(pads: Sequence[int]) -> List[int]:
    """Paddings as PyTorch takes them, of the last side first."""
    count = len(pads) // 2
    return [pads[j] for i in reversed(range(count)) for j in (i, i + count)]


def _pool(node: Node, x: Tensor) -> Any:
    kernel, given = node.given["kernel_shape"], node.given
    count, is_max = len(kernel), node.kind == "MaxPool"
    x, pads = _padded(node, x, count, -math.inf if is_max else 0.0)
    how = kernel, given.get("strides", [1] * count), pads
    options: Dict[str, Any] = {"ceil_mode": bool(given.get("ceil_mode", 0))}
    if is_max:
        options["dilation"] = given.get("dilations", [1] * count)
    else:
        options["count_include_pad"] = bool(given.get("count_include_pad", 0))
    form: Any = getattr(F, f"{'max' if is_max else 'avg'}_pool{count}d")
    return form(x, *how, **options)


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Tensor:
    a, b = _tensor(a), _tensor(b)
    return F.linear(a.t() if node.given.get("transA") else a, b if node.given.get("transB") else b.t(), _tensor(c))


def _resize(node: Node, x: Tensor, *others: Any) -> Tensor:
    """Resize to given sizes, the fourth operand, or else by given scales."""
    if len(others) == 3 and others[2] is not None:
        size = _whole(others[2])[2:]
    else:
        size = [int(side * float(scale)) for side, scale in zip(x.shape[2:], list(others[:2][-1])[2:])]
    modes = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}.get(x.dim(), "nearest"), "cubic": "bicubic"}
    return F.interpolate(x, size, mode=modes.get(node.given.get("mode", ""), "nearest"))


def _split(node: Node, x: Tensor, sizes: Any = None) -> Any:
    axis, sizes = node.given.get("axis", 0), node.given.get("split", sizes)
    return x.split(-(-x.shape[axis] // len(node.outputs)) if sizes is None else _whole(sizes), axis)


def _slice(node: Node, x: Tensor, *how: Any) -> Tensor:
    told: List[Any] = [node.given.get(name) for name in ("starts", "ends", "axes", "steps")]
    for i, one in enumerate(how):
        told[i] = told[i] if one is None else _whole(one)
    starts, ends, axes, steps = told
    for i, (start, end) in enumerate(zip(starts, ends)):
        axis, step = axes[i] if axes else i, steps[i] if steps else 1
        x = x.flip(axis) if step < 0 else x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]
    return x


def _reshape(node: Node, x: Tensor, shape: Any) -> Tensor:
    return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(_whole(shape))])


def _axes(node: Node, axes: Any) -> List[int]:
    return _whole(node.given.get("axes", ()) if axes is None else axes)


def _unsqueeze(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    count, sides = x.dim() + len(_axes(node, axes)), iter(x.shape)
    added = [axis % count for axis in _axes(node, axes)]
    return x.reshape([1 if i in added else next(sides) for i in range(count)])


def _squeeze(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    dropped = [axis % x.dim() for axis in _axes(node, axes)] or [i for i, side in enumerate(x.shape) if side == 1]
    return x.reshape([side for i, side in enumerate(x.shape) if i not in dropped])


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(node: Node, x: Tensor, axes: Any = None) -> Tensor:
        return function(x, _axes(node, axes) or list(range(x.dim())), keepdim=bool(node.given.get("keepdims", 1)))

    return run


def _pad(node: Node, x: Tensor, pads: Any = None, *others: Any) -> Tensor:
    pairs = _pairs(_whole(node.given["pads"] if pads is None else pads))
    mode = node.given.get("mode", "constant").replace("edge", "replicate")
    while mode != "constant" and pairs[-2:] == [0, 0]:  # PyTorch takes only sides that may be padded
        pairs = pairs[:-2]
    return F.pad(x, pairs, mode=mode)


def _gather(node: Node, x: Any, indices: Any) -> Tensor:
    x, axis = _tensor(x), node.given.get("axis", 0)
    if not isinstance(indices, Tensor) and not indices.ndim:
        return x.select(axis, int(indices))
    indices = _tensor(indices)
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis % x.dim() + 1 :]))


def _clip(node: Node, x: Tensor, *ends: Any) -> Tensor:
    low, high = (*map(_number_or_tensor, ends), None, None)[:2]
    return torch.clamp(x, node.given.get("min", low), node.given.get("max", high))


_BY_NAME = ("Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Erf", "Sin", "Cos", "Atan",
            "Tanh", "Sigmoid", "Relu", "Neg", "Add", "Mul", "Sub", "Div", "Pow", "Greater", "Less", "Where", "Gelu",
            "Softplus", "Mish", "HardSwish", "HardSigmoid")  # fmt: skip
_RUN: Dict[str, Callable[..., Any]] = {
    **{name: _of(getattr(torch, name.lower(), None) or getattr(F, name.lower())) for name in _BY_NAME},
    "Max": _of(torch.maximum), "Min": _of(torch.minimum), "Mod": _of(torch.remainder), "Equal": _of(torch.eq),
    "GreaterOrEqual": _of(torch.ge), "LessOrEqual": _of(torch.le), "Not": _of(torch.logical_not), "Clip": _clip,
    "LeakyRelu": _of(F.leaky_relu, "alpha", alpha=0.01), "Elu": _of(F.elu, "alpha", alpha=1.0),
    "Softmax": _of(torch.softmax, "axis", axis=-1), "Conv": _conv, "ConvTranspose": _conv, "Gemm": _gemm,
    "MatMul": _of(torch.matmul), "MaxPool": _pool, "AveragePool": _pool,
    "GlobalAveragePool": lambda node, x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    "PRelu": lambda node, x, slope: torch.prelu(x, _tensor(slope).reshape(-1)),
    "ReduceMean": _reduced(torch.mean), "ReduceSum": _reduced(torch.sum), "ReduceMax": _reduced(torch.amax),
    "ArgMax": lambda node, x: x.argmax(node.given.get("axis", 0), bool(node.given.get("keepdims", 1))),
    "TopK": lambda node, x, k: x.topk(_whole(k)[0], node.given.get("axis", -1)),
    "BatchNormalization": lambda node, x, *of: F.batch_norm(x, *[_tensor(of[i]) for i in (2, 3, 0, 1)]),
    "LayerNormalization": lambda node, x, *of: (
        F.layer_norm(x, x.shape[node.given.get("axis", -1) :], *map(_tensor, of))),
    "Concat": lambda node, *x: torch.cat([*map(_tensor, x)], node.given["axis"]), "Split": _split, "Slice": _slice,
    "Resize": _resize, "Upsample": _resize, "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Flatten": lambda node, x: x.reshape(math.prod(x.shape[: node.given.get("axis", 1)]), -1), "Pad": _pad,
    "Transpose": lambda node, x: x.permute(node.given.get("perm", list(range(x.dim()))[::-1])), "Gather": _gather,
    "Expand": lambda node, x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(_whole(shape)))),
    "Tile": lambda node, x, times: x.repeat(_whole(times)),
    "GatherElements": lambda node, x, indices: x.gather(node.given.get("axis", 0), _tensor(indices)),
    "DepthToSpace": lambda node, x: F.pixel_shuffle(x, node.given["blocksize"]),
    "SpaceToDepth": lambda node, x: F.pixel_unshuffle(x, node.given["blocksize"]),
    "Cast": lambda node, x: x.to(_DTYPES[node.given["to"]]), "Identity": lambda node, x: x,
    "Dropout": lambda node, x, *others: x,
}  # fmt: skip
"""What runs each operator of ONNX, on the node and its operands."""


__all__ = ["OnnxNetwork", "read_onnx"]

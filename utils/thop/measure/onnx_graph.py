"""An ONNX file as a module: each node runs what means the same in PyTorch, so all that is known of operators holds.

Shape arithmetic is done as it comes, by ONNX's own reference in numpy; what is left are the operators that a runtime
executes. Their scopes (``/model.0/conv/Conv``) become modules, so layers have the names that they had in PyTorch.
"""

import inspect
import math
import re
from functools import partial
from itertools import groupby
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..answer import PathLike
from ..count.record import Recording, record
from ..deploy.runtimes import DeviceError, unreadable
from ..run import in_few_words
from ..run.inputs import Size, images_for, usual_size
from .logs import module_of

_DTYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
           9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}  # fmt: skip
"""Types by their numbers in ONNX."""


class Node(NamedTuple):
    """A node of the graph; scope: the module that it was exported from; given: its attributes."""

    name: str
    kind: str
    scope: str
    given: Dict[str, Any]
    proto: Any


class Scope(nn.Module):
    """A module of the network that was exported: it holds the weights, and runs the nodes, that were its own."""

    def forward(self, x: Tensor, nodes: Callable[[], Any]) -> Any:
        """Run nodes that follow each other, of which the first reads x; return what the last one makes."""
        return nodes()


_LAYERS = {
    name: type(layer.__name__, (Scope, layer), {})
    for name, layer in {"MaxPool": nn.MaxPool2d, "AveragePool": nn.AvgPool2d, "Resize": nn.Upsample}.items()
}
"""Scopes that cost what a layer of PyTorch does, by the kind of the node that makes them one."""


class OnnxNetwork(nn.Module):
    """The network of an ONNX file, for ``record``, ``predict`` and all that takes a module.

    Weights have shapes and no values. Raises DeviceError, in one line, for a file that is none, without the package
    onnx, and when it is run on another size than the file is for or has an operator that is not known here.
    """

    def __init__(self, path: PathLike) -> None:
        super().__init__()
        self.path = path
        graph = _opened(path)
        self.arrays = {one.name: one for one in graph.initializer}
        self.nodes = _nodes(graph, self.arrays)
        self.outputs = [one.name for one in graph.output]
        self.last = {name: node.name for node in self.nodes for name in node.proto.input}  # who reads a value last
        inputs = {one.name: one.type.tensor_type for one in graph.input if one.name not in self.arrays}
        self.takes = {name: tuple(side.dim_value or None for side in of.shape.dim) for name, of in inputs.items()}
        self.dtypes = [_DTYPES.get(of.elem_type, torch.float32) for of in inputs.values()]
        self.weights: Dict[str, Tuple[str, str]] = {}  # the module and its parameter that a constant became
        layers = {node.scope: _layer(node) for node in self.nodes if node.kind in _LAYERS}
        for node in self.nodes:
            self._hold(node, layers)
        image = next((sides[1:] for sides in self.takes.values() if len(sides) == 4 and all(sides[1:])), None)
        self.pretrained_cfg = {"input_size": image}

    def _hold(self, node: Node, layers: Dict[str, nn.Module]) -> None:
        """Make the modules of a node's scope, and parameters of the weights that it is the first to read."""
        module, path = self, ""
        for part in filter(None, node.scope.split(".")):
            path = f"{path}.{part}".lstrip(".")
            module = module._modules.setdefault(part, layers.get(path) or Scope())  # type: ignore[assignment]
        for name in node.proto.input if node.kind not in ("Resize", "Upsample") else ():  # which ask for values
            array = self.arrays.get(name)
            if array is None or name in self.weights or math.prod(array.dims) <= 1:
                continue
            dtype = torch.float32 if node.kind == "DequantizeLinear" else _DTYPES.get(array.data_type, torch.float32)
            if dtype.is_floating_point:
                held, key = torch.empty(tuple(array.dims), dtype=dtype, device="meta"), re.sub(r"\W", "_", name)
                module._parameters[key] = nn.Parameter(held, requires_grad=False)
                self.weights[name] = node.scope, key

    def inputs_at(self, size: Size) -> Tuple[Tensor, ...]:
        """Make what it takes, with images of a size; raises DeviceError for other inputs of unknown sides."""
        found = []
        for (name, sides), dtype in zip(self.takes.items(), self.dtypes):
            if len(sides) == 4 and dtype.is_floating_point:
                sides = sides[0] or 1, sides[1] or 3, *size
            elif not all(sides):
                raise DeviceError(f"{self.path}: its input {name} is {_form(sides)}, no image: give all with --inputs")
            found.append(torch.zeros(sides, dtype=dtype))  # type: ignore[arg-type]
        return tuple(found)

    def forward(self, *inputs: Tensor) -> Any:
        """Run the graph, what follows each other in a module as a call of it; raises DeviceError, with the file."""
        held: Dict[str, Any] = dict(zip(self.takes, inputs))
        try:
            self._check(inputs)
            for _, group in groupby(self.nodes, key=lambda node: node.name if node.kind in _LAYERS else node.scope):
                nodes = list(group)
                scope = nodes[0].scope
                read = (held.get(name) for node in nodes for name in node.proto.input)
                first = next((one for one in read if isinstance(one, Tensor)), None)
                run = partial(self._run, nodes, held)
                self.get_submodule(scope)(first, run) if scope and first is not None else run()
            found = [_tensor(self._operand(held, name)) for name in self.outputs]
        except DeviceError as error:
            raise DeviceError(f"{self.path}: {error}") from error
        return found[0] if len(found) == 1 else tuple(found)

    def _run(self, nodes: Sequence[Node], held: Dict[str, Any]) -> Any:
        """What depends on no input, and on shapes alone, is an array, all else a tensor."""
        import numpy

        for node in nodes:
            names = node.proto.input
            if node.kind in ("QuantizeLinear", "DequantizeLinear"):  # the runtime's precision says it
                results = self._operand(held, names[0], as_weight=True)
            elif not any(isinstance(held.get(name), Tensor) for name in names):
                results = _in_advance(node, [self._operand(held, name) for name in names])
            elif node.kind == "Shape":
                sides = list(held[names[0]].shape)
                results = numpy.array(sides[node.given.get("start", 0) : node.given.get("end", None)], numpy.int64)
            else:
                results = run_node(node, [self._operand(held, name, as_weight=True) for name in names])
            held.update(zip(node.proto.output, results if isinstance(results, (tuple, list)) else [results]))
            for name in names:
                if self.last[name] == node.name and name not in self.outputs:
                    held.pop(name, None)
        return results

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
                raise DeviceError(f"its input {name} is {_form(wanted)}, not {_form(given.shape)}")


def _form(sides: Sequence[Optional[int]]) -> str:
    return "x".join(str(side or "?") for side in sides)


def _layer(node: Node) -> nn.Module:
    """The scope of a node that is a layer, with what the rule of that layer asks for."""
    given, kernel = node.given, node.given.get("kernel_shape", 1)
    if node.kind == "Resize":
        return _LAYERS[node.kind](mode=_mode(given.get("mode", ""), 4))
    layer: Any = _LAYERS[node.kind](kernel, given.get("strides", 1), given.get("pads", [0] * 4)[:2])
    layer.count_include_pad = bool(given.get("count_include_pad", 0))
    return layer


def read_onnx(path: PathLike, imgsz: Optional[Size] = None) -> Recording:
    """Record a run of an ONNX file without values, of which all else is read: ``as_deployed``, ``predict_counted``.

    Axes without a number are one image, of ``imgsz`` (height, width), 640 x 640 by default. Raises DeviceError as
    ``OnnxNetwork`` does.
    """
    network = OnnxNetwork(path)
    return record(network, images_for(network, imgsz or usual_size(network)))


# ---- the file ----


def _opened(path: PathLike) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise DeviceError(f"{path}: reading it takes the package onnx: pip install onnx") from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf has its own, and which one depends on its version
        raise unreadable(path, error) from error
    if not graph.node:
        raise DeviceError(f"{path} is no ONNX file, or one without a network")
    return graph


def _nodes(graph: Any, weights: Dict[str, Any]) -> List[Node]:
    """Read the nodes, each with its scope, which in older exports a weight's name says, or else the node's own does."""
    from onnx.helper import get_attribute_value

    known: Set[str] = set()
    found = []
    for number, one in enumerate(graph.node):
        name = one.name or f"{one.op_type}_{number}"
        given = {each.name: get_attribute_value(each) for each in one.attribute}
        given = {key: value.decode() if isinstance(value, bytes) else value for key, value in given.items()}
        owners = [each[: -len(".weight")] for each in one.input if each in weights and each.endswith(".weight")]
        scope = owners[0] if owners else name
        if "/" in name:
            scope = module_of([part for part in name.split("/")[:-1] if part], known, strict=False)[0]
        known.add(scope)
        found.append(Node(name, one.op_type, scope, given, one))
    return found


def _in_advance(node: Node, operands: Sequence[Any]) -> Any:
    """Compute a node whose operands are all known; what is only repeated stays one value in many places."""
    import numpy
    from onnx.reference import ReferenceEvaluator

    if node.kind == "Expand":
        shape = numpy.broadcast_shapes(operands[0].shape, tuple(map(int, operands[1])))
        return numpy.broadcast_to(operands[0], shape)
    try:
        given = {name: value for name, value in zip(node.proto.input, operands) if name}
        return [numpy.asarray(value) for value in ReferenceEvaluator(node.proto).run(None, given)]
    except Exception as error:
        raise DeviceError(f"the node {node.name} ({node.kind}) can't be computed: {in_few_words(error)}") from error


# ---- what means the same in PyTorch ----


def run_node(node: Node, operands: Sequence[Any]) -> Any:
    """Run a node on tensors, and on arrays where they are constants; raises DeviceError for what is not known here.

    Operands come in ONNX's order and attributes by their names, which older operators have in place of operands.
    """
    if node.kind in _OF_TENSORS:
        if node.kind in ("Add", "Mul") and not isinstance(operands[0], Tensor):
            operands = operands[::-1]
        return _OF_TENSORS[node.kind](_tensor(operands[0]), *map(_number_or_tensor, operands[1:]))
    if node.kind not in _RUN:
        raise DeviceError(f"the operator {node.kind} of node {node.name} is not known here")
    given = {"parts": len(node.proto.output), "auto_pad": "NOTSET", **node.given}
    if given["auto_pad"] not in ("NOTSET", "VALID"):
        raise DeviceError(f"the padding {given['auto_pad']} of node {node.name} is not known here")
    function = _RUN[node.kind]
    takes = inspect.signature(function).parameters
    return function(_tensor(operands[0]), *operands[1:], **{name: given[name] for name in takes if name in given})


def _tensor(value: Any) -> Any:
    """A constant as a tensor; what is repeated is still stored once."""
    if value is None or isinstance(value, Tensor):
        return value
    once = (*(slice(0, 1) if stride == 0 else slice(None) for stride in value.strides), ...)
    return torch.from_numpy(value[once].copy()).expand(value.shape)


def _number_or_tensor(value: Any) -> Any:
    """A constant of one element as a number, which no kernel reads."""
    is_number = not isinstance(value, Tensor) and getattr(value, "size", 0) == 1
    return value.item() if is_number else value if isinstance(value, float) else _tensor(value)


def _whole(values: Any) -> List[int]:
    """Whole numbers that say how: a shape, axes; raises DeviceError where they depend on an image's values."""
    if isinstance(values, Tensor):
        raise DeviceError("a shape in the file depends on values, which are not known here")
    return [int(value) for value in (values if getattr(values, "ndim", 1) else [values])]


def _conv(x: Tensor, weight: Any, bias: Any = None, strides: Any = None, pads: Any = None, dilations: Any = None,
          group: int = 1, output_padding: Any = None, transposed: bool = False) -> Tensor:  # fmt: skip
    none, ones = [0] * (x.dim() - 2), [1] * (x.dim() - 2)
    x, pads = (x, (pads or none)[: len(none)]) if transposed else _padded(x, pads)
    how = strides or ones, pads, dilations or ones, transposed, output_padding or none, group
    return torch.convolution(x, _tensor(weight), _tensor(bias), *how)


def _padded(x: Tensor, pads: Optional[List[int]], value: float = 0.0) -> Tuple[Tensor, List[int]]:
    """Pad what a window can't by itself, which pads alike on both sides; return what is left to it."""
    count = x.dim() - 2
    pads = pads or [0] * 2 * count
    return (x, pads[:count]) if pads[:count] == pads[count:] else (_pad(x, pads, value), [0] * count)


def _pad(x: Tensor, pads: Any, value: Any = 0.0, axes: Any = None, mode: str = "constant") -> Tensor:
    """Pad as PyTorch does, the last side first; other modes take only sides that may be padded."""
    pads = _whole(pads)
    pairs = [side for pair in zip(pads[: len(pads) // 2], pads[len(pads) // 2 :]) for side in pair[::-1]][::-1]
    while mode != "constant" and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]
    return F.pad(x, pairs, mode.replace("edge", "replicate"), _number_or_tensor(value) or 0.0)


def _max_pool(x: Tensor, kernel_shape: Any, strides: Any = 1, pads: Any = None, dilations: Any = 1,
              ceil_mode: int = 0) -> Tensor:  # fmt: skip
    x, pads = _padded(x, pads, -math.inf)
    return getattr(F, f"max_pool{len(kernel_shape)}d")(x, kernel_shape, strides, pads, dilations, bool(ceil_mode))


def _average_pool(x: Tensor, kernel_shape: Any, strides: Any = 1, pads: Any = None, ceil_mode: int = 0,
                  count_include_pad: int = 0) -> Tensor:  # fmt: skip
    x, pads = _padded(x, pads)
    how = kernel_shape, strides, pads, bool(ceil_mode), bool(count_include_pad)
    return getattr(F, f"avg_pool{len(kernel_shape)}d")(x, *how)


def _gemm(a: Tensor, b: Any, c: Any = None, transA: int = 0, transB: int = 0) -> Tensor:
    return F.linear(a.t() if transA else a, _tensor(b) if transB else _tensor(b).t(), _tensor(c))


def _mode(name: str, axes: int) -> str:
    linear = {3: "linear", 4: "bilinear", 5: "trilinear"}.get(axes, "nearest")
    return {"linear": linear, "cubic": "bicubic"}.get(name, "nearest")


def _resize(x: Tensor, *others: Any, mode: str = "nearest") -> Tensor:
    """Resize to given sizes, the fourth operand, or else by given scales."""
    if len(others) == 3 and others[2] is not None:
        size = _whole(others[2])[2:]
    else:
        size = [int(side * float(scale)) for side, scale in zip(x.shape[2:], list(others[:2][-1])[2:])]
    return F.interpolate(x, size, mode=_mode(mode, x.dim()))


def _split(x: Tensor, split: Any = None, axis: int = 0, parts: int = 1) -> Any:
    return x.split(-(-x.shape[axis] // parts) if split is None else _whole(split), axis)


def _slice(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    pairs = list(zip(_whole(starts), _whole(ends)))
    axes, steps = (usual if told is None else _whole(told) for told, usual in ((axes, range(9)), (steps, [1] * 9)))
    for (start, end), axis, step in zip(pairs, axes, steps):
        x = x.flip(axis) if step < 0 else x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]
    return x


def _unsqueeze(x: Tensor, axes: Any) -> Tensor:
    count = x.dim() + len(_whole(axes))
    for axis in sorted(axis % count for axis in _whole(axes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, axes: Any = None) -> Tensor:
    ones = [i for i, side in enumerate(x.shape) if side == 1] if axes is None else _whole(axes)
    for axis in sorted((axis % x.dim() for axis in ones), reverse=True):
        x = x.squeeze(axis)
    return x


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Tensor, axes: Any = None, keepdims: int = 1) -> Tensor:
        return function(x, list(range(x.dim())) if axes is None else _whole(axes), keepdim=bool(keepdims))

    return run


def _gather(x: Tensor, indices: Any, axis: int = 0) -> Tensor:
    if not isinstance(indices, Tensor) and not indices.ndim:
        return x.select(axis, int(indices))
    indices = _tensor(indices)
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis % x.dim() + 1 :]))


_BY_NAME = ("Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Erf", "Sin", "Cos", "Atan",
            "Tanh", "Sigmoid", "Relu", "Neg", "Add", "Mul", "Sub", "Div", "Pow", "Greater", "Less", "Where", "Gelu",
            "Softplus", "Mish", "HardSwish", "HardSigmoid", "MatMul")  # fmt: skip
_OF_TENSORS: Dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name.lower(), None) or getattr(F, name.lower()) for name in _BY_NAME},
    "Max": torch.maximum, "Min": torch.minimum, "Mod": torch.remainder, "Equal": torch.eq, "Not": torch.logical_not,
    "GreaterOrEqual": torch.ge, "LessOrEqual": torch.le,
}  # fmt: skip
"""Operators that are functions of their operands alone, of which later ones may be numbers."""
_RUN: Dict[str, Callable[..., Any]] = {
    "Clip": lambda x, min=None, max=None: torch.clamp(x, _number_or_tensor(min), _number_or_tensor(max)),
    "LeakyRelu": lambda x, alpha=0.01: F.leaky_relu(x, alpha), "Elu": lambda x, alpha=1.0: F.elu(x, alpha),
    "Softmax": lambda x, axis=-1: x.softmax(axis), "Conv": _conv, "ConvTranspose": partial(_conv, transposed=True),
    "Gemm": _gemm, "MaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    "PRelu": lambda x, slope: torch.prelu(x, _tensor(slope).reshape(-1)),
    "ReduceMean": _reduced(torch.mean), "ReduceSum": _reduced(torch.sum), "ReduceMax": _reduced(torch.amax),
    "ArgMax": lambda x, axis=0, keepdims=1: x.argmax(axis, bool(keepdims)),
    "TopK": lambda x, k, axis=-1: x.topk(_whole(k)[0], axis),
    "BatchNormalization": lambda x, *of: F.batch_norm(x, *[_tensor(of[i]) for i in (2, 3, 0, 1)]),
    "LayerNormalization": lambda x, *of, axis=-1: F.layer_norm(x, x.shape[axis:], *map(_tensor, of)),
    "Concat": lambda *x, axis: torch.cat([*map(_tensor, x)], axis), "Split": _split, "Slice": _slice,
    "Resize": _resize, "Upsample": _resize, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Pad": _pad,
    "Reshape": lambda x, shape: x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(_whole(shape))]),
    "Flatten": lambda x, axis=1: x.reshape(math.prod(x.shape[:axis]), -1), "Gather": _gather,
    "Transpose": lambda x, perm=None: x.permute(perm or list(range(x.dim()))[::-1]),
    "Expand": lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(_whole(shape)))),
    "Tile": lambda x, times: x.repeat(_whole(times)),
    "GatherElements": lambda x, indices, axis=0: x.gather(axis, _tensor(indices)),
    "DepthToSpace": lambda x, blocksize: F.pixel_shuffle(x, blocksize),
    "SpaceToDepth": lambda x, blocksize: F.pixel_unshuffle(x, blocksize),
    "Cast": lambda x, to: x.to(_DTYPES[to]), "Identity": lambda x: x, "Dropout": lambda x, *others: x,
}  # fmt: skip
"""What runs each other operator, on its operands and attributes."""

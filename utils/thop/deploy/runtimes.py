"""Runtimes: what each executes at once, and how fast its kernels are beside each other.

Few numbers, each with a meaning; those of a device (how fast all of it is) are fitted, and stand in devices.yaml.
"""

import difflib
from dataclasses import dataclass, field
from typing import Dict, FrozenSet, Mapping, Optional, Tuple

from ..run import in_few_words
from ..units import listed


class DeviceError(ValueError):
    """Why there is no such device, runtime or figure, in one line for the reader."""


def unreadable(path: object, error: Exception) -> DeviceError:
    """Say why a file could not be read."""
    if isinstance(error, FileNotFoundError):
        return DeviceError(f"{path}: no such file")
    why = error.strerror if isinstance(error, OSError) and error.strerror else in_few_words(error)
    return DeviceError(f"{path} can't be read: {why}")


def _aten(names: str) -> FrozenSet[str]:
    """Names in schemas, each with its form in place."""
    return frozenset(f"aten::{name}{ending}" for name in names.split() for ending in ("", "_"))


BATCH_NORMS = frozenset(("aten::native_batch_norm", "aten::_native_batch_norm_legit_no_training",
                         "aten::cudnn_batch_norm", "aten::batch_norm"))  # fmt: skip
ARITHMETIC = _aten("add sub rsub mul div neg abs maximum minimum pow square sqrt rsqrt reciprocal exp log where "
                   "masked_fill lerp addcmul addcdiv eq ne lt le gt ge logical_and logical_not")  # fmt: skip
CLAMPS = _aten("relu relu6 hardtanh clamp clamp_min clamp_max threshold leaky_relu prelu _prelu_kernel")
CURVES = _aten("silu sigmoid gelu tanh mish elu selu celu softplus hardswish hardsigmoid erf log_sigmoid_forward "
               "sin cos atan")  # fmt: skip
POINTWISE = ARITHMETIC | CLAMPS | CURVES | BATCH_NORMS


@dataclass(frozen=True)
class Runtime:
    """How a runtime executes a network.

    kind: of the devices that it is for (gpu, cpu, npu). precisions: those that it has, the usual one first. fused:
    operators that it computes in the launch of what comes before. eager: each call is executed as it comes, asked for
    or not; otherwise what depends on no input is made in advance, and BatchNorms are folded.

    copies_slices: a part of a tensor is copied before it is read. adds_passes: there are those that eager PyTorch adds
    on CUDA. winograd: convolutions may be computed with fewer products than their definition has. in_place_of: what
    else it may compute in where a precision is asked for. padding: the steps in which input and output channels are
    computed, whatever a product has of them; curves are looked up for the latter too.
    """

    name: str
    title: str
    kind: str
    precisions: Tuple[str, ...]
    fused: FrozenSet[str] = field(default=frozenset(), repr=False)
    eager: bool = False
    copies_slices: bool = False
    adds_passes: bool = False
    winograd: bool = False
    in_place_of: Mapping[str, Tuple[str, ...]] = field(default_factory=dict, repr=False)
    padding: Tuple[int, int] = (1, 1)

    @property
    def family(self) -> str:
        """Whose devices are alike: of one kind, and with a host that submits each call or without."""
        return f"{self.kind}-eager" if self.eager else self.kind

    def computes_in(self, precision: str) -> Tuple[str, ...]:
        """The types that it may compute in where a precision is asked for."""
        return self.in_place_of.get(precision, ()) + (precision,)

    def precision(self, name: Optional[str]) -> str:
        """Return a precision of the runtime by its name, the usual one without; raises DeviceError for an unknown."""
        key = {"fp16": "float16", "half": "float16", "fp32": "float32", "i8": "int8"}.get(str(name), name)
        if not key:
            return self.precisions[0]
        if key not in self.precisions:
            raise DeviceError(f"{self.name} has no precision {name!r}, only {listed(self.precisions)}")
        return key


RUNTIMES: Dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            "tensorrt",
            "TensorRT",
            "gpu",
            ("float16", "int8", "float32"),
            fused=POINTWISE,  # its compiler makes a kernel for any chain of them
            winograd=True,
            in_place_of={"float32": ("tf32",)},
            copies_slices=True,  # a split's parts, which a C2f block consists of, are layers of their own
        ),
        Runtime(
            "pytorch",
            "PyTorch, eager",
            "gpu",
            ("amp", "float16", "float32"),
            eager=True,
            adds_passes=True,
            winograd=True,
            in_place_of={"amp": ("float16", "bfloat16"), "float32": ("tf32",)},
            padding=(8, 64),  # of tensor cores, and of a block of outputs; by published times
        ),
        Runtime(
            "pytorch-cpu",
            "PyTorch on the CPU",
            "cpu",
            ("float32",),
            eager=True,
            winograd=True,
        ),
        Runtime(
            "rknn",
            "RKNN",
            "npu",
            ("int8", "float16"),
            fused=POINTWISE,
            padding=(16, 32),  # rknn-toolkit2 2.5.0 reckons an RK3588's cycles in 32 outputs; inputs by published times
        ),
        Runtime(
            "horizon",
            "Horizon BPU",
            "npu",
            ("int8",),
            fused=POINTWISE,
            padding=(16, 32),  # by published times
        ),
        Runtime(
            "pulsar2",
            "Pulsar2",
            "npu",
            ("int8",),
            fused=POINTWISE,
        ),
        Runtime(
            "ncnn",
            "ncnn",
            "cpu",
            ("float32", "float16"),
            fused=CLAMPS | CURVES | BATCH_NORMS,  # not the residual addition
            winograd=True,
            in_place_of={"float32": ("float16",)},  # newer Arm cores store and compute in it by default
        ),
    )
}


def find_runtime(name: str) -> Runtime:
    """Return a runtime by its name; raises DeviceError with those that there are."""
    key = name.strip().lower() if isinstance(name, str) else str(name)
    if key not in RUNTIMES:
        close = difflib.get_close_matches(key, RUNTIMES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {listed(RUNTIMES)}"
        raise DeviceError(f"no runtime is called {name!r}; {hint}")
    return RUNTIMES[key]

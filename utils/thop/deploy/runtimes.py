"""Runtimes: what each executes at once, and how fast its kernels are beside each other.

Few numbers, each with a meaning; those of a device (how fast all of it is) are fitted, and stand in devices.yaml.
"""

import difflib
from dataclasses import dataclass, field
from typing import Dict, FrozenSet, Optional, Tuple

from ..units import listed
from .errors import DeviceError


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

    fitted: the constants that a device is described by, in sets of which measurements choose one, the smallest first.
    inner_half: the length of the inner product at which a product reaches half of the peak. depthwise, winograd: the
    speed of depthwise convolutions, and of dense 3 x 3 ones of stride 1, in peaks. copies_slices: a part of a tensor
    is copied before it is read. adds_passes: there are those that eager PyTorch adds on CUDA. of_sheet: the shares of a
    data sheet's peak and bandwidth that it reaches.
    """

    name: str
    title: str
    kind: str
    precisions: Tuple[str, ...]
    fused: FrozenSet[str] = field(default=frozenset(), repr=False)
    eager: bool = False
    fitted: Tuple[Tuple[str, ...], ...] = field(
        default=(("peak", "bandwidth"), ("peak", "bandwidth", "overhead")), repr=False
    )
    inner_half: float = 0.0
    depthwise: float = 1.0
    winograd: float = 1.0
    copies_slices: bool = False
    adds_passes: bool = False
    of_sheet: Tuple[float, float] = (1.0, 1.0)

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
            copies_slices=True,  # a split's parts, which a C2f block consists of, are layers of their own
        ),
        Runtime(
            "pytorch",
            "PyTorch, eager",
            "gpu",
            ("amp", "float16", "float32"),
            eager=True,
            fitted=(
                ("peak", "bandwidth"),
                ("peak", "bandwidth", "host"),  # it runs ahead of the GPU, or is waited for
                ("peak", "bandwidth", "host", "overhead"),
            ),
            inner_half=240,
            depthwise=0.05,  # no tensor core takes part
            adds_passes=True,
            of_sheet=(1.09, 0.94),  # boards run above the clock that the data sheet's peak is of
        ),
        Runtime(
            "pytorch-cpu",
            "PyTorch on the CPU",
            "cpu",
            ("float32",),
            eager=True,
            depthwise=0.4,
            winograd=2.0,
        ),
        Runtime(
            "rknn",
            "RKNN",
            "npu",
            ("int8", "float16"),
            fused=ARITHMETIC | CLAMPS | BATCH_NORMS,  # a curve is looked up in a table, in a pass of its own
            fitted=(("peak", "bandwidth"), ("peak", "bandwidth", "softmax")),  # older NPUs leave softmax to the CPU
        ),
        Runtime(
            "ncnn",
            "ncnn",
            "cpu",
            ("float32", "float16"),
            fused=CLAMPS | CURVES | BATCH_NORMS,  # not the residual addition
            depthwise=0.4,
            winograd=2.0,
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

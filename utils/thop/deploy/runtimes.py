"""Runtimes: what each executes at once, read from runtimes.yaml, where each entry says why."""

import difflib
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, FrozenSet, Mapping, Optional, Tuple, Union

from ..run import in_few_words
from ..units import listed

CATALOGUE = Path(__file__).with_name("runtimes.yaml")
FREE, ONCE = "free", "once"
Sequences = Tuple[Tuple[str, ...], ...]


class DeviceError(ValueError):
    """Why there is no such device, runtime or figure, in one line for the reader."""


def unreadable(path: object, error: Exception) -> DeviceError:
    """Say why a file could not be read."""
    if isinstance(error, FileNotFoundError):
        return DeviceError(f"{path}: no such file")
    why = error.strerror if isinstance(error, OSError) and error.strerror else in_few_words(error)
    return DeviceError(f"{path} can't be read: {why}")


def from_yaml(text: str, quickly: bool = True) -> Any:
    """Read YAML, quickly by libyaml where it is there, which tells less of what is wrong."""
    import yaml  # here, so that counting needs torch alone

    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader) if quickly else yaml.SafeLoader)


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
BYTES = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "tf32": 4, "float64": 8}


@dataclass(frozen=True)
class Runtime:
    """How a runtime executes a network; runtimes.yaml explains each field, and has the reasons.

    fuses: by what a launch begins with, what it takes along: sequences of kinds of operators, or "any".
    """

    name: str
    title: str
    kind: str
    precisions: Tuple[str, ...]
    decode: bool = True
    decodes: Mapping[str, Tuple[str, ...]] = field(default_factory=dict, repr=False)
    eager: bool = False
    fuses: Mapping[str, Union[str, Sequences]] = field(default_factory=dict, repr=False)
    sums_in_place: bool = False
    generates: FrozenSet[str] = field(default=frozenset(), repr=False)
    lays_out_input: bool = False
    slices: str = FREE
    through_onnx: bool = False
    spells: Mapping[str, Tuple[str, ...]] = field(default_factory=dict, repr=False)
    pads_first: bool = False
    leaves_out: FrozenSet[str] = field(default=frozenset(), repr=False)
    fuses_attention: bool = False
    fuses_modules: FrozenSet[str] = field(default=frozenset(), repr=False)
    biases_apart: bool = False
    one_function: bool = False
    splits_concats: float = 0.0
    tiles: int = 0
    padding: Tuple[int, int] = (1, 1)
    stored_channels: Tuple[int, int] = (1, 1)
    returns_beside: int = 0
    looks_up: bool = False
    adds_passes: bool = False
    winograd: bool = False
    computes_in: Mapping[str, Tuple[str, ...]] = field(default_factory=dict, repr=False)
    leaves: Mapping[str, str] = field(default_factory=dict, repr=False)
    devices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    refuses: str = field(default="", repr=False)
    why: str = field(default="", repr=False)

    def need_a_formula(self) -> None:
        """Raise DeviceError where no time can be predicted under it."""
        if self.refuses:
            raise DeviceError(f"no time is predicted under {self.title}: {self.refuses}")

    @property
    def family(self) -> str:
        """Whose devices are alike: of one kind, and with a host that submits each call or without."""
        return f"{self.kind}-eager" if self.eager else self.kind

    def on(self, device: str) -> "Runtime":
        """The runtime as it is on a device, where that differs."""
        return _varied(self.name, device)

    def precision(self, name: Optional[str]) -> str:
        """Return a precision of the runtime by its name, the usual one without; raises DeviceError for an unknown."""
        key = {"fp16": "float16", "half": "float16", "fp32": "float32", "i8": "int8"}.get(str(name), name)
        if not key:
            return self.precisions[0]
        if key not in self.precisions:
            raise DeviceError(f"{self.name} has no precision {name!r}, only {listed(self.precisions)}")
        return key


@lru_cache(maxsize=1)
def all_runtimes() -> Dict[str, Runtime]:
    """Read runtimes.yaml, by name."""
    entries = from_yaml(CATALOGUE.read_text(encoding="utf-8"))
    return {name: _runtime(name, entry) for name, entry in entries.items()}


def _runtime(name: str, entry: Dict[str, Any]) -> Runtime:
    unknown = set(entry) - {each.name for each in fields(Runtime)}
    if unknown:
        raise DeviceError(f"{CATALOGUE}: {name}: {listed(sorted(unknown))} is not known here")
    entry = {**entry, **{key: frozenset(entry.get(key, ())) for key in ("leaves_out", "generates", "fuses_modules")}}
    return Runtime(name, **{key: _tuples(value) for key, value in entry.items()})


@lru_cache(maxsize=None)
def _varied(name: str, device: str) -> Runtime:
    runtime = all_runtimes()[name]
    changes = runtime.devices.get(device, {})
    return replace(runtime, **{key: _tuples(value) for key, value in changes.items()}) if changes else runtime


def _tuples(value: Any) -> Any:
    """Lists as tuples, however deep they lie."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {key: _tuples(each) for key, each in value.items()} if isinstance(value, dict) else value


def find_runtime(name: str) -> Runtime:
    """Return a runtime by its name; raises DeviceError with those that there are."""
    key, known = name.strip().lower() if isinstance(name, str) else str(name), all_runtimes()
    if key not in known:
        close = [one for one in known if len(key) > 2 and key in one] or difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {listed(close, ' or ')}?" if close else f"known are {listed(known)}"
        raise DeviceError(f"no runtime is called {name!r}; {hint}")
    return known[key]


def runtime_for(name: str, kind: str) -> Runtime:
    """Return a runtime by its name, as it is on a kind of device: on a GPU "openvino" is "openvino-gpu"."""
    found = find_runtime(name)
    return all_runtimes().get(f"{found.name}-{kind}", found) if found.kind != kind else found

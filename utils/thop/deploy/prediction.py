"""Prediction: the expected time of a network on a device, with how far it may be off.

Where networks were measured on the device under a runtime, by the constants fitted to them. Where only its data sheet
is known, by how far the runtime's known devices stay below theirs: between the one that comes closest and the one that
stays farthest.
"""

from dataclasses import dataclass, fields
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from torch import nn

from ..answer import Answer, PathLike, Rows
from ..flow import Flow, flow
from ..run import as_inputs, as_model, collector_paused
from ..run.inputs import fitting_size, images_for, usual_size
from ..units import listed
from .calibration import Calibration
from .clock import MEMORY, Constants, LaunchTime, seconds_of, time_launches, work_of
from .devices import Device, find_device, load_devices
from .errors import DeviceError
from .figures import Figures
from .launches import Deployed, as_deployed
from .runtimes import RUNTIMES, Runtime, find_runtime
from .sheets import sheet_range

Where = Union[str, Device, Calibration]


@dataclass(frozen=True)
class LayerTime:
    """The predicted time of one module's launches; a launch of several modules is the first one's.

    share: of the whole time; parts: seconds of its launches by what binds them; elements, flops: what its launches read
    and write, weights among it, and compute.
    """

    path: str
    seconds: float
    share: float
    parts: Mapping[str, float]
    elements: int
    flops: int

    @property
    def binds(self) -> str:
        """What most of its time goes to."""
        return max(self.parts, key=lambda part: self.parts[part])


@dataclass(frozen=True, repr=False)
class Timing(Answer):
    """The expected time of a forward pass.

    low, high: nine of ten networks that the constants had not seen lay between these shares of their prediction, or
    what the data sheet allows; error: the factor by which predictions are off on average; basis: what they rest on;
    binds: what most of the time goes to, "arithmetic", "memory" or "starting launches".
    """

    device: str
    title: str
    runtime: Runtime
    precision: str
    seconds: float
    low: float
    high: float
    error: float
    basis: str
    binds: str
    launch_count: int


@dataclass(frozen=True, repr=False)
class Prediction(Timing):
    """The expected time with that of each launch, which sum to it, and what it was reckoned from."""

    launches: List[LaunchTime]
    deployed: Deployed
    constants: Constants

    def timing(self) -> Timing:
        """The numbers alone, without the network, which is large."""
        return Timing(**{each.name: getattr(self, each.name) for each in fields(Timing)})

    def share(self, binds: str) -> float:
        """The share of the time that goes to "arithmetic", "memory" or "starting launches"."""
        part = sum(launch.seconds for launch in self.launches if launch.binds == binds)
        return part / self.seconds if self.seconds else 0.0

    def layers(self, depth: Optional[int] = None) -> List[LayerTime]:
        """The time by module, in the order of the run; what lies deeper than ``depth`` is its module's."""
        found: Dict[str, List[LaunchTime]] = {}
        for one in self.launches:
            path = one.launch.layers[0]
            found.setdefault(path if depth is None else ".".join(path.split(".")[:depth]), []).append(one)
        return Rows(self._layer(path, times) for path, times in found.items())

    def _layer(self, path: str, times: Sequence[LaunchTime]) -> LayerTime:
        seconds = sum(one.seconds for one in times)
        share = seconds / self.seconds if self.seconds else 0.0
        elements = sum(one.launch.elements for one in times)
        flops = sum(one.launch.flops for one in times)
        return LayerTime(path, seconds, share, _parts(times), elements, flops)


def _parts(times: Sequence[LaunchTime]) -> Dict[str, float]:
    """The seconds of launches by what binds them."""
    found: Dict[str, float] = {}
    for one in times:
        found[one.binds] = found.get(one.binds, 0.0) + one.seconds
    return found


def predict(
    network: Union[nn.Module, Deployed],
    given: Any = None,
    /,
    device: Optional[Where] = None,
    runtime: Optional[str] = None,
    precision: Optional[str] = None,
    inputs: Any = None,
    decode: bool = True,
    devices: Optional[PathLike] = None,
) -> Prediction:
    """Predict the time of a forward pass on a device: ``predict(model, (x,), device="t4")``.

    Args:
        network: a module, which is run without values; or what ``deployed`` has made of one, which takes no inputs.
        given: the inputs; or the device, as in ``predict(model, "t4")``, and what follows it is the runtime then.
        device: a name in devices.yaml or in the file ``devices``; a device; or a calibration.
        runtime, precision: those that the device has figures of, the first by default.
        inputs: what the module's forward takes, a tensor or a tuple; by default an image of the model's usual size,
            640 x 640 for a detector.
        decode: False ends a detector's heads at their last convolutions.

    Raises DeviceError for a device, runtime or precision that there is not, or that nothing is known of, and TypeError
    for what is no model or no inputs.
    """
    if isinstance(given, (str, Device, Calibration)):
        if runtime is None and isinstance(device, str):
            device, runtime = None, device
        if device is not None:
            raise TypeError("predict: the device is given twice")
        given, device = None, given
    if given is not None and inputs is not None:
        raise TypeError("predict: the inputs are given twice")
    given = inputs if given is None else given
    if isinstance(network, Deployed):
        if given is not None:
            raise TypeError("predict: what deployed() has made takes no inputs, only a device")
        found, chosen, exact = find_place(_named(device, devices), runtime, precision, devices)
        return predict_deployed(network.under(chosen, exact), found, exact, load_devices(devices))
    model = as_model(network, "predict")
    arguments = None if given is None else as_inputs(given, "predict")
    where = _named(device, devices)

    def count(amp: bool) -> Flow:
        images = arguments or images_for(model, fitting_size(model, usual_size(model)))
        return flow(model, images, amp=amp, asked_by="predict")

    return predict_counted(count, where, runtime, precision, decode, devices)


def _named(device: Optional[Where], devices: Optional[PathLike]) -> Where:
    """Return the device that was named; raises DeviceError where none was."""
    if isinstance(device, (str, Device, Calibration)):
        return device
    some = ", ".join(f'"{name}"' for name in list(load_devices(devices))[:4])
    if device is None:
        raise DeviceError(f'predict: on which device? device="rk3588", say; there are {some} and others')
    raise DeviceError(f"predict: a device is a name, such as {some}, or a calibration, not {type(device).__name__}")


def predict_counted(
    count: Callable[[bool], Flow],
    device: Where,
    runtime: Optional[str] = None,
    precision: Optional[str] = None,
    decode: bool = True,
    devices: Optional[PathLike] = None,
) -> Prediction:
    """Predict the time of what ``count`` counts, under autocast if it is told so: ``predict`` explains the others."""
    found, chosen, exact = find_place(device, runtime, precision, devices)
    network = as_deployed(count(exact == "amp"), chosen, decode)
    return predict_deployed(network, found, exact, load_devices(devices))


def find_place(
    device: Where, runtime: Optional[str], precision: Optional[str], devices: Optional[PathLike]
) -> Tuple[Union[Device, Calibration], Runtime, str]:
    """Say which device, runtime and precision are meant; raises DeviceError as ``predict`` does."""
    found = device if isinstance(device, (Device, Calibration)) else find_device(device, devices)
    if isinstance(found, Device):
        return (found, *choose(found, runtime, precision))
    if runtime is not None and find_runtime(runtime) is not found.runtime:
        raise DeviceError(f"{found.name} was measured under {found.runtime.name}, not {runtime}")
    return found, found.runtime, found.runtime.precision(precision or found.precision)


def choose(device: Device, runtime: Optional[str], precision: Optional[str]) -> Tuple[Runtime, str]:
    """Say which runtime and precision are meant; raises DeviceError for those that the device can't have."""
    if runtime is None:
        of_kind = [one.name for one in RUNTIMES.values() if one.kind == device.kind]
        known = [name for name in of_kind if name in device.runtimes]
        measured = [name for name in known if precision is None or precision in device.runtimes[name]]
        runtime = (measured or known or of_kind)[0]
    elif device.kind == "cpu" and runtime == "pytorch":
        runtime = "pytorch-cpu"
    chosen = find_runtime(runtime)
    if chosen.kind != device.kind:
        others = [one.name for one in RUNTIMES.values() if one.kind == device.kind]
        raise DeviceError(f"{chosen.name} does not run on {device.name} ({device.title}), but {listed(others, ' or ')}")
    if precision is None and chosen.name in device.runtimes:
        return chosen, next(one for one in chosen.precisions if one in device.runtimes[chosen.name])
    return chosen, chosen.precision(precision)


def check_known(device: Device, runtime: Runtime, precision: str, known: Mapping[str, Device]) -> None:
    """Raise DeviceError where there are neither figures of a device nor of one like it."""
    if precision not in device.runtimes.get(runtime.name, {}):
        sheet_range(device, runtime, precision, known)


@collector_paused()
def predict_deployed(
    network: Deployed, device: Union[Device, Calibration], precision: str, known: Mapping[str, Device]
) -> Prediction:
    """Predict what has been deployed for a runtime and precision; ``known`` are the devices to learn from."""
    works = work_of(network, network.runtime.precision(precision))
    if isinstance(device, Calibration):
        figures: Optional[Figures] = device.figures()
        title = device.name
    else:
        figures, title = device.runtimes.get(network.runtime.name, {}).get(precision), device.title
    if figures is not None:
        constants, error = figures.constants, figures.error
        seconds = seconds_of(works, constants)
        low, high = seconds / figures.spread, seconds * figures.spread
        basis = f"{figures.networks} networks measured on it ({figures.source})"
    else:
        assert isinstance(device, Device)
        found = sheet_range(device, network.runtime, precision, known)
        constants, basis = found.constants, found.basis
        (low, high), error = found.bounds(works), found.error(works)
        seconds = seconds_of(works, constants)
    if precision == "amp" and not network.flow.amp:
        basis += "; taken for float16 throughout, as what autocast does depends on values"
    if network.flow.untraced:
        basis += "; what it returns can't be followed, so every step counts"
    launches = time_launches(network, works, constants)
    parts = _parts(launches) or {MEMORY: 0.0}
    binds = max(parts, key=lambda part: parts[part])
    numbers = seconds, low, high, error, basis, binds, len(launches)
    return Prediction(device.name, title, network.runtime, precision, *numbers, launches, network, constants)

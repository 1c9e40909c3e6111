"""Prediction: the expected time of a network on a device, with the range that nine of ten fall into.

It is reckoned from the device's estimate, whatever that rests on; its width is the estimate's and what stays
unexplained of a network, scaled so that it held for devices that were left out.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from torch import nn

from ..answer import Answer, PathLike, Rows
from ..count.record import Recording, record
from ..run import as_inputs, as_model, collector_paused
from ..run.inputs import fitting_size, images_for, usual_size
from ..units import listed
from .calibration import Calibration
from .clock import MEMORY, Constants, LaunchTime, Load, time_launches, work_of
from .devices import Device, find_device, load_devices
from .estimates import NINE_OF_TEN, Basis, Estimate, of_sheet, prior_of, sheet_peak, with_precision
from .executed import decoded_branches
from .launches import Deployed, DeviceMemory, as_deployed
from .measurements import Measurement, find_measurement
from .runtimes import DeviceError, Runtime, all_runtimes, find_runtime, runtime_for

Where = Union[str, Device, Calibration]
_MEAN = 0.8  # deviations that a normal distribution is off on average


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

    low, high: nine of ten networks on devices like these lie between; error: the factor by which predictions are off
    on average; basis: what they rest on; memory: what the network takes of the device's; leaves:
    operators that go back to the CPU, with module and reason; binds: what most of the time
    goes to, "arithmetic", "memory", "output stage" or "starting launches"; published: what somebody has measured of
    this very network there; measured: networks that the device's constants rest on, 0 for its data sheet alone;
    flops, bytes: what its launches compute and move.
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
    memory: DeviceMemory
    leaves: Tuple[Tuple[str, str, str], ...]
    published: Optional[Measurement]
    measured: int
    flops: int
    bytes: int


@dataclass(frozen=True, repr=False)
class Prediction(Timing):
    """The expected time with that of each launch, which sum to it, and what it was reckoned from."""

    launches: List[LaunchTime]
    deployed: Deployed
    constants: Constants

    def timing(self) -> Timing:
        """The numbers alone, without the network, which is large."""
        return Timing(**{each.name: getattr(self, each.name) for each in fields(Timing)})

    @property
    def uncounted(self) -> Dict[str, str]:
        """Operators whose cost is not known, with what was assumed of them."""
        return {name: assumed for name, (_, assumed) in self.deployed.flow.uncounted.items()}

    def share(self, binds: str) -> float:
        """The share of the time that goes to "arithmetic", "memory", "output stage" or "starting launches"."""
        return _parts(self.launches).get(binds, 0.0) / self.seconds if self.seconds else 0.0

    def layers(self, depth: Optional[int] = None) -> List[LayerTime]:
        """The time by module, in the order of the run; what lies deeper than ``depth`` is its module's."""
        found: Dict[str, List[LaunchTime]] = {}
        for one in self.launches:
            path = one.launch.layers[0]
            found.setdefault(path if depth is None else ".".join(path.split(".")[:depth]), []).append(one)
        rows = Rows[LayerTime]()
        for path, times in found.items():
            seconds = sum(one.seconds for one in times)
            share = seconds / self.seconds if self.seconds else 0.0
            sizes = sum(one.launch.elements for one in times), sum(one.launch.flops for one in times)
            rows.append(LayerTime(path, seconds, share, _parts(times), *sizes))
        return rows


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
    decode: Optional[bool] = None,
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
        decode: False ends a detector's heads at their last convolutions; by default as the runtime's users do it.

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
        found, chosen, exact = find_place(device, runtime, precision, devices)
        return predict_deployed(network.under(chosen, exact), found, exact)
    model = as_model(network, "predict")
    arguments = None if given is None else as_inputs(given, "predict")

    def count(amp: bool) -> Recording:
        images = arguments or images_for(model, fitting_size(model, usual_size(model)))
        return record(model, images, amp=amp)

    return predict_counted(count, device, runtime, precision, decode, devices)


def predict_counted(
    count: Callable[[bool], Recording],
    device: Optional[Where],
    runtime: Optional[str] = None,
    precision: Optional[str] = None,
    decode: Optional[bool] = None,
    devices: Optional[PathLike] = None,
) -> Prediction:
    """Predict the time of what ``count`` counts, under autocast if it is told so: ``predict`` explains the others."""
    found, chosen, exact = find_place(device, runtime, precision, devices)
    network = as_deployed(count(exact == "amp"), chosen, decode)
    return predict_deployed(network, found, exact)


def find_place(
    device: Optional[Where], runtime: Optional[str], precision: Optional[str], devices: Optional[PathLike]
) -> Tuple[Union[Device, Calibration], Runtime, str]:
    """Say which device, runtime and precision are meant; raises DeviceError as ``predict`` does."""
    if device is None or not isinstance(device, (str, Device, Calibration)):
        some = ", ".join(f'"{name}"' for name in list(load_devices(devices))[:4])
        if device is None:
            raise DeviceError(f'predict: on which device? device="rk3588", say; there are {some} and others')
        raise DeviceError(f"predict: a device is a name, such as {some}, or a calibration, not {type(device).__name__}")
    found = find_device(device, devices) if isinstance(device, str) else device
    if isinstance(found, Device):
        return (found, *place_on(found, runtime, precision))
    if runtime is not None and find_runtime(runtime) is not found.runtime:
        raise DeviceError(f"{found.name} was measured under {found.runtime.name}, not {runtime}")
    return found, found.runtime, found.runtime.precision(precision or found.precision)


def place_on(device: Device, runtime: Optional[str], precision: Optional[str]) -> Tuple[Runtime, str]:
    """Say which runtime and precision are meant; raises DeviceError for those that the device can't have."""
    if runtime is None:
        of_kind = [one.name for one in all_runtimes().values() if one.kind == device.kind]
        known = [name for name in of_kind if name in device.runtimes]
        measured = [name for name in known if precision is None or precision in device.runtimes[name].precisions]
        first = measured or known or of_kind
        # On CPUs people deploy by something faster than eager PyTorch, where that was measured.
        if device.kind == "cpu":
            first = sorted(first, key=lambda name: all_runtimes()[name].eager)
        runtime = device.usual or first[0]
    chosen = runtime_for(runtime, device.kind)
    if chosen.kind != device.kind:
        others = list(device.runtimes) or [one.name for one in all_runtimes().values() if one.kind == device.kind]
        raise DeviceError(f"{chosen.name} does not run on {device.name} ({device.title}), but {listed(others, ' or ')}")
    exact = chosen.precision(precision)
    by_sheet = not chosen.eager and sheet_peak(device.peaks, exact) is not None
    if precision is None and chosen.name in device.runtimes and not by_sheet:
        measured_in = device.runtimes[chosen.name].precisions
        exact = next(one for one in chosen.precisions if one in measured_in)
    return chosen.on(device.name), exact


def estimate_for(device: Union[Device, Calibration], runtime: Runtime, precision: str) -> Tuple[Estimate, str]:
    """What is known of a device under a runtime in a precision, and a sentence on what that rests on.

    Raises DeviceError where there are neither measurements nor a data sheet.
    """
    runtime.need_a_formula()
    if isinstance(device, Device) and runtime.name not in device.runtimes:
        return _of_sheet(device, runtime, precision)
    known = device.runtimes[runtime.name] if isinstance(device, Device) else device.estimate
    basis = _measured(known.basis)
    if precision in known.precisions:
        return known, basis
    extended = with_precision(known, precision, device.peaks)
    if extended is None:
        raise DeviceError(f"nothing is known of {device.name} in {precision}, only in {listed(known.precisions)}")
    return extended, f"{basis} in {listed(known.precisions)}, and its data sheet"


def _of_sheet(device: Device, runtime: Runtime, precision: str) -> Tuple[Estimate, str]:
    if device.kind == "npu" and device.runtimes:  # a compiler is for its maker's chips
        under = listed(device.runtimes)
        raise DeviceError(
            f"nothing is known of {device.name} ({device.title}) under {runtime.name}, only under {under}"
        )
    if not device.bandwidth:
        raise DeviceError(
            f"nothing is known of {device.name} ({device.title}) under {runtime.name}, nor has it a data sheet here; "
            "measure a network and calibrate"
        )
    if sheet_peak(device.peaks, precision) is None:
        raise DeviceError(f"{device.name} ({device.title}) has no peak for {precision}")
    alike = prior_of(runtime).devices
    known = of_sheet(runtime, precision, device.sheet)
    return known, f"its data sheet and {alike} device{'s' * (alike != 1)} like it"


def _measured(basis: Basis) -> str:
    """Say what was measured."""
    low, high = basis.batches
    batches = "" if high == 1 else f" in batches of {low}" if low == high else f" in batches of {low} to {high:,}"
    networks = "1 network" if basis.networks == 1 else f"{basis.networks} networks"
    return f"{networks} measured on it{batches}" + (f" ({basis.source})" if basis.source else "")


@collector_paused()
def predict_deployed(network: Deployed, device: Union[Device, Calibration], precision: str) -> Prediction:
    """Predict what has been deployed for a runtime and precision."""
    runtime = network.runtime
    known, basis = estimate_for(device, runtime, runtime.precision(precision))
    works = work_of(network, precision)
    constants, load = known.constants(precision), Load([works])
    seconds, width = (float(values[0]) for values in known.predict(load, precision, network.batch))
    reach = prior_of(runtime).factor(known.basis.networks) * width
    error = math.exp(_MEAN * reach / NINE_OF_TEN)
    if precision == "amp" and not network.flow.amp:
        basis += "; taken for float16 throughout, as what autocast does depends on values"
    if network.flow.untraced:
        basis += "; what it returns can't be followed, so every step counts"
    if network.flow.heads:
        basis += "; predictions are decoded" if network.decode else "; heads end at their last convolutions"
        basis += ", but keypoints are decoded" if not network.decode and decoded_branches(network.flow, runtime) else ""
    if network.merged:
        basis += "; parallel branches are merged, as before an export"
    launches = time_launches(network, load, constants)
    parts = _parts(launches) or {MEMORY: 0.0}
    binds = max(parts, key=lambda part: parts[part])
    title = device.name if isinstance(device, Calibration) else device.title
    low, high = seconds * math.exp(-reach), seconds * math.exp(reach)
    left = tuple(one.leaves for one in network.launches if one.leaves is not None)
    numbers = seconds, low, high, error, basis, binds, len(launches), network.memory(precision), left
    published = find_measurement(network, device.name, precision)
    moved = sum(int(work.bytes + work.weights + work.passes) for work in works)
    more = published, known.basis.networks, network.flops, moved
    return Prediction(device.name, title, runtime, precision, *numbers, *more, launches, network, constants)

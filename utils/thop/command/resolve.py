"""Where networks are to run: the device, the runtime and the precision that are meant, made out once; times there."""

import argparse
from dataclasses import dataclass
from typing import Optional, Sequence

import torch

from ..answer import PathLike
from ..count.record import Recording
from ..deploy.bound import TimeBound, launch_bound
from ..deploy.devices import THIS, Device, find_device, load_devices
from ..deploy.launches import as_deployed
from ..deploy.measurements import find_measurement
from ..deploy.prediction import Prediction, choose, estimate_for, predict_deployed
from ..deploy.runtimes import DeviceError, Runtime
from ..show.comparison import Row


@dataclass(frozen=True)
class Place:
    """Where models are to run; decode: whether detectors decode their predictions there, None for as is usual."""

    device: Device
    runtime: Runtime
    precision: str
    decode: Optional[bool]

    def device_for(self, dtypes: Sequence[torch.dtype]) -> Device:
        """Return the device with its peaks for some types, which are measured where it is this machine."""
        return find_device(THIS, None, dtypes) if self.device.name == THIS else self.device

    @property
    def amp(self) -> bool:
        """Whether models run under autocast."""
        return self.precision == "amp"

    def predict(self, counted: Recording) -> Prediction:
        """Predict the time of a run that was counted for here; raises DeviceError where nothing is known."""
        network = as_deployed(counted, self.runtime, self.decode)
        return predict_deployed(network, self.device, self.precision)

    def least(self, prediction: Prediction) -> Optional[TimeBound]:
        """Bound the time of what was predicted; None where the data sheet has no figure for that.

        So too where the runtime computes with fewer products than the definitions have, and takes less time.
        """
        try:
            bound = launch_bound(prediction.deployed, self.device, self.precision)
        except DeviceError:
            return None
        return bound if bound.seconds <= prediction.seconds else None

    def predict_row(self, row: Row, counted: Recording) -> None:
        """Predict a model's time into its row, with what somebody has published; or say why there is none."""
        try:
            prediction = self.predict(counted)
            row.prediction, row.bound = prediction.timing(), self.least(prediction)
        except DeviceError as error:
            row.error = f"no time: {error}"
            return
        where = {"device": self.device.name, "runtime": self.runtime.name, "precision": self.precision}
        flops = counted.flops / max(row.images, 1)
        measured = find_measurement(row.parameters, flops, model=row.name, shape=row.shape, **where)
        row.measured_seconds = measured.seconds if measured else None
        if measured and measured.decode != prediction.deployed.decode:
            how = "with decoding, as with --decode" if measured.decode else "without decoding, as with --no-decode"
            row.rounded = "; ".join(filter(None, [row.rounded, f"published {how}"]))


def resolve(
    name: str,
    runtime: Optional[str] = None,
    precision: Optional[str] = None,
    decode: Optional[bool] = None,
    devices: Optional[PathLike] = None,
    dtype: torch.dtype = torch.float32,
    must_predict: bool = False,
) -> Place:
    """Say where models are to run; "this" is measured, for a type.

    Raises DeviceError for a device, runtime or precision that there is not; with ``must_predict`` also where nothing is
    known of the device for these.
    """
    device = find_device(name, devices, [dtype])
    chosen, exact = choose(device, runtime, precision)
    if must_predict and device.name != THIS:
        estimate_for(device, chosen, exact)
    return Place(device, chosen, exact, decode)


def resolve_arguments(arguments: argparse.Namespace, must_predict: bool = False) -> Optional[Place]:
    """Do so, before any work, for what was named on the command line; None where no device was.

    Who names a runtime or a precision wants a prediction.
    """
    a = arguments
    if not a.device:
        if a.devices:
            load_devices(a.devices)
        return None
    must_predict = must_predict or bool(a.runtime or a.precision)
    dtype = torch.float16 if a.half else torch.float32
    return resolve(a.device, a.runtime, a.precision, a.decode, a.devices, dtype, must_predict)

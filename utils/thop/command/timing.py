"""Predicted times for the command: where a network is to run, and what is known of it there."""

import argparse
from dataclasses import dataclass
from typing import Optional, Sequence

import torch

from ..answer import PathLike
from ..count.record import Recording
from ..deploy.bound import TimeBound, launch_bound
from ..deploy.devices import THIS, Device, find_device, load_devices
from ..deploy.errors import DeviceError
from ..deploy.launches import as_deployed
from ..deploy.measurements import find_measurement
from ..deploy.prediction import Prediction, choose, estimate_for, find_place, predict_deployed
from ..deploy.runtimes import Runtime
from ..show.comparison import Row


@dataclass(frozen=True)
class Place:
    """Where models are to run; decode: whether detectors decode their predictions there."""

    device: Device
    runtime: Runtime
    precision: str
    decode: bool

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
        if measured and measured.decode != self.decode:
            row.rounded = "; ".join(filter(None, [row.rounded, "published without decoding, as with --no-decode"]))


def place_at(
    name: str,
    runtime: Optional[str],
    precision: Optional[str],
    decode: bool,
    devices: Optional[PathLike],
    dtypes: Sequence[torch.dtype],
) -> Place:
    """Say where models are to run; "this" is measured, for some types. Raises DeviceError for what there is not."""
    device = find_device(name, devices, dtypes)
    chosen, exact = choose(device, runtime, precision)
    return Place(device, chosen, exact, decode)


def check_place(arguments: argparse.Namespace, must_predict: bool = False) -> None:
    """Raise DeviceError, before any work, for a device, runtime or precision that there is not.

    So too where a prediction is asked for, by ``must_predict`` or by naming a runtime, and nothing is known for one.
    """
    if arguments.device and arguments.device.strip().lower() != THIS:
        device, runtime, precision = find_place(
            arguments.device, arguments.runtime, arguments.precision, arguments.devices
        )
        if (must_predict or arguments.runtime or arguments.precision) and isinstance(device, Device):
            estimate_for(device, runtime, precision)
    elif arguments.devices:
        load_devices(arguments.devices)


def place_of(arguments: argparse.Namespace, dtypes: Sequence[torch.dtype] = ()) -> Optional[Place]:
    """Say where models are to run; None where no device was asked for.

    "this" is measured, for what the arguments ask for and ``dtypes``.
    """
    if not arguments.device:
        return None
    wanted = [torch.float16 if arguments.half else torch.float32, *dtypes]
    place = arguments.device, arguments.runtime, arguments.precision, arguments.decode, arguments.devices
    return place_at(*place, wanted)


__all__ = ["Place", "check_place", "place_at", "place_of"]

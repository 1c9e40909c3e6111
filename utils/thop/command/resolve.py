"""Where networks are to run: the device, the runtime and the precision that are meant, made out once; times there."""

import argparse
import contextlib
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Sequence

import torch

from ..answer import PathLike
from ..count.record import Recording
from ..deploy.bound import TimeBound, launch_bound
from ..deploy.devices import KINDS, THIS, Device, find_device, listed_devices, load_devices
from ..deploy.launches import as_deployed
from ..deploy.measurements import find_measurement
from ..deploy.prediction import Prediction, estimate_for, place_on, predict_deployed
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

    def predicted(self, row: Row, counted: Recording) -> Row:
        """A model's row with its time here; or with the reason why there is none."""
        try:
            prediction = self.predict(counted)
        except DeviceError as error:
            network = as_deployed(counted, self.runtime, self.decode)
            known = find_measurement(network, self.device.name, self.precision)
            return replace(row, error=str(error), published=known, device=self.device.name)
        least, known = self.least(prediction), prediction.published
        return replace(row, prediction=prediction.timing(), bound=least, published=known, device=self.device.name)


def resolve(
    name: str,
    runtime: Optional[str] = None,
    precision: Optional[str] = None,
    decode: Optional[bool] = None,
    devices: Optional[PathLike] = None,
    dtype: torch.dtype = torch.float32,
    must_predict: bool = False,
    cores: Optional[int] = None,
    streams: Optional[str] = None,
) -> Place:
    """Say where models are to run; "this" is measured, for a type.

    Raises DeviceError for a device, runtime or precision that there is not; with ``must_predict`` also where nothing is
    known of the device for these.
    """
    device = find_device(name, devices, [dtype], cores, streams)
    chosen, exact = place_on(device, runtime, precision)
    if must_predict and device.name != THIS and not chosen.refuses:
        estimate_for(device, chosen, exact)
    return Place(device, chosen, exact, decode)


GROUPS = {"all": KINDS, **{f"all-{kind}s": (kind,) for kind in KINDS}}
"""Names that stand for all devices of some kinds."""


def places_of(arguments: argparse.Namespace, must_predict: bool = False, several: bool = False) -> List[Place]:
    """Say, before any work, where models are to run: nowhere, on one device, on several, or on all of a kind.

    Of a group those are left out that have not the runtime or the precision that was named. Who names one of these
    wants a prediction.
    """
    a = arguments
    if a.devices:
        load_devices(a.devices)  # which says what is wrong with it
    dtype = torch.float16 if a.half else torch.float32
    must_predict = must_predict or bool(a.runtime or a.precision)
    found: Dict[str, Place] = {}
    for name in (part for text in a.device or () for part in text.split(",")):
        kinds = GROUPS.get(name.lower())
        alike = [one.name for one in listed_devices(load_devices(a.devices)) if kinds and one.kind in kinds]
        left_out = (DeviceError,) if alike else ()
        for each in alike or [name]:
            with contextlib.suppress(*left_out):
                rest = a.decode, a.devices, dtype, must_predict, a.cores, a.streams
                place = resolve(each, a.runtime, a.precision, *rest)
                found[place.device.name] = place
        if not found:
            raise DeviceError(f"{name}: none of them was measured under {a.runtime or a.precision}")
    if len(found) > 1 and not several:
        raise DeviceError(f"{a.command} takes one --device; predict shows several")
    return list(found.values())

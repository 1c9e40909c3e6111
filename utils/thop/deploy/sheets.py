"""What a data sheet alone tells of a device: how far those that were measured stay below theirs, this one may too."""

import math
from dataclasses import dataclass
from statistics import median
from typing import List, Mapping, Sequence, Tuple

from .clock import Constants, Work, seconds_of
from .devices import Device
from .errors import DeviceError
from .figures import Figures
from .runtimes import Runtime

_ARITHMETIC = {  # of which a data sheet's precisions a runtime's comes to, the first that is there
    "amp": ("bfloat16", "float16"),  # torch sums float16 products in float32, at the rate of bfloat16
    "float16": ("float16",),
    "float32": ("tf32", "float32"),
    "int8": ("int8",),
}


def sheet_constants(device: Device, runtime: Runtime, precision: str) -> Constants:
    """What a runtime reaches of a data sheet; raises DeviceError where there is none for the precision."""
    limits = sheet_limits(device, precision)
    return Constants(limits.peak * runtime.of_sheet[0], limits.bandwidth * runtime.of_sheet[1])


def sheet_limits(device: Device, precision: str) -> Constants:
    """All that a data sheet allows; raises DeviceError where there is none for the precision."""
    device.need_data_sheet()
    found = [device.peaks[name] for name in _ARITHMETIC[precision] if name in device.peaks]
    if not found:
        raise DeviceError(f"{device.name} ({device.title}) has no peak for {precision}")
    return Constants(found[0], device.bandwidth)


@dataclass(frozen=True)
class SheetRange:
    """Constants for a device of which only the data sheet is known.

    constants: in the middle of what the measured devices suggest; candidates: by each of them, with its figures.
    """

    constants: Constants
    candidates: List[Tuple[Constants, Figures]]
    basis: str

    def bounds(self, works: Sequence[Work]) -> Tuple[float, float]:
        """The least and the most seconds that the measured devices suggest."""
        found = [(seconds_of(works, constants), figures.spread) for constants, figures in self.candidates]
        return min(s / spread for s, spread in found), max(s * spread for s, spread in found)

    def error(self, works: Sequence[Work]) -> float:
        """The factor by which the middle is off, if the device is like the most unlike of the measured ones."""
        middle = seconds_of(works, self.constants)
        return max(
            figures.error * math.exp(abs(math.log(seconds_of(works, constants) / middle)))
            for constants, figures in self.candidates
        )


def sheet_range(device: Device, runtime: Runtime, precision: str, known: Mapping[str, Device]) -> SheetRange:
    """Say what a device's data sheet comes to, by the devices that were measured under the runtime.

    Raises DeviceError where there is no data sheet, or no such device.
    """
    sheet = sheet_constants(device, runtime, precision)
    measured = [other for other in known.values() if other.bandwidth and runtime.name in other.runtimes]
    pairs = [(other, name) for other in measured for name in other.runtimes[runtime.name]]
    same = [(other, name) for other, name in pairs if name == precision]
    candidates = [_like(other, runtime, name, sheet) for other, name in same or pairs if _has_peak(other, name)]
    if not candidates:
        raise DeviceError(
            f"nothing is known of {device.name} ({device.title}) under {runtime.name}, nor of a device like it; "
            "measure a few networks and calibrate"
        )
    middle = Constants(*(_middle([constants[i] for constants, _ in candidates]) for i in range(len(sheet))))
    names = ", ".join(dict.fromkeys(other.name for other, _ in same or pairs))
    return SheetRange(middle, candidates, f"its data sheet, and how far {names} stay below theirs")


def _has_peak(device: Device, precision: str) -> bool:
    return any(name in device.peaks for name in _ARITHMETIC[precision])


def _like(other: Device, runtime: Runtime, precision: str, sheet: Constants) -> Tuple[Constants, Figures]:
    """The constants of a device that stays as far below its data sheet as another one does."""
    figures, own = other.runtimes[runtime.name][precision], sheet_constants(other, runtime, precision)
    found = figures.constants
    softmax = sheet.bandwidth * found.softmax / own.bandwidth
    peak, bandwidth = sheet.peak * found.peak / own.peak, sheet.bandwidth * found.bandwidth / own.bandwidth
    return Constants(peak, bandwidth, found.overhead, found.host, softmax), figures


def _middle(values: Sequence[float]) -> float:
    """The geometric mean; of constants that some devices do without, the middle one."""
    if any(value <= 0 for value in values):
        return median(values)
    return math.exp(sum(map(math.log, values)) / len(values))

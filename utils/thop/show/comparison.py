"""Several models side by side: a row for each, with what was counted and its differences to the first."""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Sequence, Tuple

import torch

from ..answer import Answer, Rows, csv_of
from ..deploy.bound import TimeBound, time_bound
from ..deploy.devices import Device
from ..deploy.errors import DeviceError
from ..deploy.prediction import Timing
from ..traffic import Traffic
from ..units import kinds_not_counted

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass
class Row:
    """A model and what was counted of it, or else ``error``, why nothing was.

    source: where it comes from; input, dtype: what it was run on; rounded: a word about a size that the stride does
    not divide; bound, prediction: the least and the expected time on a device, if one was asked for; measured_seconds:
    what somebody has published of a network of this name there. shape: of its first input; images: how many a pass
    is of. is_baseline: whether differences are to this one; without any, they are to the first.
    """

    name: str
    source: str
    traffic: Optional[Traffic] = None
    parameters: int = 0
    input: str = ""
    dtype: str = ""
    rounded: str = ""
    error: str = ""
    bound: Optional[TimeBound] = None
    prediction: Optional[Timing] = None
    measured_seconds: Optional[float] = None
    images: int = 1
    shape: Tuple[int, ...] = ()
    is_baseline: bool = False

    def numbers(self) -> Dict[str, Any]:
        """What is compared, in base units: elements, operations, bytes, seconds."""
        if self.traffic is None:
            return {}
        ops, kernel, output = (self._sum(column) for column in ("total_ops", "kernel", "output"))
        found = {
            "parameters": self.parameters,
            "total_ops": ops,
            "gflops": ops * 2 / 1e9,
            "kernel": kernel,
            "output": output,
            "accesses": kernel + output,
            "flops": self.traffic.flops,
            "read_bytes": self.traffic.read_bytes,
            "written_bytes": self.traffic.written_bytes,
            "traffic_bytes": self.traffic.read_bytes + self.traffic.written_bytes,
            "arithmetic_intensity": self.traffic.arithmetic_intensity,
            "peak_activation_bytes": self.traffic.peak_activation_bytes,
        }
        if self.bound is not None:
            found["time_seconds"] = self.bound.seconds
            found["time_memory_seconds"] = self.bound.memory_seconds
        if self.prediction is not None:
            found.update(self._predicted(self.prediction))
        return found

    def _predicted(self, prediction: Timing) -> Dict[str, Any]:
        """The expected time of a pass over all images, and what comes of it."""
        return {
            "predicted_seconds": prediction.seconds,
            "predicted_low_seconds": prediction.low,
            "predicted_high_seconds": prediction.high,
            "images_per_second": self.images / prediction.seconds if prediction.seconds else None,
            "measured_seconds": self.measured_seconds,
            "launches": prediction.launch_count,
        }

    def _sum(self, column: str) -> float:
        """A total of the layer ledger, whole where it is."""
        total = math.fsum(getattr(layer, column) for layer in self.traffic.layers) if self.traffic else 0.0
        return int(total) if total == int(total) else total

    def remarks(self) -> List[str]:
        """What has to be known about the numbers beside their size."""
        if self.traffic is None:
            return []
        found = [self.rounded] if self.rounded else []
        if self.traffic.mode == "real":
            found.append(f"counted in a real forward pass ({self.traffic.why}), and may depend on the weights' values")
        if self.traffic.missing:
            names = ", ".join(self.traffic.missing)
            found.append(f"{kinds_not_counted(self.traffic.missing)} ({names})")
        for operator, (_, assumption) in self.traffic.uncounted.items():
            found.append(f"{operator} is not exact: {assumption}")
        return found


@dataclass(repr=False)
class Comparison(Answer):
    """Models side by side; rows: one for each, in the order that is shown."""

    rows: Rows[Row]


def dtypes_used(traffics: Iterable[Traffic]) -> List[torch.dtype]:
    """Name the types that the arithmetic of some models is done in, for the device that they are to run on."""
    found = {call.dtype: None for traffic in traffics for call in traffic.calls if call.dtype is not None}
    return list(found) or [torch.float32]


def bound_all(rows: Sequence[Row], device: Device) -> None:
    """Work out the least time of each model that has no expected one; where it is not known, say so in the row."""
    for row in rows:
        if row.traffic is not None and row.prediction is None:
            try:
                row.bound = time_bound(row.traffic, device)
            except DeviceError as error:
                row.error = f"no time: {error}"


def difference(value: Any, first: Any) -> Optional[float]:
    """How many per cent a value is above the first; None where there is nothing to compare with."""
    return None if value is None or not first else (value / first - 1) * 100


def baseline_of(rows: Sequence[Row]) -> Row:
    """The row that the others are compared with."""
    return next((row for row in rows if row.is_baseline), rows[0])


SORTS = {
    "parameters": "parameters", "gflops": "gflops", "accesses": "accesses", "traffic": "traffic_bytes",
    "peak": "peak_activation_bytes", "least": "time_seconds", "time": "predicted_seconds",
}  # fmt: skip
"""What a comparison can be sorted by, and the number that it is."""


OF_A_DEVICE = ("least", "time")
"""Those of them that there are for a device."""


def sort_rows(rows: Sequence[Row], by: str) -> List[Row]:
    """Sort by a number, the smallest first; those that have none come last, in their order."""
    values = [row.numbers().get(SORTS[by]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (values[i] is None, values[i] or 0))
    return [rows[i] for i in order]


def records(rows: Sequence[Row]) -> List[Dict[str, Any]]:
    """A flat record for each row, in base units, with the differences in per cent; all with the same keys."""
    numbers = [row.numbers() for row in rows]
    base = baseline_of(rows).numbers() if rows else {}
    keys = max(numbers, key=len, default={}).keys()
    found = []
    for row, values in zip(rows, numbers):
        record: Dict[str, Any] = {"model": row.name, "source": row.source, "input": row.input, "dtype": row.dtype}
        record.update({key: values.get(key) for key in keys})
        if any(row.bound for row in rows):
            record["device"] = row.bound.device.name if row.bound else None
            record["binds"] = row.bound.binds if row.bound else None
        if any(row.prediction for row in rows):
            record.update(_place(row.prediction))
        record.update({f"{key}_percent": difference(values.get(key), base.get(key)) for key in keys})
        record["kinds_not_counted"] = len(row.traffic.missing) if row.traffic else None
        record.update(mode=row.traffic.mode if row.traffic else None, remarks="; ".join(row.remarks()), error=row.error)
        found.append(record)
    return found


def _place(prediction: Optional[Timing]) -> Dict[str, Optional[str]]:
    """Where a prediction is for, what holds most of the time there, and what it rests on."""
    if prediction is None:
        return dict.fromkeys(("device", "runtime", "precision", "predicted_binds", "basis"))
    runtime, binds = prediction.runtime.name, prediction.binds
    return {"device": prediction.device, "runtime": runtime, "precision": prediction.precision,
            "predicted_binds": binds, "basis": prediction.basis}  # fmt: skip


def to_dataframe(rows: Sequence[Row]) -> "DataFrame":
    """The records as a table; columns of whole numbers stay whole where a model could not be counted."""
    from pandas import DataFrame

    frame = DataFrame(records(rows), dtype=object)
    whole = [name for name, column in frame.items() if {type(value) for value in column} - {type(None)} == {int}]
    return frame.astype(dict.fromkeys(whole, "Int64")).infer_objects()


def to_csv(rows: Sequence[Row]) -> str:
    """The records as CSV."""
    return csv_of(to_dataframe(rows))


def to_json(rows: Sequence[Row]) -> str:
    """The records as a JSON list."""
    return json.dumps(records(rows), indent=1, allow_nan=False) + "\n"


__all__ = [
    "OF_A_DEVICE", "SORTS", "Comparison", "Row", "baseline_of", "bound_all", "difference", "dtypes_used", "records",
    "sort_rows", "to_csv", "to_dataframe", "to_json",
]  # fmt: skip

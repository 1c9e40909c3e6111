"""How counts are shown: readable numbers, the end of the summary line, the table of modules, exports."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from torch import nn

from ..answer import Answer, PathLike, csv_of, json_of, record_of, written
from ..count.record import Recording
from ..profile import Profile, not_run_in_training
from ..traffic import Traffic, traffic_of
from ..units import readable, readable_bytes
from .grid import Grid, to_markdown, to_text
from .modules import (
    ModuleRow,
    View,
    addends,
    choose,
    deepest,
    findings,
    fitting_depth,
    grid_of_modules,
    idle_parts,
    module_rows,
    reservations,
)

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..deploy.changes import Advice
    from ..deploy.prediction import Prediction


def accesses(kernel: float, output: float) -> str:
    """The summary line's words for memory access."""
    return f"{readable(kernel + output)} memory accesses ({readable(kernel)} kernel + {readable(output)} output)"


def moved(traffic: Traffic) -> str:
    """The same for bytes."""
    read, written = readable_bytes(traffic.read_bytes), readable_bytes(traffic.written_bytes)
    return f"{readable_bytes(traffic.read_bytes + traffic.written_bytes)} of traffic ({read} read + {written} written)"


class Sizes(NamedTuple):
    """What the summary line says of a model before it is counted; gradients: elements of parameters that have them."""

    layers: int
    parameters: int
    gradients: int


def sizes_of(model: nn.Module) -> Sizes:
    """Count a model's modules and parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained = sum(number for number, is_trained in sizes if is_trained)
    return Sizes(len(list(model.modules())), sum(number for number, _ in sizes), trained)


ALL_LEVELS = 1000  # of modules: more than any network has
_FITS = 25  # rows of a table that nobody has asked the depth of


@dataclass(eq=False, repr=False)
class ModelInfo(Answer):
    """What ``model_info`` returns: the summary line's numbers, and the recording that they come from.

    layers, parameters, gradients: as the checkout's own line has them; imgsz: (height, width) that was counted, if any;
    recording: of the run that all of it is read from, None where counting failed, and then ``error`` says why. It
    unpacks to layers, parameters, gradients and GFLOPs, and can be used like the tuple of these.
    total_ops: multiply-accumulates of one image's forward pass; total_params: each counted once; total_kernel_macs,
    total_output_macs: weight elements read and output elements written: memory accesses, which the method's authors
    call MACs; not a number where counting failed.
    depth, sort: what the table shows unless its caller says otherwise.
    In a notebook it shows itself as that table.
    """

    layers: int
    parameters: int
    gradients: int
    imgsz: Optional[Tuple[int, int]]
    recording: Optional[Recording]
    error: str = ""
    depth: Optional[int] = field(default=None, compare=False)
    sort: Optional[str] = field(default=None, compare=False)

    @cached_property
    def profile(self) -> Optional[Profile]:
        """The totals by layer; None where counting failed."""
        return None if self.recording is None else Profile.of(self.recording.layers)

    total_ops = property(lambda self: self._total(0))
    total_params = property(lambda self: self._total(1))
    total_kernel_macs = property(lambda self: self._total(2))
    total_output_macs = property(lambda self: self._total(3))

    def _total(self, index: int) -> float:
        return float("nan") if self.profile is None else self.profile[index]

    @property
    def accesses(self) -> float:
        """Memory accesses, in elements: kernel and output together, the number on the summary line."""
        return self.total_kernel_macs + self.total_output_macs

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations, two for each multiply-accumulate."""
        return self.total_ops * 2 / 1e9

    @property
    def mode(self) -> str:
        """How the model was run for counting."""
        return self.profile.mode if self.profile else ""

    def __iter__(self) -> Iterator[float]:
        return iter((self.layers, self.parameters, self.gradients, self.gflops))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        """Compare with another one, or with the four numbers that it stands for."""
        if isinstance(other, ModelInfo):
            return (tuple(self), self.imgsz, self.error) == (tuple(other), other.imgsz, other.error)
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    # ---- the operator ledger, and the rows of both ledgers ----

    @cached_property
    def traffic(self) -> Traffic:
        """The bytes and operators of the same forward pass; raises RuntimeError where the model can't be counted."""
        return traffic_of(self._recorded())

    def _recorded(self) -> Recording:
        if self.recording is None:
            raise RuntimeError(self.error or "not counted")
        return self.recording

    def _counted(self) -> Profile:
        self._recorded()
        assert self.profile is not None
        return self.profile

    @cached_property
    def _rows(self) -> Tuple[ModuleRow, List[ModuleRow]]:
        return module_rows(self._counted(), self.traffic)

    def grid(self, depth: Optional[int] = None, sort: Optional[str] = None, most: Optional[int] = None) -> Grid:
        """The table of modules with the sentences below it; of its rows so many of the heaviest at most."""
        total, rows = self._rows
        sort, depth = self.sort if sort is None else sort, self.depth if depth is None else depth
        levels, remarks = deepest(rows), []
        usual = levels if sort else fitting_depth(rows, _FITS)
        shown = whole = View(choose(rows, usual if depth is None else depth, sort), total, sort)
        if depth is None:
            shown = replace(whole, rows=whole.heaviest(_FITS))
            if len(shown.rows) < len(whole.rows):
                remarks = [f"The {len(shown.rows)} heaviest of {len(whole.rows)} rows: depth={levels} shows all."]
            elif len(whole.rows) < len(rows) and not sort:
                remarks = [f"What lies deeper is added to its module: depth={levels} shows all levels."]
        if most is None or len(shown.rows) <= most:
            notes = [*findings(rows, whole), *self._idle, *remarks, *reservations(self._counted(), self.traffic)]
            return grid_of_modules(shown, notes)
        note = f"The {most} heaviest of {len(shown.rows)} rows; table() has more."
        return grid_of_modules(replace(shown, rows=shown.heaviest(most)), [note])

    @cached_property
    def _idle(self) -> List[str]:
        """Name what was not run, and say whether a forward in training runs it."""
        not_run, in_training = self._counted().not_run, None
        if not_run:
            with suppress(RuntimeError):
                subject = self._recorded().subject
                in_training = not_run_in_training(subject.model, subject.inputs)
        return idle_parts(not_run, in_training, self.parameters)

    # ---- to read ----

    def table(self, depth: Optional[int] = None, sort: Optional[str] = None) -> str:
        """The table of modules as text for a terminal, with a total row and a few sentences below it.

        Args:
            depth: levels of modules to show; what lies deeper is added to the module it belongs to. By default as
                many as fit on a screen.
            sort: None for the modules as they nest, or a column to sort by, the largest first: traffic, read, written,
                accesses, kernel, output, ops, parameters, intensity.

        Raises:
            ValueError: there is no such depth or sort.
            RuntimeError: the model could not be counted; it says why.
        """
        return to_text(self.grid(depth, sort))

    def to_markdown(  # type: ignore[override]
        self, depth: Optional[int] = None, sort: Optional[str] = None, path: Optional[PathLike] = None
    ) -> str:
        """The same table as GitHub reads it; written to a file too if one is named."""
        return written(to_markdown(self.grid(depth, sort)), path)

    def caption(self) -> str:
        """The totals in one line, traffic among them; raises RuntimeError where the model could not be counted."""
        self._counted()
        parts = [f"{self.layers:,} layers", f"{self.parameters:,} parameters", f"{self.gflops:.1f} GFLOPs"]
        parts.append(accesses(self.total_kernel_macs, self.total_output_macs))
        return ", ".join([*parts, moved(self.traffic)])

    def headline(self) -> str:
        """The totals in one line with the size, or why there are none."""
        if self.profile is None:
            return f"Memory accesses not counted ({self.error})"
        return self.caption() + (" at {}x{}".format(*self.imgsz) if self.imgsz else "")

    # ---- to reckon with ----

    def predict(
        self, device: Any, runtime: Optional[str] = None, precision: Optional[str] = None, decode: Optional[bool] = None
    ) -> "Prediction":
        """Predict the time of the same forward pass on a device, as ``utils.thop.predict`` does.

        Raises DeviceError for what is not known of the device, RuntimeError where the model can't be counted.
        """
        from ..deploy.prediction import predict_counted

        return predict_counted(self._recorded().under, device, runtime, precision, decode)

    def advice(
        self, device: Any, runtime: Optional[str] = None, precision: Optional[str] = None, decode: Optional[bool] = None
    ) -> "Advice":
        """Try what would make the same forward pass faster on a device; raises what ``predict`` raises."""
        from ..deploy.changes import advise

        return advise(self.predict(device, runtime, precision, decode))

    def to_frame(  # type: ignore[override]
        self, depth: Optional[int] = None, sort: Optional[str] = None
    ) -> "DataFrame":
        """A row for each module with what it did itself, in elements, operations and bytes: columns sum to the totals.

        ``depth`` adds what lies deeper to the module it belongs to; ``sort`` as in ``table``.
        """
        from pandas import DataFrame

        frame = DataFrame(self._records(depth, sort), columns=list(_RECORD))
        frame["output_shape"] = ["x".join(map(str, shape)) for shape in frame["output_shape"]]
        return frame

    to_dataframe = to_frame  # its older name

    def to_csv(self, path: Optional[PathLike] = None, depth: Optional[int] = None, sort: Optional[str] = None) -> str:
        """Return the rows of ``to_frame`` as CSV; written to a file too if one is named."""
        return written(csv_of(self.to_frame(depth, sort)), path)

    def to_json(self, path: Optional[PathLike] = None, depth: Optional[int] = None, sort: Optional[str] = None) -> str:
        """Return the totals, the rows of ``to_frame``, the operators and what was left out as JSON.

        They are written to a file too if one is named.
        """
        found = {**self._totals(), "layers": self._records(depth, sort)}
        return written(json_of(found), path)

    def _records(self, depth: Optional[int], sort: Optional[str]) -> List[Dict[str, Any]]:
        """Rows for machines."""
        return [_record(row) for row in addends(choose(self._rows[1], depth, sort))]

    def _totals(self) -> Dict[str, Any]:
        profile = self._counted()
        found = {"imgsz": self.imgsz, **{name: getattr(profile, name) for name in _RUN}}
        totals = dict(zip(("layers", "parameters", "gradients", "gflops"), self))
        totals.update({name: getattr(profile, name) for name in TOTALS})
        moved = totals_of(self.traffic)
        operators, uncounted = moved.pop("operators"), moved.pop("uncounted")
        return {**found, "totals": {**totals, **moved}, "operators": operators, "uncounted": uncounted}


TOTALS = ("total_ops", "total_params", "total_kernel_macs", "total_output_macs")
_RUN = ("mode", "why", "missing", "only_moved", "not_run")


def totals_of(traffic: Traffic) -> Dict[str, Any]:
    """What the operator ledger says of a whole pass, in base units, operator by operator too."""
    found = record_of(traffic)
    found["operators"] = [record_of(row) for row in traffic.operators]
    found["uncounted"] = {name: {"calls": calls, "assumed": text} for name, (calls, text) in traffic.uncounted.items()}
    return found


_RECORD = (
    "path", "type", "calls", "output_shape", "parameters", "total_ops", "flops", "kernel", "output", "read_bytes",
    "written_bytes", "intensity", "operators",
)  # fmt: skip


def _record(row: ModuleRow) -> Dict[str, Any]:
    """What a row says, in base units."""
    values = {name: getattr(row, name) for name in _RECORD}
    values.update({name: _whole(values[name]) for name in ("total_ops", "kernel", "output")})
    return {**values, "output_shape": list(row.output_shape), "operators": ", ".join(row.operators)}


def _whole(number: float) -> float:
    return int(number) if number == number and number == int(number) else number

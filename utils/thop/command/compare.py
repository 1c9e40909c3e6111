"""Counting several models for a comparison, at the prompt and in Python."""

from functools import partial
from itertools import groupby
from typing import Any, Callable, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from torch import nn

from ..answer import PathLike, Rows
from ..run import as_inputs, as_model, collector_paused, in_few_words, is_of_a_signal
from ..run.inputs import as_size
from ..show.comparison import OF_A_DEVICE, SORTS, Comparison, Row, bound_all, dtypes_used, sort_rows
from ..traffic import traffic_of
from ..units import listed
from .checkout import OtherCheckout, in_checkout
from .models import Built, ModelError, Setup, Source, counted, find, find_one, names, numbered, with_images
from .resolve import Place, resolve

Counted = Union[nn.Module, Source]


def count_all(
    sources: Sequence[Tuple[str, Counted]],
    setup: Setup,
    progress: Callable[..., Iterable[Any]] = iter,
    places: Sequence[Place] = (),
    inputs: Any = None,
) -> List[Row]:
    """Count every model by its name, and predict its time on each place; one that can't be counted says why.

    progress: wraps the work to do, as tqdm does; inputs: what modules are run on, in place of images.
    """
    found: List[Row] = []
    for name, source in progress(list(sources)):
        found += _count(name, source, setup, places, inputs)
    return found


def _count(name: str, source: Counted, setup: Setup, places: Sequence[Place], inputs: Any) -> List[Row]:
    """Count a model, a row for each place; one of another checkout than that in use in a process of its own."""
    row = Row(name, source.text if isinstance(source, Source) else "")
    fill = partial(_fill, row, places)
    try:
        return counted(source, setup, fill) if isinstance(source, Source) else fill(_ready(source, setup, inputs))
    except OtherCheckout as other:
        try:
            found: List[Row] = in_checkout(other.root, _count, name, source, setup, places, None)
            return found
        except ModelError as error:
            row.error = str(error)
    except ModelError as error:
        row.error = str(error)
    except SystemExit as error:
        row.error = f"its forward ends the program (SystemExit: {error})"
    except Exception as error:
        if is_of_a_signal(error):
            raise
        row.error = in_few_words(error)
    return [row]


def compared(
    named: Sequence[Tuple[str, Counted]],
    setup: Setup,
    places: Sequence[Place] = (),
    sort: Optional[str] = None,
    baseline: Optional[str] = None,
    inputs: Any = None,
    progress: Callable[..., Iterable[Any]] = iter,
    with_bound: bool = True,
) -> Comparison:
    """Count models, each with its name, and put them in the order that was asked for, or of their sources.

    baseline: the one that others are compared with; with_bound: with the least time on the only place, where the
    expected one is not known. Raises ModelError where no model is called like the baseline.
    """
    texts = [one.text for _, one in named if isinstance(one, Source)]
    called = [name for name, _ in named]
    if baseline is not None and baseline not in [*called, *texts]:
        raise ModelError(f"no model is called {baseline!r}, only {listed(called)}")
    rows = count_all(named, setup, progress, places, inputs)
    if len(places) > 1:
        return Comparison(Rows(sort_rows(rows, sort or "time")))
    good = [row.traffic for row in rows if row.traffic]
    if places and good and with_bound:
        bound_all(rows, places[0].device_for(dtypes_used(good)))
    ordered = _by_size([one for _, one in named], rows)
    if baseline is not None:
        next(row for row in ordered if baseline in (row.name, row.source)).is_baseline = True
    return Comparison(Rows(sort_rows(ordered, sort) if sort else ordered))


def _by_size(sources: Sequence[Counted], rows: Sequence[Row]) -> List[Row]:
    """Put models that one pattern has found, or a shell, in the order of their size; those that failed come last."""
    groups = [source.group if isinstance(source, Source) else "" for source in sources]
    ordered: List[Row] = []
    for group, pairs in groupby(zip(groups, rows), key=lambda pair: pair[0]):
        found = [row for _, row in pairs]
        ordered += sort_rows(found, "gflops") if group else found
    return ordered


def _ready(model: nn.Module, setup: Setup, inputs: Any) -> Built:
    """Put a module of the user's beside what it is run on."""
    if inputs is not None:
        return Built(model, as_inputs(inputs, "compare"), None)
    return with_images(model, setup)


def _fill(row: Row, places: Sequence[Place], built: Built) -> List[Row]:
    """Count a model into its row, one for each place; its recording is let go of again, as it is large."""
    row.images = built.inputs[0].shape[0] if built.inputs[0].dim() else 1
    recorded = built.record()
    row.traffic = traffic_of(recorded)
    row.parameters, row.rounded = built.parameters, built.remark()
    row.input, row.dtype = built.input, built.dtype
    return [place.predicted(row, recorded.under(place.amp)) for place in places] or [row]


Compared = Union[str, nn.Module]


@collector_paused()
def compare(
    models: Union[Sequence[Compared], Mapping[str, Compared]],
    inputs: Any = None,
    device: Optional[str] = None,
    runtime: Optional[str] = None,
    precision: Optional[str] = None,
    imgsz: Any = None,
    batch: int = 1,
    decode: Optional[bool] = None,
    sort: Optional[str] = None,
    baseline: Optional[str] = None,
    devices: Optional[PathLike] = None,
) -> Comparison:
    """Count several models side by side: ``compare([model, "models/yolov5n.yaml", "torchvision:resnet18"])``.

    Args:
        models: modules, and what the command calls MODEL: cfgs, weights, ``torchvision:NAME``; with names of your own
            as a dictionary.
        inputs: what modules are run on, a tensor or a tuple, in place of images.
        device, runtime, precision, decode, devices: as for ``predict``; the least and the expected time come with it.
        imgsz, batch: of the images; each model's usual size by default.
        sort: None for the order given, or one of parameters, gflops, accesses, traffic, peak, least, time.
        baseline: the name of the model that percentages are differences to; the first by default.

    Raises:
        ModelError: there is no such MODEL. DeviceError: there is no such device. ValueError: no such sort or baseline.
    """
    given = _named(models)
    if not given:
        raise ValueError("compare takes one model or more")
    if sort is not None and sort not in SORTS:
        raise ValueError(f"sort must be None or one of {', '.join(SORTS)}, not {sort!r}")
    if sort in OF_A_DEVICE and device is None:
        raise ValueError(f"sort={sort!r} takes a device")
    places = [] if device is None else [resolve(device, runtime, precision, decode, devices)]
    images = Setup(None if imgsz is None else as_size(imgsz), batch)
    return compared(given, images, places, sort, baseline, inputs)


def _named(models: Any) -> List[Tuple[str, Counted]]:
    """Give each model a name that no other has; patterns stand for all files that match."""
    if isinstance(models, (str, nn.Module)):
        models = [models]
    if isinstance(models, Mapping):
        return [(str(name), _only(one)) for name, one in models.items()]
    found: List[Counted] = []
    for one in models:
        found += find([one]) if isinstance(one, str) else [as_model(one, "compare")]
    sources = [source for source in found if isinstance(source, Source)]
    of_sources = dict(zip(map(id, sources), names(sources)))
    return list(zip(numbered([of_sources.get(id(one)) or type(one).__name__ for one in found]), found))


def _only(one: Any) -> Counted:
    """Return what one name stands for; raises ModelError for a pattern that matches several files."""
    if not isinstance(one, str):
        return as_model(one, "compare")
    return find_one(one, "and a name for one; give a list to compare them all")

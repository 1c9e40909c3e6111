"""Counting several models for a comparison."""

from functools import partial
from typing import Any, Callable, Iterable, List, Optional, Sequence

from ..run import in_few_words
from ..show.comparison import Row
from .models import Built, ModelError, Setup, Source, counted, names
from .timing import Place


def count_all(
    sources: Sequence[Source],
    setup: Setup,
    progress: Callable[..., Iterable[Any]] = iter,
    place: Optional[Place] = None,
) -> List[Row]:
    """Count every model, and predict its time where a place is given; one that can't be had or counted says why.

    progress: wraps the work to do, as tqdm does.
    """
    rows = []
    for name, source in progress(list(zip(names(sources), sources))):
        row = Row(name, source.text)
        try:
            counted(source, setup, partial(_fill, row, place))
        except ModelError as error:
            row.error = str(error)
        except Exception as error:
            row.error = in_few_words(error)
        rows.append(row)
    return rows


def _fill(row: Row, place: Optional[Place], built: Built) -> None:
    """Count a model into its row; its data flow is let go of again, as it is large."""
    row.shape = tuple(built.inputs[0].shape)
    row.images = row.shape[0] if row.shape else 1
    flow = None if place is None else built.flow()
    row.traffic = built.traffic() if flow is None else flow.traffic
    row.parameters, row.rounded = built.parameters, built.remark()
    row.input, row.dtype = built.input, built.dtype
    if place is not None and flow is not None:
        place.predict_row(row, flow.under(place.amp))


__all__ = ["count_all"]

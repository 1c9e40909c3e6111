"""Counting several models for a comparison."""

from functools import partial
from typing import Any, Callable, Iterable, List, Sequence

from ..run import in_few_words
from ..show.comparison import Row
from .models import Built, ModelError, Setup, Source, counted, names


def count_all(sources: Sequence[Source], setup: Setup, progress: Callable[..., Iterable[Any]] = iter) -> List[Row]:
    """Count every model; one that can't be had or counted gets its row with the reason.

    progress: wraps the work to do, as tqdm does.
    """
    rows = []
    for name, source in progress(list(zip(names(sources), sources))):
        row = Row(name, source.text)
        try:
            counted(source, setup, partial(_fill, row))
        except ModelError as error:
            row.error = str(error)
        except Exception as error:
            row.error = in_few_words(error)
        rows.append(row)
    return rows


def _fill(row: Row, built: Built) -> None:
    """Count a model into its row."""
    row.traffic = built.traffic()
    row.parameters, row.rounded = built.parameters, built.remark()
    row.input, row.dtype = built.input, built.dtype


__all__ = ["count_all"]

"""What a question is answered with: an answer reads as a few lines, and hands out its rows.

How each kind of answer looks is said in ``show/results.py``; the package, which knows all rooms, makes it known here.
"""

import json
import math
import os
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Sequence, TypeVar, Union

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

PathLike = Union[str, "os.PathLike[str]"]
_SHOWN: List[Callable[[Any], Any]] = []
_ROWS, _WIDTH = 10, 120
T = TypeVar("T")


def show_by(sheet_of: Callable[[Any], Any]) -> None:
    """Let answers be shown by the sheets that a function makes of them."""
    _SHOWN[:] = [sheet_of]


def _sheet(answer: Any) -> Any:
    return _SHOWN[0](answer)


class Answer:
    """A result that shows itself in a notebook and at a prompt, and can be taken along as a table, text or picture."""

    def __repr__(self) -> str:
        text: str = _sheet(self).text()
        return text

    def _repr_html_(self) -> str:
        html: str = _sheet(self).html()
        return html

    def to_frame(self) -> "DataFrame":
        """Return all rows as a pandas table, in base units."""
        return _sheet(self).frame()

    def to_json(self, path: Optional[PathLike] = None) -> str:
        """Return the totals and all rows as JSON, in base units; written to a file too if one is named."""
        return written(_sheet(self).json(), path)

    def to_markdown(self, path: Optional[PathLike] = None) -> str:
        """Return the rows as a table for GitHub; written to a file too if one is named."""
        return written(_sheet(self).markdown(), path)

    def plot(self, path: Optional[PathLike] = None) -> "Figure":
        """Draw it, and return matplotlib's figure; saved as png, svg or pdf too if a file is named."""
        return _sheet(self).plot(path)


def written(text: str, path: Optional[PathLike]) -> str:
    """Write a text to a file, if one is named, and return it."""
    if path is not None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else text + "\n")
    return text


def frame_of(records: Sequence[Dict[str, Any]]) -> "DataFrame":
    """Make a table of rows; columns of whole numbers stay whole where one of them is missing."""
    from pandas import DataFrame, array

    frame = DataFrame(list(records))
    for name in frame.columns:
        values = [record.get(name) for record in records]
        if {type(value) for value in values} == {int, type(None)}:
            frame[name] = array(values, dtype="Int64")
    return frame


def csv_of(frame: "DataFrame") -> str:
    """Write a table as CSV with the same line ends on every platform."""
    text: str = frame.to_csv(index=False)
    return text.replace("\r\n", "\n")


def json_of(value: Any) -> str:
    """Write values as JSON; what it has no word for, not a number and infinities, is null."""
    return json.dumps(_finite(value), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Rows(List[T]):
    """A list whose representation is short: its first elements, each in a line, and how many there are."""

    def __repr__(self) -> str:
        lines = [f"  {_in_one_line(row)}," for row in self[:_ROWS]]
        more = [f"  ... {len(self)} in all; to_frame() returns them as a table"] if len(self) > _ROWS else []
        return "\n".join(["[", *lines, *more, "]"]) if self else "[]"

    def to_frame(self) -> "DataFrame":
        """Return the elements as a pandas table, in base units."""
        return frame_of([record_of(row) for row in self])


def _in_one_line(row: Any) -> str:
    text = " ".join(repr(row).split())
    return text if len(text) <= _WIDTH - 3 else f"{text[: _WIDTH - 6]}..."


def record_of(row: Any) -> Dict[str, Any]:
    """Return what a row says in plain values: its fields, and the numbers that are made of them."""
    if isinstance(row, tuple) and not hasattr(row, "_fields"):
        return {str(i): value for i, value in enumerate(row)}
    written = {each.name for each in fields(row)} if is_dataclass(row) else ()
    found = dict(_named_values(row))
    return {name: value for name, value in found.items() if _is_plain(value) and (value is not None or name in written)}


def _named_values(row: Any) -> Iterator[Any]:
    names = [each.name for each in fields(row) if each.repr] if is_dataclass(row) else list(getattr(row, "_fields", ()))
    for kind in reversed(type(row).__mro__):
        names += [name for name, value in vars(kind).items() if isinstance(value, property)]
    for name in dict.fromkeys(names):
        if not name.startswith("_"):
            yield name, getattr(row, name)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(part, (int, float, str)) for part in value)
    return value is None or isinstance(value, (int, float, str))

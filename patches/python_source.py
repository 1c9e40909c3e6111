"""Python sources of all ages: whether they parse, and how they are encoded."""

from __future__ import annotations

import codecs
import re
import warnings

from patches.layout import Refusal

_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLANK = re.compile(rb"^[ \t\f]*(?:#.*)?$")


def encoding_of(data: bytes) -> str:
    """Return the encoding that a source says it has in its first two lines, or utf-8.

    As Python reads it: what stands in front of that, a comment in another encoding for example, need not be UTF-8.
    """
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    for line in data.splitlines()[:2]:
        found = _CODING.match(line)
        if found:
            name = found.group(1).decode("ascii", "replace")
            try:
                return codecs.lookup(name).name
            except LookupError:
                return name
        if not _BLANK.match(line):
            break
    return "utf-8"


def compile_or_refuse(data: bytes, name: str) -> None:
    """Refuse a source that Python can't compile, with the line where it stops."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise Refusal(f"{name}{where}: does not parse ({error.msg})") from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise Refusal(f"{name}: does not parse ({error})") from None

"""Names of modules as an export leaves them in files and logs: /model.2/m/m.0/cv1/Conv is of model.2.m.0.cv1."""

import re
from typing import Container, Optional, Sequence, Tuple


def module_of(parts: Sequence[str], known: Container[str], strict: bool) -> Tuple[str, Optional[str]]:
    """The path of the module that a scope belongs to, and the first part behind it.

    Inside of a container that was called, parts bear its name once more (``/m/m.0``). A module that is called again has
    a number behind it (``/m_1``), which is left out where the rest is known. ``strict``: the path ends at what is not
    known, where a runtime has put words of its own behind; else all of it counts.
    """
    path, before = "", ""
    for part in parts:
        above = path[: len(path) - len(before)].rstrip(".") if before and part.startswith(f"{before}.") else path
        found = f"{above}.{part}" if above else part
        again = re.sub(r"_\d+$", "", found)
        if found not in known and again in known:
            found = again
        elif strict and found not in known:
            return path, part
        path, before = found, part
    return path, None

"""Code of a checkout is run alone: without what it prints, and without what it would fetch or install."""

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from typing import Any, Iterator


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Run code of a checkout without what it prints, and without what it would fetch or install.

    Only the first of several processes (rank 0, or -1) fetches the font for its plots and sets up its log: we are none.
    """
    disabled = logging.root.manager.disable
    switches = {"RANK": "1", "YOLOv5_AUTOINSTALL": "false", "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    logging.disable(logging.CRITICAL)
    try:
        with environment(**switches), warnings.catch_warnings(), _nothing_fetched():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_FETCHES = re.compile(r"\b(pip3?|conda|mamba|curl|wget|gsutil|apt|apt-get|brew)\b")
_refusing = False
_hooked = False


@contextlib.contextmanager
def _nothing_fetched() -> Iterator[None]:
    """Refuse connections, and processes that install or download."""
    global _refusing, _hooked
    if not _hooked:
        sys.addaudithook(_refuse)  # for good: Python has no way to take one off again
        _hooked = True
    before, _refusing = _refusing, True
    try:
        yield
    finally:
        _refusing = before


def _refuse(event: str, arguments: Any) -> None:
    if not _refusing:
        return
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise PermissionError("refused to use the network: this command fetches nothing")
    if event in ("os.system", "subprocess.Popen"):
        command = arguments[event == "subprocess.Popen"]
        parts = command if isinstance(command, (list, tuple)) else [command]
        text = " ".join(os.fsdecode(part) for part in parts)
        if _FETCHES.search(text):
            raise PermissionError(f"refused to run '{text}': this command installs and fetches nothing")

"""What this project puts into a checkout: a block of lines and a folder."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass

from patches.layout import BEGIN, END, FOLDER, MANIFEST, MODULE, Refusal
from patches.python_source import compile_or_refuse
from patches.tree import read_bytes


@dataclass(frozen=True)
class Source:
    """What this project puts into a checkout."""

    version: str
    body: list[str]  # the lines between the markers
    files: dict[str, bytes]  # of utils/thop, by name with forward slashes


def load_source(root: str) -> Source:
    """Read and compile what goes into a checkout from the clone that this script lies in."""
    files = _source_files(os.path.join(root, *FOLDER.split("/")))
    module = os.path.join(root, *MODULE.split("/"))
    if "__init__.py" not in files or not os.path.isfile(module):
        raise Refusal(f"this copy of the project is incomplete: {MODULE} or {FOLDER} is missing in {root}")
    for name, data in files.items():
        if name.endswith(".py"):
            compile_or_refuse(data, os.path.join(root, *FOLDER.split("/"), name))
    return Source(_version(files["__init__.py"]), _source_body(read_bytes(module), module), files)


def _source_files(folder: str) -> dict[str, bytes]:
    found = {}
    for top, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name != "__pycache__" and not name.startswith(".")]
        for name in names:
            if name.startswith((".", "#")) or name == MANIFEST:
                continue
            if name.endswith(("~", ".pyc", ".pyo", ".bak", ".orig", ".rej", ".swp", ".tmp")):
                continue
            path = os.path.join(top, name)
            found[os.path.relpath(path, folder).replace(os.sep, "/")] = read_bytes(path)
    return found


def _version(init: bytes) -> str:
    for node in ast.parse(init).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            value = node.value.value
            if (
                "__version__" in names
                and isinstance(value, str)
                and re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*", value)
            ):
                return value
    raise Refusal(f'internal error: no __version__ = "x.y.z" in this project\'s {FOLDER}/__init__.py')


def _source_body(data: bytes, name: str) -> list[str]:
    lines = data.splitlines()
    stripped = [line.rstrip() for line in lines]
    if stripped.count(BEGIN.encode()) != 1 or stripped.count(END.encode()) != 1:
        raise Refusal(f"internal error: {name} must hold each marker line once")
    body = b"\n".join(lines[stripped.index(BEGIN.encode()) + 1 : stripped.index(END.encode())])
    if any(byte > 127 for byte in body):
        raise Refusal(f"internal error: {name} must be ASCII between the markers")
    return body.decode("ascii").split("\n")

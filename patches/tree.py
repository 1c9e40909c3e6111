"""Files and folders as they lie on the disk, and their digests."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from patches.layout import MANIFEST


@dataclass(frozen=True)
class Tree:
    """All that a folder holds, by name with forward slashes."""

    files: dict[str, bytes]
    caches: list[str]  # files in __pycache__
    folders: list[str]  # parents before children
    odd: list[str]  # links, sockets and the like


def digest(data: bytes) -> str:
    """Return the sha256 of `data` with its line endings read as LF: git may convert those in a clone."""
    return hashlib.sha256(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).hexdigest()


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: digest(files[name]) for name in sorted(files)}


def folder_digest(files: dict[str, bytes]) -> str:
    """Return one digest for the names and contents of a folder, its manifest left out."""
    rows = [f"{name} {value}\n" for name, value in digests(files).items() if name != MANIFEST]
    return digest("".join(rows).encode("utf-8"))


def read_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def read_tree(top: str) -> Tree:
    """Read everything below the folder `top`, following no link."""
    tree = Tree({}, [], [], [])

    def visit(inner: str) -> None:
        with os.scandir(os.path.join(top, inner)) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                name = f"{inner}/{entry.name}" if inner else entry.name
                if entry.is_dir(follow_symlinks=False):
                    tree.folders.append(name)
                    visit(name)
                elif not entry.is_file(follow_symlinks=False):
                    tree.odd.append(name)
                elif inner.rsplit("/", 1)[-1] == "__pycache__":
                    tree.caches.append(name)
                else:
                    tree.files[name] = read_bytes(entry.path)

    visit("")
    return tree

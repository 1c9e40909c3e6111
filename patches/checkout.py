"""What was found in a checkout: the file with or without the block, the folder, and what is in the way."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from patches.block import Block, find_block
from patches.layout import BEGIN, FOLDER, MANIFEST, MODULE, PREFIX, RIVAL_MODULE, TOOL, Refusal
from patches.tree import Tree, digest, digests, folder_digest, read_bytes, read_tree


@dataclass(frozen=True)
class Folder:
    """A utils/thop that this project wrote."""

    tree: Tree
    version: str
    files: dict[str, bytes]  # ours, the manifest included
    has_manifest: bool
    edited: list[str]
    missing: list[str]
    foreign: list[str]  # put there by somebody else


@dataclass(frozen=True)
class Checkout:
    """What was found under PATH."""

    root: str
    target: str  # where torch_utils.py really lies
    status: os.stat_result
    data: bytes
    block: Block | None
    folder: Folder | None
    rivals: list[str]  # a utils/thop or utils/thop.py of somebody else
    stale: list[str]  # paths that a killed run left behind

    def path(self, name: str) -> str:
        return os.path.join(self.root, *name.split("/"))


def open_checkout(root: str, project: str) -> Checkout:
    """Look at PATH and refuse what is no checkout, this project itself above all; nothing is written."""
    module = os.path.join(root, *MODULE.split("/"))
    if not os.path.lexists(root):
        raise Refusal(f"no such folder: {root}")
    if not os.path.isdir(root):
        raise Refusal(f"{root} is not a folder; {_what_path_is(root, project)}")
    if os.path.realpath(root) == project:
        raise Refusal(f"{root} is this project itself; {_what_path_is(root, project)}")
    if not os.path.lexists(module):
        raise Refusal(f"no {MODULE} in {root}; {_what_path_is(root, project)}")
    target = os.path.realpath(module)
    if not os.path.isfile(target):
        raise Refusal(f"{module} is not a regular file")
    data = read_bytes(target)
    if _is_source(data) and os.path.isfile(os.path.join(root, "patches", "apply.py")):
        raise Refusal(f"{root} is this project itself; {_what_path_is(root, project)}")
    block = find_block(data, module)
    folder = _find_folder(os.path.join(root, *FOLDER.split("/")), block)
    rivals = [] if folder else [FOLDER]
    rivals.append(RIVAL_MODULE)
    rivals = [name for name in rivals if os.path.lexists(os.path.join(root, *name.split("/")))]
    stale = _find_stale([os.path.join(root, "utils"), os.path.dirname(target)])
    return Checkout(root, target, os.stat(target), data, block, folder, rivals, stale)


def _what_path_is(root: str, project: str) -> str:
    parent = os.path.dirname(os.path.abspath(root))
    children: list[str] = []
    if os.path.isdir(root):
        children = [os.path.join(root, name) for name in sorted(os.listdir(root))]
    for candidate in [os.path.join(root, "yolov5"), parent, os.path.dirname(parent), *children]:
        found = os.path.isfile(os.path.join(candidate, *MODULE.split("/")))
        if found and os.path.realpath(candidate) not in (project, os.path.realpath(root)):
            return f"did you mean {candidate} ?"
    return "PATH is a YOLOv5 checkout (with train.py, models/ and utils/) or an installed site-packages/yolov5"


def _is_source(data: bytes) -> bool:
    return BEGIN.encode() in [line.rstrip() for line in data.splitlines()]


def _find_folder(path: str, block: Block | None) -> Folder | None:
    if os.path.islink(path) or not os.path.isdir(path):
        return None
    tree = read_tree(path)
    manifest = _read_manifest(tree.files.get(MANIFEST, b""))
    if manifest is not None:
        version, recorded = manifest
    elif block and block.note and block.note.files == folder_digest(tree.files):
        version, recorded = block.version, digests(tree.files)
        recorded.pop(MANIFEST, None)
    else:
        return None
    names = {*recorded, MANIFEST}
    files = {name: data for name, data in tree.files.items() if name in names}
    edited = [name for name in recorded if name in files and digest(files[name]) != recorded[name]]
    missing = [name for name in recorded if name not in files]
    return Folder(tree, version, files, manifest is not None, edited, missing, _foreign(tree, names))


def _read_manifest(data: bytes) -> tuple[str, dict[str, str]] | None:
    try:
        manifest = json.loads(data.decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(manifest, dict) or manifest.get("tool") != TOOL:
        return None
    version, files = manifest.get("version"), manifest.get("files")
    if not isinstance(version, str) or not isinstance(files, dict) or "__init__.py" not in files:
        return None
    return (version, files) if all(isinstance(value, str) for value in files.values()) else None


def _foreign(tree: Tree, names: set[str]) -> list[str]:
    """Name what is in our folder and is neither ours nor Python's cache of ours."""
    homes = {""}
    for name in names:
        for depth in range(1, name.count("/") + 1):
            homes.add("/".join(name.split("/")[:depth]))
    found = [name for name in tree.files if name not in names] + tree.odd
    for name in tree.caches:
        cache, leaf = name.rsplit("/", 1)
        module = cache[: -len("__pycache__")] + leaf.split(".", 1)[0] + ".py"
        if not leaf.endswith(".pyc") or module not in names:
            found.append(name)
    for name in tree.folders:
        parent, leaf = name.rpartition("/")[::2]
        if name not in homes and not (leaf == "__pycache__" and parent in homes):
            found.append(name)
    return sorted(found)


def _find_stale(folders: list[str]) -> list[str]:
    found = {}
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            if name.startswith(PREFIX):
                path = os.path.join(folder, name)
                found[os.path.realpath(path)] = path
    return list(found.values())


def edited_block(checkout: Checkout, block: Block) -> Refusal:
    name = checkout.path(MODULE)
    return Refusal(f"{name} has been edited inside the block at line {block.line}; undo that edit first")


def refuse_if_touched(checkout: Checkout, folder: Folder) -> None:
    """Refuse to remove a folder that holds work of the user's."""
    for name in folder.edited:
        raise Refusal(f"{checkout.path(f'{FOLDER}/{name}')} has been edited since; move it away first")
    for name in folder.foreign:
        raise Refusal(f"{checkout.path(f'{FOLDER}/{name}')} is not from this project; move it away first")

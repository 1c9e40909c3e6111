"""Changes on the disk that can be taken back, one by one."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Callable, Iterator

from patches.layout import Refusal
from patches.tree import Tree, read_bytes, read_tree


@dataclass(frozen=True)
class Step:
    """One change on disk and its opposite, which also has to cope with a change half or not made."""

    what: str
    do: Callable[[], None]
    undo: Callable[[], None]


def perform(steps: list[Step]) -> None:
    """Take all steps, or none: after a failure, take back those begun."""
    begun: list[Step] = []
    try:
        for step in steps:
            begun.append(step)
            step.do()
    except BaseException as error:
        left = _take_back(begun)
        if left:
            raise Refusal(f"{_told(begun[-1], error)}; then {left}; run apply.py again to repair that") from None
        if isinstance(error, OSError):
            raise Refusal(f"{_told(begun[-1], error)}; nothing was changed") from None
        raise


def _take_back(begun: list[Step]) -> str:
    failed = ""
    for step in reversed(begun):
        try:
            step.undo()
        except OSError as error:
            failed = failed or f"could not take back: {step.what} ({error.strerror or error})"
    return failed


def _told(step: Step, error: BaseException) -> str:
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    return f"could not {step.what}: {reason}"


def _write_file(path: str, data: bytes, mode: int, like: os.stat_result) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
    finally:
        os.close(handle)
    _give_owner(path, like)
    if mode:
        os.chmod(path, mode)


def _give_owner(path: str, like: os.stat_result) -> None:
    """Under sudo or in a container, what root writes goes to the owner of the checkout."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        made = os.stat(path)
        if (made.st_uid, made.st_gid) != (like.st_uid, like.st_gid):
            os.chown(path, like.st_uid, like.st_gid)


def _remove_file(path: str) -> None:
    if os.path.lexists(path):
        if os.name == "nt":  # which deletes no read-only file
            os.chmod(path, stat.S_IWRITE)
        os.unlink(path)


def _move_over(temporary: str, target: str) -> None:
    if os.name != "nt":
        os.replace(temporary, target)
        return
    mode = stat.S_IMODE(os.stat(target).st_mode)
    os.chmod(target, stat.S_IWRITE)  # Windows replaces no read-only file
    try:
        os.replace(temporary, target)
    except BaseException:
        os.chmod(target, mode)
        raise


def new_file(path: str, data: bytes, mode: int, like: os.stat_result) -> Step:
    """Write a file that is not there; mode 0 stands for what the umask allows."""
    return Step(f"write {path}", lambda: _write_file(path, data, mode, like), lambda: _remove_file(path))


def new_folder(path: str, like: os.stat_result) -> Step:
    def do() -> None:
        os.mkdir(path)
        _give_owner(path, like)

    def undo() -> None:
        if os.path.isdir(path):
            os.rmdir(path)

    return Step(f"create {path}", do, undo)


def move_folder(old: str, new: str) -> Step:
    def undo() -> None:
        if not os.path.lexists(old):
            os.rename(new, old)

    return Step(f"rename {old} to {new}", lambda: os.rename(old, new), undo)


def replace_file(temporary: str, target: str, before: bytes, status: os.stat_result) -> Step:
    """Let a written temporary file take the place of `target`, whose content was `before`."""

    def undo() -> None:
        if read_bytes(target) != before:
            _write_file(temporary, before, stat.S_IMODE(status.st_mode), status)
            _move_over(temporary, target)

    return Step(f"replace {target}", lambda: _move_over(temporary, target), undo)


def delete_file(path: str) -> Step:
    kept: list[tuple[bytes, os.stat_result]] = []

    def do() -> None:
        kept.append((read_bytes(path), os.stat(path)))
        _remove_file(path)

    def undo() -> None:
        if not os.path.lexists(path):
            data, status = kept[0]
            _write_file(path, data, stat.S_IMODE(status.st_mode), status)

    return Step(f"delete {path}", do, undo)


def delete_folder(path: str) -> Step:
    kept: list[os.stat_result] = []

    def do() -> None:
        kept.append(os.stat(path))
        os.rmdir(path)

    def undo() -> None:
        if not os.path.isdir(path):
            os.mkdir(path)
            _give_owner(path, kept[0])
            os.chmod(path, stat.S_IMODE(kept[0].st_mode))

    return Step(f"delete {path}", do, undo)


def delete_tree(top: str, tree: Tree) -> Iterator[Step]:
    """Delete what `tree` lists below `top`, file by file, and `top` last."""
    for name in [*tree.files, *tree.caches]:
        yield delete_file(os.path.join(top, *name.split("/")))
    for name in reversed(tree.folders):
        yield delete_folder(os.path.join(top, *name.split("/")))
    yield delete_folder(top)


def delete_stale(path: str) -> Iterator[Step]:
    """Delete what a killed run left behind."""
    if os.path.islink(path) or not (os.path.isfile(path) or os.path.isdir(path)):
        raise Refusal(f"{path} is neither a file nor a folder; move it away first")
    if os.path.isfile(path):
        yield delete_file(path)
        return
    tree = read_tree(path)
    for name in tree.odd:
        raise Refusal(f"{os.path.join(path, name)} is neither a file nor a folder; move it away first")
    yield from delete_tree(path, tree)


def new_tree(top: str, files: dict[str, bytes], like: os.stat_result) -> Iterator[Step]:
    """Write `files` into a folder that is not there."""
    made = {top}
    yield new_folder(top, like)
    for name in sorted(files):
        parts = name.split("/")
        for depth in range(1, len(parts)):
            folder = os.path.join(top, *parts[:depth])
            if folder not in made:
                made.add(folder)
                yield new_folder(folder, like)
        yield new_file(os.path.join(top, *parts), files[name], 0, like)

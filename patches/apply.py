"""Put memory access into a YOLOv5 checkout, show what that would change, or take it out again.

    python patches/apply.py PATH             apply, or replace another version of it
    python patches/apply.py PATH --check     say whether it is applied, and which version; the status is 1 if not
    python patches/apply.py PATH --diff      print the change as a unified diff, torch_utils.py first; write nothing
    python patches/apply.py PATH --revert    take it out, byte for byte

PATH is the folder of a YOLOv5 checkout or of the installed package (site-packages/yolov5).

Two things travel: the block between the two marker lines of this project's utils/torch_utils.py, which is
appended to the checkout's own file, and the folder utils/thop. Everything is prepared and compiled in memory
before the first write, and every write can be undone. Standard library only; torch is not needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import Sequence

if sys.version_info < (3, 8):
    sys.exit("apply.py: needs Python 3.8 or newer, and this is {}.{}".format(*sys.version_info[:2]))

SOURCE_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if SOURCE_ROOT not in sys.path:
    sys.path.insert(0, SOURCE_ROOT)

from patches.block import Block, Note, render_block, without_block
from patches.checkout import Checkout, Folder, edited_block, open_checkout, refuse_if_touched
from patches.layout import FOLDER, MANIFEST, MODULE, Refusal
from patches.plan import plan
from patches.source import Source, load_source
from patches.steps import perform
from patches.tree import digest, folder_digest
from patches.wanted import Wanted, counted, diff, wanted_by_apply


def apply(checkout: Checkout, source: Source) -> str:
    """Put this version in, and return what to tell the user."""
    wanted = wanted_by_apply(checkout, source)
    steps = plan(checkout, wanted)
    perform(steps)
    block, folder = checkout.block, checkout.folder
    changed = wanted.module != checkout.data or wanted.files != (folder.files if folder else {})
    cleaned = "\n  left-overs of an interrupted run removed" if checkout.stale else ""
    if not changed:
        return f"already applied: memory access {source.version} in {checkout.root}{cleaned}"
    before = block.version if block else folder.version if folder else ""
    if not before:
        done = f"applied: memory access {source.version} to {checkout.root}"
    elif before != source.version:
        done = f"replaced {before} by {source.version}: memory access in {checkout.root}"
    elif block and folder and folder.has_manifest and not folder.missing and _belong(block, folder):
        done = f"replaced another state of {before}: memory access in {checkout.root}"
    else:
        done = f"completed: memory access {source.version} in {checkout.root}"
    told = [
        f"{done}{cleaned}",
        f"  {MODULE}  one block between two marker lines" + ("" if block else ", added at the end"),
        f"  {FOLDER}/  {len(wanted.files)} files",
        "See it: the model summary of train.py, val.py, detect.py and export.py now ends in the memory accesses.",
        f"Take it out: python {_quoted(sys.argv[0])} {_quoted(checkout.root)} --revert",
    ]
    return "\n".join(told)


def revert(checkout: Checkout) -> str:
    """Take out what is there, and return what to tell the user."""
    block, folder = checkout.block, checkout.folder
    data = checkout.data
    if block:
        if block.note is None:
            raise edited_block(checkout, block)
        if FOLDER in checkout.rivals:
            raise Refusal(f"{checkout.path(FOLDER)} is not as apply.py wrote it, and has no valid {MANIFEST}")
        data = without_block(data, block)
    if folder:
        refuse_if_touched(checkout, folder)
    perform(plan(checkout, Wanted(data, {})))
    told = []
    if block and block.note and digest(data) == block.note.original:
        told.append(f"  {MODULE}  is again what it was")
    elif block:
        told.append(f"  {MODULE}  block taken out; other edits to that file were kept")
    if folder:
        told.append(f"  {FOLDER}/  removed")
    if checkout.stale:
        told.append("  left-overs of an interrupted run removed")
    if not told:
        return f"not applied, nothing to take out: {checkout.root}"
    version = block.version if block else folder.version if folder else ""
    return "\n".join([f"taken out: memory access {version}".rstrip() + f" from {checkout.root}", *told])


def check(checkout: Checkout, source: Source) -> str:
    """Say whether, and which version, is applied."""
    block, folder = checkout.block, checkout.folder
    again = f"apply.py {_quoted(checkout.root)}"
    hint = f"{again} completes it, with --revert takes it out"
    notes = [f"{checkout.path(name)} is not from this project" for name in checkout.rivals]
    if block and block.note is None:
        notes.append(f"{checkout.path(MODULE)} has been edited inside the block")
    if folder:
        notes += [f"{checkout.path(f'{FOLDER}/{name}')} has been edited" for name in folder.edited]
        notes += [f"{checkout.path(f'{FOLDER}/{name}')} is not from this project" for name in folder.foreign]
    if block and folder and not folder.has_manifest:
        notes.append(f"{MANIFEST} is gone (YOLOv5's .gitignore skips it); --revert works without it")
    if checkout.stale:
        notes.append("an interrupted run left temporary files, which the next apply or --revert removes")
    if not block and not folder:
        state = f"not applied: {checkout.root}"
    elif not block and folder:
        state = f"incomplete: {checkout.root} has {FOLDER} {folder.version}, no block in {MODULE}; {hint}"
    elif block and not folder:
        state = f"incomplete: {checkout.root} has the block {block.version}, no {FOLDER} for it; {hint}"
    elif block and folder and (folder.missing or not _belong(block, folder)):
        state = f"incomplete: {checkout.root} has the block {block.version} and {FOLDER} {folder.version}"
        state += "".join(f", {name} is missing" for name in folder.missing) + f"; {hint}"
    elif block:
        state = f"applied: memory access {block.version} in {checkout.root}"
        if block.version != source.version:
            state += f" (this is {source.version}: {again} replaces it)"
        elif block.note and not _is_current(checkout, block, block.note, source):
            state += f" (another state of it than this one: {again} replaces it)"
    return "\n  ".join([state, *notes])


def _belong(block: Block, folder: Folder) -> bool:
    """Say whether block and folder were written together, whatever was edited since."""
    if block.version != folder.version:
        return False
    return block.note is None or bool(folder.edited) or block.note.files == folder_digest(folder.files)


def _is_current(checkout: Checkout, block: Block, note: Note, source: Source) -> bool:
    """Say whether the block is the one that this source would write."""
    note = replace(note, files=folder_digest(source.files))
    found = b"\n".join(checkout.data[block.start : block.end].splitlines()) + b"\n"
    return found == render_block(source, note).encode("ascii")


def _print_diff(checkout: Checkout, source: Source) -> None:
    wanted = wanted_by_apply(checkout, source)
    text = diff(checkout, wanted)
    said = counted(checkout, wanted) if text else f"already applied, no difference: {checkout.root}"
    print(f"apply.py: {said}", file=sys.stderr)
    sys.stdout.flush()
    _write(text)


def _tell(text: str) -> None:
    """Print what was done."""
    _write(f"{text}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def _write(text: bytes) -> None:
    """Write to standard output, unless nobody reads on: what was done is done."""
    try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # a pager was closed; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apply.py", description="Put memory access into a YOLOv5 checkout, or take it out again."
    )
    parser.add_argument("path", metavar="PATH", help="a YOLOv5 checkout or an installed site-packages/yolov5")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="say whether it is applied, and which version")
    action.add_argument("--diff", action="store_true", help="print what would change as a unified diff; write nothing")
    action.add_argument("--revert", action="store_true", help="take it out, byte for byte")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a path may hold letters that the console lacks
    try:
        checkout = open_checkout(arguments.path, SOURCE_ROOT)
        if arguments.revert:
            _tell(revert(checkout))
        elif arguments.check:
            state = check(checkout, load_source(SOURCE_ROOT))
            _tell(state)
            return 0 if state.startswith("applied") else 1
        elif arguments.diff:
            _print_diff(checkout, load_source(SOURCE_ROOT))
        else:
            _tell(apply(checkout, load_source(SOURCE_ROOT)))
    except Refusal as refusal:
        reason = str(refusal)
    except OSError as error:
        reason = f"{error.filename or arguments.path}: {error.strerror or error}"
    except KeyboardInterrupt:
        reason = "interrupted; nothing was changed"
    else:
        return 0
    print("apply.py: " + " ".join(reason.split("\n")), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""The order of the steps from what a checkout holds to what it shall hold."""

from __future__ import annotations

import os
import stat

from patches.checkout import Checkout, Folder
from patches.layout import FOLDER, PREFIX, Refusal
from patches.steps import Step, delete_stale, delete_tree, move_folder, new_file, new_tree, replace_file
from patches.wanted import Wanted


def plan(checkout: Checkout, wanted: Wanted) -> list[Step]:
    """List the steps to `wanted`: first all that needs room on the disk, then renames, then deletions.

    A block without its folder does not work, a folder without a block does no harm. So the folder goes in
    before the block, and the block goes out before the folder.
    """
    utils, place = checkout.path("utils"), checkout.path(FOLDER)
    fresh, old = os.path.join(utils, f"{PREFIX}new"), os.path.join(utils, f"{PREFIX}old")
    temporary = os.path.join(os.path.dirname(checkout.target), f"{PREFIX}file")
    folder = checkout.folder
    moves = wanted.files != (folder.files if folder else {})
    steps = [step for path in checkout.stale for step in delete_stale(path)]
    if moves and wanted.files:
        steps += new_tree(fresh, wanted.files, os.stat(utils))
    swap = [move_folder(place, old)] if moves and folder else []
    if moves and wanted.files:
        swap.append(move_folder(fresh, place))
    exchange = []
    if wanted.module != checkout.data:
        mode = stat.S_IMODE(checkout.status.st_mode)
        steps.append(new_file(temporary, wanted.module, mode, checkout.status))
        exchange.append(replace_file(temporary, checkout.target, checkout.data, checkout.status))
    steps += swap + exchange if wanted.files else exchange + swap
    if moves and folder:
        steps += delete_tree(old, folder.tree)
    if steps:
        _refuse_unwritable(checkout, folder if moves else None)
    return steps


def _refuse_unwritable(checkout: Checkout, folder: Folder | None) -> None:
    places = [checkout.path("utils"), os.path.dirname(checkout.target)]
    if folder:
        places += [checkout.path(name) for name in (FOLDER, *(f"{FOLDER}/{x}" for x in folder.tree.folders))]
    for path in places:
        if not os.access(path, os.W_OK | os.X_OK):
            raise Refusal(f"no permission to write in {path}; nothing was changed")

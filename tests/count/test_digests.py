"""What a recording is read for is what separate runs gave: totals, rows, calls, launches and training, bit for bit.

The digests were made by `benchmarks/digests.py run` with the version before there was a recording, under the packages
that the first line of the file names. A change that is meant makes them anew, by the same command without predictions.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.digests import DEVICES, answers
from benchmarks.zoo import FAMILIES, build_without_values

VERSIONS, *ROWS = map(json.loads, (Path(__file__).parent / "digests.jsonl").read_text(encoding="utf-8").splitlines())


def is_other(package: str) -> bool:
    installed: str = importlib.import_module(package).__version__
    return installed.partition("+")[0] != VERSIONS[package]


@pytest.mark.skipif(any(map(is_other, VERSIONS)), reason=f"made with {VERSIONS}")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_the_answers_are_as_before(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    family, _, name = row["name"].partition(":")
    model, _ = build_without_values(family, name)
    torch.set_num_threads(1)
    found = json.loads(json.dumps(answers(model, FAMILIES[family].inputs(name, model, "meta"))))
    assert {"name": row["name"], **{key: value for key, value in found.items() if key not in DEVICES}} == row

"""Compile one network with torch.compile for the CPU and write how many kernels it calls.

python with_inductor.py NETWORK SIZE OUT.json
"""

from __future__ import annotations

import json
import re
import sys
import types
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from networks import build

# A call in the wrapper that Inductor writes: of a kernel that it generated, or of one of a library.
CALL = re.compile(r"^ +(?:\w+(?:, \w+)* = )?(cpp_fused_\w+|cpp_\w+|extern_kernels\.\w+|torch\.ops\.[\w.]+)\(")
NOT_KERNELS = re.compile(r"empty_strided|assert_size_stride|reinterpret_tensor|inductor\._reinterpret|_alloc")


def calls(code: str) -> list[str]:
    """Return the kernels that a wrapper's `call` calls, in order."""
    found = []
    inside = False
    for line in code.splitlines():
        if re.match(r"\s*def call\(", line):
            inside = True
        elif re.match(r"\s*def |\S", line):
            inside = False
        match = CALL.match(line) if inside else None
        if match and not NOT_KERNELS.search(match.group(1)):
            found.append(match.group(1))
    return found


def unbroken(model: Any) -> None:
    """Let YOLOv5's SPPF compute the same without silencing warnings, at which torch.compile would break the graph."""

    def forward(self: Any, x: Any) -> Any:
        import torch

        first = self.cv1(x)
        second = self.m(first)
        third = self.m(second)
        return self.cv2(torch.cat((first, second, third, self.m(third)), 1))

    for module in model.modules():
        if type(module).__name__ == "SPPF":
            module.forward = types.MethodType(forward, module)


def main() -> None:
    """Build, compile with frozen weights, run once, count."""
    warnings.simplefilter("ignore")
    network, size, out = sys.argv[1:]
    import torch
    import torch._inductor.config
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.utils import run_and_get_code

    torch._inductor.config.freezing = True
    torch._inductor.config.fx_graph_cache = False
    AsyncCompile.cpp_pybinding = lambda *_: lambda *_: None  # calls are counted, so kernels need not be compiled
    torch.set_num_threads(1)
    with torch.no_grad():
        model = build(network)
        if network.startswith("y5:"):
            unbroken(model)
        compiled = torch.compile(model, fullgraph=True)
        _, codes = run_and_get_code(compiled, torch.zeros(1, 3, int(size), int(size)))
    found = [name for code in codes for name in calls(code)]
    Path(out).write_text(json.dumps({"kernels": len(found), "calls": Counter(found), "code": codes}), encoding="utf-8")


if __name__ == "__main__":
    main()

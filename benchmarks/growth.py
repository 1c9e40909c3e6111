"""How long 10,000 operators take: nothing that is asked of a run may grow faster than they do.

python benchmarks/growth.py [OPERATORS]
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from test_growth import ASKED, BODIES, Repeats  # noqa: E402


def main() -> None:
    """Print the seconds of each question for each kind of network."""
    torch.set_num_threads(1)
    operators = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print("".join(text.rjust(12) for text in ("network", *ASKED)))
    for name, body in BODIES.items():
        per_turn = {"diamond": 3, "constants": 2, "written to": 5, "views": 6}.get(name, 1)
        model, row = Repeats(body, operators // per_turn), [name]
        for ask in ASKED.values():
            began = time.perf_counter()
            ask(model)
            row.append(f"{time.perf_counter() - began:.2f}")
        print("".join(text.rjust(12) for text in row), flush=True)


if __name__ == "__main__":
    main()

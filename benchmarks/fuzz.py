"""2,000 made-up modules that write to, share, replace and keep whatever they can reach (``tests/fuzzing.py``).

    python benchmarks/fuzz.py [CASES [FIRST SEED]]

Child processes run them and are started again after a death; what of the user's was touched is printed.
"""

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from fuzzing import run_cases  # noqa: E402


def main() -> int:
    """Run the cases in portions; return 1 where something was touched or a process has died."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    began, wrong = time.time(), []
    for seed in range(first, first + cases, 100):
        _, found = run_cases(seed, min(seed + 100, first + cases))
        wrong += found
        print("\n".join([*found, f"{seed + 100 - first} cases, {len(wrong)} wrong, {time.time() - began:.0f} s"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

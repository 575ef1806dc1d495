"""CPU seconds of `cwsam --help` against a bare interpreter, in one run.

python tests/benchmarks/startup.py
"""

import os
import statistics
import subprocess
import sys

PAIRS = 15


def cpu_seconds(*command: str) -> float:
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    bare = (sys.executable, "-c", "pass")
    commands = {
        "cwsam --help": (sys.executable, "-m", "cwsam_cli", "--help"),
        "cwsam tile --help": (sys.executable, "-m", "cwsam_cli", "tile", "--help"),
        "import torch (what --help does without)": (sys.executable, "-c", "import torch"),
    }
    for name, command in commands.items():
        pairs = [(cpu_seconds(*command), cpu_seconds(*bare)) for _ in range(PAIRS)]
        ours, floor = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:42s} {1000 * ours:7.0f} ms   bare Python {1000 * floor:5.0f} ms   ×{ours / floor:.1f}")


if __name__ == "__main__":
    main()

"""How long `import vitral` and `vitral --help` take, and whether they stay clear of torch.

python bench/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import vitral": [sys.executable, "-c", "import vitral, sys; assert 'torch' not in sys.modules"],
    "vitral --help": [sys.executable, "-m", "vitral", "--help"],
}


def main() -> None:
    for name, command in COMMANDS.items():
        times = []
        for _ in range(7):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        print(f"{name:16s} median {statistics.median(times):.3f} s, best {min(times):.3f} s")


if __name__ == "__main__":
    main()

"""Run coremltools' own test suites against milpasses: the compression functions, the interpreter,
and the reader of neural networks.

    python tests/conformance/run.py

Each suite prints its table, and has options of its own when started by itself. The exit status is the worst
of them.
"""

import subprocess
import sys
from pathlib import Path

SUITES = ("optimize_run.py", "interpreter_run.py", "nn_run.py")


def main() -> int:
    folder = Path(__file__).resolve().parent
    return max(subprocess.run([sys.executable, str(folder / suite)]).returncode for suite in SUITES)


if __name__ == "__main__":
    sys.exit(main())

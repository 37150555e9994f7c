"""``make bench``: milpasses against coremltools, in the same run, on models it builds itself.

    python -m bench [--quick] [--only SECTION ...] [-o DIR]

Writes ``bench.md`` and ``bench.json``. Ratios are the result; seconds are this machine's.
"""

import argparse
import os
import platform
from collections.abc import Callable
from pathlib import Path

import coremltools
import numpy as np

import milpasses
from bench import (
    activations,
    budget,
    calibrated_costs,
    calls,
    costs,
    interpreter,
    kernels,
    neuralnetwork,
    pass_memory,
    quality,
    quality_calibrated,
    tasks,
    tuning,
    vectors,
)
from bench.table import Table, write

SECTIONS: dict[str, list[Callable[[bool], Table]]] = {
    "kernels": [lambda _: kernels.kmeans(), lambda _: kernels.packing()],
    "vectors": [lambda _: vectors.vectors()],
    "quality": [quality.quality],
    "speed": [calls.speed],
    "ultralytics": [calls.ultralytics],
    "costs": [
        lambda _: costs.start(),
        lambda _: costs.memory(),
        lambda _: pass_memory.passes(),
        costs.growth,
    ],
    "interpreter": [lambda _: interpreter.speed(), lambda _: interpreter.memory()],
    "neuralnetwork": [lambda _: neuralnetwork.kmeans()],
    "calibrated": [
        lambda _: quality_calibrated.layers(),
        lambda _: quality_calibrated.networks(),
        lambda _: calibrated_costs.layer(),
        lambda _: calibrated_costs.network(),
    ],
    "activations": [lambda _, make=make: make() for make in activations.SECTIONS.values()],
    "tasks": [lambda _: tasks.digits(), lambda _: tasks.transformer(), lambda _: tasks.food()],
    "tuning": [lambda _, make=make: make() for make in tuning.SECTIONS.values()],
    "budget": [
        *(lambda _, name=name: budget.cost(name) for name in budget.COSTED),
        *(lambda _, name=name: budget.cost_calibrated(name) for name in budget.CALIBRATED),
        *(lambda _, name=name: budget.against_uniform(name) for name in budget.NETWORKS),
    ],
}


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the 184 M-weight model's long calls")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("-o", "--output", type=Path, default=Path("out") / "bench")
    options = parser.parse_args()
    versions = (
        f"milpasses {milpasses.__version__}, coremltools {coremltools.__version__}, NumPy {np.__version__}"
    )
    machine = (
        f"{versions}, Python {platform.python_version()}, {os.cpu_count()} processors, {platform.machine()}"
    )
    print(machine, flush=True)
    tables = []
    for name in options.only:
        for section in SECTIONS[name]:
            print(name, flush=True)
            tables.append(section(options.quick))
            write(tables, options.output, machine)
    print(f"wrote {options.output / 'bench.md'} and bench.json")


if __name__ == "__main__":
    main()

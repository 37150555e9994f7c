"""What a user pays besides: memory, imports, compilation, and growth with weights and ops."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.models import package
from bench.table import Table

# VmHWM, since ru_maxrss of a process includes the peak of the parent that it was forked from.
PEAK = """
import json, re
{body}
peak = int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({{"peak": peak, **facts}}))
"""


def child(body: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run ``body`` in a fresh interpreter; its ``facts`` and its peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(body=body)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    return json.loads(done.stdout.splitlines()[-1])


def memory() -> Table:
    """Peak memory of ``compress`` over what importing takes, as a multiple of the weights' bytes."""
    table = Table(
        "Peak memory",
        "Resident peak of a process, less that of one that only imports; wanted: at most 2.",
    )
    kernels = "import milpasses_kernels.kmeans, milpasses_kernels.rounding, milpasses_kernels.decode"
    idle = child(f"import milpasses; {kernels}; facts = {{}}")["peak"]
    for name in ("resnet50", "decoder_184m"):
        path = package(name)
        size = weights(path)
        for recipe in ("int8", "int4-b32", "pal4-g16", "pal8"):
            body = f"import milpasses as mp; mp.compress({str(path)!r}, {recipe!r}); facts = {{}}"
            peak = child(body)["peak"] - idle
            table.add(
                model=name, recipe=recipe, weights_MB=size / 1e6, peak_MB=peak / 1e6, multiple=peak / size
            )
    return table


def weights(path: Path) -> int:
    """Bytes of a package's weight file."""
    return next(path.rglob("weight.bin")).stat().st_size


def start() -> Table:
    """Seconds that importing and compiling take."""
    table = Table(
        "Start", "Fresh processes; wanted: import under 0.3 s, compilation under 20 s first and 1 s after."
    )
    clock = "import time, coremltools; b = time.perf_counter(); import milpasses; "
    imported = min(child(clock + "facts = {'s': time.perf_counter() - b}")["s"] for _ in range(3))
    table.add(what="import milpasses, after coremltools", seconds=imported, wanted=0.3)
    path = package("mobilenet_v3_small")
    recipes = [
        "int8",
        "int4-b32",
        "pal4",
        "pal4-g16",
        "pal4-v2",
        "sparse50+pal4",
        "pal4+int8",
        "unique",
        "sparse2of4",
    ]
    body = f"""
import time, milpasses as mp
start = time.perf_counter()
for recipe in {recipes!r}: mp.compress({str(path)!r}, recipe)
first = time.perf_counter() - start
start = time.perf_counter()
for recipe in {recipes!r}: mp.compress({str(path)!r}, recipe)
facts = {{"extra": first - (time.perf_counter() - start)}}
"""
    with tempfile.TemporaryDirectory() as cache:
        environment = {"NUMBA_CACHE_DIR": cache}
        first = child(body, environment)["extra"]
        table.add(
            what=f"compilation in all, {len(recipes)} recipes, first time ever", seconds=first, wanted=20
        )
        second = child(body, environment)["extra"]
        table.add(what="the same in a second process", seconds=second, wanted=1)
    return table


def growth(quick: bool) -> Table:
    """Time per weight from 1 M to 200 M weights, per op from 200 to 5,000 ops."""
    table = Table("Growth", "Time of compress; per weight and per op it should stay flat.")
    sizes = [1_048_576, 8_388_608, 67_108_864] + ([] if quick else [200_015_872])
    for elements in sizes:
        path = package(f"one_weight-{elements}")
        for recipe in ("pal4-g16", "int4-b32"):
            seconds = measured(path, recipe)
            table.add(
                weights=elements,
                ops=1,
                recipe=recipe,
                seconds=seconds,
                ns_per_weight=seconds / elements * 1e9,
            )
    for count in (200, 1000, 5000):
        path = package(f"many_ops-{count}")
        seconds = measured(path, "pal4")
        table.add(
            weights=count * 4096, ops=count, recipe="pal4", seconds=seconds, us_per_op=seconds / count * 1e6
        )
    return table


def measured(path: Path, recipe: str) -> float:
    """Seconds of the second of two calls in a fresh process."""
    body = f"""
import time, milpasses as mp
mp.compress({str(path)!r}, {recipe!r})
start = time.perf_counter(); mp.compress({str(path)!r}, {recipe!r})
facts = {{"s": time.perf_counter() - start}}
"""
    return float(child(body)["s"])

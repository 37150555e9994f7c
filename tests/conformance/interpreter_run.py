"""Run coremltools' own op tests against the interpreter and print a table of real comparisons.

    python tests/conformance/interpreter_run.py [--suite mil|torch|all] [--jobs N] [--only PART] [--timeout S]

Each test file runs in its own process with a timeout. A comparison is a call of coremltools'
``compare_backend`` that checked at least one output; skipped tests, tests of type inference and expected
errors count nothing. Failed comparisons are listed, grouped by test function, with the reason that
``interpreter_known`` gives; the exit status is 1 if less than 99 % pass, if a failure has no reason, or if
a file timed out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import coremltools
from interpreter_known import TORCH_TESTS, reason_of

HERE = Path(__file__).resolve().parent
MIL = Path(coremltools.__file__).parent / "converters" / "mil"
GOAL = 0.99


@dataclass
class Result:
    """What one test file did."""

    name: str
    made: int = 0
    failed: Counter[tuple[str, str]] = field(
        default_factory=Counter[tuple[str, str]]
    )  # (test, first error line)
    seconds: float = 0.0
    note: str = ""


def _jobs(suite: str, only: str) -> list[tuple[str, list[str]]]:
    """(name, pytest arguments) of each process to start."""
    jobs: list[tuple[str, list[str]]] = []
    if suite in ("mil", "all"):
        root = MIL / "mil" / "ops" / "tests"
        jobs += [(str(path.relative_to(root)), [str(path)]) for path in sorted(root.glob("*/test_*.py"))]
    if suite in ("torch", "all"):
        path = MIL / "frontend" / "torch" / "test" / "test_torch_ops.py"
        jobs += [(f"torch::{name}", [f"{path}::{name}"]) for name in TORCH_TESTS]
    return [job for job in jobs if only in job[0]]


def _run(name: str, arguments: list[str], timeout: float) -> Result:
    result = Result(name)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        log.touch()
        paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(HERE)]))
        environment = {
            **os.environ,
            "MILPASSES_CONFORMANCE_LOG": str(log),
            "PYTHONPATH": paths,
            "TMPDIR": folder,
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "ops_plugin",
            "-p",
            "no:cacheprovider",
            "-q",
            "--tb=no",
        ]
        command += ["--no-header", "-W", "ignore", "-c", os.devnull, "--rootdir", folder, *arguments]
        try:
            done = subprocess.run(
                command,
                env=environment,
                cwd=folder,
                timeout=timeout,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode not in (0, 1, 5):
                result.note = (done.stdout + done.stderr).strip().splitlines()[-1][:200]
        except subprocess.TimeoutExpired:
            result.note = f"stopped after {timeout:.0f} s"
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        passed = {entry["passed"] for entry in entries if "passed" in entry}
        for entry in entries:
            if "passed" in entry or (entry["error"] is not None and entry["test"] in passed):
                continue  # an error that the test expects compares nothing
            result.made += 1
            if entry["error"] is not None:
                test = entry["test"].split("/")[-1].split("[")[0]
                result.failed[test, _summary(entry["error"])] += 1
    result.seconds = time.perf_counter() - start
    return result


def _summary(error: str) -> str:
    """The first telling line of an error."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    telling = [line for line in lines if "Mismatched" in line]
    return (telling or lines or ["?"])[0][:140]


def main() -> int:
    """Run, print, and say by the exit status whether the goal is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=["mil", "torch", "all"], default="mil")
    parser.add_argument("--jobs", type=int, default=1, help="files at a time")
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds for each file")
    options = parser.parse_args()
    jobs = _jobs(options.suite, options.only)
    print(f"{'file':48} {'made':>6} {'passed':>6} {'failed':>6} {'time':>7}")
    results: list[Result] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda job: _run(*job, options.timeout), jobs):
            results.append(result)
            failed = result.failed.total()
            row = (
                f"{result.name:48} {result.made:6} {result.made - failed:6} {failed:6} {result.seconds:6.1f}s"
            )
            print(f"{row}  {result.note}".rstrip(), flush=True)
    made = sum(r.made for r in results)
    failed = sum(r.failed.total() for r in results)
    share = (made - failed) / made if made else 0.0
    seconds = sum(r.seconds for r in results)
    print(f"{'all':48} {made:6} {made - failed:6} {failed:6} {seconds:6.1f}s  {share:.2%}")
    unexplained = 0
    for result in results:
        for (test, error), count in sorted(result.failed.items()):
            reason = reason_of(result.name, test)
            unexplained += reason is None
            print(f"  {result.name} {test} x{count}: {error}\n      {reason or 'NO REASON GIVEN'}")
    stopped = [r.name for r in results if r.note]
    return int(share < GOAL or unexplained > 0 or bool(stopped))


if __name__ == "__main__":
    sys.exit(main())

"""Run coremltools' own tests of neural network layers against the reader and the interpreter.

    python tests/conformance/nn_run.py [--only EXPRESSION] [--jobs N] [--timeout S] [--failures FILE] [--gpu]

Prints a table: for each layer type the predictions that tests compared, and how many of the tests that use
it passed and failed; then each failed test with what went wrong and, where it is none of ours, why.
``--failures`` writes that list to a file. The ``_gpu`` tests are the ``_cpu`` ones again; they and the stress
tests are left out unless ``--gpu``. The exit status is 1 if a test failed without a reason, or if the time
ran out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import coremltools

HERE = Path(__file__).resolve().parent
FOLDER = Path(coremltools.__file__).parent / "test" / "neural_network"
FILES = ("test_numpy_nn_layers.py", "test_nn_builder.py", "test_simple_nn_inference.py")

# What fails for a reason that is not ours: (part of the test's name, reason).
KNOWN = (("test_topk", "random integers with ties, which the test orders by NumPy's unstable argsort"),)


def _run(only: str, jobs: int, timeout: float, gpu: bool) -> tuple[list[dict[str, Any]], bool]:
    """The plugin's log, and whether the time ran out."""
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
        chosen = " and ".join(
            f"({part})" for part in (only, "" if gpu else "not _gpu and not stress") if part
        )
        command = [sys.executable, "-m", "pytest", "-p", "nn_plugin", "-p", "no:cacheprovider", "-q"]
        command += ["--tb=short", "--no-header", "-W", "ignore", "-c", os.devnull, "--rootdir", folder]
        command += [*(["-k", chosen] if chosen else []), *(["-n", str(jobs)] if jobs > 1 else [])]
        command += [str(FOLDER / name) for name in FILES]
        stopped = False
        try:
            done = subprocess.run(
                command, env=environment, cwd=folder, timeout=timeout, capture_output=True, check=False
            )
            if done.returncode not in (0, 1):
                print(done.stdout.decode()[-2000:], done.stderr.decode()[-2000:], file=sys.stderr)
        except subprocess.TimeoutExpired:
            stopped = True
        return [json.loads(line) for line in log.read_text().splitlines()], stopped


def _name(test: str) -> str:
    return "::".join(test.split("/")[-1].split("::")[-2:])


def main() -> int:
    """Run, print, and say by the exit status whether anything is unexplained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="pytest's -k expression")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds in all")
    parser.add_argument("--failures", type=Path, help="write the failed tests here")
    parser.add_argument("--gpu", action="store_true", help="with the _gpu and stress tests")
    options = parser.parse_args()
    rows, stopped = _run(options.only, options.jobs, options.timeout, options.gpu)

    predictions, users = Counter[str](), defaultdict[str, set[str]](set)
    outcomes: dict[str, tuple[str, str]] = {}
    for row in rows:
        test = _name(row["test"])
        if "outcome" in row:
            outcomes[test] = (row["outcome"], row["reason"])
            continue
        for kind in row["layers"] or ["(no network)"]:
            predictions[kind] += 1
            users[kind].add(test)
    print(f"{'layer type':32} {'compared':>8} {'passed':>7} {'failed':>7}")
    for kind in sorted(predictions):
        ended = Counter(outcomes[test][0] for test in users[kind] if test in outcomes)
        print(f"{kind:32} {predictions[kind]:8} {ended['passed']:7} {ended['failed']:7}")
    total = Counter(outcome for outcome, _ in outcomes.values())
    compared = sum("layers" in row for row in rows)
    print(f"{'all':32} {compared:8} {total['passed']:7} {total['failed']:7}  ({total['skipped']} skipped)")
    lines: list[str] = []
    unexplained = 0
    for test, (outcome, reason) in sorted(outcomes.items()):
        if outcome == "failed":
            known = next((why for part, why in KNOWN if part in test), None)
            unexplained += known is None
            lines.append(f"{test}: {reason}\n      {known or 'NO REASON GIVEN'}")
    print("\n".join(lines))
    if options.failures is not None:
        options.failures.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if stopped:
        print(f"stopped after {options.timeout:.0f} s")
    return int(unexplained > 0 or stopped)


if __name__ == "__main__":
    sys.exit(main())

"""Run coremltools' own tests of weight compression with milpasses behind its functions, and compare.

    python tests/conformance/optimize_run.py [--quick] [--jobs N] [--implementation MODULE]
    python tests/conformance/optimize_run.py --baseline

The file ``coremltools/test/optimize/coreml/test_post_training_quantization.py`` of the installed wheel runs
unmodified. What coremltools itself passes is in ``optimize_baseline.json``, which ``--baseline`` writes anew.
By itself the file tests iOS16 only, and gives up on several tests on x86-64; here it runs for iOS16 to iOS18
and tries all. Tests that call none of the five functions say nothing about an implementation: they are
counted apart.

A test that coremltools passes and milpasses fails is a regression, unless ``optimize_expected.yaml`` has the
reason why coremltools is wrong. The exit status is 1 if there is a regression that the list does not have, or
an entry in the list that is no longer needed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import coremltools
import yaml
from optimize_plugin import REPLACED

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "optimize_baseline.json"
EXPECTED = HERE / "optimize_expected.yaml"
TESTS = Path(coremltools.__file__).parent / "test/optimize/coreml/test_post_training_quantization.py"
OUTCOMES = ("passed", "failed", "skipped")

Results = dict[str, dict[str, Any]]


def run(implementation: str, *, quick: bool, jobs: int) -> Results:
    """Run the test file with ``implementation`` behind coremltools' functions; return each test's result."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",  # leave the installed package as it is
        "RUN_BACKWARD_COMPATIBILITY": "0" if quick else "1",  # "1": every target from iOS16 on
        "INCLUDE_MIL_FP32_UNIT_TESTS": "0",  # coremltools itself fails 236 of those 750
    }
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            str(TESTS),
            "--rootdir",
            str(TESTS.parent),
            "-c",
            os.devnull,
        ]
        command += ["-p", "optimize_plugin", "-p", "no:cacheprovider", "-n", str(jobs), "--runxfail"]
        command += ["-q", "--no-header", "--no-summary", "-W", "ignore"]
        command += ["--implementation", implementation, "--results", str(results)]
        done = subprocess.run(command, env=environment, stdout=sys.stderr)  # shows how far it is
        if not results.exists():
            sys.exit(f"pytest ended with status {done.returncode} and no results")
        tests: Results = json.loads(results.read_text())
    if not any(test.get("calls") for test in tests.values()):
        sys.exit(f"no test called {implementation}: nothing was measured")
    return tests


def expected_failures(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Reasons for the tests in ``names`` that the list covers, and the entries that cover none."""
    reasons: dict[str, str] = {}
    unused: list[str] = []
    entries: list[dict[str, str]] = yaml.safe_load(EXPECTED.read_text()) or []
    for entry in entries:
        case = entry.get("case", "")
        covered = [name for name in names if name.partition("[")[0] == entry["test"] and case in name]
        reasons |= dict.fromkeys(covered, entry["reason"])
        if not covered:
            unused.append(f"{entry['test']} {case}".strip())
    return reasons, unused


def table(baseline: Results, ours: Results, implementation: str) -> str:
    """Outcomes by test class, for the tests that call the functions, and one row for those that do not."""
    rows: dict[str, tuple[Counter[str], Counter[str], list[float]]] = {}
    for name, test in ours.items():
        touches = test.get("calls") or baseline[name].get("calls")
        group = name.partition("::")[0] if touches else "(calls none of the functions)"
        for row in (group, "all"):
            theirs, own, seconds = rows.setdefault(row, (Counter(), Counter(), [0.0, 0.0]))
            theirs[baseline[name]["outcome"]] += 1
            own[test["outcome"]] += 1
            seconds[0] += baseline[name].get("seconds", 0)
            seconds[1] += test.get("seconds", 0)
    order = sorted(rows, key=lambda row: (row == "all", row.startswith("("), row))
    lines = [
        f"{'':32} {'coremltools':>28} {implementation:>28}",
        f"{'':32}{2 * '  passed failed skipped CPU s'}",
    ]
    for row in order:
        theirs, own, seconds = rows[row]
        cells = [
            "".join(f"{counts[outcome]:8}" for outcome in OUTCOMES) + f"{spent:6.0f}"
            for counts, spent in zip((theirs, own), seconds, strict=True)
        ]
        lines.append(f"{row:30}{''.join(cells)}")
    return "\n".join(lines)


def listing(title: str, tests: Results, reason: str = "") -> None:
    """Print every test of ``tests``, those with the same function and error under one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, test in sorted(tests.items()):
        function, _, case = name.partition("[")
        groups.setdefault((function, test.get("error", test["outcome"])), []).append(case.rstrip("]"))
    for (function, error), cases in groups.items():
        print(f"{title}: {function}, {len(cases)} of its cases: {error}")
        for line in filter(None, [reason, *cases]):
            print(f"    {line}")


def compare(baseline: Results, ours: Results, implementation: str, whole: bool) -> int:
    """Print the table and every difference; return the exit status. ``whole``: no test was left out."""
    unknown = [name for name in ours if name not in baseline]
    if unknown:
        sys.exit(
            f"{len(unknown)} tests are not in {BASELINE.name}, such as {unknown[0]}; run with --baseline"
        )
    print(table(baseline, ours, implementation))
    lost = [name for name, test in ours.items() if test["outcome"] != baseline[name]["outcome"] == "passed"]
    gained = [name for name, test in ours.items() if baseline[name]["outcome"] != test["outcome"] == "passed"]
    reasons, unused = expected_failures(lost)
    listing("gained", {name: baseline[name] for name in gained})
    for reason in dict.fromkeys(reasons.values()):
        listing("expected", {name: ours[name] for name in lost if reasons.get(name) == reason}, reason)
    listing("REGRESSION", {name: ours[name] for name in lost if name not in reasons})
    for entry in unused if whole else []:
        print(f"NOT NEEDED: {entry}; remove it from {EXPECTED.name}")
    regressions = len(lost) - len(reasons)
    print(f"{regressions} regressions, {len(reasons)} expected differences, {len(gained)} gained")
    return 1 if regressions or (whole and unused) else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="iOS16 only, as the file does by itself")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--implementation", default="milpasses.coreml", metavar="MODULE")
    parser.add_argument(
        "--baseline", action="store_true", help="measure coremltools itself and keep the result"
    )
    options = parser.parse_args()
    if options.baseline:
        tests = run(REPLACED, quick=False, jobs=options.jobs)
        head = {
            "coremltools": coremltools.__version__,
            "python": sys.version.split()[0],
            "platform": sys.platform,
        }
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(test)}" for name, test in sorted(tests.items()))
        BASELINE.write_text(f'{{"made_with": {json.dumps(head)}, "tests": {{\n{lines}\n}}}}\n')
        print(f"{BASELINE.name}: {dict(Counter(test['outcome'] for test in tests.values()))}")
        return 0
    ours = run(options.implementation, quick=options.quick, jobs=options.jobs)
    baseline: Results = json.loads(BASELINE.read_text())["tests"]
    return compare(baseline, ours, options.implementation, not options.quick)


if __name__ == "__main__":
    sys.exit(main())

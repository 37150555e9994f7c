"""Look for what nobody thought of: random programs and recipes, and damaged models, until the time is over.

    python tests/fuzz/fuzz.py --seconds 600              # or make fuzz SECONDS=600
    python tests/fuzz/fuzz.py --one program:123          # one seed again, with all that it does
    python tests/fuzz/fuzz.py --one mutant:45

Work is done in processes of their own, so that a crash of native code is a find like any other. Each find is
printed with the seed that makes it again; the same one, told by its error and place, is counted. Ends with
status 1 if there is any.
"""

import argparse
import json
import logging
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT, ROOT / "kernels", ROOT / "tools", ROOT / "tests", ROOT / "tests" / "fuzz")
KINDS = ("program", "mutant")
PIECE = 150  # seeds of a process, whose temporary files go with it
WORD = 60  # seconds after which the process that hunts says how far it is
SILENCE = 600  # seconds without a word after which a process hangs


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600, help="how long (default 600)")
    parser.add_argument("--first", type=int, help="the first seed; another one each time unless given")
    parser.add_argument("--kind", choices=KINDS, action="append", help="programs or mutants alone")
    parser.add_argument("--one", metavar="KIND:SEED", help="run one seed and say what it does")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path[:0] = map(str, SOURCES)
    if given.worker:
        kind, first, until = given.worker
        return _work(kind, int(first), float(until))
    if given.one:
        kind, _, seed = given.one.partition(":")
        return _run_one(kind, int(seed))
    first = int.from_bytes(os.urandom(4), "little") if given.first is None else given.first
    return _hunt(given.kind or list(KINDS), first, given.seconds)


def _hunt(kinds: list[str], first: int, seconds: float) -> int:
    """Start processes by turns, and tell what they find."""
    print(f"the first seed is {first}", flush=True)
    until = time.time() + seconds
    at = dict.fromkeys(kinds, first)
    totals: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
    finds: dict[str, list[str]] = {}
    turn, told = 0, time.time()
    while time.time() < until:
        kind = kinds[turn % len(kinds)]
        turn += 1
        for line in _piece(kind, at[kind], until):
            if "start" in line:
                at[kind] = line["start"] + 1
            for name, count in line.get("counts", {}).items():
                totals[kind][name] = totals[kind].get(name, 0) + count
            if time.time() - told > WORD:
                told = time.time()
                print("; ".join(f"{kind} to {at[kind] - 1}" for kind in kinds), flush=True)
            if "find" in line:
                seeds = finds.setdefault(line["find"], [])
                seeds.append(f"{kind}:{line['seed']}")
                if len(seeds) == 1:
                    print(f"\nFIND {seeds[0]}: {line['find']}\n{line['details']}", flush=True)
    print()
    for kind in kinds:
        counted = ", ".join(f"{count} {name}" for name, count in totals[kind].items())
        print(f"{kind}: seeds {first} to {at[kind] - 1}: {counted or 'none'}")
    for find, seeds in finds.items():
        print(f"{len(seeds)} x {find}; again: python tests/fuzz/fuzz.py --one {seeds[0]}")
    print(f"{len(finds)} finds" if finds else "nothing was found")
    return min(len(finds), 1)


def _piece(kind: str, first: int, until: float) -> Iterator[dict[str, Any]]:
    """What one process says; a process that dies, or is silent, is a find of its last seed."""
    memory = Path("/dev/shm")  # what is written is small, and a disk is asked to keep each file safe
    folder = Path(tempfile.mkdtemp(prefix="milpasses-fuzz-", dir=memory if memory.is_dir() else None))
    command = [sys.executable, __file__, "--worker", kind, str(first), str(until)]
    environment = {**os.environ, "TMPDIR": str(folder), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=folder
    )
    seed = first
    try:
        assert process.stdout is not None
        for line in _lines(process):
            seed = line.get("start", seed)
            yield line
        status = process.wait()
        if status:
            yield {"find": f"the process ended with status {status}", "seed": seed, "details": ""}
    except TimeoutError:
        process.kill()
        yield {"find": f"no word for {SILENCE} seconds", "seed": seed, "details": ""}
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _lines(process: Any) -> Iterator[dict[str, Any]]:
    """The lines of a process as they come; ``TimeoutError`` after too long a silence."""
    rest = b""
    while True:
        if not select.select([process.stdout], [], [], SILENCE)[0]:
            raise TimeoutError
        read = os.read(process.stdout.fileno(), 1 << 16)
        if not read:
            return
        *whole, rest = (rest + read).split(b"\n")
        for line in whole:
            if line.startswith(b"{"):
                yield json.loads(line)


def _quiet() -> None:
    """No words from coremltools, and none of the garbage collections that it makes after each conversion.

    Python's own go on; without coremltools' a program takes a sixth less.
    """
    import gc
    from types import SimpleNamespace

    warnings.simplefilter("ignore")
    import fuzz_compression  # noqa: F401
    from coremltools.converters import _converters_entry

    _converters_entry.gc = SimpleNamespace(collect=lambda: None)

    for name in ("coremltools", "milpasses"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    gc.collect()
    gc.freeze()


def _runner(kind: str) -> tuple[Any, Any]:
    """What runs a seed, and the counts."""
    if kind == "program":
        from fuzz_compression import Counts, run_program

        return run_program, Counts()
    from fuzz_mutants import MutantCounts, run_mutant

    return run_mutant, MutantCounts()


def _work(kind: str, first: int, until: float) -> int:
    """Run seeds, one at least, and say on stdout what is found, a line of JSON each."""
    import attrs

    out = os.dup(1)
    os.dup2(2, 1)  # what commands print is none of it

    def say(**content: Any) -> None:
        os.write(out, json.dumps(content).encode() + b"\n")

    _quiet()
    for seed in range(first, first + PIECE):
        if seed > first and time.time() > until:
            break
        say(start=seed)
        run, counts = _runner(kind)
        try:
            run(seed, counts)
        except Exception as error:
            say(find=signature(error), seed=seed, details=details(error))
        say(counts=attrs.asdict(counts))
    return 0


def _run_one(kind: str, seed: int) -> int:
    _quiet()
    run, counts = _runner(kind)
    try:
        run(seed, counts, print)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"nothing was found: {counts}")
    return 0


def signature(error: BaseException) -> str:
    """The kind of a find: the error and its innermost place here; of a ``Find`` what does not hold."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "Find":
        return text.partition(":")[0]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/milpasses" in frame.filename]
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{place}"


def details(error: BaseException) -> str:
    """The message, and which recipe or command it was."""
    notes = getattr(error, "__notes__", [])
    return "\n".join([" ".join(str(error).split())[:600], *notes])


if __name__ == "__main__":
    sys.exit(main())

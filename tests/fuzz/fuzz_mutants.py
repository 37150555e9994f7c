"""Damaged and hostile models: a seed damages a sound one, and a command must end with at most one clear line.

A mutant is a package or an ``.mlmodel`` with bytes, fields of its specification, records of its weight file,
its manifest or its files changed. Whatever a command does with it, it raises nothing, ends in time and
memory, and writes nothing but its output.
"""

import os
import re
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from hashlib import blake2b
from io import StringIO
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from fuzz_checks import Find, require
from fuzz_damage import make_mutant
from fuzz_models import sound_models

Rng = np.random.Generator
SECONDS, GIBIBYTES = 60, 6  # of processor time, and of memory beyond what is there: what a command may take
STATUSES = (0, 1, 2)
DEFECT = 70  # what the command ends with, and a traceback, where it meets an error that is nobody's input


@attrs.define
class MutantCounts:
    """What was tried: mutants, commands on them, and how many of these ended with an error of one line."""

    mutants: int = 0
    commands: int = 0
    errors: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{value} {name}" for name, value in attrs.asdict(self).items())


def commands(mutant: str, sound: str) -> list[list[str]]:
    """Every command that takes a model, on a mutant of ``sound``; paths from the folder that it runs in."""
    out = ["-o", "out.mlpackage"]
    data = ["--samples", "1"]
    if (Path(sound) / "replay.json").exists():
        return [
            ["replay", mutant],
            ["replay", mutant, "--json"],
            ["bisect", mutant, *data],
            ["explain", mutant],
        ]
    return [
        ["compress", mutant, "-r", "int8; min_elements=0 -> int8", *out],
        ["compress", mutant, "-r", "pal4; min_elements=0 -> pal4", "--requantize", *out, "--json"],
        ["compress", mutant, "-r", "sparse50; min_elements=0 -> sparse50", "--target", "iOS18", *out],
        ["explain", mutant],
        ["explain", mutant, "-r", "int8; min_elements=0 -> int8", "--json"],
        ["dump", mutant],
        ["dump", mutant, "--format", "json"],
        ["dump", mutant, "--format", "html", "-o", "out.html"],
        ["dump", mutant, "--show", "weights", "--format", "dot"],
        ["diff", sound, mutant],
        ["diff", mutant, sound, "--json"],
        ["compare", sound, mutant, *data],
        ["compare", mutant, sound, *data, "--json"],
        ["bisect", sound, mutant, *data, "--tolerance", "20"],
        ["sensitivity", mutant, *data, "--candidates", "int8,pal4"],
        ["sweep", mutant, *data, "-r", "int8,pal2", "-j", "1", "-o", "out"],
        ["upgrade", mutant, *out],
        ["quantize-nn", mutant, "-b", "8", "-o", "out.mlmodel"],
    ]


class TooLong(BaseException):
    """A command took too long. No ``Exception``, which commands may catch."""


@contextmanager
def limits() -> Generator[None]:
    """Raise ``TooLong`` after ``SECONDS`` of processor time; leave ``GIBIBYTES`` of memory to take."""

    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (GIBIBYTES << 30), hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _tree(folder: Path) -> dict[str, str]:
    """Everything under ``folder``, with a digest of each file."""
    found: dict[str, str] = {}
    for root, names, files in os.walk(folder):
        for name in (*names, *files):
            path = Path(root) / name
            if path.is_symlink():
                found[str(path)] = f"link to {os.readlink(path)}"
            elif path.is_file():
                found[str(path)] = blake2b(path.read_bytes(), digest_size=8).hexdigest()
            else:
                found[str(path)] = "folder"
    return found


def run_command(arguments: list[str]) -> tuple[int, str]:
    """The status and what it printed on stderr; whatever the command raises."""
    from milpasses_tools.cli import app

    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), limits():
        try:
            app(arguments, prog_name="milpasses")
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None), err.getvalue()
        except TooLong:
            raise Find(f"takes more than {SECONDS} seconds") from None
    return 0, err.getvalue()


def run_mutant(
    seed: int, counts: MutantCounts, say: Callable[[str], None] = lambda text: None, most: int = 3
) -> None:
    """Run ``most`` commands on the mutant of ``seed``; raise what they raise, or ``Find``."""
    rng = np.random.default_rng([seed, 2])
    models = sound_models()
    name = str(rng.choice(sorted(models)))
    box = Path(tempfile.mkdtemp(prefix="mutant-")).resolve()
    here = Path.cwd()
    counts.mutants += 1
    try:
        for folder in ("work/given", "outside"):
            (box / folder).mkdir(parents=True)
        (box / "outside" / "canary").write_text("sings")
        sound = models[name]
        given = box / "work" / "given"
        mutant = given / f"mutant{sound.suffix}"
        shutil.copytree(sound, given / sound.name) if sound.is_dir() else shutil.copyfile(
            sound, given / sound.name
        )
        how = make_mutant(rng, sound, mutant)
        say(f"{name}: {how}")
        os.chdir(box / "work")
        every = commands(f"given/{mutant.name}", f"given/{sound.name}")
        for place in rng.permutation(len(every))[:most]:
            arguments = every[place]
            say(" ".join(arguments))
            try:
                _check_command(box, arguments, counts)
            except Exception as error:
                if hasattr(error, "add_note"):
                    error.add_note(f"{name}: {how}\nmilpasses {' '.join(arguments)}")
                raise
    finally:
        os.chdir(here)
        shutil.rmtree(box, ignore_errors=True)


def _check_command(box: Path, arguments: list[str], counts: MutantCounts) -> None:
    before = _tree(box)
    counts.commands += 1
    status, err = run_command(arguments)
    lines = [line for line in err.splitlines() if line.strip()]
    if status == DEFECT:
        places = re.findall(r'File ".*?([^/"]+)", line (\d+)', err)
        own = " ".join(places[-1]) if places else "an unknown place"
        raise Find(f"a defect at {own}: {err[-500:]}")
    require(status in STATUSES, "another status", status)
    shows = arguments[0] == "replay" and status == 1  # where the pass fails again
    require(shows or "Traceback" not in err, "a traceback", err[-500:])
    if status == 2:
        counts.errors += 1
        said = [line for line in lines if re.match(r"milpasses: error: \S", line)]
        require(len(said) == 1 and lines[-1] == said[0], "an error of other than one line", err[-500:])
        require(len(said[0]) < 2000, "an error as long as a page", len(said[0]))
    after = _tree(box)
    changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    output = arguments[arguments.index("-o") + 1] if "-o" in arguments else ""
    keeps = status != 2 or arguments[0] == "sweep"  # what is finished stays, for --resume
    allowed = str(box / "work" / output) if output and keeps else "\0"
    wrong = [path for path in changed if path != allowed and not path.startswith(allowed + "/")]
    require(not wrong, "wrote what is not its output", wrong[:5])
    for path in map(Path, changed):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

"""Damaged and hostile models: a seed damages a sound one, and a command must end with at most one clear line.

A mutant is a package or an ``.mlmodel`` with bytes, fields of its specification, records of its weight file,
its manifest or its files changed. Whatever a command does with it, it raises nothing, ends in time and
memory, and writes nothing but its output.
"""

import json
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


# --- Damage ---------------------------------------------------------------------------------------------

NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**40, 10**6, 63, 64, 65)
TEXTS = (
    "",
    "x",
    "../../outside/canary",
    "/etc/hostname",
    "a\0b",
    "é" * 300,
    "main",
    "..",
    "@model_path/../../../o",
    "%s{}",
)


def _damage_bytes(rng: Rng, path: Path) -> str:
    data = bytearray(path.read_bytes())
    way = str(rng.choice(["flip", "cut", "zeros", "insert", "grow", "empty"]))
    at = int(rng.integers(max(len(data), 1)))
    if way == "flip" and data:
        for place in rng.integers(len(data), size=int(rng.choice([1, 1, 2, 8]))):
            data[place] ^= 1 << int(rng.integers(8))
    elif way == "cut":
        del data[at:]
    elif way == "zeros":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif way == "insert":
        data[at:at] = rng.integers(256, size=int(rng.integers(1, 20))).astype(np.uint8).tobytes()
    elif way == "grow":
        data += bytes(int(rng.integers(1, 200)))
    else:
        data.clear()
    path.write_bytes(bytes(data))
    return f"{path.name}: bytes {way} at {at}"


def _messages(message: Any, depth: int = 0) -> list[Any]:
    """A message and those inside it, of repeated ones and maps the first few."""
    found = [message]
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE or depth > 14:
            continue
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            inner = list(value.values()) if hasattr(value, "values") else list(value)
            inner = [part for part in inner if hasattr(part, "ListFields")]
        else:
            inner = [value]
        for part in inner[:60]:
            found += _messages(part, depth + 1)
    return found


def _damage_field(rng: Rng, path: Path) -> str:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    said = []
    for _ in range(int(rng.choice([1, 1, 2]))):
        messages = [message for message in _messages(spec) if message.ListFields()]
        if messages:
            said.append(_change_field(rng, messages[int(rng.integers(len(messages)))]))
    path.write_bytes(spec.SerializeToString())
    return f"{path.name}: {'; '.join(said)}"


def _change_field(rng: Rng, message: Any) -> str:
    field, value = message.ListFields()[int(rng.integers(len(message.ListFields())))]
    name = f"{message.DESCRIPTOR.name}.{field.name}"
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        keys = list(value)
        key = keys[int(rng.integers(len(keys)))]
        del value[key]
        return f"{name}[{key}] deleted"
    if not isinstance(value, int | float | str | bytes | bool) and hasattr(value, "__len__"):
        place = int(rng.integers(len(value)))
        way = str(rng.choice(["delete", "repeat", "swap"]))
        if way == "delete":
            del value[place]
        elif way == "repeat" and hasattr(value, "MergeFrom"):
            value.MergeFrom([value[place]])
        elif len(value) > 1:
            items = list(value)
            items[0], items[place] = items[place], items[0]
            copies = [item if not hasattr(item, "SerializeToString") else _copied(item) for item in items]
            del value[:]
            value.extend(copies)
        return f"{name}[{place}] {way}"
    if hasattr(value, "ListFields") or rng.random() < 0.3:
        message.ClearField(field.name)
        return f"{name} cleared"
    choices: Any = NUMBERS if isinstance(value, int | float) else TEXTS
    new = choices[int(rng.integers(len(choices)))]
    if isinstance(value, bytes):
        new = value[: len(value) // 2]
    try:
        setattr(message, field.name, new)
    except (ValueError, TypeError):  # out of the type's range
        message.ClearField(field.name)
    return f"{name} = {new!r}"[:100]


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _damage_record(rng: Rng, path: Path) -> str:
    """A field of the header, or of a blob's record, of a weight file."""
    data = bytearray(path.read_bytes())
    records = [
        at for at in range(64, max(len(data) - 63, 65), 64) if data[at : at + 4] == b"\xef\xbe\xad\xde"
    ]
    start = int(rng.choice([0, *records]))
    field, size = ((0, 4), (4, 4), (8, 8), (16, 8), (24, 8))[int(rng.integers(5))]
    value = int(rng.choice(NUMBERS[:10])) % (1 << 8 * size)
    data[start + field : start + field + size] = value.to_bytes(size, "little")
    path.write_bytes(bytes(data))
    return f"{path.name}: {value} at {start}+{field}"


def _damage_manifest(rng: Rng, path: Path) -> str:
    manifest = json.loads(path.read_text())
    entries = manifest["itemInfoEntries"]
    key = str(rng.choice(list(entries)))
    odd: Any = [*TEXTS, 5, None, [], {}, "com.apple.CoreML", "com.apple.CoreML/weights", "../Manifest.json"]
    value = odd[int(rng.integers(len(odd)))]
    way = str(rng.choice(["path", "entry", "root", "delete", "text", "deep", "list"]))
    if way == "path":
        entries[key]["path"] = value
    elif way == "entry":
        entries[key] = value
    elif way == "root":
        manifest["rootModelIdentifier"] = value
    elif way == "delete":
        del manifest[str(rng.choice(list(manifest)))]
    text = {"text": str(value), "deep": "[" * 100_000, "list": "[1, 2]"}.get(way, json.dumps(manifest))
    path.write_bytes(text.encode())
    return f"{path.name}: {way} {value!r}"[:100]


def _damage_files(rng: Rng, package: Path) -> str:
    paths = sorted(package.rglob("*"))
    path = paths[int(rng.integers(len(paths)))]
    way = str(rng.choice(["remove", "folder", "outside", "loop", "hidden"]))
    if way == "hidden":
        (package / "Data" / ".odd\nname").write_bytes(b"x")
        return "files: an odd name"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "outside":
        path.symlink_to(package.parent.parent / "outside" / "canary")
    elif way == "loop":
        path.symlink_to(package)
    return f"files: {path.relative_to(package)} {way}"


def make_mutant(rng: Rng, sound: Path, path: Path) -> str:
    """Copy the model ``sound`` to ``path`` and damage it; says how."""
    if sound.is_file():
        shutil.copyfile(sound, path)
        return (_damage_field if rng.random() < 0.6 else _damage_bytes)(rng, path)
    shutil.copytree(sound, path)
    specs, weights = sorted(path.rglob("*.mlmodel")), sorted(path.rglob("*.bin"))
    way = rng.random()
    if way < 0.5:
        return _damage_field(rng, specs[0])
    if way < 0.65:
        return _damage_bytes(rng, specs[0])
    if way < 0.75 and weights:
        return _damage_record(rng, weights[0])
    if way < 0.8 and weights:
        return _damage_bytes(rng, weights[0])
    if way < 0.92:
        return _damage_manifest(rng, path / "Manifest.json")
    return _damage_files(rng, path)


# --- Commands -------------------------------------------------------------------------------------------


def commands(mutant: str, sound: str) -> list[list[str]]:
    """Every command that takes a model, on a mutant of ``sound``; paths from the folder that it runs in."""
    out = ["-o", "out.mlpackage"]
    data = ["--samples", "1"]
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
    require("Traceback" not in err, "a traceback", err[-500:])
    if status == 2:
        counts.errors += 1
        said = [line for line in lines if re.match(r"milpasses: error: \S", line)]
        require(len(said) == 1 and lines[-1] == said[0], "an error of other than one line", err[-500:])
        require(len(said[0]) < 2000, "an error as long as a page", len(said[0]))
    after = _tree(box)
    changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    output = arguments[arguments.index("-o") + 1] if "-o" in arguments else ""
    allowed = str(box / "work" / output) if output and status != 2 else "\0"
    wrong = [path for path in changed if path != allowed and not path.startswith(allowed + "/")]
    require(not wrong, "wrote what is not its output", wrong[:5])
    for path in changed:
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink(missing_ok=True)

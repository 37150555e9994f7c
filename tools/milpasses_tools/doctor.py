"""``milpasses doctor``: whether this machine has what milpasses needs, and what to do where it lacks it."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import typer

from milpasses_tools._options import Json
from milpasses_tools._output import console, print_json, quiet_coremltools

Status = Literal["ok", "warn", "fail"]
_GIB = 1 << 30
_ENOUGH_MEMORY, _ENOUGH_DISK = 1 * _GIB, 2 * _GIB


@attrs.frozen
class Check:
    """One check: what was found, and what to do unless it is ``ok``."""

    name: str
    status: Status
    found: str
    advice: str = ""


@attrs.frozen
class Diagnosis:
    """All checks, in order."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """No check failed."""
        return all(check.status != "fail" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {"healthy": self.healthy, "checks": [attrs.asdict(check) for check in self.checks]}


def doctor() -> Diagnosis:
    """Check Python, packages, native libraries, Numba, memory and disk, then compress a small program.

    A check that raises counts as failed, so one missing part does not hide the others.
    """
    with quiet_coremltools():
        checks = [check for name, examine in _CHECKS for check in _guarded(name, examine)]
    return Diagnosis(tuple(checks))


def _guarded(name: str, examine: Callable[[], list[Check]]) -> list[Check]:
    try:
        return examine()
    except Exception as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
        return [Check(name, "fail", found, "the message says what is missing or broken")]


def _python() -> list[Check]:
    from packaging.specifiers import SpecifierSet

    found = f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    wanted = metadata("milpasses")["Requires-Python"]
    status: Status = "ok" if platform.python_version() in SpecifierSet(wanted) else "fail"
    return [
        Check("milpasses", "ok", version("milpasses")),
        Check("python", status, found, "" if status == "ok" else f"install a Python {wanted}"),
        Check("platform", "ok", platform.platform()),
    ]


def _packages() -> list[Check]:
    """The versions of what milpasses requires, against the bounds that its own metadata states."""
    from packaging.requirements import Requirement

    checks: list[Check] = []
    for requirement in map(Requirement, requires("milpasses") or []):
        optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        if not optional:
            checks.append(_package(requirement.name, requirement.specifier, optional=False))
        elif requirement.marker is not None and requirement.marker.evaluate({"extra": "torch"}):
            checks.append(_package(requirement.name, requirement.specifier, optional=True))
    return checks


def _package(name: str, bounds: Any, optional: bool) -> Check:
    advice = f'pip install "{name}{bounds}"'
    try:
        found = version(name)
    except PackageNotFoundError:
        if optional:
            return Check(name, "ok", "not installed; optional: the interpreter is faster with it")
        return Check(name, "fail", "not installed", advice)
    if bounds.contains(found, prereleases=True):
        return Check(name, "ok", found)
    return Check(name, "warn" if optional else "fail", f"{found}, supported is {bounds}", advice)


def _native() -> list[Check]:
    """coremltools' compiled parts: without them nothing can be saved, and it says so only at the end."""
    from milpasses import _coremltools as host

    return [_loads(name, purpose) for name, purpose in host.NATIVE_PARTS.items()]


def _loads(name: str, purpose: str) -> Check:
    try:
        import_module(name)
    except ImportError as error:
        machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        advice = f"install a coremltools wheel made for {machine}; its sdist has no compiled parts"
        return Check(name, "fail", f"does not load: {error}", advice)
    return Check(name, "ok", f"loads ({purpose})")


def _internals() -> list[Check]:
    """What of coremltools milpasses is built on although coremltools does not promise it."""
    from packaging.requirements import Requirement

    from milpasses import _coremltools as host

    name, missing = "coremltools internals", host.missing_internals()
    if not missing:
        return [Check(name, "ok", f"all {len(host.INTERNALS)} names that milpasses uses are there")]
    lost = [f"{internal.name} is missing, and with it {internal.feature}" for internal in missing]
    bounds = [r for r in map(Requirement, requires("milpasses") or []) if r.name == "coremltools"]
    advice = f'pip install "{bounds[0]}"' if bounds else "install a version that milpasses supports"
    return [Check(name, "fail", "; ".join(lost), advice)]


def _numba() -> list[Check]:
    """Whether Numba compiles, and where it keeps what it compiled."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        advice = "unset NUMBA_DISABLE_JIT, unless you debug a kernel"
        return [Check("numba compiler", "warn", "switched off: every kernel runs as plain Python", advice)]
    import numpy as np

    try:
        from milpasses_kernels import bitpack
    except RuntimeError as error:  # raised by the first kernel where Numba finds no folder to write to
        advice = "set NUMBA_CACHE_DIR to a folder that you may write to"
        return [Check("numba cache", "fail", str(error), advice)]
    codes = np.arange(16, dtype=np.uint8)
    if not np.array_equal(bitpack.unpack(bitpack.pack(codes, 4), 4, codes.size), codes):
        return [Check("numba compiler", "fail", "a compiled kernel computes wrong", "reinstall numba")]
    kernels = [value for value in vars(bitpack).values() if hasattr(value, "stats")]
    return [
        Check("numba compiler", "ok", "compiles and runs a kernel"),
        Check("numba cache", "ok", f"{kernels[0].stats.cache_path} is writable"),
    ]


def _processors() -> list[Check]:
    from milpasses_kernels._threads import thread_count

    wanted = os.environ.get("MILPASSES_NUM_THREADS", "")
    if wanted and not wanted.strip().isdecimal():
        advice = "set MILPASSES_NUM_THREADS to a number, or unset it"
        return [Check("processors", "fail", f"MILPASSES_NUM_THREADS is {wanted!r}", advice)]
    source = "MILPASSES_NUM_THREADS" if wanted else "set MILPASSES_NUM_THREADS to change it"
    return [Check("processors", "ok", f"{os.cpu_count()}, threads used: {thread_count()} ({source})")]


def _predictions() -> list[Check]:
    from milpasses import _coremltools as host

    name = "Core ML predictions"
    if sys.platform != "darwin":
        found = f"not on {platform.system()}: macOS alone has them; milpasses' interpreter runs models here"
        return [Check(name, "ok", found)]
    if not host.core_ml_available():
        advice = "install a coremltools wheel made for this macOS and Python"
        return [Check(name, "warn", "coremltools.libcoremlpython does not load", advice)]
    return [Check(name, "ok", f"possible, macOS {platform.mac_ver()[0]}")]


def _memory() -> list[Check]:
    free, what = _free_memory()
    found = f"{free / _GIB:.1f} GiB {what}"
    if free < _ENOUGH_MEMORY:
        return [Check("memory", "warn", found, "large models need more; close other programs")]
    return [Check("memory", "ok", found)]


def _free_memory() -> tuple[int, str]:
    """Bytes of memory, and which they are: those free where the system tells, else all there are."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024, "free"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "in all"


def _disk() -> list[Check]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _ENOUGH_DISK:
        return [Check("disk", "warn", found, "set TMPDIR to a folder with more: models are made there")]
    return [Check("disk", "ok", found)]


def _self_test() -> list[Check]:
    """Compress a program whose weight loses nothing, and read it back with coremltools' own decoder."""
    import coremltools as ct
    import numpy as np

    import milpasses
    from milpasses import _coremltools as host

    # 16 values a group of 16 channels: a table of 16 entries holds them exactly.
    rng = np.random.default_rng(0)
    tables = rng.integers(-1024, 1024, (4, 1, 16)).astype(np.float16) / 256
    codes = rng.integers(0, 16, (4, 16, 128))
    weight = np.take_along_axis(tables, codes.reshape(4, 1, -1), axis=2).reshape(64, 128)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "self-test.mlpackage"
        _linear(ct, weight).save(str(path))
        small = milpasses.compress(path, "pal4-g16", output=Path(folder) / "small.mlpackage")
        operations = host.program_of(small).functions["main"].operations
        decoded = [
            op.materialized_val_inference() for op in operations if op.op_type == "constexpr_lut_to_dense"
        ]
    name, advice = "self-test", "please report this with the output of milpasses doctor --json"
    if len(decoded) != 1:
        return [Check(name, "fail", f"compressed {len(decoded)} weights, not 1: {small.report}", advice)]
    if not np.array_equal(decoded[0], weight):
        return [Check(name, "fail", "the weight read back is not the weight that was compressed", advice)]
    totals = small.report.totals()
    sizes = f"{totals['bytes_before']:,} -> {totals['bytes_after']:,} bytes"
    return [Check(name, "ok", f"compressed a program with pal4-g16 ({sizes}) and read it back exactly")]


def _linear(ct: Any, weight: Any) -> Any:
    """A model of one linear op with ``weight``."""
    from coremltools.converters.mil.mil import Builder

    mb: Any = Builder

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, weight.shape[1]))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=mb.const(val=weight.astype("float32"), name="weight"))

    return ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18, skip_model_load=True
    )


_CHECKS = (
    ("python", _python),
    ("packages", _packages),
    ("coremltools' native libraries", _native),
    ("coremltools internals", _internals),
    ("numba compiler", _numba),
    ("processors", _processors),
    ("Core ML predictions", _predictions),
    ("memory", _memory),
    ("disk", _disk),
    ("self-test", _self_test),
)


def command(
    as_json: Json = False,
    core_ml: Annotated[
        bool, typer.Option("--core-ml", help="On macOS: try every form on Core ML itself. Takes minutes.")
    ] = False,
) -> None:
    """Check that this machine can do what milpasses needs.

    Versions, native libraries, the compiler and its cache, memory, disk, and a small compression from end to
    end. Each line is ok, warn or fail; the last two say what to do. Ends with status 1 if something fails.

    With --core-ml instead, on macOS: a small network in every form, for every target, compiled, loaded and
    run by Core ML on every compute unit, and compared with milpasses' own interpreter. Not tried on macOS
    yet: please send in what it says.

      milpasses doctor --core-ml --json > core-ml.json
    """
    if core_ml:
        _core_ml(as_json)
        return
    diagnosis = doctor()
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        _print(diagnosis)
    if not diagnosis.healthy:
        raise typer.Exit(1)


def _core_ml(as_json: bool) -> None:
    """Try every form on Core ML; status 1 unless all agree."""
    from milpasses_tools._core_ml.text import print_report
    from milpasses_tools._core_ml.trials import try_core_ml
    from milpasses_tools._progress import progress

    if sys.platform != "darwin":
        from milpasses.errors import MilpassesError

        raise MilpassesError(f"--core-ml needs macOS, where Core ML is; this is {platform.system()}")
    with quiet_coremltools(), progress("trying forms") as show:
        report = try_core_ml(show)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    if not report.agrees:
        raise typer.Exit(1)


def _print(diagnosis: Diagnosis) -> None:
    out = console()
    width = max(len(check.name) for check in diagnosis.checks)
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for check in diagnosis.checks:
        out.print(f"{check.status:<4}", style=styles[check.status], end="  ")
        out.print(f"{check.name:<{width}}  {check.found}", soft_wrap=True)
        if check.advice:
            out.print(f"{'':<{width + 8}}to do: {check.advice}", soft_wrap=True)
    count = sum(check.status == "fail" for check in diagnosis.checks)
    print("everything works" if diagnosis.healthy else f"{count} of {len(diagnosis.checks)} checks failed")

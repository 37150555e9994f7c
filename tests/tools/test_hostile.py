"""Arguments and surroundings of every odd kind: one clear line, and what was kept where it is stopped."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

DIGITS = "9" * 5000
MAIN = "from milpasses_tools.cli import main; main()"


def run(*arguments: object, closed: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own; ``closed`` is what the shell does to its streams."""
    import os

    quoted = " ".join(f'"{one}"' for one in arguments)
    return subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{MAIN}" {quoted} {closed}'],
        capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=600,
    )  # fmt: skip


@pytest.fixture
def model(digits_packages: dict[str, Path]) -> Path:
    return digits_packages["iOS18"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "MODEL", "-o", "o.mlpackage", "-r", f"pal{DIGITS}"],
        ["compress", "MODEL", "-o", "o.mlpackage", "--budget", DIGITS],
        ["compress", "MODEL", "-o", "o.mlpackage", "--max-loss", DIGITS],
        ["compress", "MODEL", "-o", "a\0b.mlpackage", "-r", "int8"],
        ["compress", "MODEL", "-o", "a" * 300 + ".mlpackage", "-r", "int8"],
        ["compress", "a\0b", "-o", "o.mlpackage", "-r", "int8"],
        ["compress", "MODEL", "-o", "o.mlpackage", "-r", "a\0b.yaml"],
        ["explain", "a" * 5000],
        ["explain", "circle"],
        ["dump", "circle"],
        ["compare", "MODEL", "MODEL", "--data", "circle"],
        ["compare", "MODEL", "MODEL", "--data", "a\0b"],
        ["compare", "MODEL", "MODEL", "--seed", "-1"],
        ["compare", "MODEL", "MODEL", "--min-snr", "nan"],
        ["sweep", "MODEL", "-o", "out", "--grid", "pal{1..999999999}"],
        ["sweep", "MODEL", "-o", "out", "--grid", "pal{1..20}-g{1..999999999}"],
        ["sweep", "MODEL", "-o", "out", "--grid", f"pal{{1..{DIGITS}}}"],
        ["sweep", "MODEL", "-o", "out", "--max-size", "many"],
        ["sweep", "MODEL", "-o", "a\0b"],
        ["sweep", "MODEL", "-o", "circle"],
        ["sweep", "MODEL", "-o", "MODEL/out"],
        ["compress", "MODEL", "-r", "int8", "-o", "MODEL/o.mlpackage"],
        ["bisect", "a\0b"],
        ["replay", "circle"],
        ["trace", "a\0b"],
    ],
)  # fmt: skip
def test_arguments(
    model: Path, tmp_path: Path, milpasses_command: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    before = sorted(tmp_path.iterdir())
    outcome = milpasses_command(*(one.replace("MODEL", str(model)) for one in arguments))
    assert outcome.status == 2, outcome.err
    assert outcome.err.startswith("milpasses: error: ")
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) < 2200
    assert sorted(tmp_path.iterdir()) == before


def test_more_samples_than_can_be_counted(model: Path, milpasses_command: Run, tmp_path: Path):
    import numpy as np

    np.savez(tmp_path / "a.npz", image=np.ones((1, 1, 8, 8), np.float32))
    outcome = milpasses_command("compare", model, model, "--data", tmp_path / "a.npz", "--samples", 10**30)
    assert outcome.status == 0, outcome.err


def test_closed_streams(model: Path, tmp_path: Path):
    done = run("explain", model, closed=">&-")
    assert (done.returncode, done.stderr) == (2, "milpasses: error: standard output: is closed\n")
    done = run("explain", model, closed="2>&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert "weights" in done.stdout
    done = run("compress", model, "-r", "int8", "-q", "-o", tmp_path / "o.mlpackage", closed=">&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "o.mlpackage").is_dir()


def test_a_full_disk_under_stdout(model: Path):
    done = run("dump", model, closed=">/dev/full")
    assert (done.returncode, done.stderr) == (2, "milpasses: error: No space left on device\n")


def test_a_terminal_that_knows_ascii_alone(model: Path, tmp_path: Path):
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    script = tmp_path / "é.py"
    script.write_text("print('è')\nraise ValueError('ü')\n", encoding="utf-8")
    done = run("trace", script, **plain)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("ValueError: \\xfc")
    assert done.stderr.splitlines()[0] == "\\xe8"


@pytest.mark.parametrize("threads", ["0", "-3"])
def test_no_thread_for_the_kernels(model: Path, tmp_path: Path, threads: str):
    done = run("compress", model, "-r", "int8", "-o", tmp_path / "o.mlpackage", NUMBA_NUM_THREADS=threads)
    assert done.returncode == 2
    assert done.stderr == f"milpasses: error: NUMBA_NUM_THREADS: must be 1 or more, not {threads}\n"


class TestStopped:
    """Ctrl-C says what was kept, and how to go on."""

    def test_nothing_was_written(self, milpasses_command: Run, monkeypatch: pytest.MonkeyPatch, model: Path):
        stop(monkeypatch, "milpasses_tools.explain", "explain")
        outcome = milpasses_command("explain", model)
        assert outcome.status == 130
        kept = "an output that was not finished was not written; the same command begins anew"
        assert outcome.err == f"milpasses: interrupted: {kept}\n"

    def test_a_sweep(
        self, milpasses_command: Run, monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
    ):
        stop(monkeypatch, "milpasses_tools._sweep.plan", "_save")
        arguments = "sweep", model, "-r", "int8", "-o", tmp_path / "out", "--jobs", 1
        outcome = milpasses_command(*arguments)
        assert outcome.status == 130
        kept = f"{tmp_path / 'out'}: what is finished is kept; --resume goes on with it"
        assert outcome.err == f"milpasses: interrupted: {kept}\n"
        finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "variants").iterdir()}
        assert len(finished) == 2
        monkeypatch.undo()
        assert milpasses_command(*arguments, "--resume").status == 0
        assert {path: path.stat().st_mtime_ns for path in finished} == finished

    def test_a_trace(self, milpasses_command: Run, tmp_path: Path):
        (tmp_path / "a.py").write_text("raise KeyboardInterrupt\n")
        outcome = milpasses_command("trace", tmp_path / "a.py", "--dump-after-change", tmp_path / "dumps")
        assert outcome.status == 130
        assert (
            outcome.err == f"milpasses: interrupted: what was traced until then is in {tmp_path / 'dumps'}\n"
        )


def stop(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    import importlib

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    importlib.import_module(module)
    monkeypatch.setattr(sys.modules[module], name, interrupt)


class TestScripts:
    """Scripts that fail show their own frames alone."""

    SCRIPT = (
        "def f():\n    raise ValueError('no')\n"
        "try:\n    f()\nexcept ValueError as error:\n    raise KeyError('x') from error\n"
    )

    @pytest.mark.parametrize("command", ["trace", "bisect"])
    def test_an_error(self, milpasses_command: Run, tmp_path: Path, command: str):
        script = tmp_path / "a.py"
        script.write_text(self.SCRIPT)
        outcome = milpasses_command(command, script)
        assert outcome.status == 2
        files = [line.split('"')[1] for line in outcome.err.splitlines() if line.startswith("  File ")]
        assert files == [str(script)] * 3
        assert outcome.err.splitlines()[-1] == f"milpasses: error: {script}: KeyError: 'x'"

    @pytest.mark.parametrize("command", ["trace", "bisect"])
    @pytest.mark.parametrize(("code", "said"), [("3", " with status 3"), ("'gone'", ": gone")])
    def test_an_exit(self, milpasses_command: Run, tmp_path: Path, command: str, code: str, said: str):
        script = tmp_path / "a.py"
        script.write_text(f"import sys\nsys.exit({code})\n")
        outcome = milpasses_command(command, script)
        assert outcome.status == 2
        assert outcome.err == f"milpasses: error: {script}: the script ended itself{said}\n"

    def test_no_python(self, milpasses_command: Run, tmp_path: Path):
        script = tmp_path / "a.py"
        script.write_text("def\n")
        outcome = milpasses_command("trace", script)
        assert (outcome.status, "milpasses_tools" in outcome.err, "runpy" in outcome.err) == (2, False, False)
        assert "SyntaxError" in outcome.err


def test_a_defect_says_how_to_report_it(milpasses_command: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules["milpasses_tools.explain"], "explain", None)
    outcome = milpasses_command("explain", "model.mlpackage")
    assert outcome.status == 70
    assert outcome.err.startswith("Traceback (most recent call last)")
    assert "TypeError" in outcome.err
    assert "this is a defect of milpasses" in outcome.err.splitlines()[-1]
    assert "milpasses doctor" in outcome.err.splitlines()[-1]

"""The command as a whole: help, version, errors, terminals and pipes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import Run
from milpasses_tools import _output, cli
from milpasses_tools._progress import progress
from milpasses_tools._table import print_table

HEAVY = ("coremltools", "numpy", "numba", "torch", "milpasses")


def python(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run code in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )


def in_own_process(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as people do, with its output piped."""
    code = "import sys; from milpasses_tools.cli import main; sys.argv[0] = 'milpasses'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def module_of(subcommand: str) -> str:
    return f"milpasses_tools.{subcommand.replace('-', '_')}"


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
    def test_lists_every_subcommand(self, milpasses_command: Run, arguments: list[str]):
        outcome = milpasses_command(*arguments)
        assert outcome.status == 0
        assert outcome.err == ""
        for name in cli.SUBCOMMANDS:
            assert f"\n  {name} " in outcome.out

    @pytest.mark.parametrize("name", cli.SUBCOMMANDS)
    def test_of_a_subcommand_is_its_docstring(self, milpasses_command: Run, name: str):
        outcome = milpasses_command(name, "--help")
        module = sys.modules[module_of(name)]
        assert outcome.status == 0
        assert module.command.__doc__.splitlines()[0] in outcome.out
        assert "--json" in outcome.out
        assert "--traceback" in outcome.out

    def test_imports_nothing_heavy(self):
        arguments = [["--help"], ["--version"], *([name, "--help"] for name in cli.SUBCOMMANDS)]
        done = python(
            "import sys\n"
            "from milpasses_tools.cli import app\n"
            f"for arguments in {arguments}:\n"
            "    try: app(arguments, prog_name='milpasses')\n"
            "    except SystemExit as ended: assert ended.code == 0, arguments\n"
            f"print(sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr)"
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == "[]"

    def test_version(self, milpasses_command: Run):
        import milpasses

        assert milpasses_command("--version") == (0, f"milpasses {milpasses.__version__}\n", "")


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["bogus"], "No such command 'bogus' (see milpasses --help)"),
            (["explain"], "Missing argument 'MODEL' (see milpasses explain --help)"),
            (["explain", "a", "--bogus"], "No such option: --bogus"),
            (["explain", "a", "--sort", "size"], "'bytes', 'name', 'form'"),
            (["explain", "nowhere.mlpackage"], "nowhere.mlpackage: no such file or folder"),
            (["explain", __file__], "an .mlpackage folder or an .mlmodel file is needed, and this is a file"),
            (["explain", str(Path(__file__).parent)], "not an .mlpackage"),
        ],
    )
    def test_are_one_line_and_status_2(self, milpasses_command: Run, arguments: list[str], expected: str):
        outcome = milpasses_command(*arguments)
        assert outcome.status == 2
        assert outcome.out == ""
        assert outcome.err.count("\n") == 1
        assert outcome.err.startswith("milpasses: error: ")
        assert expected in outcome.err

    @pytest.mark.parametrize("first", [True, False])
    def test_traceback_on_demand(self, milpasses_command: Run, first: bool):
        arguments = ["explain", "nowhere.mlpackage"]
        outcome = milpasses_command(*(["--traceback", *arguments] if first else [*arguments, "--traceback"]))
        assert outcome.status == 2
        assert outcome.err.startswith("Traceback (most recent call last)")
        assert outcome.err.splitlines()[-1].startswith("milpasses: error: nowhere.mlpackage")

    def test_in_a_process_of_its_own_no_notice_is_shown(self, tmp_path: Path):
        done = in_own_process("explain", tmp_path / "nowhere.mlpackage")
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == f"milpasses: error: {tmp_path / 'nowhere.mlpackage'}: no such file or folder\n"

    def test_ctrl_c_while_coremltools_is_imported(self, tmp_path: Path):
        swallows = "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\nexcept: pass\n"
        (tmp_path / "coremltools.py").write_text(swallows, encoding="utf-8")
        done = in_own_process("explain", "nowhere.mlpackage", PYTHONPATH=str(tmp_path))
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")

    def test_a_closed_pipe_ends_quietly(self):
        code = "from milpasses_tools.cli import main; import sys; sys.argv[1:] = []; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", f"input(); {code}"],  # begins when it is told to
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.stdin is not None
        print(file=process.stdin, flush=True)
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.wait(600)
        process.stdin.close()

    def test_system_errors_name_the_file(self):
        missing = FileNotFoundError(2, "No such file or directory", "a.yaml")
        assert cli._advice(missing) == "a.yaml: No such file or directory"
        assert cli._advice(ValueError("a defect")) is None


class TestTerminal:
    ROWS = (("conv[0]:smile:", 1_234_567, 3.14159, None), ("x" * 150, 5, 10.0, "why"))

    def print_table(self) -> None:
        print_table(["name", ">count", ">bits", "note"], self.ROWS)

    def test_a_pipe_gets_whole_lines(self, capsys: pytest.CaptureFixture[str]):
        self.print_table()
        lines = capsys.readouterr().out.splitlines()
        assert [line.split() for line in lines] == [
            ["name", "count", "bits", "note"],
            ["conv[0]:smile:", "1,234,567", "3.14"],
            ["x" * 150, "5", "10.00", "why"],
        ]
        assert lines[1].index("1,234,567") + 9 == lines[2].index(" 5") + 2  # right-aligned
        assert not any(line.endswith(" ") for line in lines)

    def test_a_terminal_gets_color_unless_no_color(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        self.print_table()
        colored = capsys.readouterr().out
        assert "\x1b[1m" in colored
        monkeypatch.setenv("NO_COLOR", "1")
        self.print_table()
        plain = capsys.readouterr().out
        assert "\x1b" not in plain
        assert max(map(len, plain.splitlines())) <= 60
        assert plain.count("x") == 150  # folded, not cut

    def test_json_is_strict(self):
        with pytest.raises(ValueError, match="JSON"):
            _output.print_json({"sqnr": float("inf")})

    def test_no_bar_where_stderr_is_no_terminal(self, capsys: pytest.CaptureFixture[str]):
        with progress("compressing") as step:
            step(1, 2, "weight")
        assert capsys.readouterr() == ("", "")

    def test_a_bar_on_a_terminal(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        with progress("compressing") as step:
            step(1, 2, "weight[0]")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "1/2" in captured.err
        assert "weight[0]" in captured.err
        with progress("compressing") as step:  # elements
            step(250_000, 1_000_000, "weight")
        assert "25%" in capsys.readouterr().err
        with progress("compressing", quiet=True) as step:
            step(1, 2, "weight")
        assert capsys.readouterr().err == ""


class TestPackage:
    def test_a_tools_name_is_its_function_whatever_was_imported(self):
        done = python(
            "import sys, milpasses_tools\n"
            "assert 'typer' not in sys.modules\n"
            "import milpasses_tools.cli, milpasses_tools.explain\n"
            "from milpasses_tools.explain import Explanation\n"
            "from milpasses_tools import explain\n"
            "for name in milpasses_tools.__all__:\n"
            "    tool = getattr(milpasses_tools, name)\n"
            "    assert tool is vars(sys.modules[tool.__module__])[name]\n"
            "    assert tool.__module__.startswith('milpasses_tools.')\n"
            "    assert name in dir(milpasses_tools)\n"
            "assert not hasattr(milpasses_tools, 'bogus')\n"
        )
        assert done.returncode == 0, done.stderr

    def test_subcommands_are_modules_with_a_command(self):
        for name in cli.SUBCOMMANDS:
            assert callable(sys.modules[module_of(name)].command)

    def test_every_subcommand_takes_json(self):
        group = typer.main.get_command(cli.app)
        for name, command in group.commands.items():  # pyright: ignore
            assert "--json" in [opt for param in command.params for opt in param.opts], name

    def test_json_prints_json(self, milpasses_command: Run, digits_packages: dict[str, Path]):
        outcome = milpasses_command("explain", digits_packages["iOS18"], "--json")
        assert json.loads(outcome.out)["target"] == "iOS18"
        assert outcome.err == ""

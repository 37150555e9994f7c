"""One vocabulary: an option means the same in every command, and every command that could have it has it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import Run
from milpasses_tools import cli

GROUP: Any = typer.main.get_command(cli.app)
COMMANDS: dict[str, Any] = GROUP.commands
ALL = frozenset(COMMANDS)
NO_MODEL = frozenset({"doctor", "demo", "trace", "replay"})
RUN = frozenset({"compare", "bisect", "sweep", "sensitivity"})  # run a model on samples
REPORT = frozenset(
    {"explain", "diff", "compare", "bisect", "sensitivity", "dump"}
)  # a text, or with -o a file
WRITE = frozenset({"compress", "tune", "upgrade", "quantize-nn", "sweep"})  # write a model
COMPRESS = frozenset({"compress", "tune", "explain", "sweep", "sensitivity", "upgrade"})  # take recipes
HAVE = {
    "--json": ALL,
    "--quiet": ALL,
    "--traceback": ALL,
    "--part": ALL - NO_MODEL,
    "--function": ALL - NO_MODEL - {"upgrade", "quantize-nn"},  # legacy networks have no functions
    "--data": RUN | {"compress", "tune", "upgrade"},
    "--samples": RUN | {"tune"},
    "--seed": RUN,
    "--target": COMPRESS | {"bisect"},
    "--recipe": COMPRESS,
    "--output": WRITE | REPORT | {"demo"},
    "--force": WRITE | REPORT,
    "--requantize": (COMPRESS | {"quantize-nn"}) - {"sweep", "upgrade"},
}
SHORT = {
    "-r": "--recipe", "-o": "--output", "-f": "--force", "-q": "--quiet", "-v": "--verbose", "-j": "--jobs",
    "-b": "--bits", "-m": "--mode", "-h": "--help",
}  # fmt: skip


def options(command: str) -> dict[str, Any]:
    """The parameters of a command by each of its spellings."""
    return {option: param for param in COMMANDS[command].params for option in param.opts}


@pytest.mark.parametrize("option", HAVE)
def test_every_command_that_could_have_an_option_has_it(option: str):
    missing = sorted(name for name in HAVE[option] if option not in options(name))
    assert not missing


@pytest.mark.parametrize("command", sorted(ALL))
def test_short_options_mean_the_same_everywhere(command: str):
    for param in COMMANDS[command].params:
        for short in (one for one in param.opts if one.startswith("-") and not one.startswith("--")):
            assert SHORT[short] in param.opts, short


@pytest.mark.parametrize("option", HAVE)
def test_an_option_takes_the_same_everywhere(option: str):
    found = {name: options(name)[option] for name in ALL if option in options(name)}
    assert len({param.is_flag for param in found.values()}) == 1
    words = {param.metavar for param in found.values()} - {"RECIPE,...", "SCHEME,..."}  # one, or several
    assert len(words - {"OUT", "DIR", "FILE"}) <= 1, words


def test_every_option_is_explained_and_every_required_one_marked():
    for name, command in COMMANDS.items():
        for param in command.params:
            if param.param_type_name == "option":
                assert param.help, (name, param.opts)
            if param.required and param.param_type_name == "option":
                assert param.get_help_record(typer.Context(command))[1].endswith("[required]"), (
                    name,
                    param.opts,
                )


def test_no_line_of_the_list_of_commands_is_cut():
    for name, command in COMMANDS.items():
        assert not command.get_short_help_str(80 - 4 - max(map(len, COMMANDS))).endswith("..."), name


class TestQuiet:
    @pytest.mark.parametrize("place", [0, 1])
    def test_nothing_is_printed_and_the_status_stays(
        self, milpasses_command: Run, digits_packages: dict[str, Path], place: int
    ):
        asked = ["diff", digits_packages["iOS16"], digits_packages["iOS18"]]
        loud = milpasses_command(*asked)
        asked.insert(place, "--quiet")
        assert milpasses_command(*asked) == (loud.status, "", "")
        assert milpasses_command(*asked, "--json").out != ""
        assert milpasses_command("diff", *asked[1 + (place == 0) :][-2:]).out == loud.out  # it does not stay

    def test_errors_are_printed(self, milpasses_command: Run):
        done = milpasses_command("explain", "nowhere.mlpackage", "-q")
        assert done.status == 2
        assert "nowhere.mlpackage: no such file or folder" in done.err


class TestSuggestions:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["compress", "MODEL", "--recipes", "int8"], "No such option: --recipes; did you mean --recipe?"),
            (["compress", "MODEL", "--ouput", "x"], "No such option: --ouput; did you mean --output?"),
            (["explain", "NEAR"], "; did you mean model.mlpackage?"),
            (["explain", "MODEL", "-r", "pal4g16"], "unknown scheme 'pal4g16'; did you mean pal4-g16?"),
            (["explain", "MODEL", "-r", "YAML"], "no such recipe file; did you mean mine.yaml?"),
            (["explain", "MODEL", "-r", "int8", "--target", "ios81"], "no target ios81; did you mean iOS18?"),
            (["explain", "MODEL", "--function", "mian"], "no function 'mian'; did you mean main?"),
            (["explain", "MODEL", "--for", "neural"], "did you mean neural-engine?"),
            (["compare", "MODEL", "MODEL", "--data", "DATA"], "; did you mean data.npz?"),
            (
                ["dump", "MODEL", "--show", "op"],
                "--show: 'op' is not one of 'all', 'weights', 'ops', 'inputs'",
            ),
            (
                ["compress", "MODEL", "-o", "OUT", "-r", "int8", "--budget", "4 bits"],
                "--recipe and --budget: --budget finds the recipe itself; give one of the two",
            ),
            (
                ["compress", "MODEL", "-o", "OUT", "--budget", "4"],
                '--budget 4: 4 of what? "4 bits" (a weight)',
            ),
            (["compress", "MODEL", "-o", "OUT"], "give a --recipe such as pal4-g16, or a --budget"),
        ],
    )
    def test_say_what_was_meant(
        self,
        milpasses_command: Run,
        digits_packages: dict[str, Path],
        tmp_path: Path,
        arguments: list[str],
        expected: str,
    ):
        model = tmp_path / "model.mlpackage"
        model.symlink_to(digits_packages["iOS18"])
        (tmp_path / "mine.yaml").write_text("default: int8\n", encoding="utf-8")
        (tmp_path / "data.npz").write_bytes(b"")
        places = {
            "MODEL": model, "NEAR": tmp_path / "modle.mlpackage", "YAML": tmp_path / "mien.yaml",
            "DATA": tmp_path / "daat.npz", "OUT": tmp_path / "out.mlpackage",
        }  # fmt: skip
        done = milpasses_command(*(places.get(one, one) for one in arguments))
        assert (done.status, done.out) == (2, "")
        assert expected in done.err
        assert done.err.count("\n") == 1

    def test_the_neural_engine_has_a_short_name(
        self, milpasses_command: Run, digits_packages: dict[str, Path]
    ):
        model = digits_packages["iOS18"]
        short = milpasses_command("explain", model, "-r", "int4-b32", "--for", "ane")
        assert short.status == 0
        assert (
            short.out == milpasses_command("explain", model, "-r", "int4-b32", "--for", "neural-engine").out
        )


def test_the_shell_completes_commands_and_options():
    def completed(words: str) -> list[str]:
        code = "from milpasses_tools.cli import app; app(prog_name='milpasses')"
        environment = {
            "_MILPASSES_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
            "PYTHONPATH": ":".join(sys.path),
        }  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        return done.stdout.split()

    assert completed("milpasses comp") == ["compress", "compare"]
    assert completed("milpasses compress --rec") == ["--recipe"]


def test_written_files_are_named(milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path):
    model, small = digits_packages["iOS18"], tmp_path / "small.mlpackage"
    files = [
        tmp_path / name for name in ("recipe.yaml", "report.json", "dump.txt", "table.csv", "figures.csv")
    ]
    asked = ["compress", model, "-r", "int8", "-o", small, "--save-recipe", files[0], "--report", files[1]]
    done = milpasses_command(*asked).out
    done += milpasses_command("dump", model, "-o", files[2]).out
    done += milpasses_command("sensitivity", model, "-r", "int8", "--csv", files[3]).out
    done += milpasses_command("compare", model, small, "--samples", 1, "--csv", files[4]).out
    for path in files:
        assert path.exists()
        assert f"written: {path}\n" in done


class TestProgress:
    def test_the_step_is_named_and_an_unknown_end_is_not_shown(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        from milpasses_tools._progress import progress

        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        with progress("compressing") as step:
            pass
        shown = capsys.readouterr().err
        assert "compressing" in shown
        assert "reading the model" in shown
        assert "0/" not in shown
        with progress("searching") as step:
            step(3, 0, "run 3")
        shown = capsys.readouterr().err
        assert "3 " in shown
        assert "/?" not in shown
        assert "3/" not in shown
        with progress("measuring") as step:
            step(3, 12, "pal4")
        assert "3/12" in capsys.readouterr().err

"""One rule for every output of every command: never an input, never unasked, whole or not at all."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from milpasses_tools import trace
from models import conv_linear_program, convert

from milpasses.errors import PackageError

# Each as a command writes them: MODEL, DATA and OUT are put in.
COMMANDS = {
    "dump": ["dump", "MODEL", "-o", "OUT"],
    "dump for Model Explorer": ["dump", "MODEL", "--format", "model-explorer", "-o", "OUT"],
    "explain -o": ["explain", "MODEL", "-o", "OUT"],
    "diff -o": ["diff", "MODEL", "MODEL", "--json", "-o", "OUT"],
    "compare -o": ["compare", "MODEL", "MODEL", "--data", "DATA", "-o", "OUT"],
    "bisect -o": ["bisect", "MODEL", "MODEL", "--data", "DATA", "-o", "OUT"],
    "sensitivity -o": ["sensitivity", "MODEL", "--candidates", "int8", "--json", "-o", "OUT"],
    "compare --csv": ["compare", "MODEL", "MODEL", "--data", "DATA", "--csv", "OUT"],
    "compress -o": ["compress", "MODEL", "-r", "int8", "-o", "OUT"],
    "compress --report": ["compress", "MODEL", "-r", "int8", "-o", "new.mlpackage", "--report", "OUT"],
    "compress --save-recipe": ["compress", "MODEL", "-r", "int8", "-o", "new.mlpackage", "--save-recipe",
                               "OUT"],
    "sensitivity --csv": ["sensitivity", "MODEL", "--candidates", "int8", "--csv", "OUT"],
    "sensitivity --plot": ["sensitivity", "MODEL", "--candidates", "int8", "--plot", "OUT"],
    "trace": ["trace", "SCRIPT", "--dump-after-change", "OUT"],
    "trace --on-failure": ["trace", "SCRIPT", "--on-failure", "OUT"],
    "quantize-nn": ["quantize-nn", "MODEL", "--bits", "8", "-o", "OUT"],
    "upgrade": ["upgrade", "MODEL", "-o", "OUT"],
    "tune -o": ["tune", "MODEL", "-r", "pal2", "--data", "DATA", "-o", "OUT"],
    "tune --report": ["tune", "MODEL", "-r", "pal2", "--data", "DATA", "-o", "new.mlpackage",
                      "--report", "OUT"],
}  # fmt: skip
FOLDERS = ("trace", "trace --on-failure")
SUFFIX = {"sensitivity --plot": ".html"} | dict.fromkeys(
    ("compress -o", "quantize-nn", "upgrade", "tune -o"), ".mlpackage"
)


@pytest.fixture
def work(digits_packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the working one, with a model, data and a script that does nothing."""
    shutil.copytree(digits_packages["iOS18"], tmp_path / "model.mlpackage")
    np.savez(tmp_path / "data.npz", image=np.ones((1, 1, 8, 8), np.float32))
    (tmp_path / "script.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(command: str, out: Path, *more: str) -> list[str]:
    names = {"MODEL": "model.mlpackage", "DATA": "data.npz", "SCRIPT": "script.py", "OUT": str(out)}
    return [*(names.get(one, one) for one in COMMANDS[command]), *more]


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_replaced_unasked(work: Path, milpasses_command: Run, command: str):
    out = work / f"mine{SUFFIX.get(command, '.txt')}"
    content = out / "file" if command in FOLDERS else out
    content.parent.mkdir(exist_ok=True)
    content.write_text("mine")
    before = sorted(work.rglob("*"))
    outcome = milpasses_command(*arguments(command, out))
    assert outcome.status == 2
    assert outcome.err == f"milpasses: error: {out}: exists already; --force replaces it\n"
    assert content.read_text() == "mine"
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in SUFFIX and name not in FOLDERS])
@pytest.mark.parametrize("inside", ["", "Data/new.csv"])
def test_an_input_is_never_an_output(work: Path, milpasses_command: Run, command: str, inside: str):
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    outcome = milpasses_command(*arguments(command, work / "model.mlpackage" / inside, "--force"))
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "an input" in outcome.err
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["compare --csv", "compare -o", "bisect -o"])
def test_data_is_an_input_too(work: Path, milpasses_command: Run, command: str):
    before = (work / "data.npz").read_bytes()
    outcome = milpasses_command(*arguments(command, work / "data.npz", "--force"))
    assert (outcome.status, outcome.err.count("is an input")) == (2, 1)
    assert (work / "data.npz").read_bytes() == before


@pytest.mark.parametrize(
    "command",
    ["dump", "explain -o", "compare -o", "compare --csv", "compress --report", "sensitivity --csv", "trace"],
)
def test_what_exists_is_replaced_where_that_is_asked(work: Path, milpasses_command: Run, command: str):
    out = work / "out.txt"
    content = out / "old" if command in FOLDERS else out
    content.parent.mkdir(exist_ok=True)
    content.write_text("old")
    outcome = milpasses_command(*arguments(command, out, "--force"))
    assert outcome.status == 0, outcome.err
    assert not content.exists() if command in FOLDERS else content.read_text() != "old"
    assert not list(work.rglob(".*"))


def test_node_data_beside_a_graph_is_not_replaced_unasked(work: Path, milpasses_command: Run):
    (work / "graph.bits.json").write_text("mine")
    outcome = milpasses_command(*arguments("dump for Model Explorer", work / "graph.json"))
    assert (outcome.status, "graph.bits.json: exists already" in outcome.err) == (2, True)
    assert not (work / "graph.json").exists()


def test_a_report_inside_the_package_that_is_written(work: Path, milpasses_command: Run):
    shutil.copytree(work / "model.mlpackage", work / "new.mlpackage")
    outcome = milpasses_command(*arguments("compress --report", work / "new.mlpackage" / "r.json", "--force"))
    assert (outcome.status, "is an output twice" in outcome.err) == (2, True)


def test_a_sweep_never_writes_where_its_input_is(work: Path, milpasses_command: Run):
    options = "-r", "int8", "--data", "data.npz", "-o"
    assert milpasses_command("sweep", "model.mlpackage", *options, "out").status == 0
    chosen = work / "out" / "chosen.mlpackage"
    shutil.copytree(work / "model.mlpackage", chosen, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in (work / "out").rglob("*") if path.is_file()}
    outcome = milpasses_command("sweep", chosen, *options, "out", "--force")
    assert outcome.status == 2
    assert outcome.err == f"milpasses: error: out: holds {chosen}, an input; write it elsewhere\n"
    assert {path: path.read_bytes() for path in (work / "out").rglob("*") if path.is_file()} == before


def test_what_was_traced_is_kept_where_the_conversion_fails(tmp_path: Path):
    def interrupted() -> None:
        with trace(dump_after_change=tmp_path / "dumps"):
            convert(conv_linear_program())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    kept = sorted(path.name for path in (tmp_path / "dumps").iterdir())
    assert kept[0] == "000-start.mil"
    assert len(kept) > 3
    with pytest.raises(PackageError, match="exists already"), trace(dump_after_change=tmp_path / "dumps"):
        pass
    assert sorted(path.name for path in (tmp_path / "dumps").iterdir()) == kept


@pytest.mark.parametrize("command", ["explain", "diff", "compare", "bisect", "sensitivity"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_file_gets_what_would_be_printed(
    work: Path, milpasses_command: Run, command: str, form: tuple[str, ...]
):
    small = work / "small.mlpackage"
    if not small.exists():
        assert milpasses_command("compress", "model.mlpackage", "-r", "pal1", "-o", small).status == 0
    models = ["model.mlpackage"] if command in ("explain", "sensitivity") else ["model.mlpackage", small]
    data = [] if command in ("explain", "diff") else ["--data", "data.npz"]
    asked = [command, *models, *data, *form]
    printed = milpasses_command(*asked)
    written = milpasses_command(*asked, "-o", "out.txt")
    assert written == (printed.status, "written: out.txt\n", printed.err)
    assert (work / "out.txt").read_text() == printed.out
    (work / "out.txt").unlink()
    assert milpasses_command(*asked, "-q", "-o", "out.txt") == (printed.status, "", printed.err)
    assert (work / "out.txt").read_text() == printed.out

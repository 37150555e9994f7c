"""README.md runs from its first line to its last, as a newcomer would paste it."""

import re
import shlex
import warnings
from pathlib import Path

import pytest
from milpasses_tools import demo
from milpasses_tools.cli import SUBCOMMANDS, app

README = Path(__file__).resolve().parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_everything_runs_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of Start after ``pip`` and ``demo`` (whose test is elsewhere), then the Python blocks."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    demo(Path("milpasses-demo"), recipes=[], swept=["pal4"])
    lines = [line for line in blocks("")[0].splitlines() if line.startswith("milpasses ")]
    assert lines[0].startswith("milpasses demo")
    assert len(lines) == 4
    for line in lines[1:]:
        with pytest.raises(SystemExit) as ended:
            app(shlex.split(line, comments=True)[1:], prog_name="milpasses")
        assert not ended.value.code, line
    code = blocks("python")
    assert len(code) == 2
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in code:
            exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "lut4 per_grouped_channel(16)" in out
    assert "a right  b right" in out
    for name in ("small", "int8", "converted"):
        assert (tmp_path / f"{name}.mlpackage").is_dir()


def test_it_is_one_page_with_every_command() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert set(SUBCOMMANDS) <= set(re.findall(r"`([\w-]+)[^`]*`", text))
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / path).exists(), path


def test_yaml_blocks_are_recipes() -> None:
    from milpasses import Recipe

    for text in blocks("yaml"):
        recipe = Recipe.from_yaml(text)
        assert Recipe.parse(recipe.to_text()) == recipe


def test_short_names_in_the_table_exist() -> None:
    from milpasses import Recipe

    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(names) > 15
    for name in names:
        Recipe.of(name)

"""README.md's Python blocks run, one after another, as a newcomer would paste them."""

import re
import warnings
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_python_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    code = blocks("python")
    assert len(code) >= 5
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in code:
            exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "lut4 per_grouped_channel(16)" in out
    assert (tmp_path / "small.mlpackage").is_dir()
    assert (tmp_path / "int8.mlpackage").is_dir()


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


def test_commands_exist() -> None:
    from milpasses_tools.cli import app

    registered = {command.name for command in app.registered_commands}
    named = set(re.findall(r"^milpasses ([\w-]+)", README.read_text(encoding="utf-8"), re.M))
    assert named
    assert named <= registered

"""The site: nothing public lacks an entry, and what guides show runs as it stands."""

import contextlib
import io
import re
import shlex
import shutil
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import milpasses_tools
import pytest
import yaml
from milpasses_tools.cli import SUBCOMMANDS, app

import milpasses
import milpasses.budget
import milpasses.interpreter
import milpasses.neuralnetwork
import milpasses.recipe
from scripts.site_pages import commands, fields, short_names

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
GUIDES = sorted(path.stem for path in (DOCS / "guides").glob("*.md"))
STATUS = re.compile(r"#.*\bstatus (\d)")  # a line that ends otherwise than with 0 says so


def documented() -> set[str]:
    """What the reference names: ``::: package.module.Name``, and what its heading calls it."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").rglob("*.md"))
    return set(re.findall(r"^::: (\S+)", text, re.M))


def resolve(path: str) -> Any:
    """The object that a dotted path names; a module before a function that hides it."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"{path} names nothing")


@pytest.mark.parametrize(
    "package",
    [milpasses, milpasses_tools, milpasses.budget, milpasses.interpreter, milpasses.neuralnetwork],
    ids=lambda package: package.__name__,
)
def test_every_public_name_has_an_entry(package: Any) -> None:
    entries = [resolve(path) for path in documented()]
    missing = [
        name for name in package.__all__ if not any(getattr(package, name) is entry for entry in entries)
    ]
    assert len(package.__all__) > 4
    assert missing == [], "give each a ':::' in docs/reference/python"


def test_every_field_of_a_recipe_has_a_row() -> None:
    page = fields.page()
    classes = {
        value
        for value in vars(milpasses.recipe).values()
        if isinstance(value, type) and attrs.has(value) and not value.__name__.startswith("_")
    } - {milpasses.recipe.Decision, milpasses.recipe.Scheme}
    assert classes == set(fields.CLASSES)
    for owner in fields.CLASSES:
        section = page.split(f"## {owner.__name__}\n")[1].split("\n## ")[0]
        for field in attrs.fields(owner):
            assert f"| `{field.name}` |" in section, f"{owner.__name__}.{field.name}"
    known = {f"{owner.__name__}.{field.name}" for owner in fields.CLASSES for field in attrs.fields(owner)}
    assert set(fields.MEANINGS) == known
    assert "Takes one of per_channel, per_tensor, per_block" in page


def test_every_command_and_option_has_an_entry() -> None:
    page = commands.page()
    assert set(commands.commands()) == set(SUBCOMMANDS)
    for name, command in commands.commands().items():
        section = page.split(f"## milpasses {name}\n")[1].split("\n## ")[0]
        for param in command.params:
            words = param.opts if param.param_type_name == "option" else [param.metavar or param.name.upper()]
            assert all(word in section for word in words), f"{name} {param.name}"
    assert "| `-o, --output OUT` |" in page


def test_short_names_are_recipes_and_each_kind_is_there() -> None:
    recipes = [milpasses.Recipe.of(name) for name in short_names.NAMES]
    kinds = {type(recipe.default).__name__ for recipe in recipes}
    assert kinds == {"Quantize", "Palettize", "Prune", "Half", "Keep", "Joint"}
    for name, recipe in zip(short_names.NAMES, recipes, strict=True):
        assert milpasses.recipe.short_name(recipe.default) == name


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def paths(entries: Any) -> Iterator[str]:
        for entry in entries if isinstance(entries, list) else entries.values():
            if isinstance(entry, str):
                yield entry
            else:
                yield from paths(entry)

    listed = set(paths(config["nav"]))
    assert {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} <= listed
    assert config["theme"]["font"] is False
    for page in DOCS.rglob("*.md"):
        assert not re.search(r"!\[[^]]*\]\(https?:", page.read_text(encoding="utf-8")), (
            f"{page}: outside picture"
        )


def run_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the Python blocks and the ``milpasses`` lines of a page, in order; everything that was printed."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    names: dict[str, Any] = {"__name__": "__guide__"}
    out = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        warnings.simplefilter("ignore")
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                exec(compile(block, str(page), "exec"), names)
            elif language == "sh":
                for line in block.splitlines():
                    run_line(line, out)
    return out.getvalue()


def run_line(line: str, out: io.StringIO) -> None:
    """Run one line of a shell block; it must end as it should."""
    program, *words = shlex.split(line, comments=True) or [""]
    assert program == "milpasses", f"a line of another program belongs into a text block: {line}"
    with pytest.raises(SystemExit) as ended:
        app(words, prog_name="milpasses")
    said = STATUS.search(line)
    assert (ended.value.code or 0) == (int(said[1]) if said else 0), f"{line}\n{out.getvalue()[-2000:]}"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that First steps leaves."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as monkeypatch:
        said = run_page(DOCS / "start.md", folder, monkeypatch)
    assert "lut4 per_grouped_channel(16)" in said
    assert (folder / "milpasses-demo" / "sweep" / "report.html").is_file()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_guides_run(guide: str, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(begun / "milpasses-demo", tmp_path / "milpasses-demo")
    said = run_page(DOCS / "guides" / f"{guide}.md", tmp_path, monkeypatch)
    assert said or guide in ("index", "ecosystem")


def test_the_first_page_runs(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(begun / "milpasses-demo", tmp_path / "milpasses-demo")
    assert "lut4 per_grouped_channel(16)" in run_page(DOCS / "index.md", tmp_path, monkeypatch)


# Of a line or a block: what it writes, and whether it may replace that.
WRITES = re.compile(
    r"(?:\s-o |\boutput=\"|\.save\(\"|Path\(\"|savez\(\"|--(?:plot|csv|save-recipe) )([\w./-]+)"
)
REPLACES = re.compile(r"--force|force=True|\.save\(|write_text|savez")


def test_pages_do_not_stumble_over_one_another() -> None:
    """Somebody reads the site in one folder: nothing that exists is written again without ``force``."""
    written: set[str] = set()
    for page in [DOCS / "index.md", DOCS / "start.md", *(DOCS / "guides" / f"{name}.md" for name in GUIDES)]:
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            for line in block.splitlines() if language in ("sh", "python") else ():
                for name in WRITES.findall(line):
                    assert name not in written or REPLACES.search(line), f"{page.name}: {line}"
                    written.add(name)
    assert {"small.mlpackage", "recipe.yaml", "four.yaml", "int8.mlpackage"} <= written


@pytest.mark.parametrize("guide", GUIDES)
def test_a_page_that_needs_torch_says_so(guide: str) -> None:
    text = (DOCS / "guides" / f"{guide}.md").read_text(encoding="utf-8")
    if any("import torch" in block for language, block in FENCE.findall(text) if language == "python"):
        assert 'pip install "milpasses[torch]"' in text.partition("import torch")[0]

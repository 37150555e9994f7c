"""Texts that are too long, too deep or stand for too much: one clear line, and no time or memory lost."""

from pathlib import Path

import pytest

from milpasses.budget.table import Sensitivity
from milpasses.budget.text import read_budget, read_loss
from milpasses.errors import MilpassesError, shown
from milpasses.recipe import Recipe, RecipeError
from milpasses.report import read_metadata

DIGITS = "9" * 5000


def bomb(levels: int, name: str = "default") -> str:
    """YAML whose last value stands for 9 ** levels."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join([*lines, f"{name}: *a{levels - 1}"])


@pytest.mark.parametrize(
    "text",
    [f"pal{DIGITS}", f"int{DIGITS}", f"sparse{DIGITS}", f"sparse{DIGITS}of{DIGITS}", f"pal4-g{DIGITS}",
     f"int4-b{DIGITS}", f"palettize(nbits={DIGITS})", f"quantize(block_size=({DIGITS}, {DIGITS}))",
     f"pal4; min_elements={DIGITS} -> keep", "+".join(["int8"] * 3000), "quantize" + "(" * 3000,
     "pal4; " + "x" * 5000, f"prune(threshold={DIGITS})", "é\0" * 3000],
)  # fmt: skip
def test_recipes(text: str):
    with pytest.raises(RecipeError) as error:
        Recipe.of(text)
    assert len(str(error.value)) < 3 * len(text) + 1000


@pytest.mark.parametrize(
    "text",
    [bomb(5), bomb(8), bomb(30), bomb(30, "rules"), bomb(8, "global_config"), "default: &a [*a]",
     "default: &a {b: *a}", "default: " + "[" * 5000, "default: " + "{a: " * 5000, f"default: {DIGITS}\n",
     f"default: pal4\nrules: {DIGITS}", "default: 0x" + "f" * 9000, "default: !!python/object:os.system {}\n",
     "default: 2020-99-99\n", "rules:\n- " + "- " * 3000, "- a\n- b", "\0\n", "default: pal4\ndefault: [1"],
)  # fmt: skip
def test_yaml(tmp_path: Path, text: str):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    for given in (tmp_path / "a.yaml", text if "\n" in text.strip() else f"\n{text}\nscope: all"):
        with pytest.raises(RecipeError) as error:
            Recipe.of(given)
        assert len(str(error.value)) < 2500


def test_anchors_that_stand_for_little_are_read():
    recipe = Recipe.of(
        "default: &small pal4\nrules:\n- {name: a*, scheme: *small}\n- {name: b*, scheme: keep}"
    )
    assert str(recipe.rules[0].scheme) == str(recipe.default)


def test_a_recipe_that_is_no_text(tmp_path: Path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "a.yaml", tmp_path / "none.yaml", "a\0b.yaml", tmp_path):
        with pytest.raises(RecipeError):
            Recipe.from_yaml(path)


@pytest.mark.parametrize("text", [DIGITS, f"{DIGITS} bits", f"{DIGITS} %", "nothing", f"{DIGITS}e9"])
def test_budgets(text: str):
    with pytest.raises(MilpassesError) as error:
        read_budget(text, 1000, 1000)
    assert len(str(error.value)) < 600


def test_budgets_and_losses_of_many_digits_that_are_numbers():
    assert read_budget(f"1.{DIGITS} MB", 1000, 1000) == 2_000_000
    assert read_budget("9" * 300, 1, 1) == 2**62
    assert read_loss(f"{DIGITS} dB") < 1e-300  # so many decibels that nothing may be lost


@pytest.mark.parametrize("text", ["-99999 dB", f"-{DIGITS} dB", f"{DIGITS} %", f"1e{DIGITS}", DIGITS])
def test_losses(text: str):
    with pytest.raises(MilpassesError) as error:
        read_loss(text)
    assert len(str(error.value)) < 600


TEXTS = ["[" * 100_000, '{"a":' * 100_000, DIGITS, "[]", '{"milpasses_sensitivity": 2}', "\0"]


@pytest.mark.parametrize("text", TEXTS)
def test_json(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(MilpassesError) as error:
        Sensitivity.of(tmp_path / "a.json")
    assert len(str(error.value)) < 1500
    assert read_metadata(text) == {}


def test_values_are_shown_short():
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    wide = [["x" * 50] * 50] * 50
    for value in (deep, wide, "x" * 10_000, int("f" * 9000, 16), dict.fromkeys(range(1000), wide)):
        assert len(shown(value)) <= 410
    assert len(shown(deep)) < 100
    assert shown("abc") == "'abc'"
    assert shown([1, "a"]) == "[1, 'a']"

"""Refusals: every code has words, and the words take exactly the details that are given."""

import ast
import pickle
from pathlib import Path
from string import Formatter

import milpasses
from milpasses.errors import REASONS, Refusal, reason_text

ROOT = Path(milpasses.__file__).parent.parent
PACKAGES = ("milpasses", "tools/milpasses_tools")


def refusals() -> list[tuple[str, ast.Call]]:
    """Each call of ``Refusal`` in the packages, and where it stands."""
    paths = [path for folder in PACKAGES for path in sorted((ROOT / folder).rglob("*.py"))]
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Refusal"
    ]


def code_of(call: ast.Call) -> str | None:
    """The code that is written out; None where a refusal is read back, as ``Refusal(code, **details)``."""
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    (code,) = call.args
    assert isinstance(code, ast.Constant), f"line {call.lineno}: write the code out: {ast.unparse(call)}"
    assert isinstance(code.value, str)
    return code.value


def fields(words: str) -> set[str]:
    """The names that a text takes."""
    return {name for _, name, _, _ in Formatter().parse(words) if name is not None}


def test_every_refusal_gives_what_the_words_of_its_code_take() -> None:
    for place, call in refusals():
        code = code_of(call)
        if code is not None:
            assert code in REASONS, f"{place}: {code} has no words"
            names = {keyword.arg for keyword in call.keywords}
            assert names == fields(REASONS[code]), f"{place}: {code} takes {fields(REASONS[code])}"


def test_every_code_is_used() -> None:
    used = {code_of(call) for _, call in refusals()}
    assert set(REASONS) - used == set()


def test_a_refusal_equals_by_code_and_details_and_pickles() -> None:
    refusal = Refusal("small", size=3000, which="weight_threshold", limit=4096)
    assert str(refusal) == "3,000 elements <= weight_threshold 4,096"
    assert refusal == pickle.loads(pickle.dumps(refusal))
    assert hash(refusal) == hash(pickle.loads(pickle.dumps(refusal)))
    assert refusal != Refusal("small", size=3001, which="weight_threshold", limit=4096)


def test_a_code_of_a_newer_version_shows_as_it_is() -> None:
    assert reason_text("too-salty", {"grams": 3}) == "too-salty grams=3"

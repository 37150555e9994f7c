"""Recipes and encodings stand on their own: they import nothing of programs, and load nothing heavy."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

import milpasses

ROOT = Path(milpasses.__file__).parent
GROUND = ("milpasses.errors", "milpasses.report", "milpasses._coremltools", "milpasses_kernels")
BELOW = {
    "recipe": (*GROUND, "milpasses.recipe"),
    "encoding": (*GROUND, "milpasses.recipe", "milpasses.encoding"),
}
FILES = [(layer, path) for layer in BELOW for path in sorted((ROOT / layer).glob("*.py"))]


@pytest.mark.parametrize(("layer", "path"), FILES, ids=[f"{layer}-{path.stem}" for layer, path in FILES])
def test_a_layer_imports_only_what_stands_below_it(layer: str, path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = [name for name in imported(ast.walk(tree)) if name.startswith("milpasses")]
    assert all(name.startswith(BELOW[layer]) for name in own), own
    at_the_top = {name.split(".")[0] for name in imported(tree.body)}
    assert not at_the_top & {"coremltools", "numba", "yaml", "milpasses_kernels"}


def imported(nodes: Iterable[ast.AST]) -> list[str]:
    """The full names that statements among ``nodes`` import."""
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names

"""YAML that somebody wrote, as plain values; one whose aliases stand for far more than it says is refused."""

from typing import Any

from milpasses.recipe.errors import RecipeError

_MOST = 100_000  # values, each alias counted as what it stands for


def read_yaml(text: str) -> Any:
    """What ``yaml.safe_load`` gives. Raises ``RecipeError``: no YAML, nested too deeply, too large."""
    import yaml

    loader: Any = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > _MOST:
            raise RecipeError(f"its aliases stand for more than {_MOST:,} values: write out what is meant")
        return loader.construct_document(node)
    except RecursionError:
        raise RecipeError("not YAML of a recipe: nested too deeply, or inside itself") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none, a number without end
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f'not YAML (put patterns in quotes: "*.weight"): {error}') from None
    finally:
        if loader is not None:
            loader.dispose()


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values a node stands for; endless (``RecursionError``) where it is inside itself."""
    if isinstance(node.value, str):
        return 1
    if id(node) not in known:
        inside = (part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in inside)
    return known[id(node)]

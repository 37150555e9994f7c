"""Errors in a recipe: which field, what was expected, what was given, and where."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from milpasses.errors import MilpassesError, shown


class RecipeError(MilpassesError):
    """A recipe, or a field of one, that cannot be: says which, what was expected and what was given."""


def wrong(name: str, expected: str, given: object) -> RecipeError:
    """The error of a field whose value cannot be."""
    return RecipeError(f"{name}: expected {expected}, not {shown(given)}")


def check_names(what: str, given: Iterable[object], accepted: Iterable[str]) -> None:
    """Refuse names that are not accepted, and list those that are."""
    known = list(accepted)
    if unknown := [name for name in given if name not in known]:
        raise RecipeError(
            f"{what}: unknown {comma(map(shown, unknown[:20]))}; accepted: {comma(known) or 'nothing'}"
        )


@contextmanager
def at(place: str) -> Generator[None, None, None]:
    """Say where in a recipe an error is."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from None


def comma(words: Iterable[object]) -> str:
    """The words with commas between."""
    return ", ".join(map(str, words))

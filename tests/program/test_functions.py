"""Which function is meant where none is named."""

import pytest

from milpasses.errors import MilpassesError
from milpasses.program.functions import resolve_function


@pytest.mark.parametrize(
    ("names", "wanted", "default", "expected"),
    [
        (["main"], None, "", "main"),
        (["a", "b"], None, "b", "b"),
        (["a", "b"], "a", "b", "a"),
        (["a", "main"], None, "gone", None),
        (["other"], None, "", "other"),
        (["a", "b"], None, "", None),
        (["main"], "x", "", None),
    ],
)
def test_the_default_unless_one_is_named(
    names: list[str], wanted: str | None, default: str, expected: str | None
):
    if expected is not None:
        assert resolve_function(names, wanted, default) == expected
        return
    with pytest.raises(MilpassesError, match=f"the program has {', '.join(names)}"):
        resolve_function(names, wanted, default)

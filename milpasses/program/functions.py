"""Which function of a program is meant where none is named."""

from collections.abc import Iterable

from milpasses.errors import MilpassesError, did_you_mean


def resolve_function(names: Iterable[str], wanted: str | None, default: str = "") -> str:
    """The function ``wanted``; without a name ``default``, else ``main``, else the only one there is.

    ``default`` is what the program says of itself: ``defaultFunctionName`` of a package's description,
    ``default_function_name`` of a ``Program``. Raises ``MilpassesError`` with the names that there are.
    """
    names = sorted(names)
    name = wanted or default or "main"
    if name in names:
        return name
    if not wanted and len(names) == 1:
        return names[0]
    raise MilpassesError(
        f"no function '{name}'{did_you_mean(name, names)}; the program has {', '.join(names)}"
    )

"""``method="tune"``: which schemes have it, and a scheme with it where data can improve what it makes."""

import attrs

from milpasses.recipe.schemes import Joint, Palettize, Quantize, Scheme


def tunes(scheme: Scheme) -> bool:
    """Whether the scheme, or a part of it, has ``method="tune"``."""
    parts = (scheme.first, scheme.second) if isinstance(scheme, Joint) else (scheme,)
    return any(getattr(part, "method", "") == "tune" for part in parts)


def tuned(scheme: Scheme) -> Scheme:
    """The scheme with ``method="tune"`` in the place of its default; other methods stay."""
    if isinstance(scheme, Joint):
        holds_table = isinstance(scheme.first, Palettize)  # the integers are entries of the table then
        return Joint(tuned(scheme.first), scheme.second if holds_table else tuned(scheme.second))
    if isinstance(scheme, Palettize):
        plain = scheme.method == "plain" and scheme.mode == "kmeans"
        return attrs.evolve(scheme, method="tune") if plain else scheme
    if isinstance(scheme, Quantize) and scheme.method == "search":
        return attrs.evolve(scheme, method="tune")
    return scheme

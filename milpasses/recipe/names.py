"""Names as patterns meet them: as PyTorch or MIL gave them, and as coremltools saves them.

``ct.convert`` turns ``layers.1.weight`` into ``layers_1_weight_to_fp16``: its ``sanitize_name_strings``
leaves letters, digits and underscores, and puts ``op_`` (``_`` for variables) before a digit at the start;
``add_fp16_cast`` appends to what it casts. A pattern may be written in either spelling, and is tried against
both.
"""

import re
from fnmatch import translate
from functools import cache

# What add_fp16_cast appends to the name of a constant, and of an op.
CONSTANT_SUFFIX, OP_SUFFIX = "_to_fp16", "_cast_fp16"
_INVALID = re.compile(r"[^a-zA-Z0-9_]")


@cache
def pattern(glob: str) -> re.Pattern[str]:
    """The regular expression of a glob."""
    # fnmatch's own cache is too small for a recipe with a rule for each layer of a large model.
    return re.compile(translate(glob))


def literal(name: str) -> str:
    """The glob that matches this name alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def matches_exactly(glob: str | None, name: str) -> bool:
    """Whether a name matches as it is; None matches every name."""
    return glob is None or pattern(glob).match(name) is not None


def matches_spelling(glob: str | None, name: str, suffix: str) -> bool:
    """Whether a name matches in one of its spellings, with ``suffix`` or without; None matches every name."""
    if matches_exactly(glob, name):
        return True
    assert glob is not None
    patterns = _other_globs(glob, suffix)
    return any(pattern(other).match(spelling) for other in patterns for spelling in _spellings(name, suffix))


def saved_name(name: str, before_digit: str = "op_") -> str:
    """The name of a constant in a saved package; of a variable, with ``before_digit`` ``"_"``."""
    saved = _INVALID.sub("_", name)
    return f"{before_digit}{saved}" if saved[:1].isdigit() else saved


@cache
def _spellings(name: str, suffix: str) -> frozenset[str]:
    """A name as it was given and as it is saved, with and without the suffix.

    Also without what was put before a digit, so that ``0_weight*`` finds ``op_0_weight``.
    """
    saved = _INVALID.sub("_", name)
    names = {name, saved, re.sub(r"^(op)?_(?=[0-9])", "", saved)}
    if saved[:1].isdigit():
        names |= {f"_{saved}", f"op_{saved}"}
    return frozenset(names | {spelling.removesuffix(suffix) for spelling in names})


@cache
def _other_globs(glob: str, suffix: str) -> frozenset[str]:
    """A glob, and the same one in the characters of saved names, each with and without the suffix."""
    tokens = re.findall(r"\[!?\]?[^\]]*\]|.", glob, re.DOTALL)
    globs = {glob, "".join(map(_saved_token, tokens))}
    bare = {spelling.removesuffix(suffix) for spelling in globs}
    return frozenset(globs | {spelling for spelling in bare if spelling and spelling[-1] not in "*?]"})


def _saved_token(token: str) -> str:
    """One wildcard, or one character; in brackets a single character too, as ``literal`` writes it."""
    if token in ("*", "?"):
        return token
    character = token[1] if re.fullmatch(r"\[.\]", token, re.DOTALL) else token
    return _INVALID.sub("_", character) if len(character) == 1 else token

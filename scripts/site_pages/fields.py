"""The page of every field of a recipe, from the classes themselves."""

import typing
from collections.abc import Mapping
from typing import Any

import attrs

from milpasses.recipe import (
    ActivationRule,
    Activations,
    Half,
    Joint,
    Keep,
    Palettize,
    Prune,
    Quantize,
    Recipe,
    RecipeError,
    Rule,
)

CLASSES: tuple[type[Any], ...] = (
    *(Recipe, Rule, Quantize, Palettize, Prune, Half, Keep, Joint, Activations, ActivationRule),
)

# What a class needs besides the field that is asked about.
NEEDED: Mapping[type[Any], Mapping[str, Any]] = {
    Palettize: {"nbits": 4},
    Prune: {"target_sparsity": 0.5},
    Recipe: {"default": "int8"},
    Rule: {"scheme": "int8"},
    ActivationRule: {"a8": "keep"},
}

_THRESHOLD = "Weights of at most so many elements stay as they are."
_METHOD = "How the codes are found; {} needs statistics, or `calibration=data`."
_TUNE = " `tune` needs the data, and goes on by gradients."

MEANINGS: Mapping[str, str] = {
    "Recipe.default": "What a weight becomes that no rule matches.",
    "Recipe.rules": "Tried in order; the first that matches decides.",
    "Recipe.scope": "`weights`: what ops multiply and sum with or look up. `all`: every constant, as coremltools.",
    "Recipe.rest": "What a weight becomes that its scheme leaves dense: `half`, or nothing.",
    "Recipe.activations": "8-bit activations everywhere, or none: `a8`.",
    "Recipe.activation_rules": "Which ops' activations become 8-bit; the first that matches decides.",
    "Rule.scheme": "What a weight that matches becomes.",
    "Rule.op_type": "Types of the ops that use the weight: `conv`, `linear`, ...",
    "Rule.name": "Pattern of the weight's name (`*`, `?`, `[a-z]`), as PyTorch gave it or as the package has it.",
    "Rule.op_name": "Pattern of the name of the op that uses it.",
    "Rule.param": "Parameter of the op: `weight`, `bias`, `x`, `y`, ...",
    "Rule.min_elements": "Only weights of at least so many elements; it also takes the place of `weight_threshold`.",
    "Rule.max_elements": "Only weights of at most so many elements.",
    "Rule.min_rank": "Only weights of at least so many dimensions.",
    "Rule.rank": "Only weights of exactly so many dimensions.",
    "Rule.min_channels": "Only weights with at least so many output channels.",
    "Rule.min_input_channels": "Only weights with at least so many input channels (of one group of a convolution).",
    "Rule.content": "Shape and digest of the weight, which `fit` writes so that a recipe finds its weights again.",
    "Rule.where": "A Python function of the `Weight`; it has no text form.",
    "Quantize.dtype": "Type of the stored integers.",
    "Quantize.mode": "`linear_symmetric`: a scale alone. `linear`: a zero point too (`-asym`).",
    "Quantize.granularity": "How many weights share a scale.",
    "Quantize.block_size": "With `per_block`: input channels a scale, or a size for each axis (0: the whole of it).",
    "Quantize.method": _METHOD.format("`gptq`") + _TUNE,
    "Quantize.weight_threshold": _THRESHOLD,
    "Palettize.nbits": "Bits of a code: a table has `2**nbits` entries.",
    "Palettize.mode": "What fills the table: exact `kmeans`, `uniform` steps, the `unique` values, or your function.",
    "Palettize.granularity": "One table for the weight, or one for each group of channels.",
    "Palettize.group_size": "With `per_grouped_channel`: channels that share a table.",
    "Palettize.channel_axis": "The axis of groups and of vectors; by default the op's output channels.",
    "Palettize.cluster_dim": "Weights in a table entry (`-v2`: two neighbours share a code).",
    "Palettize.enable_per_channel_scale": "Each channel scaled to the same range first.",
    "Palettize.lut_function": "With `mode=custom`: `lut_function(weight) -> (lut, indices)`; it has no text form.",
    "Palettize.method": _METHOD.format("`gptq`") + _TUNE,
    "Palettize.weight_threshold": _THRESHOLD,
    "Prune.target_sparsity": "This share becomes zero, exactly.",
    "Prune.threshold": "Magnitudes up to this become zero.",
    "Prune.minimum_sparsity_percentile": "With `threshold`: the share (0 to 1) that must end up zero, else all stays.",
    "Prune.n_m_ratio": "The n smallest of every m become zero: `(2, 4)`.",
    "Prune.block_size": "With `target_sparsity`: whole blocks of so many become zero.",
    "Prune.dim": "The axis of blocks (0) or of n:m (1).",
    "Prune.method": _METHOD.format("`obs`"),
    "Prune.weight_threshold": _THRESHOLD,
    "Half.weight_threshold": _THRESHOLD,
    "Keep.weight_threshold": "Always 0: nothing is too small to be kept.",
    "Joint.first": "`Prune` or `Palettize`.",
    "Joint.second": "What the non-zeros become, or the entries of the table.",
    "Joint.weight_threshold": "The larger of the two.",
    "Activations.dtype": "Type of the stored integers.",
    "Activations.mode": "`auto`: for each tensor the finer of `linear_symmetric`, a scale alone (`-sym`), "
    "and `linear`, a zero point too (`-asym`).",
    "ActivationRule.a8": "What the activations of these ops become; `keep` leaves them float.",
    "ActivationRule.op_type": "Types of the ops that take them.",
    "ActivationRule.op_name": "Pattern of the op's name.",
}

HEAD = """\
# Every field of a recipe

The same names serve Python (`mp.Palettize(nbits=4)`), one line of text (`palettize(nbits=4)`) and YAML
(`palettize: {nbits: 4}`). They are coremltools' own where coremltools has one. A wrong name or value is one line that
lists what is accepted. How these come together is in the [guide to packages](../guides/packages.md), what the
[short names](short-names.md) stand for on its own page.

"""


def type_text(hint: Any) -> str:
    """A type as a reader writes it."""
    if isinstance(hint, str):
        return hint
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    text = str(hint).replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "None")
    for module in ("milpasses.recipe.schemes.", "milpasses.recipe.activations.", "milpasses.recipe.rules."):
        text = text.replace(module, "")
    return text


def accepted(owner: type[Any], name: str) -> str:
    """What the field accepts, in the words of the error for a value that it does not; empty if it takes any."""
    try:
        owner(**{**NEEDED.get(owner, {}), name: object()})
    except RecipeError as error:
        said = " ".join(str(error).split())
        head = f"{name}: expected "
        return said.removeprefix(head).partition(", not ")[0] if said.startswith(head) else ""
    except TypeError:
        return ""
    return ""


def default_text(field: Any) -> str:
    """The default as Python, or that there is none."""
    if not field.init:
        return "not given"
    if field.default is attrs.NOTHING:
        return "required"
    return "computed" if isinstance(field.default, attrs.Factory) else f"`{field.default!r}`"  # pyright: ignore


def section(owner: type[Any]) -> str:
    """One class: a row for each field."""
    lines = [f"## {owner.__name__}", "", f"[`{owner.__name__}`](python/recipes.md)", ""]
    lines += ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in attrs.fields(owner):
        meaning = MEANINGS[f"{owner.__name__}.{field.name}"]
        takes = accepted(owner, field.name)
        takes = f" Takes {takes}." if takes else ""
        kind = type_text(field.type).replace("|", "\\|")
        lines.append(
            f"| `{field.name}` | `{kind}` | {default_text(field)} | {meaning}{takes.replace('|', chr(92) + '|')} |"
        )
    return "\n".join(lines) + "\n"


def page() -> str:
    """Markdown of the page."""
    return HEAD + "\n".join(section(owner) for owner in CLASSES)

"""Which bias makes up for what a weight loses on average: the pairs of one program.

Left alone are biases that other ops or functions use, too, those in the program's text (of fewer than ten
elements), and those of which a rule of the recipe says ``keep``.
"""

from collections.abc import Sequence

from milpasses.errors import Refusal
from milpasses.program.weights import FLOATS, Site
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.schemes import Keep

Bias = Site | Refusal  # a bias that may be corrected, or why it may not


def biases_of(calibrated: Sequence[Site], sites: Sequence[Site], recipe: Recipe) -> dict[Site, Bias]:
    """Of each of the ``calibrated`` weights that has one: its bias, or why that is left alone."""
    users: dict[tuple[str, str, str], list[Site]] = {}
    for site in sites:
        for use in site.weight.consumers:
            users.setdefault((use.op_type, use.op_name, use.param), []).append(site)

    def given(weight: Site, param: str) -> list[Site]:
        """What the one op that uses ``weight`` takes as ``param``; several if its name is no name."""
        use, functions = weight.weight.consumers[0], set(weight.weight.functions)
        every = users.get((use.op_type, use.op_name, param), [])
        return [site for site in every if functions & set(site.weight.functions)]

    pairs: dict[Site, Bias] = {}
    for site in calibrated:
        if len(site.weight.consumers) != 1:
            continue
        use = site.weight.consumers[0]
        bias = use.weight_use.bias
        if bias and given(site, use.param) == [site] and len(biases := given(site, bias)) == 1:
            pairs[site] = _refusal(recipe, site, biases[0]) or biases[0]
    return pairs


def _refusal(recipe: Recipe, weight: Site, bias: Site) -> Refusal | None:
    """Why ``bias`` must stay as it is, or None."""
    name = bias.weight.name
    if len(bias.weight.consumers) > 1 or set(bias.weight.functions) != set(weight.weight.functions):
        return Refusal("bias-shared", name=name)
    if bias.blocked is not None:
        return Refusal("bias-blocked", name=name, why=str(bias.blocked))
    if bias.existing is not None:
        return Refusal("bias-compressed", name=name)
    if bias.weight.dtype not in FLOATS or bias.weight.shape != weight.weight.shape[:1]:
        return Refusal("bias-shape", name=name, dtype=bias.weight.dtype, shape=bias.weight.shape)
    decision = recipe.decide(bias.weight)
    if isinstance(decision.scheme, Keep) and decision.rule_index is not None:
        return Refusal("bias-kept", name=name)
    return None

"""Recipes as passes without options: ``milpasses::pal4-g16``.

For hosts that rebuild a pipeline from the names of its passes, which loses their options (ExecuTorch's Core
ML backend does that). Every short name of the README's table is registered when milpasses is imported;
``register_pass`` registers any other recipe.
"""

from typing import Any

from milpasses import _coremltools as host
from milpasses.errors import MilpassesError
from milpasses.passes._weight_pass import WeightPass
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.text import SHORT_NAMES

NAMESPACE = "milpasses"


class RecipePass(WeightPass):
    """``milpasses::compress_weights`` with its recipe set; a subclass for each recipe has its name."""

    recipe: Any = None

    def read_options(self, options: dict[str, Any]) -> Recipe:
        """The recipe that the pass was registered with: it has no option of its own."""
        return Recipe.of(self.recipe)


def register_pass(recipe: Any, name: str | None = None, override: bool = False) -> str:
    """Register a pass of coremltools that compresses with ``recipe`` and needs no options.

    ``recipe`` is whatever ``Recipe.of`` takes. ``name`` is by default the recipe's text; a recipe with Python
    functions has none, and must be given one. The same recipe may be registered again; ``override`` lets
    another one take its name. Like coremltools' own registry, this one ends with the process: the process
    that converts must register what it uses.

    Returns the name of the pass, for ``ct.PassPipeline(pass_names=[...])`` and ``append_pass``::

        passes = ct.PassPipeline.DEFAULT
        passes.append_pass(milpasses.register_pass("pal4-g16; name=head* -> int8"))

    Raises ``RecipeError`` for a recipe that cannot be read or named, ``MilpassesError`` for a name that is
    taken, and for 8-bit activations, whose ranges no pass without options can have.
    """
    wanted = Recipe.of(recipe)
    if wanted.wants_activations:
        raise MilpassesError(
            f"{wanted}: 8-bit activations need ranges, which a pass without options has not: take "
            "milpasses.pipeline(recipe, statistics=...), or milpasses::quantize_activations with its options"
        )
    short = wanted.to_text() if name is None else name
    if not short or short != short.strip() or "::" in short:
        raise MilpassesError(f"{short!r} cannot name a pass: give a text without spaces around it and '::'")
    full = f"{NAMESPACE}::{short}"
    registered = host.pass_registry().passes.get(full)
    if registered is not None:
        own = issubclass(registered, RecipePass)
        if own and Recipe.of(registered.recipe) == wanted:
            return full
        if not own or not override:
            remedy = "; override=True replaces it" if own else ""
            raise MilpassesError(f"the pass {full} exists already, and is another one{remedy}")
    _register(short, wanted)
    return full


def _register(name: str, recipe: Any) -> None:
    kind = type(name, (RecipePass,), {"recipe": recipe, "__module__": __name__})
    host.pass_registry().add(NAMESPACE, kind, override=True, name=name)


for _name in SHORT_NAMES:
    _register(_name, _name)  # as text: importing milpasses reads no recipe

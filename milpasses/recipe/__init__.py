"""What each weight is to become: schemes, the rules that give them to weights, and their text forms."""

from milpasses.recipe.activations import ActivationRule, Activations
from milpasses.recipe.errors import RecipeError
from milpasses.recipe.names import literal
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.rules import Decision, Rule
from milpasses.recipe.schemes import Half, Joint, Keep, Palettize, Prune, Quantize, Scheme, short_name

__all__ = [
    "ActivationRule",
    "Activations",
    "Decision",
    "Half",
    "Joint",
    "Keep",
    "Palettize",
    "Prune",
    "Quantize",
    "Recipe",
    "RecipeError",
    "Rule",
    "Scheme",
    "literal",
    "short_name",
]

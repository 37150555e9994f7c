"""What a sweep tries: recipes on ML Programs, the classic quantizations of legacy networks."""

import itertools
import re
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from milpasses.errors import MilpassesError, shown

if TYPE_CHECKING:
    from milpasses_tools._sweep.tuning import Calibration

EVERYWHERE = ("int8", "pal8", "pal6", "pal4", "pal2", "pal1", "sparse50")
SINCE_IOS18 = ("int4", "int4-b32", "pal3", "pal4-g16", "pal4+int8", "sparse50+int8", "sparse50+pal4")
CLASSIC_MODES = ("linear", "linear_lut", "kmeans")
CLASSIC_BITS = (16, 8, 7, 6, 5, 4, 3, 2, 1)
_MOST_VARIANTS = 1000
_FIT = re.compile(r"fit\((.+)\)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


@attrs.frozen(eq=False)
class Models:
    """What variants are made from: the model as given, the ML Program that recipes take, tuning inputs.

    ``part``: of a pipeline, what recipes compress alone.
    """

    given: Path
    program: Path
    calibration: "Calibration | None" = None
    part: str | None = None


@attrs.frozen(eq=False)
class Made:
    """A model that was made: its path, and ``bits_per_weight`` where the maker knows better than a reader."""

    path: Path
    bits_per_weight: float | None = None


class Variant(Protocol):
    """One way to make a smaller model; it is sent to other processes.

    ``text`` says all that decides what comes out, and enters the key under which the result is kept; None
    where nothing can say it, so that it is made anew each time. ``calibrated``: ``make`` reads
    ``models.calibration``, samples that accuracy is not measured on.
    """

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    @property
    def text(self) -> str | None:
        """See the class."""
        ...

    @property
    def calibrated(self) -> bool:
        """See the class."""
        ...

    def make(self, models: Models, folder: Path) -> Made:
        """Write the model into ``folder``, or name one that is there already."""
        ...


@attrs.frozen
class Original:
    """The model as it is: what the others are measured against."""

    name: str = "original"
    text: str = "original"
    calibrated: bool = False

    def make(self, models: Models, folder: Path) -> Made:
        """The model itself."""
        return Made(models.given)


@attrs.frozen
class Compressed:
    """``milpasses.compress`` with a recipe, on the ML Program."""

    name: str
    recipe: Any
    text: str | None
    calibrated: bool = False

    def make(self, models: Models, folder: Path) -> Made:
        """The compressed package."""
        import milpasses

        output = folder / "model.mlpackage"
        known = models.calibration if self.calibrated else None
        itself = self.recipe.wants_activations or self.recipe.wants_tuning
        tuned = {} if known is None else known.options(itself)
        milpasses.compress(models.program, self.recipe, output=output, part=models.part, **tuned)
        return Made(output)


@attrs.frozen
class Fitted:
    """``milpasses.budget.fit`` to ``budget``, and ``milpasses.compress`` with the recipe that it gives."""

    budget: str
    calibrated: bool = True

    @property
    def name(self) -> str:
        """``fit(4 bits)``."""
        return f"fit({self.budget})"

    @property
    def text(self) -> str:
        """See ``Variant``."""
        return self.name

    def make(self, models: Models, folder: Path) -> Made:
        """The compressed package."""
        from milpasses_tools._sweep.tuning import fitted

        recipe = fitted(models.program, self.budget, models.calibration, models.part)
        return Compressed(self.name, recipe, None, True).make(models, folder)


@attrs.frozen
class Classic:
    """``milpasses.neuralnetwork.quantize_weights`` of a legacy network, which stays an ``.mlmodel``."""

    mode: str
    nbits: int
    calibrated: bool = False

    @property
    def name(self) -> str:
        """``kmeans_4``."""
        return f"{self.mode}_{self.nbits}"

    @property
    def text(self) -> str:
        """See ``Variant``."""
        return f"classic {self.name}"

    def make(self, models: Models, folder: Path) -> Made:
        """The quantized ``.mlmodel``."""
        from milpasses import neuralnetwork

        output = folder / "model.mlmodel"
        found = neuralnetwork.quantize_weights(models.given, self.nbits, self.mode, output=output)
        return Made(output, found.report.bits_per_weight)


def from_recipe(value: Any) -> "Compressed | Fitted":
    """The variant of whatever ``Recipe.of`` takes, or of ``fit(BUDGET)``; raises ``MilpassesError``."""
    from milpasses import Recipe, RecipeError
    from milpasses.calibration.encode import feedback_method

    fit = _FIT.fullmatch(value.strip()) if isinstance(value, str) else None
    if fit is not None:
        return _fitted(" ".join(fit[1].split()))
    recipe = Recipe.of(value)
    try:
        text = recipe.to_text()
    except RecipeError:  # it holds a function
        text = None
    name = value if isinstance(value, str) else str(recipe)
    schemes = (recipe.default, *(rule.scheme for rule in recipe.rules))
    return Compressed(name, recipe, text, recipe.wants_activations or any(map(feedback_method, schemes)))


def _fitted(budget: str) -> Fitted:
    from milpasses.budget.text import read_budget, read_loss

    if budget.lower().endswith("db"):
        read_loss(budget)
    else:
        read_budget(budget, 1, 1)
    return Fitted(budget)


def classic() -> list[Classic]:
    """The 27 classic variants, in the order in which their author's table has them."""
    return [Classic(mode, nbits) for mode in CLASSIC_MODES for nbits in CLASSIC_BITS]


def default_recipes(opset: Any) -> tuple[str, ...]:
    """Short recipes that a model of either generation can take."""
    return EVERYWHERE + SINCE_IOS18 if opset.joint else EVERYWHERE


def expand(pattern: str) -> list[str]:
    """``pal{2,4}-g{8,16}`` as the recipes it stands for; ``{1..4}`` counts; raises ``MilpassesError``."""
    choices = [_choices(inside) for inside in _BRACES.findall(pattern)]
    fixed = _BRACES.split(pattern)[::2]
    if any(sign in part for part in fixed for sign in "{}"):
        raise MilpassesError(f"--grid {shown(pattern)}: braces that do not match, or stand in one another")
    if prod(map(len, choices)) > _MOST_VARIANTS:
        raise MilpassesError(f"--grid {shown(pattern)}: stands for more than {_MOST_VARIANTS:,} recipes")
    return [
        "".join(itertools.chain.from_iterable(zip(fixed, (*chosen, ""), strict=True)))
        for chosen in itertools.product(*choices)
    ]


def _choices(inside: str) -> Sequence[str]:
    """What braces stand for; of a range no more than is too many."""
    counted = _RANGE.fullmatch(inside.strip())
    if counted is None:
        return [one.strip() for one in inside.split(",")]
    first, last = map(int, counted.groups())
    last = min(last, first + _MOST_VARIANTS)
    return [str(number) for number in range(first, last + 1)] or [str(first)]


def split_recipes(texts: Iterable[str]) -> list[str]:
    """Recipes of ``--recipes``: a comma between two of them, none inside brackets, parts one."""
    found: list[str] = []
    for text in texts:
        depth, start = 0, 0
        for at, sign in enumerate(text):
            depth += (sign in "([{") - (sign in ")]}")
            if sign == "," and depth == 0:
                found.append(text[start:at])
                start = at + 1
        found.append(text[start:])
    return [one.strip() for one in found if one.strip()]


def check_names(variants: Sequence[Variant]) -> list[Variant]:
    """The variants, each but once; raises ``MilpassesError`` where two that differ have one name."""
    found: dict[str, Variant] = {}
    for variant in variants:
        known = found.setdefault(variant.name, variant)
        if known is not variant and (known.text is None or known.text != variant.text):
            raise MilpassesError(f"two variants are called {variant.name!r}: give one another name")
    return list(found.values())

"""Entry point: a recipe as a ``pass_pipeline`` for ``ct.convert``."""

from typing import Any

from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline

from milpasses import _coremltools as host
from milpasses.errors import MilpassesError
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report, abridged

PASS = "milpasses::compress_weights"
ACTIVATIONS = "milpasses::quantize_activations"


class Pipeline(PassPipeline):
    """A ``ct.PassPipeline`` that ends with ``milpasses::compress_weights`` and keeps its ``report``.

    The report is that of the latest conversion that ran the pipeline.
    """

    def __init__(
        self, base: PassPipeline, recipe: Recipe, statistics: Any = None, strict: bool = False
    ) -> None:
        if recipe.wants_activations and statistics is None:
            raise MilpassesError(
                "8-bit activations need ranges: pass statistics=milpasses.statistics(model, data), of the "
                "same network converted without compression"
            )
        added = [PASS, ACTIVATIONS] if recipe.wants_activations else [PASS]
        super().__init__([*base.passes, *added], f"{base.pipeline_name} with milpasses")
        self.set_options_by_another_pipeline(base)
        self.report = Report(recipe=str(recipe))
        self.recipe = recipe
        options = {} if statistics is None else {"statistics": statistics}
        self.set_options(PASS, {"recipe": recipe, "report": self.report, "strict": strict, **options})
        if recipe.wants_activations:
            wanted = {"recipe": recipe, "report": self.report, "strict": strict, **options}
            self.set_options(ACTIVATIONS, wanted)

    def __repr__(self) -> str:
        done = f"; {self.report.summary()}" if len(self.report) else ""
        return f"<Pipeline: {len(self.passes):,} passes, then {abridged(str(self.recipe))}{done}>"

    def set_options(self, pass_name: str, options: dict[str, Any], override: bool = True) -> None:
        """As coremltools', but options of milpasses' own passes are checked here, not when the pass runs."""
        super().set_options(pass_name, options, override)
        if pass_name.startswith("milpasses::"):
            registry = host.pass_registry()
            if pass_name not in registry:
                names = ", ".join(sorted(name for name in registry.passes if name.startswith("milpasses::")))
                raise MilpassesError(f"there is no pass {pass_name}; there are {names}")
            registry[pass_name].set_options(self.get_options(pass_name))


def pipeline(
    recipe: Any, base: PassPipeline | None = None, statistics: Any = None, *, strict: bool = False
) -> Pipeline:
    """A pass pipeline that compresses with ``recipe``, after everything that ``base`` does.

    ``recipe`` is whatever ``Recipe.of`` takes; ``base`` is coremltools' default pipeline unless given, and
    is not changed. ``statistics``: as for ``compress``, of the same network converted without compression;
    or ``"norms"``, which needs no data. ``strict``: a rule that decides no weight ends the conversion with
    a ``RecipeError``; otherwise it is an ``UnmatchedRuleWarning``. Compression comes last, so weights are
    float16 already and every fusion has been made::

        model = ct.convert(traced, inputs=[...], minimum_deployment_target=ct.target.iOS18,
                           pass_pipeline=milpasses.pipeline("pal4-g16"))
    """
    base = PassPipeline.get_pipeline("default") if base is None else base
    return Pipeline(base, Recipe.of(recipe), statistics, strict)

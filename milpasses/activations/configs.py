"""coremltools' configurations and samples for activations."""

from collections.abc import Mapping
from typing import Any

from milpasses.activations.points import CORE
from milpasses.errors import MilpassesError, SampleError
from milpasses.recipe.activations import ActivationRule, Activations
from milpasses.recipe.names import literal
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.schemes import Keep

_CONFIGS = ("OpLinearQuantizerConfig", "OpActivationLinearQuantizerConfig")


def read_activation_config(config: Any) -> Recipe:
    """The recipe of an ``OptimizationConfig`` for activations: op names first, then types, then the rest."""
    if not all(hasattr(config, f"{which}_configs") for which in ("op_name", "op_type")):
        raise MilpassesError(f"expected a coremltools OptimizationConfig, not {config!r}")
    rules = [ActivationRule(_read(each), op_name=literal(n)) for n, each in config.op_name_configs.items()]
    rules += [
        ActivationRule(_read(each), op_type=kind)
        for kind, each in config.op_type_configs.items()
        if kind in CORE
    ]
    return Recipe(Keep(), activations=_read(config.global_config), activation_rules=rules)


def _read(config: Any) -> Activations | None:
    if config is None:
        return None
    if type(config).__name__ not in _CONFIGS:
        raise MilpassesError(f"activations take {' or '.join(_CONFIGS)}, not {type(config).__name__}")
    return Activations(config.dtype, config.mode.lower())


def named_sample(sample: Mapping[Any, Any], names: list[str]) -> dict[str, Any]:
    """A sample with the name of the only input where it has None instead."""
    if None not in sample:
        return dict(sample)
    if len(sample) > 1 or len(names) > 1:
        raise SampleError("the model has several inputs: name each in sample_data=")
    return {names[0]: sample[None]}

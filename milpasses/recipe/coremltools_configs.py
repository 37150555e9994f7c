"""coremltools' configurations as schemes and rules: its op configs, ``OptimizationConfig`` and its YAML, and
the ``op_selector`` of its deprecated ``compression_utils``.
"""

import copy
from collections.abc import Callable, Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import attrs

from milpasses import _coremltools as host
from milpasses.errors import shown
from milpasses.recipe.errors import RecipeError, at, check_names, comma
from milpasses.recipe.names import literal
from milpasses.recipe.rules import Rule
from milpasses.recipe.schemes import Keep, Palettize, Prune, Quantize, Scheme
from milpasses.recipe.weights import MatchableWeight

# Keys of an ``OptimizationConfig`` as YAML has it.
CONFIG_KEYS = ("config_type", "global_config", "op_type_configs", "op_name_configs")

# The scheme of each op config, and the fields the two share.
_OP_CONFIGS: dict[str, tuple[type[Scheme], tuple[str, ...]]] = {
    "OpLinearQuantizerConfig": (
        Quantize,
        ("dtype", "mode", "granularity", "block_size", "weight_threshold"),
    ),
    "OpPalettizerConfig": (
        Palettize,
        tuple(field.name for field in attrs.fields(Palettize) if field.name != "method"),
    ),
    "OpMagnitudePrunerConfig": (
        Prune,
        ("target_sparsity", "n_m_ratio", "block_size", "dim", "weight_threshold"),
    ),
    "OpThresholdPrunerConfig": (Prune, ("threshold", "minimum_sparsity_percentile", "weight_threshold")),
}


def read_op_config(config: Any, weight_threshold: int | None = None) -> Scheme:
    """The scheme of one of coremltools' op configs; None is ``Keep``.

    Fields that are without effect there are dropped, and so is ``num_kmeans_workers``. ``weight_threshold``
    stands in where the config has None.
    """
    if config is None:
        return Keep()
    kind = type(config).__name__
    check_names("config", [kind], _OP_CONFIGS)
    scheme, names = _OP_CONFIGS[kind]
    fields = {name: getattr(config, name) for name in names}
    if config.weight_threshold is None:
        fields["weight_threshold"] = weight_threshold
    if kind == "OpLinearQuantizerConfig" and config.granularity.name != "PER_BLOCK":
        del fields["block_size"]
    if kind == "OpPalettizerConfig":
        if config.granularity.name == "PER_TENSOR":
            del fields["group_size"], fields["channel_axis"]
        elif config.group_size == 0:  # the whole axis
            del fields["granularity"], fields["group_size"]
            fields["channel_axis"] = config.channel_axis if config.cluster_dim > 1 else None
    return scheme.from_fields(fields)


def read_config(config: Any) -> tuple[Scheme, list[Rule]]:
    """Default and rules of an ``OptimizationConfig``: the weight's name, the op's name, its type."""
    if any(not hasattr(config, key) for key in CONFIG_KEYS[1:]):
        raise RecipeError(f"expected a coremltools OptimizationConfig, not {shown(config)}")
    unselected, threshold = _read_selector(config)
    rules = [] if unselected is None else [Rule(Keep(), where=unselected)]

    def add(key: str, field: str, spell: Callable[[str], str] = str) -> None:
        for name, op_config in getattr(config, key).items():
            with at(f"{key}[{name!r}]"):
                fields: dict[str, Any] = {field: spell(name)}
                rules.append(Rule(read_op_config(op_config, threshold), **fields))

    add("op_name_configs", "name", literal)
    add("op_name_configs", "op_name", literal)
    add("op_type_configs", "op_type")
    with at("global_config"):
        return read_op_config(config.global_config, threshold), rules


def config_of(document: Mapping[str, Any]) -> Any:
    """The ``OptimizationConfig`` of a mapping with its keys; RecipeError where coremltools cannot read it."""
    check_names("recipe", document, CONFIG_KEYS)
    coreml: Any = import_module("coremltools.optimize.coreml")
    try:
        return coreml.OptimizationConfig.from_dict(copy.deepcopy(dict(document)))  # from_dict removes keys
    except AttributeError as error:  # from_dict looks the type up by its name
        check_names("config_type", [error.name], _OP_CONFIGS)
        raise
    except Exception as error:  # whatever coremltools and cattrs raise for what cannot be
        cause = getattr(error, "exceptions", [error])[0]
        fields = getattr(cause, "cl", None)
        accepted = f"; accepted: {comma(attrs.fields_dict(fields))}" if fields else ""
        raise RecipeError(f"coremltools: {str(cause)[:500]}{accepted}") from error


class _ConstOp:
    """What an ``op_selector`` may read of a const op."""

    op_type = "const"

    def __init__(self, weight: MatchableWeight) -> None:
        self.name = weight.name
        self._weight = weight

    @property
    def val(self) -> SimpleNamespace:
        weight = self._weight
        users = [SimpleNamespace(name=use.op_name, op_type=use.op_type) for use in weight.consumers]
        return SimpleNamespace(
            name=weight.name, val=weight.value, shape=weight.shape, rank=weight.rank, child_ops=users
        )

    @property
    def outputs(self) -> list[SimpleNamespace]:
        return [self.val]


def _read_selector(config: Any) -> tuple[Callable[[MatchableWeight], bool] | None, int | None]:
    """What the deprecated API's ``op_selector`` leaves out, as a rule's ``where``, None where it takes all.

    With it the ``weight_threshold`` of op configs that have none.
    """
    select = host.op_selector(config)
    if select is None:
        return None, None
    default, smallest = host.default_op_selector()
    if select is default:
        return None, smallest

    def unselected(weight: MatchableWeight) -> bool:
        try:
            return not select(_ConstOp(weight))
        except AttributeError as error:
            raise RecipeError(f"op_selector: {error}: write it as Rule(where=...)") from error

    return unselected, 0

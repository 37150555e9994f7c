"""The networks of a specification: a model's own, those of a pipeline's models, those inside layers."""

from collections.abc import Iterator
from typing import Any

import attrs

from milpasses.program.pipelines import part_names, submodels
from milpasses.program.sources import NETWORKS


@attrs.frozen(eq=False)
class Scope:
    """A network, where it is (``""``, in a pipeline ``"part1/"``, ``"loop_3.bodyNetwork/"``), what leaves it.

    ``outputs`` are the blobs that the model gives or takes its classes from; a nested network has none.
    """

    network: Any
    path: str
    outputs: frozenset[str] = frozenset()


def scopes(spec: Any, path: str = "") -> Iterator[Scope]:
    """The networks of a model: its own, or those of a pipeline's models, in order; without nested ones."""
    kind = spec.WhichOneof("Type")
    if kind in NETWORKS:
        network = getattr(spec, kind)
        outputs = {feature.name for feature in spec.description.output}
        if kind == "neuralNetworkClassifier":
            outputs.add(network.labelProbabilityLayerName)
        if len(network.layers):  # without the name above, the probabilities are the last layer's
            outputs.update(network.layers[-1].output)
        yield Scope(network, path, frozenset(outputs))
    for name, model in zip(part_names(spec), submodels(spec), strict=True):
        yield from scopes(model, f"{path}{name}/")


def nested_networks(layer: Any) -> list[tuple[str, Any]]:
    """(field, network) of the networks inside a layer: a branch's sides, a loop's condition and body."""
    kind = layer.WhichOneof("layer")
    fields = {"loop": ("conditionNetwork", "bodyNetwork"), "branch": ("ifBranch", "elseBranch")}
    return [(field, getattr(getattr(layer, kind), field)) for field in fields.get(kind, ())]


def nested_scopes(scope: Scope, layer: Any) -> list[Scope]:
    """The networks inside a layer of ``scope``."""
    return [Scope(network, f"{scope.path}{layer.name}.{field}/") for field, network in nested_networks(layer)]

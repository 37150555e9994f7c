"""A legacy neural network as a MIL program: the front of the reader."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import coremltools as ct
from coremltools.converters.mil.mil import Function, Program

from milpasses import _coremltools as host
from milpasses.neuralnetwork.reader import interface
from milpasses.neuralnetwork.reader.network import Network
from milpasses.neuralnetwork.reader.registry import find_unsupported, identifier
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.reader.weights import WeightStore
from milpasses.neuralnetwork.spec.errors import NeuralNetworkError
from milpasses.neuralnetwork.spec.legacy_model import LegacyModel, network_of, open_legacy_model, parts
from milpasses.program.builder import mb
from milpasses.program.opset import opset_of
from milpasses.program.package import new_message

Precision = Literal["float32", "float16"]


@attrs.frozen(eq=False)
class Reading:
    """What ``read`` made of a legacy model.

    ``program`` is a coremltools ``Program`` that computes in float32, ``description`` the specification's
    ``ModelDescription`` for it, ``target`` the deployment target whose ops it uses, ``notes`` what is not as
    it was, a line each.
    """

    program: Program
    description: Any
    target: Any
    notes: list[str]


def read(
    model: Any,
    minimum_deployment_target: Any = None,
    *,
    input_shapes: Mapping[str, Any] | None = None,
    precision: Precision = "float32",
) -> Reading:
    """Read a legacy Core ML neural network into a MIL program.

    Quantized weights become the constexpr ops with the same codes, mean images and scalers ops, class labels
    a ``classify`` op; declared names, shapes and texts stay. The networks of a pipeline become one program.

    Args:
        model: the path of an ``.mlmodel``, or of an ``.mlpackage`` that holds a neural network; a coremltools
            ``MLModel``, or its specification.
        minimum_deployment_target: whose ops the program uses (``ct.target.iOS16`` or later); by default the
            lowest that holds every quantized weight as it is.
        input_shapes: shapes to read inputs with instead of the declared ones, by name: for inputs that
            declare none or flexible ones, and for sequences and batches, [Seq, Batch, C, H, W].
        precision: what the program is for. ``float16`` rounds the scales and tables of quantized weights to
            float16, each followed by a cast to float32, which the passes of a conversion take out.

    Raises:
        NeuralNetworkError: no neural network; layers that are not supported, all of them named; parameters
            or inputs that make no sense, with the layer's index, name and type.
        PackageError: the file is missing, damaged, truncated or encrypted.
    """
    legacy = open_legacy_model(model)
    missing = [layer for part in parts(legacy) for layer in find_unsupported(network_of(part).layers)]
    if missing:
        listed = "; ".join(map(str, missing))
        raise NeuralNetworkError(f"{legacy.label}: {len(missing)} unsupported: {listed}")
    if minimum_deployment_target is not None:
        if minimum_deployment_target < ct.target.iOS16:
            raise NeuralNetworkError(
                f"the target {minimum_deployment_target.name} has no compressed weights: iOS16 is the lowest"
            )
        return _read(legacy, minimum_deployment_target, input_shapes or {}, precision)[0]
    reading, decoded = _read(legacy, ct.target.iOS16, input_shapes or {}, precision)
    return _read(legacy, ct.target.iOS18, input_shapes or {}, precision)[0] if decoded else reading


def _read(
    legacy: LegacyModel, target: Any, shapes: Mapping[str, Any], precision: Precision
) -> tuple[Reading, int]:
    """The program, and how many weights only iOS18 would hold."""
    host.restart_names()  # a conversion that failed leaves its counters
    description = new_message("Model_pb2", "ModelDescription")
    description.CopyFrom(legacy.spec.description)
    unknown = sorted(set(shapes) - {feature.name for feature in description.input})
    if unknown:
        raise NeuralNetworkError(f"{legacy.label}: input_shapes= names no input: {', '.join(unknown)}")
    weights = WeightStore(opset_of(int(target)), precision == "float16")
    notes = weights.notes
    renamed = _renamed(description, notes)
    placeholders = {
        renamed[feature.name]: interface.placeholder(feature, shapes, notes) for feature in description.input
    }
    try:
        with Function(placeholders, opset_version=target) as function:
            inputs = {feature.name: function.inputs[renamed[feature.name]] for feature in description.input}
            outputs = _build(legacy, description, inputs, weights)
            _name_outputs(function, {renamed[name]: variable for name, variable in outputs.items()})
    except NeuralNetworkError as error:
        raise type(error)(f"{legacy.label}: {error}") from error
    program = Program()
    program.add_function("main", function)
    for feature in (*description.input, *description.output):
        feature.name = renamed[feature.name]
    for field in ("predictedFeatureName", "predictedProbabilitiesName"):
        name = getattr(description, field)
        setattr(description, field, renamed.get(name, name))
    return Reading(program, description, target, notes), weights.wants_ios18


def _renamed(description: Any, notes: list[str]) -> dict[str, str]:
    """The program's name of each input and output: an identifier, and unique."""
    names = [feature.name for feature in (*description.input, *description.output)]
    renamed: dict[str, str] = {}
    for name in sorted(names, key=lambda name: identifier(name) != name):
        clean, number = identifier(name), 0
        while clean in renamed.values() and renamed.get(name) != clean:
            number += 1
            clean = f"{identifier(name)}_{number}"
        renamed[name] = clean
        if clean != name:
            notes.append(f"'{name}' is called '{clean}': ML Programs take identifiers only")
    return renamed


def _build(
    legacy: LegacyModel, description: Any, inputs: Mapping[str, Any], weights: WeightStore
) -> dict[str, Any]:
    """Every network of the model in order; the variable of each output of ``description``."""
    blobs: dict[str, Value] = {}
    classified: dict[str, Any] = {}
    rank5 = False
    for part in parts(legacy):
        spec, message = part.spec, network_of(part)
        network = Network(weights, message.arrayInputShapeMapping == 0)
        for feature in spec.description.input:
            variable = inputs.get(feature.name)
            if feature.name in blobs:
                variable = blobs[feature.name].exact()
            if variable is None:
                raise NeuralNetworkError(f"no earlier part of the pipeline gives '{feature.name}'")
            value = interface.input_value(feature, variable, message)
            network.values[feature.name] = interface.preprocessed(feature, value, message)
        network.run(message.layers)
        if part.kind == "neuralNetworkClassifier":
            blob = message.labelProbabilityLayerName or message.layers[-1].output[0]
            if blob not in network.values:
                raise NeuralNetworkError(f"no layer gives the probabilities '{blob}'")
            classified.update(interface.classifier_outputs(spec, message, network.values[blob]))
        rank5 = network.rank5
        blobs.update(network.values)
    return {
        feature.name: _output(feature, blobs, classified, rank5, weights.notes)
        for feature in description.output
    }


def _output(
    feature: Any, blobs: Mapping[str, Value], classified: Mapping[str, Any], rank5: bool, notes: list[str]
) -> Any:
    kind = feature.type.WhichOneof("Type")
    if feature.name in classified and kind in ("stringType", "int64Type", "dictionaryType"):
        return classified[feature.name]
    if feature.name not in blobs:
        raise NeuralNetworkError(f"no layer gives the output '{feature.name}'")
    if kind == "imageType":
        return interface.image_output(feature, blobs[feature.name])
    if kind in ("multiArrayType", "doubleType", "int64Type"):
        return interface.array_output(feature, blobs[feature.name], rank5, notes)
    raise NeuralNetworkError(f"output '{feature.name}' is of type {kind}: it cannot be read")


def _name_outputs(function: Any, outputs: Mapping[str, Any]) -> None:
    """Make ``outputs`` the function's, under their names, which nothing else in it may have."""
    taken = {*outputs, *function.inputs}
    for op in function.operations:
        for variable in op.outputs:
            if variable.name in taken:
                variable.name = f"{variable.name}_inner"
                op.name = re.sub(r"\W", "_", variable.name)
    final: list[Any] = []
    for name, variable in outputs.items():
        shared = any(variable is other for other in final)
        if variable.op is None or variable.op.op_type == "const" or shared:
            variable = mb.identity(x=variable)
        variable.name = name
        final.append(variable)
    function.set_outputs(final)

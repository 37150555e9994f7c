"""One weight after the other: what becomes of each ``WeightParams`` of a specification, and its record."""

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.errors import Refusal
from milpasses.neuralnetwork.quantize import code_fitting
from milpasses.neuralnetwork.quantize.settings import QuantizationError, Settings
from milpasses.neuralnetwork.spec import weight_params
from milpasses.neuralnetwork.spec.layer_weights import LayerWeight, layer_weights
from milpasses.neuralnetwork.spec.networks import Scope, nested_scopes, scopes
from milpasses.neuralnetwork.spec.weight_params import WeightError
from milpasses.program.package import new_message
from milpasses.report import Record, Status, decibels

Array = NDArray[Any]
QUANTIZED = ("linear", "lut", "int8")
_WITH_BIAS = ("convolution", "innerProduct", "batchedMatmul")  # whose bias the selector is asked about
_HALF_LIMIT = 65520.0  # what rounds to infinity


@attrs.frozen(eq=False)
class StoredWeight:
    """A weight that holds values: its layer's declaration, its name in the report, whether it is selected.

    ``index`` counts the weights of a model: names of layers may be empty, or equal. ``refusal`` is why it
    stays as it is although it is wanted.
    """

    index: int
    declared: LayerWeight
    name: str
    selected: bool
    refusal: Refusal | None = None

    @property
    def quantized(self) -> bool:
        """Whether it is stored as codes."""
        return weight_params.form(self.declared.params) in QUANTIZED


def stored_weights(spec: Any, settings: Settings) -> list[StoredWeight]:
    """Every weight of a model that holds values, those in pipelines, loops and branches too."""
    wanted = (scope for scope in scopes(spec) if settings.wants(scope.path))
    listed = (entry for scope in wanted for entry in _inside(scope, settings.selector, True))
    return [StoredWeight(index, *entry) for index, entry in enumerate(listed)]


def _inside(scope: Scope, selector: Any, entered: bool) -> Iterator[tuple[LayerWeight, str, bool]]:
    """(weight, name, selected) of a network and those nested in it."""
    for layer in scope.network.layers:
        selected = entered and bool(selector.do_quantize(layer))
        for weight in layer_weights(layer):
            wanted = selected
            if selected and weight.role == "bias" and layer.WhichOneof("layer") in _WITH_BIAS:
                wanted = bool(selector.do_quantize(layer, weight_param="bias"))
            if weight_params.form(weight.params) != "empty":
                yield weight, f"{scope.path}{layer.name}.{weight.field}", wanted
        for inner in nested_scopes(scope, layer):
            yield from _inside(inner, selector, selected)


def quantize_weight(weight: StoredWeight, settings: Settings, cache: dict[int, Array]) -> Record:
    """Quantize one weight in place. ``cache`` keeps decoded weights by index for other variants."""
    declared = weight.declared
    if not weight.selected:
        return _untouched(weight, "kept", Refusal("nn-not-selected"))
    if settings.mode == "dequantization":
        return _dequantized(weight)
    if declared.layer.isUpdatable:
        return _untouched(weight, "skipped", Refusal("nn-updatable"))
    if weight.refusal is not None:
        return _untouched(weight, "skipped", weight.refusal)
    try:
        values = current_values(weight, cache)
        refusal = _unfit(values)
        if refusal is not None:
            return _untouched(weight, "skipped", refusal)
        return _encoded(weight, settings, values)
    except WeightError as error:
        return _untouched(weight, "skipped", Refusal("stated", text=str(error)))


def current_values(weight: StoredWeight, cache: dict[int, Array]) -> Array:
    """The weights as they are now, in float32; from ``cache`` if they are there. Raises ``WeightError``."""
    if weight.index not in cache:
        declared = weight.declared
        cache[weight.index] = weight_params.decode(declared.params, declared.shape, declared.axis).astype(
            np.float32
        )
    return cache[weight.index]


def refuse(weight: StoredWeight, refusal: Refusal | None) -> StoredWeight:
    """The same weight, which is to stay as it is for that reason, if there is one."""
    return attrs.evolve(weight, refusal=refusal)


def no_half(weight: StoredWeight, cache: dict[int, Array]) -> Refusal | None:
    """Why a float32 weight cannot become float16; None if it can."""
    if not weight.selected:
        return Refusal("nn-half-mixed")
    try:
        values = current_values(weight, cache)
    except WeightError as error:
        return Refusal("stated", text=str(error))
    largest = float(np.abs(values).max(initial=0.0))
    if largest >= _HALF_LIMIT:
        return Refusal("nn-half-overflow", largest=largest)
    return _unfit(values)


def stored_form(weight: LayerWeight) -> str:
    """The stored form in a few words, as encodings call it."""
    kind = weight_params.form(weight.params)
    if kind == "linear":
        several = len(weight.params.quantization.linearQuantization.scale) > 1
        granularity = "per_channel" if several else "per_tensor"
        return f"uint{weight.params.quantization.numberOfBits} {granularity}"
    return f"lut{weight.params.quantization.numberOfBits} per_tensor" if kind == "lut" else kind


def _untouched(weight: StoredWeight, status: Status, refusal: Refusal) -> Record:
    size = weight_params.nbytes(weight.declared.params)
    return attrs.evolve(_record(weight, status, "", stored_form(weight.declared), size), refusal=refusal)


def _record(
    weight: StoredWeight, status: Status, note: str, before: str, size: int, **measured: Any
) -> Record:
    return Record(
        name=weight.name,
        status=status,
        notes=(note,) if note else (),
        form=stored_form(weight.declared),
        shape=weight.declared.shape,
        dtype=before,
        bytes_before=size,
        bytes_after=weight_params.nbytes(weight.declared.params),
        consumers=(weight.declared.layer.name,),
        **measured,
    )


def _unfit(values: Array) -> Refusal | None:
    nans, infinities = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return Refusal("nonfinite", nans=nans, infinities=infinities) if nans or infinities else None


def _dequantized(weight: StoredWeight) -> Record:
    declared = weight.declared
    kind, before, size = (
        weight_params.form(declared.params),
        stored_form(declared),
        weight_params.nbytes(declared.params),
    )
    if kind == "float32":
        return _untouched(weight, "kept", Refusal("nn-already", form="float32"))
    values = weight_params.decode(declared.params, declared.shape, declared.axis)
    weight_params.write_dense(declared.params, values.astype(np.float32))
    if kind == "int8":  # the layer multiplies float32 again
        getattr(declared.layer, declared.layer.WhichOneof("layer")).int8DynamicQuantize = False
    return _record(weight, "compressed", f"from {before}", before, size, sqnr_db=float("inf"), max_error=0.0)


def _encoded(weight: StoredWeight, settings: Settings, values: Array) -> Record:
    from milpasses_kernels.decode import error_sums

    params, declared = weight.declared.params, weight.declared
    kind, before, size = weight_params.form(params), stored_form(declared), weight_params.nbytes(params)
    if kind == "int8":
        return _untouched(weight, "skipped", Refusal("nn-int8-layer"))
    if settings.nbits == 16:
        if kind == "float16":
            return _untouched(weight, "kept", Refusal("nn-already", form="float16"))
        candidate = new_message("NeuralNetwork_pb2", "WeightParams")
        weight_params.write_dense(candidate, values.astype(np.float16))
    else:
        candidate = _codes(weight, settings, values)
        needed = weight_params.nbytes(candidate)
        if needed >= size:
            refusal = Refusal("nn-not-smaller", nbytes=needed, stored=size, form=before)
            return _untouched(weight, "kept", refusal)
    candidate.isUpdatable = params.isUpdatable
    params.CopyFrom(candidate)
    decoded = weight_params.decode(params, declared.shape, declared.axis).astype(np.float32)
    signal, noise, largest = error_sums(values, decoded)
    return _record(
        weight,
        "compressed",
        f"again: its error is against {before}, what that had lost comes on top" if kind in QUANTIZED else "",
        before,
        size,
        sqnr_db=decibels(signal, noise),
        max_error=largest,
        scheme=str(settings),
    )


def _codes(weight: StoredWeight, settings: Settings, values: Array) -> Any:
    """The weights in codes, as a new ``WeightParams``."""
    declared, nbits, mode = weight.declared, settings.nbits, settings.mode
    params = new_message("NeuralNetwork_pb2", "WeightParams")
    if mode in ("linear", "linear_symmetric"):
        rows = _rows(declared, values)
        fit = code_fitting.symmetric if mode == "linear_symmetric" else code_fitting.linear
        fitted = fit(rows, nbits)
        scale, bias = (np.tile(values, declared.groups) for values in (fitted.scale, fitted.bias))
        weight_params.write_linear(params, _columns(declared, fitted.codes), scale, bias, nbits)
        return params
    if mode == "custom_lut":
        codes, table = _custom(weight, settings, values)
    elif mode == "linear_lut":
        codes, table = code_fitting.linear_table(values.reshape(-1), nbits)
    else:
        codes, table = code_fitting.kmeans(values.reshape(-1), nbits)
    weight_params.write_lut(params, codes, table)
    return params


def _rows(weight: LayerWeight, values: Array) -> Array:
    """A row for each output channel; a vector is one row, as the format wants for biases."""
    if len(weight.shape) == 1:
        return values.reshape(1, -1)
    return np.ascontiguousarray(np.moveaxis(values, weight.axis, 0)).reshape(weight.shape[weight.axis], -1)


def _columns(weight: LayerWeight, codes: Array) -> Array:
    """``_rows`` undone."""
    if len(weight.shape) == 1 or weight.axis == 0:
        return codes
    moved = (weight.shape[weight.axis], *(size for d, size in enumerate(weight.shape) if d != weight.axis))
    return np.moveaxis(codes.reshape(moved), 0, weight.axis)


def _custom(weight: StoredWeight, settings: Settings, values: Array) -> tuple[Array, Array]:
    """What the caller's function makes of the weights, checked."""
    assert settings.lut_function is not None
    wanted = 1 << settings.nbits
    try:
        table, indices = settings.lut_function(settings.nbits, values.astype(np.float64))
        table, codes = np.asarray(table, np.float32).reshape(-1), np.asarray(indices)
    except Exception as error:
        raise QuantizationError(f"{weight.name}: lut_function failed: {error}") from error
    if table.size != wanted:
        raise QuantizationError(
            f"{weight.name}: lut_function gave a table of {table.size} entries, "
            f"and {settings.nbits} bits take {wanted}"
        )
    if codes.size != values.size:
        raise QuantizationError(
            f"{weight.name}: lut_function gave {codes.size:,} indices for {values.size:,} weights"
        )
    if not np.isfinite(table).all():
        raise QuantizationError(f"{weight.name}: lut_function gave a table with NaN or infinity")
    if codes.size and not (codes.min() >= 0 and codes.max() < wanted and (codes == np.rint(codes)).all()):
        raise QuantizationError(
            f"{weight.name}: lut_function gave indices beyond 0..{wanted - 1}, or no integers"
        )
    return codes.astype(np.uint8), table

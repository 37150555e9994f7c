"""One weight after the other: what becomes of each ``WeightParams`` of a specification, and its record."""

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.errors import MilpassesError
from milpasses.neuralnetwork.quantize import fitting
from milpasses.neuralnetwork.spec import weight_params
from milpasses.neuralnetwork.spec.sites import Scope, Site, nested, scopes, sites
from milpasses.neuralnetwork.spec.weight_params import WeightError
from milpasses.program.package import new_message
from milpasses.report import Record, Status

Array = NDArray[Any]
LutFunction = Callable[[int, Array], tuple[Any, Any]]

MODES = (
    "linear",
    "linear_symmetric",
    "linear_lut",
    "kmeans",
    "kmeans_lut",
    "custom_lut",
    "dequantization",
)
QUANTIZED = ("linear", "lut", "int8")
_WITH_BIAS = ("convolution", "innerProduct", "batchedMatmul")  # whose bias the selector is asked about
_HALF_LIMIT = 65520.0  # what rounds to infinity


class QuantizationError(MilpassesError):
    """Weights cannot be quantized as asked; the message says why and what would work."""


@attrs.frozen
class Settings:
    """What to do, checked. ``nbits`` is 0 for the mode ``dequantization``."""

    nbits: int
    mode: str
    selector: Any
    lut_function: LutFunction | None = None
    requantize: bool = False

    @classmethod
    def of(
        cls,
        nbits: int | None,
        mode: str,
        selector: Any = None,
        lut_function: LutFunction | None = None,
        requantize: bool = False,
    ) -> "Settings":
        """Check the arguments of ``quantize_weights``. Raises ``QuantizationError``."""
        from coremltools.models.neural_network.quantization_utils import QuantizedLayerSelector

        if mode not in MODES:
            raise QuantizationError(f"there is no quantization mode {mode!r}; there are {', '.join(MODES)}")
        if mode != "dequantization" and (isinstance(nbits, bool) or nbits not in (*range(1, 9), 16)):
            raise QuantizationError(f"nbits must be 1 to 8, or 16 for float16, but is {nbits!r}")
        if mode == "custom_lut" and nbits != 16 and not callable(lut_function):
            raise QuantizationError(
                "the mode custom_lut needs lut_function: (nbits, weights) -> (table, indices)"
            )
        if mode != "custom_lut" and lut_function is not None:
            raise QuantizationError(f"lut_function belongs to the mode custom_lut, not to {mode}")
        if selector is not None and not hasattr(selector, "do_quantize"):
            raise QuantizationError("a selector needs a method do_quantize(layer, weight_param=None)")
        wanted = 0 if mode == "dequantization" or nbits is None else int(nbits)
        return cls(wanted, mode, selector or QuantizedLayerSelector(), lut_function, requantize)

    def __str__(self) -> str:
        if self.mode == "dequantization":
            return self.mode
        return "float16" if self.nbits == 16 else f"{self.mode} {self.nbits}"


@attrs.frozen(eq=False)
class Place:
    """A weight that holds values: its site, its name in the report, whether the selector wants it.

    ``index`` counts the weights of a model: names of layers may be empty, or equal. ``refusal`` is why it
    stays as it is although it is wanted.
    """

    index: int
    site: Site
    name: str
    selected: bool
    refusal: str = ""

    @property
    def quantized(self) -> bool:
        """Whether it is stored as codes."""
        return weight_params.form(self.site.params) in QUANTIZED


def places(spec: Any, selector: Any) -> list[Place]:
    """Every weight of a model that holds values, those in pipelines, loops and branches too."""
    found = (one for scope in scopes(spec) for one in _inside(scope, selector, True))
    return [Place(index, *one) for index, one in enumerate(found)]


def _inside(scope: Scope, selector: Any, entered: bool) -> Iterator[tuple[Site, str, bool]]:
    for layer in scope.network.layers:
        selected = entered and bool(selector.do_quantize(layer))
        for site in sites(layer):
            wanted = selected
            if selected and site.role == "bias" and layer.WhichOneof("layer") in _WITH_BIAS:
                wanted = bool(selector.do_quantize(layer, weight_param="bias"))
            if weight_params.form(site.params) != "empty":
                yield site, f"{scope.path}{layer.name}.{site.field}", wanted
        for inner in nested(scope, layer):
            yield from _inside(inner, selector, selected)


def quantize_place(place: Place, settings: Settings, cache: dict[int, Array]) -> Record:
    """Quantize one weight in place. ``cache`` keeps decoded weights by index for other variants."""
    site = place.site
    if not place.selected:
        return _untouched(place, "kept", "the selector leaves it as it is")
    if settings.mode == "dequantization":
        return _dequantized(place)
    if site.layer.isUpdatable:
        return _untouched(place, "skipped", "it is trained on the device, which takes float32")
    if place.refusal:
        return _untouched(place, "skipped", place.refusal)
    try:
        values = source(place, cache)
        reason = _unfit(values)
        if reason:
            return _untouched(place, "skipped", reason)
        return _encoded(place, settings, values)
    except WeightError as error:
        return _untouched(place, "skipped", str(error))


def source(place: Place, cache: dict[int, Array]) -> Array:
    """The weights as they are now, in float32; from ``cache`` if they are there. Raises ``WeightError``."""
    if place.index not in cache:
        site = place.site
        cache[place.index] = weight_params.decode(site.params, site.shape, site.axis).astype(np.float32)
    return cache[place.index]


def refuse(place: Place, reason: str) -> Place:
    """The same weight, which is to stay as it is for ``reason``, if there is one."""
    return attrs.evolve(place, refusal=reason) if reason else place


def no_half(place: Place, cache: dict[int, Array]) -> str:
    """Why a float32 weight cannot become float16; empty if it can."""
    if not place.selected:
        return (
            "float16 and float32 do not mix in a layer, and the selector leaves a part of this one as it is"
        )
    try:
        values = source(place, cache)
    except WeightError as error:
        return str(error)
    largest = float(np.abs(values).max(initial=0.0))
    if largest >= _HALF_LIMIT:
        return f"float16 ends at 65,504, but the layer's weights reach {largest:,.0f}"
    return _unfit(values)


def stored_form(site: Site) -> str:
    """The stored form in a few words, as encodings call it."""
    kind = weight_params.form(site.params)
    if kind == "linear":
        several = len(site.params.quantization.linearQuantization.scale) > 1
        granularity = "per_channel" if several else "per_tensor"
        return f"uint{site.params.quantization.numberOfBits} {granularity}"
    return f"lut{site.params.quantization.numberOfBits} per_tensor" if kind == "lut" else kind


def _untouched(place: Place, status: Status, reason: str) -> Record:
    size = weight_params.nbytes(place.site.params)
    return _record(place, status, reason, stored_form(place.site), size)


def _record(place: Place, status: Status, reason: str, before: str, size: int, **found: Any) -> Record:
    return Record(
        name=place.name,
        status=status,
        notes=(reason,) if reason else (),
        form=stored_form(place.site),
        shape=place.site.shape,
        dtype=before,
        bytes_before=size,
        bytes_after=weight_params.nbytes(place.site.params),
        consumers=(place.site.layer.name,),
        **found,
    )


def _unfit(values: Array) -> str:
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    return f"{bad:,} of {values.size:,} values are NaN or infinite" if bad else ""


def _dequantized(place: Place) -> Record:
    site = place.site
    kind, before, size = weight_params.form(site.params), stored_form(site), weight_params.nbytes(site.params)
    if kind == "float32":
        return _untouched(place, "kept", "it is float32 already")
    values = weight_params.decode(site.params, site.shape, site.axis)
    weight_params.write_dense(site.params, values.astype(np.float32))
    if kind == "int8":  # the layer multiplies float32 again
        getattr(site.layer, site.layer.WhichOneof("layer")).int8DynamicQuantize = False
    return _record(place, "compressed", f"from {before}", before, size, sqnr_db=float("inf"), max_error=0.0)


def _encoded(place: Place, settings: Settings, values: Array) -> Record:
    from milpasses_kernels.decode import error_sums

    params, site = place.site.params, place.site
    kind, before, size = weight_params.form(params), stored_form(site), weight_params.nbytes(params)
    if kind == "int8":
        return _untouched(place, "skipped", "its layer quantizes its input too, and takes int8 alone")
    if settings.nbits == 16:
        if kind == "float16":
            return _untouched(place, "kept", "it is float16 already")
        candidate = new_message("NeuralNetwork_pb2", "WeightParams")
        weight_params.write_dense(candidate, values.astype(np.float16))
    else:
        candidate = _codes(place, settings, values)
        needed = weight_params.nbytes(candidate)
        if needed >= size:
            return _untouched(
                place, "kept", f"{needed:,} bytes quantized are no fewer than {size:,} as {before}"
            )
    candidate.isUpdatable = params.isUpdatable
    params.CopyFrom(candidate)
    decoded = weight_params.decode(params, site.shape, site.axis).astype(np.float32)
    signal, noise, largest = error_sums(values, decoded)
    return _record(
        place,
        "compressed",
        f"again: its error is against {before}, what that had lost comes on top" if kind in QUANTIZED else "",
        before,
        size,
        sqnr_db=float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else float("inf"),
        max_error=largest,
        scheme=str(settings),
    )


def _codes(place: Place, settings: Settings, values: Array) -> Any:
    """The weights in codes, as a new ``WeightParams``."""
    site, nbits, mode = place.site, settings.nbits, settings.mode
    made = new_message("NeuralNetwork_pb2", "WeightParams")
    if mode in ("linear", "linear_symmetric"):
        rows = _rows(site, values)
        fit = fitting.symmetric if mode == "linear_symmetric" else fitting.linear
        found = fit(rows, nbits)
        scale, bias = np.tile(found.scale, site.groups), np.tile(found.bias, site.groups)
        weight_params.write_linear(made, _columns(site, found.codes), scale, bias, nbits)
        return made
    if mode == "custom_lut":
        codes, table = _custom(place, settings, values)
    elif mode == "linear_lut":
        codes, table = fitting.linear_table(values.reshape(-1), nbits)
    else:
        codes, table = fitting.kmeans(values.reshape(-1), nbits)
    weight_params.write_lut(made, codes, table)
    return made


def _rows(site: Site, values: Array) -> Array:
    """A row for each output channel; a vector is one row, as the format wants for biases."""
    if len(site.shape) == 1:
        return values.reshape(1, -1)
    return np.ascontiguousarray(np.moveaxis(values, site.axis, 0)).reshape(site.shape[site.axis], -1)


def _columns(site: Site, codes: Array) -> Array:
    """``_rows`` undone."""
    if len(site.shape) == 1 or site.axis == 0:
        return codes
    moved = (site.shape[site.axis], *(size for d, size in enumerate(site.shape) if d != site.axis))
    return np.moveaxis(codes.reshape(moved), 0, site.axis)


def _custom(place: Place, settings: Settings, values: Array) -> tuple[Array, Array]:
    """What the caller's function makes of the weights, checked."""
    assert settings.lut_function is not None
    wanted = 1 << settings.nbits
    try:
        table, indices = settings.lut_function(settings.nbits, values.astype(np.float64))
        table, codes = np.asarray(table, np.float32).reshape(-1), np.asarray(indices)
    except Exception as error:
        raise QuantizationError(f"{place.name}: lut_function failed: {error}") from error
    if table.size != wanted:
        raise QuantizationError(
            f"{place.name}: lut_function gave a table of {table.size} entries, "
            f"and {settings.nbits} bits take {wanted}"
        )
    if codes.size != values.size:
        raise QuantizationError(
            f"{place.name}: lut_function gave {codes.size:,} indices for {values.size:,} weights"
        )
    if not np.isfinite(table).all():
        raise QuantizationError(f"{place.name}: lut_function gave a table with NaN or infinity")
    if codes.size and not (codes.min() >= 0 and codes.max() < wanted and (codes == np.rint(codes)).all()):
        raise QuantizationError(
            f"{place.name}: lut_function gave indices beyond 0..{wanted - 1}, or no integers"
        )
    return codes.astype(np.uint8), table

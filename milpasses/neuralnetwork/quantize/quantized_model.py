"""Quantize the weights of legacy neural networks: coremltools' ``quantize_weights`` with less error.

Modes, layers, selectors and file layout are coremltools'. The numbers come from our kernels: exact k-means,
linear grids of least squared error. A weight whose codes, scales and table would take no fewer bytes than its
floats stays as it is.
"""

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coremltools.models import MLModel

from milpasses import _coremltools as host
from milpasses.errors import PackageError, Refusal
from milpasses.neuralnetwork.quantize import quantizer
from milpasses.neuralnetwork.quantize.folding import fold
from milpasses.neuralnetwork.quantize.quantizer import Array, StoredWeight
from milpasses.neuralnetwork.quantize.settings import LutFunction, QuantizationError, Settings
from milpasses.neuralnetwork.spec.networks import scopes
from milpasses.neuralnetwork.spec.weight_params import form
from milpasses.program import files
from milpasses.program.package import Package, copy_weights, new_message, write_package
from milpasses.program.pipelines import part_names, submodels
from milpasses.program.sources import NETWORKS, PROGRAM, Source, read_source
from milpasses.report import METADATA_KEY, Report

Progress = Callable[[int, int, str], None]

_HALF_VERSION, _QUANTIZED_VERSION = 2, 3  # of the specification, that brought float16 and codes


class QuantizedModel(MLModel):
    """An ``MLModel`` of a quantized neural network, which knows its ``report``.

    ``agreement`` is, by name of output, the signal-to-noise ratio in decibels on ``sample_data``, if given.
    """

    def __init__(self, spec: Any, report: Report, weights: Path | None = None, **options: Any) -> None:
        self.report = report
        self.agreement: dict[str, float] = {}
        if weights is not None:  # a pipeline with ML Programs, whose weights stand in files
            super().__init__(spec, weights_dir=str(weights), **options)
            return
        path = _temporary()
        try:  # MLModel leaves a file of its own behind for each specification that it is given
            path.write_bytes(spec.SerializeToString(deterministic=True))
            super().__init__(str(path), **options)
        finally:
            path.unlink(missing_ok=True)


def quantize_weights(
    model: "str | os.PathLike[str] | MLModel",
    nbits: int | None = None,
    quantization_mode: str = "linear",
    sample_data: Any = None,
    *,
    selector: Any = None,
    lut_function: LutFunction | None = None,
    requantize: bool = False,
    part: str | None = None,
    output: "str | os.PathLike[str] | None" = None,
    force: bool = False,
    progress: Progress | None = None,
) -> QuantizedModel:
    """Quantize the weights of a neural network, its classifier or regressor, or a pipeline of them.

    Args:
        model: the path of an ``.mlmodel`` or of an ``.mlpackage`` that holds a neural network, or an
            ``MLModel``; it is never changed.
        nbits: 1 to 8, or 16 for float16.
        quantization_mode: ``linear``: a scale and a bias for each output channel; ``linear_symmetric``: the
            same with the middle code at zero; ``kmeans_lut`` (``kmeans``): a table of 2^nbits values for each
            weight; ``linear_lut``: such a table of evenly spaced values; ``custom_lut``: a table from
            ``lut_function(nbits, weights) -> (table, indices)``; ``dequantization``: float32 again.
        sample_data: inputs (a list of dictionaries by name) on which the model and its quantized form run in
            the interpreter; ``agreement`` then tells the signal-to-noise ratio of each output.
        selector: a ``QuantizedLayerSelector`` of coremltools, or whatever has its ``do_quantize``.
        requantize: quantize what is quantized already; its error comes on top of what was lost before.
        part: of a pipeline, this neural network alone. All other parts stay byte for byte as they are.
        output: the ``.mlmodel`` or ``.mlpackage`` to write, whole or not at all; ``force`` replaces what is
            there. A package that was made of a package keeps its other files.
        progress: ``progress(done, total, name)``, called for each weight.

    Returns:
        The model, with a record for each weight in its ``report``.

    Raises:
        QuantizationError: wrong bits, mode or table; weights that are quantized already.
        PackageError: no neural network, or a file that is missing, damaged, truncated or encrypted.
    """
    settings = Settings.of(nbits, quantization_mode, selector, lut_function, requantize, part)
    if output is not None:
        check_output(Path(output), force, (model,))
    source = read_model(model)
    original = source.spec
    _check_part(source, settings)
    weights = weights_folder(source)
    if weights is not None and output is not None and Path(output).suffix != ".mlpackage":
        raise PackageError(f"{output}: a pipeline with ML Programs needs a name that ends in .mlpackage")
    spec = prepared(original, settings)
    report = quantize_spec(spec, settings, {}, progress)
    agreement: dict[str, float] = {}
    if sample_data is not None:
        from milpasses.neuralnetwork.quantize.agreement import output_agreement

        agreement = output_agreement(original, spec, sample_data)
    if output is not None:
        write_model(spec, Path(output), source, force)
    compute_units = getattr(model, "compute_unit", None)
    options = {} if compute_units is None else {"compute_units": compute_units}
    skip = not host.is_loaded(model)
    quantized = QuantizedModel(spec, report, weights, skip_model_load=skip, **options)
    quantized.agreement = agreement
    return quantized


def quantize_variants(
    model: "str | os.PathLike[str] | MLModel",
    variants: Iterable[tuple[int, str]],
    *,
    selector: Any = None,
    lut_function: LutFunction | None = None,
    requantize: bool = False,
) -> Iterator[tuple[Any, Report]]:
    """Quantize one model in several ways, ``(nbits, mode)`` each; the model is read and folded once.

    Yields (specification, report) for each variant, in order; ``write_model`` writes one. Raises what
    ``quantize_weights`` raises.
    """
    wanted = [
        Settings.of(nbits, mode, selector, lut_function if mode == "custom_lut" else None, requantize)
        for nbits, mode in variants
    ]
    original = read_model(model).spec
    bases: dict[bool, Any] = {}
    caches: dict[bool, dict[int, Array]] = {True: {}, False: {}}
    for settings in wanted:
        folds = _folds(settings)
        if folds not in bases:
            bases[folds] = prepared(original, settings)
        spec = new_message("Model_pb2", "Model")
        spec.CopyFrom(bases[folds])
        yield spec, quantize_spec(spec, settings, caches[folds])


def read_model(model: Any) -> Source:
    """A model or a file that holds a neural network, or a pipeline with some. Raises ``PackageError``."""
    source = read_source(model)
    if source.kind == PROGRAM:
        raise PackageError(
            f"{source.label}: is an ML Program; milpasses.compress (milpasses compress) compresses those"
        )
    if not list(scopes(source.spec)):
        raise PackageError(
            f"{source.label}: a neural network is needed, and this is of type {source.kind or 'unknown'}"
        )
    return source


def weights_folder(source: Source) -> Path | None:
    """The weight files that go with the ML Programs of a pipeline; None where it has none."""
    folder = None if source.spec_path is None else source.spec_path.parent / "weights"
    return folder if folder is not None and folder.is_dir() else None


def _check_part(source: Source, settings: Settings) -> None:
    paths = [scope.path for scope in scopes(source.spec)]
    if not any(map(settings.wants, paths)):
        networks = ", ".join(path.removesuffix("/") for path in paths if path) or "none: it is no pipeline"
        raise PackageError(f"{source.label}: part {settings.part} is no neural network; there are {networks}")


def prepared(spec: Any, settings: Settings) -> Any:
    """A copy of ``spec`` with its layers folded: what every variant of one model starts from.

    Raises ``QuantizationError`` for weights that are quantized already, unless ``requantize``.
    """
    copy = new_message("Model_pb2", "Model")
    copy.CopyFrom(spec)
    if settings.nbits == 16 and spec.isUpdatable:
        raise QuantizationError("an updatable model is trained on the device: its weights stay float32")
    weights = quantizer.stored_weights(copy, settings)
    done = [weight for weight in weights if weight.selected and weight.quantized]
    if done and not settings.requantize and settings.mode != "dequantization":
        forms = ", ".join(sorted({quantizer.stored_form(weight.declared) for weight in done}))
        raise QuantizationError(
            f"{len(done)} of {len(weights)} weights are quantized already ({forms}), and each time loses "
            "more: start from the original model, select other layers, or pass requantize=True"
        )
    if _folds(settings) and not spec.isUpdatable:
        for scope in filter(lambda scope: settings.wants(scope.path), scopes(copy)):
            fold(scope, lambda weight: settings.requantize or form(weight.params) not in quantizer.QUANTIZED)
    return copy


def quantize_spec(
    spec: Any, settings: Settings, cache: dict[int, Array], progress: Progress | None = None
) -> Report:
    """Quantize the networks of ``spec``, which ``prepared`` made, in place."""
    report = Report(recipe=str(settings))
    if spec.isUpdatable and settings.mode != "dequantization":
        report.notes.append("an updatable model: what is trained on the device stays float32")
    weights = quantizer.stored_weights(spec, settings)
    if settings.nbits == 16:
        weights = _unmixed(weights, cache)
    for index, weight in enumerate(weights):
        report.records.append(quantizer.quantize_weight(weight, settings, cache))
        if progress is not None:
            progress(index + 1, len(weights), weight.name)
    _raise_version(spec, _HALF_VERSION if settings.nbits == 16 else _QUANTIZED_VERSION, settings)
    _note(spec, report)
    return report


def check_output(output: Path, force: bool, inputs: Iterable[Any] = ()) -> None:
    """Raise ``PackageError`` if ``output`` cannot become a model file or package, or is one of ``inputs``."""
    files.check_output(output, (".mlmodel", ".mlpackage"), force, inputs)


def write_model(spec: Any, output: Path, source: Source | None = None, force: bool = False) -> None:
    """Write a specification as an ``.mlmodel`` or ``.mlpackage``, whole or not at all.

    A package keeps the other files of the one that ``source`` was read from. Raises ``PackageError``.
    """
    if output.suffix != ".mlpackage":
        with files.whole_file(output, force) as file:
            file.write(spec.SerializeToString(deterministic=True))
    elif source is not None and source.path is not None and source.spec_path is not None:
        package = Package(source.path, spec, source.spec_path)
        write_package(package, output, lambda folder: copy_weights(package, folder), force)
    else:
        with files.whole_folder(output, force) as staged, tempfile.TemporaryDirectory() as folder:
            package_path = host.create_package(spec, None, str(Path(folder) / output.name))
            shutil.copytree(package_path, staged, dirs_exist_ok=True)


def _folds(settings: Settings) -> bool:
    return settings.mode != "dequantization" and settings.nbits < 16


def _unmixed(weights: list[StoredWeight], cache: dict[int, Array]) -> list[StoredWeight]:
    """Refuse float16 to layers of which some weight must stay float32: the format does not mix the two."""
    layers: defaultdict[int, list[StoredWeight]] = defaultdict(list)
    for weight in weights:
        layers[id(weight.declared.layer)].append(weight)
    refused: dict[int, Refusal] = {}
    for together in layers.values():
        full = [weight for weight in together if form(weight.declared.params) == "float32"]
        reasons = [reason for weight in full if (reason := quantizer.no_half(weight, cache)) is not None]
        refused.update((weight.index, reasons[0]) for weight in full if reasons)
    return [quantizer.refuse(weight, refused.get(weight.index)) for weight in weights]


def _raise_version(spec: Any, version: int, settings: Settings, path: str = "") -> None:
    """Of the networks that were quantized, and of pipelines around them: none is older than its models."""
    for name, model in zip(part_names(spec), submodels(spec), strict=True):
        _raise_version(model, version, settings, f"{path}{name}/")
        spec.specificationVersion = max(spec.specificationVersion, model.specificationVersion)
    if spec.WhichOneof("Type") in NETWORKS and settings.wants(path):
        spec.specificationVersion = max(spec.specificationVersion, version)


def _note(spec: Any, report: Report) -> None:
    """Leave the totals in the model's metadata, in few bytes: these files are made to be small."""
    totals = report.totals()
    spec.description.metadata.userDefined[METADATA_KEY] = (
        f"milpasses {version('milpasses')}: {report.recipe}, "
        f"{totals['compressed']} of {totals['weights']} weights, "
        f"{totals['bytes_before']} -> {totals['bytes_after']} bytes"
    )


def _temporary() -> Path:
    handle, name = tempfile.mkstemp(suffix=".mlmodel")
    os.close(handle)
    return Path(name)

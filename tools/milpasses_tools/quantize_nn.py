"""``milpasses quantize-nn``: quantize the weights of a legacy neural network."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpasses_tools._options import Force, Json, Part, Requantize, Verbose
from milpasses_tools._output import folder_bytes, print_json, sizes_line
from milpasses_tools._progress import progress

if TYPE_CHECKING:
    from milpasses.neuralnetwork import QuantizedModel


def command(
    model: Annotated[Path, typer.Argument(metavar="IN", help="A neural network: .mlmodel or .mlpackage.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT", help="The .mlmodel or .mlpackage to write, whole or not at all."
        ),
    ],
    bits: Annotated[int | None, typer.Option("--bits", "-b", help="1 to 8, or 16 for float16.")] = None,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            "-m",
            help="linear, linear_symmetric, linear_lut, kmeans_lut (kmeans), dequantization.",
        ),
    ] = "linear",
    requantize: Requantize = False,
    skip: Annotated[
        str,
        typer.Option(metavar="TYPES", help="Layer types to leave as they are: batchnorm,bias,depthwiseConv."),
    ] = "",
    part: Part = None,
    force: Force = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Quantize the weights of a legacy neural network.

    As coremltools' quantize_weights, with less error: exact k-means, searched scales. Classifiers, regressors
    and pipelines are taken. IN is never changed.

    \b
    milpasses quantize-nn food.mlmodel --bits 4 --mode kmeans_lut -o food4.mlmodel
    milpasses quantize-nn food4.mlmodel --mode dequantization -o food32.mlmodel
    """
    if mode == "custom_lut":
        raise typer.BadParameter("custom_lut takes a function: use milpasses.neuralnetwork.quantize_weights")
    began = time.perf_counter()
    with progress("quantizing", as_json) as step:
        found = quantize_nn(
            model, output, bits, mode, requantize=requantize, skip=skip, part=part, force=force, progress=step
        )
    seconds = time.perf_counter() - began
    sizes = folder_bytes(model), folder_bytes(output)
    if as_json:
        content = json.loads(found.report.to_json())
        content["input"] = {"path": str(model), "bytes": sizes[0]}
        content["output"] = {"path": str(output), "bytes": sizes[1]}
        print_json({**content, "seconds": round(seconds, 3)})
    else:
        from milpasses_tools.compress import print_report

        print_report(found.report, verbose)
        print(sizes_line(model, output, seconds))


def quantize_nn(
    model: Any,
    output: "str | Path",
    nbits: int | None = None,
    mode: str = "linear",
    *,
    requantize: bool = False,
    skip: str = "",
    part: str | None = None,
    force: bool = False,
    progress: Any = None,
) -> "QuantizedModel":
    """Quantize a legacy network into ``output``: ``milpasses.neuralnetwork.quantize_weights``.

    ``skip`` names layer types that stay as they are, divided by commas, as coremltools'
    ``AdvancedQuantizedLayerSelector`` takes them (its limits on small convolutions do not apply). Raises
    ``MilpassesError``.
    """
    from milpasses.neuralnetwork import quantize_weights

    return quantize_weights(
        model,
        nbits,
        mode,
        selector=_selector(skip),
        requantize=requantize,
        part=part,
        output=output,
        force=force,
        progress=progress,
    )


def _selector(skip: str) -> Any:
    wanted = [name.strip() for name in skip.split(",") if name.strip()]
    if not wanted:
        return None
    from coremltools.models.neural_network.quantization_utils import AdvancedQuantizedLayerSelector

    from milpasses import MilpassesError

    try:
        return AdvancedQuantizedLayerSelector(wanted, 0, 0)
    except ValueError as error:
        raise MilpassesError(str(error)) from None

"""coremltools' ``optimize.coreml`` functions with milpasses behind them: moving over is one changed import.

The same arguments, the same config classes, the same ops in the result; the error is smaller and the call
faster. As there, every constant that the config selects is rewritten, whether ops multiply with it or only
add it, and whether it pays or not (but per-channel scales never make one larger); a group size that does not
divide the channels skips the weight with a warning, and a multifunction model is rejected:
``milpasses.compress`` takes one, and fits the groups.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

import attrs
from coremltools.models import MLModel
from coremltools.optimize.coreml import get_weights_metadata

from milpasses import _coremltools as host
from milpasses.activations.configs import named_sample, read_activation_config
from milpasses.activations.measure import smallest_and_largest
from milpasses.activations.quantize import ActivationQuantizer
from milpasses.errors import MilpassesError, TargetError
from milpasses.program.model import CompressedModel
from milpasses.program.opening import open_program, raise_target
from milpasses.program.opset import Opset, supported_since
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report
from milpasses.rewrite import Rewriter, write_decompressed, write_rewritten

__all__ = [
    "decompress_weights",
    "get_weights_metadata",
    "linear_quantize_activations",
    "linear_quantize_weights",
    "palettize_weights",
    "prune_weights",
]

_SINCE_IOS18 = supported_since("iOS18")
_logger = logging.getLogger("milpasses")


def linear_quantize_weights(
    mlmodel: MLModel, config: Any, joint_compression: bool = False
) -> CompressedModel:
    """``coremltools.optimize.coreml.linear_quantize_weights``, with scales of least squared error."""
    return _apply(mlmodel, config, joint_compression)


def linear_quantize_activations(
    mlmodel: MLModel, config: Any, sample_data: Any, calibration_op_group_size: int = -1
) -> CompressedModel:
    """``coremltools.optimize.coreml.linear_quantize_activations``, on every platform, of all samples.

    ``sample_data``: a list of dictionaries of inputs, ``None`` the name of an only one. As there a model for
    an older target is raised to iOS17. ``calibration_op_group_size`` is accepted and needs no heed: all
    tensors are measured in one run.
    """
    import coremltools as ct

    _reject_multifunction(mlmodel, "milpasses.coreml")
    recipe = read_activation_config(config)
    names = [feature.name for feature in mlmodel.get_spec().description.input]
    samples = [named_sample(sample, names) for sample in sample_data]
    with tempfile.TemporaryDirectory() as folder:
        program = raise_target(open_program(mlmodel), ct.target.iOS17, Path(folder))
        ranges = smallest_and_largest(program, samples)
        quantizer = ActivationQuantizer(recipe, ranges, keep_points=False)

        def finish(spec: Any, report: Report) -> None:
            quantizer.quantize_saved(program, spec, report)

        rewriter = Rewriter(recipe, program.target)
        return write_rewritten(program, rewriter, CompressedModel, finish=finish)


def palettize_weights(mlmodel: MLModel, config: Any, joint_compression: bool = False) -> CompressedModel:
    """``coremltools.optimize.coreml.palettize_weights``, with exact k-means at every granularity."""
    return _apply(mlmodel, config, joint_compression)


def prune_weights(mlmodel: MLModel, config: Any, joint_compression: bool = False) -> CompressedModel:
    """``coremltools.optimize.coreml.prune_weights``, with exactly the share of weights that was asked for."""
    return _apply(mlmodel, config, joint_compression)


def decompress_weights(mlmodel: MLModel) -> CompressedModel:
    """``coremltools.optimize.coreml.decompress_weights``."""
    _reject_multifunction(mlmodel, "decompress_weights")
    return write_decompressed(open_program(mlmodel))


def _reject_multifunction(mlmodel: MLModel, function: str) -> None:
    if host.is_multifunction(mlmodel):
        raise MilpassesError(
            f"{function} is not supported for a multifunction model; milpasses.compress and "
            "milpasses.decompress take one"
        )


def _check_grouped(config: Any, target: Opset) -> None:
    """coremltools refuses the granularity before iOS18 even with one group (``group_size=0``)."""
    configs = [config.global_config, *config.op_type_configs.values(), *config.op_name_configs.values()]
    for op_config in configs:
        granularity = getattr(op_config, "granularity", None)
        if getattr(granularity, "name", "") == "PER_GROUPED_CHANNEL" and not target.table_groups:
            raise TargetError(
                f"The per_grouped_channel palettization is {_SINCE_IOS18}; this model targets {target.name}"
            )


def _apply(mlmodel: MLModel, config: Any, joint_compression: bool) -> CompressedModel:
    import coremltools as ct

    _reject_multifunction(mlmodel, "milpasses.coreml")
    with tempfile.TemporaryDirectory() as folder:
        program = raise_target(open_program(mlmodel), ct.target.iOS16, Path(folder))
        target = program.target
        if joint_compression and not target.joint:
            raise TargetError(f"Joint compression is only {_SINCE_IOS18}; this model targets {target.name}")
        _check_grouped(config, target)
        rewriter = Rewriter(
            attrs.evolve(Recipe.from_coremltools(config), scope="all"),
            target,
            join=joint_compression,
            fit_groups=False,
            only_if_smaller=False,
            separate_scales=True,
        )
        model = write_rewritten(program, rewriter, CompressedModel)
    for record in model.report:
        if record.refused:
            _logger.warning("%s", record.reason)
    return model

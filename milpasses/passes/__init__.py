"""Graph passes, registered into coremltools as ``milpasses::NAME``: one rewrite a file."""

from milpasses.passes.compress_weights import compress_weights
from milpasses.passes.decompress_weights import decompress_weights
from milpasses.passes.palettize_weights import palettize_weights
from milpasses.passes.prune_weights import prune_weights
from milpasses.passes.quantize_activations import quantize_activations
from milpasses.passes.quantize_weights import quantize_weights
from milpasses.passes.recipe_passes import register_pass

__all__ = [
    "compress_weights",
    "decompress_weights",
    "palettize_weights",
    "prune_weights",
    "quantize_activations",
    "quantize_weights",
    "register_pass",
]

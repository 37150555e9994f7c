"""How the weights of a network are to be quantized: the arguments of ``quantize_weights``, checked."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.errors import MilpassesError

LutFunction = Callable[[int, NDArray[np.float64]], tuple[Any, Any]]

MODES = (
    "linear",
    "linear_symmetric",
    "linear_lut",
    "kmeans",
    "kmeans_lut",
    "custom_lut",
    "dequantization",
)


class QuantizationError(MilpassesError):
    """Weights cannot be quantized as asked; the message says why and what would work."""


@attrs.frozen
class Settings:
    """What to do, checked. ``nbits`` is 0 for ``dequantization``; ``part``: of a pipeline, this one alone."""

    nbits: int
    mode: str
    selector: Any
    lut_function: LutFunction | None = None
    requantize: bool = False
    part: str | None = None

    @classmethod
    def of(
        cls,
        nbits: int | None,
        mode: str,
        selector: Any = None,
        lut_function: LutFunction | None = None,
        requantize: bool = False,
        part: str | None = None,
    ) -> "Settings":
        """Check the arguments of ``quantize_weights``. Raises ``QuantizationError``."""
        from coremltools.models.neural_network.quantization_utils import QuantizedLayerSelector

        if mode not in MODES:
            raise QuantizationError(f"there is no quantization mode {mode!r}; there are {', '.join(MODES)}")
        if mode != "dequantization" and (isinstance(nbits, bool) or nbits not in (*range(1, 9), 16)):
            asked = "nbits= is missing" if nbits is None else f"nbits={nbits}"
            raise QuantizationError(f"{asked}: give 1 to 8, or 16 for float16")
        if mode == "custom_lut" and nbits != 16 and not callable(lut_function):
            raise QuantizationError(
                "the mode custom_lut needs lut_function: (nbits, weights) -> (table, indices)"
            )
        if mode != "custom_lut" and lut_function is not None:
            raise QuantizationError(f"lut_function belongs to the mode custom_lut, not to {mode}")
        if selector is not None and not hasattr(selector, "do_quantize"):
            raise QuantizationError("a selector needs a method do_quantize(layer, weight_param=None)")
        wanted = 0 if mode == "dequantization" or nbits is None else int(nbits)
        return cls(wanted, mode, selector or QuantizedLayerSelector(), lut_function, requantize, part)

    def wants(self, path: str) -> bool:
        """Whether the network at ``path`` (``Scope``'s) is one that was asked for."""
        return self.part is None or path.startswith(f"{self.part}/")

    def __str__(self) -> str:
        if self.mode == "dequantization":
            return self.mode
        return "float16" if self.nbits == 16 else f"{self.mode} {self.nbits}"

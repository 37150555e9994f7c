"""How near two results are."""

from typing import Any

import numpy as np


def snr(reference: Any, result: Any) -> float:
    """Signal to noise ratio in dB of ``result`` against ``reference``."""
    signal, noise = np.asarray(reference, np.float64), np.asarray(result, np.float64) - np.asarray(reference)
    return float(10 * np.log10(np.sum(signal**2) / max(np.sum(noise**2), 1e-300)))

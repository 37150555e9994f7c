"""A real classifier in the 27 variants that its author measured: sizes, errors, and coremltools' own."""

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.models.neural_network import quantization_utils as theirs
from quantization_models import weights

from milpasses.neuralnetwork.quantize.quantized_model import quantize_variants, read_model
from milpasses.neuralnetwork.spec.weight_params import decode
from milpasses.report import METADATA_KEY

FOOD = Path(__file__).parents[3] / "shared" / "data" / "food"
VARIANTS = [(nbits, mode) for mode in ("kmeans", "linear", "linear_lut") for nbits in (16, *range(8, 0, -1))]

pytestmark = pytest.mark.skipif(not (FOOD / "food.mlmodel").is_file(), reason="the food model is not here")


@pytest.fixture(scope="module")
def variants() -> Any:
    made = quantize_variants(FOOD / "food.mlmodel", VARIANTS)
    return dict(zip(VARIANTS, (spec for spec, _ in made), strict=True))


@pytest.fixture(scope="module")
def exact() -> Any:
    found = weights(read_model(FOOD / "food.mlmodel").spec)
    return {name: decode(site.params, site.shape) for name, site in found.items()}


def test_no_file_is_larger_than_the_authors(variants: Any) -> None:
    with (FOOD / "author_table.csv").open() as file:
        sizes = {row[0]: int(row[1]) for row in list(csv.reader(file))[1:]}
    assert len(variants) == 27
    for (nbits, mode), spec in variants.items():
        text = spec.description.metadata.userDefined.pop(METADATA_KEY)
        assert len(spec.SerializeToString()) <= sizes[f"food_{mode}_{nbits}.mlmodel"], (nbits, mode)
        assert len(text) < 120


def test_no_weight_is_worse_than_coremltools(variants: Any, exact: Any) -> None:
    for (nbits, mode), spec in variants.items():
        if nbits == 16 or mode == "kmeans":
            continue
        for name, site in weights(spec).items():
            values = exact[name]
            if mode == "linear":
                codes, scale, bias = theirs._quantize_channelwise_linear(values.astype(np.float64), nbits)
                rank = [-1] + [1] * (codes.ndim - 1)
                other = codes * np.float32(scale).reshape(rank) + np.float32(bias).reshape(rank)
            else:
                table, codes = theirs._get_linear_lookup_table_and_weight(nbits, values.astype(np.float64))
                other = np.float32(table)[codes.astype(int)]
            mine = decode(site.params, site.shape)
            distance, reference = (np.linalg.norm(one.ravel() - values.ravel()) for one in (mine, other))
            assert distance <= reference * (1 + 1e-6), (nbits, mode, name)


def test_kmeans_is_no_worse_than_scikit_learns(variants: Any, exact: Any) -> None:
    name = "fire6/squeeze1x1.weights"
    for nbits in (2, 5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table, codes = theirs._get_kmeans_lookup_table_and_weight(nbits, exact[name])
        site = weights(variants[nbits, "kmeans"])[name]
        reference = np.linalg.norm(np.float32(table).ravel()[codes] - exact[name].ravel())
        assert np.linalg.norm(decode(site.params, site.shape) - exact[name]) <= reference * (1 + 1e-6)

"""Every layer type, mode and width: coremltools reads it, the file is no larger, the error no greater."""

from typing import Any

import numpy as np
import pytest
from coremltools.models.neural_network import quantization_utils as theirs
from quantization_models import LAYERS, coremltools_quantized, floats, network, weights

from milpasses.neuralnetwork.quantize.quantized_model import quantize_variants
from milpasses.neuralnetwork.spec.weight_params import decode, form, nbytes

MODES = ("linear", "linear_symmetric", "linear_lut", "kmeans_lut")
VARIANTS = [(nbits, mode) for mode in MODES for nbits in (8, 7, 6, 5, 4, 3, 2, 1)]


def no_worse(mine: Any, other: Any, exact: Any) -> bool:
    """The distance is no greater, but for the rounding of what is decoded to float32."""
    ours, reference = (np.linalg.norm(one.astype(np.float64) - exact) for one in (mine, other))
    return bool(ours <= reference + 2.0**-23 * np.linalg.norm(exact))


@pytest.fixture(scope="module", params=LAYERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network of one layer, and its (nbits, mode, quantized specification, report)."""
    spec = network(request.param)
    path = tmp_path_factory.mktemp("layer") / "model.mlmodel"
    path.write_bytes(spec.SerializeToString())
    found = list(quantize_variants(path, VARIANTS))
    return spec, [(*variant, *one) for variant, one in zip(VARIANTS, found, strict=True)]


def test_coremltools_decodes_what_we_decode(made: Any) -> None:
    for nbits, mode, ours, report in made[1]:
        assert report.count("skipped") == 0
        mine = {n: decode(s.params, s.shape, s.axis).ravel() for n, s in weights(ours).items()}
        read = floats(coremltools_quantized(ours, None, "dequantization"))
        assert set(mine) == set(read)
        for name, values in read.items():
            np.testing.assert_array_equal(mine[name], values.astype(np.float32), f"{mode} {nbits} {name}")


def test_no_larger_and_no_worse_than_coremltools(made: Any) -> None:
    spec, variants = made
    exact = floats(spec)
    for nbits, mode, ours, _ in variants:
        if mode == "kmeans_lut" or (mode == "linear_symmetric" and nbits != 8):
            continue  # coremltools raises there; below its k-means alone
        reference = coremltools_quantized(spec, nbits, mode)
        sizes = [sum(nbytes(site.params) for site in weights(one).values()) for one in (ours, reference)]
        assert sizes[0] <= sizes[1], (mode, nbits)
        read = {n: decode(s.params, s.shape, s.axis).ravel() for n, s in weights(ours).items()}
        expected = floats(coremltools_quantized(reference, None, "dequantization"))
        for name, values in expected.items():
            assert no_worse(read[name], values, exact[name]), (mode, nbits, name)


def test_no_worse_than_scikit_learns_kmeans(made: Any) -> None:
    spec, variants = made
    exact = floats(spec)
    for nbits, mode, ours, _ in variants:
        if mode != "kmeans_lut" or nbits not in (1, 4, 8):
            continue
        for name, site in weights(ours).items():
            if form(site.params) != "lut":
                continue
            table, codes = theirs._get_kmeans_lookup_table_and_weight(nbits, exact[name])
            mine = decode(site.params, site.shape).ravel()
            assert no_worse(mine, np.float32(table).ravel()[codes], exact[name]), (nbits, name)


def test_kept_weights_would_not_be_smaller(made: Any) -> None:
    for nbits, mode, ours, report in made[1]:
        stored = {record.name: record for record in report}
        assert len(stored) == len(report)
        for name, site in weights(ours).items():
            if stored[name].status == "kept":
                assert form(site.params) == "float32"
                assert "are no fewer than" in stored[name].reason
            else:
                assert nbytes(site.params) < 4 * site.size, (mode, nbits, name)
                assert site.params.quantization.numberOfBits == nbits
            assert stored[name].bytes_after == nbytes(site.params)

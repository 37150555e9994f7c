"""What a network was trained with survives conversion without loss: tables, sparsity, integers."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from models import constexprs, convert

import milpasses as mp

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
]


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 32, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32 * 36, 40)
    )


def train(model: Any, step: Any = None) -> None:
    """A few real steps on random data."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        data = torch.randn(8, 4, 8, 8, generator=generator)
        loss = torch.nn.functional.cross_entropy(model(data), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step is not None:
            step()


def to_coreml(model: Any, pipeline: Any) -> Any:
    traced = torch.jit.trace(model.eval(), torch.zeros(1, 4, 8, 8))
    return convert(traced, inputs=[ct.TensorType(shape=(1, 4, 8, 8))], pass_pipeline=pipeline)


def weights_of(model: Any) -> list[np.ndarray]:
    return [p.detach().numpy() for p in model.parameters() if p.ndim > 1]


def plain(model: Any) -> Any:
    """The trained weights in a network without the notes that coremltools' trainers leave in theirs."""
    fresh = network()
    trained = dict(model.named_parameters())
    for name, own in fresh.named_parameters():
        own.data = trained[name].data
    return fresh


def decoded(model: Any) -> list[np.ndarray]:
    return [op.materialized_val_inference() for op in constexprs(model).values()]


def test_a_dkm_palettized_network_keeps_its_tables() -> None:
    from coremltools.optimize.torch.palettization import DKMPalettizer, DKMPalettizerConfig

    config = DKMPalettizerConfig.from_dict(
        {"global_config": {"n_bits": 2, "milestone": 0, "weight_threshold": 100}}
    )
    palettizer = DKMPalettizer(network(), config)
    model = palettizer.prepare()
    train(model, palettizer.step)
    model = palettizer.finalize()
    pipeline = mp.pipeline(mp.Palettize(mode="unique", weight_threshold=100))
    found = to_coreml(plain(model), pipeline)
    records = [r for r in pipeline.report if r.status == "compressed"]
    assert [r.form for r in records] == ["lut2 per_tensor"] * 2
    assert {r.max_error for r in records} == {0.0}
    # With the notes, coremltools' frontend makes the tables itself, and they are left alone.
    kept = to_coreml(model, pipeline)
    records = [r for r in pipeline.report if r.form.startswith("lut2")]
    assert [r.status for r in records] == ["kept"] * 2
    for converted in (found, kept):
        for stored, trained in zip(decoded(converted), weights_of(model), strict=True):
            np.testing.assert_array_equal(stored, trained.astype(np.float16))


def test_a_pruned_network_keeps_its_zeros() -> None:
    from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig

    config = MagnitudePrunerConfig.from_dict(
        {"global_config": {"scheduler": {"update_steps": [1, 2]}, "target_sparsity": 0.7}}
    )
    pruner = MagnitudePruner(network(), config)
    model = pruner.prepare()
    train(model, pruner.step)
    model = pruner.finalize()
    pipeline = mp.pipeline(mp.Prune(threshold=1e-12, weight_threshold=100))
    found = to_coreml(plain(model), pipeline)
    records = [r for r in pipeline.report if r.status == "compressed"]
    assert len(records) == 2
    assert {r.max_error for r in records} == {0.0}
    for stored, trained in zip(decoded(found), weights_of(model), strict=True):
        np.testing.assert_array_equal(stored, trained.astype(np.float16))
        assert np.mean(stored == 0) >= 0.69
    kept = to_coreml(model, pipeline)
    assert [r.status for r in pipeline.report if r.form.startswith("sparse")] == ["kept"] * 2
    for stored, trained in zip(decoded(kept), weights_of(model), strict=True):
        np.testing.assert_array_equal(stored, trained.astype(np.float16))


def test_a_quantization_aware_network_keeps_its_integers() -> None:
    from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig

    config = LinearQuantizerConfig.from_dict(
        {"global_config": {"milestones": [0, 0, 3, 2], "weight_dtype": "qint8", "activation_dtype": "quint8"}}
    )
    quantizer = LinearQuantizer(network(), config)
    model = quantizer.prepare(example_inputs=(torch.zeros(1, 4, 8, 8),))
    train(model, quantizer.step)
    model = quantizer.finalize()
    plain = to_coreml(model, None)
    pipeline = mp.pipeline("pal4")
    converted = to_coreml(model, pipeline)
    kept = [r for r in pipeline.report if r.reason.startswith("compressed already")]
    assert kept
    assert {r.form.split()[0] for r in kept} == {"int8"}
    ours, theirs = constexprs(converted), constexprs(plain)
    assert list(ours) == list(theirs)
    for name, op in ours.items():
        np.testing.assert_array_equal(
            op.materialized_val_inference(), theirs[name].materialized_val_inference()
        )

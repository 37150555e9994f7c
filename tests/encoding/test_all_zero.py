"""A weight of zeros alone: dense with a reason, but pruned by the drop-in, as coremltools does."""

from typing import Any

import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from models import constexprs, convert, weights_program

import milpasses as mp
from milpasses.errors import Refusal


@pytest.fixture(scope="module")
def model() -> Any:
    return convert(weights_program(np.zeros((64, 64), np.float32)), skip_model_load=True)


@pytest.mark.parametrize("recipe", ["sparse50", "sparse50+pal4", "sparse50+int8"])
def test_stays_dense_with_a_reason(model: Any, recipe: str) -> None:
    report = mp.compress(model, recipe).report
    (record,) = [record for record in report if len(record.shape) == 2]
    assert (record.status, record.refusal) == ("skipped", Refusal("all-zero"))


def test_is_pruned_by_the_drop_in(model: Any) -> None:
    config = cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.5))
    ours, theirs = (constexprs(module.prune_weights(model, config)) for module in (mp.coreml, cto))
    assert {name: op.op_type for name, op in ours.items()} == {n: op.op_type for n, op in theirs.items()}
    assert len(ours) == 1

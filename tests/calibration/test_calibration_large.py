"""Weights of many outputs: which second moment to feed errors back by is tried on some of the outputs."""

import math

import numpy as np
import pytest

import milpasses as mp
from milpasses.calibration import Inputs, output_error
from milpasses.calibration import encode as encoding_module
from milpasses.calibration.encode import encode_calibrated
from milpasses.calibration.feedback import feed_back, feedback_error
from milpasses.calibration.matrices import Layout
from milpasses.data.moments import Moments
from milpasses.encoding.encoder import Encoder
from milpasses.program.flows import Flow
from milpasses.program.weights import Consumer, Weight

OUTPUTS, WIDTH = 1024, 48
CONSUMER = Consumer("linear", "op", "weight")


def moments(rows: int, seed: int) -> Moments:
    rng = np.random.default_rng(seed)
    mixing = np.eye(WIDTH) + 0.1 * np.random.default_rng(9).normal(size=(WIDTH, WIDTH))
    flow = Flow(1, WIDTH, 1, 1, [(rng.normal(size=(rows, WIDTH)) @ mixing)[None]])
    found = Moments.empty(flow, True, "linear op")
    found.add(flow)
    return found


@pytest.fixture
def value() -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(OUTPUTS, WIDTH)) / math.sqrt(WIDTH)).astype(np.float16)


@pytest.mark.parametrize("scheme", ["pal3", "pal3-g16", "pal4-v2", "int4", "int4-b16"])
def test_all_outputs_tried_are_feedback_itself(value: np.ndarray, scheme: str) -> None:
    fit, check = moments(200, 1), moments(200, 2)
    assert fit.gram is not None
    assert check.gram is not None
    layout = Layout(value.shape, 1, WIDTH, False)
    plain = Encoder(Weight("w", value.shape, "float16", (CONSUMER,))).encode(
        value, mp.Recipe.of(scheme).default
    )
    whole, _ = feed_back(plain, value, layout, fit.gram, 0.01, descents=1)
    error = output_error(value, whole.decode(), check, CONSUMER) * check.rows
    found = feedback_error(plain, value, layout, fit.gram, 0.01, check.gram, OUTPUTS)
    assert found == pytest.approx(error, rel=0.01)  # decoding rounds to float16
    part = feedback_error(plain, value, layout, fit.gram, 0.01, check.gram, OUTPUTS // 4)
    assert part == pytest.approx(found / 4, rel=0.2)


def test_the_choice_is_about_as_good_as_trying_all(
    value: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(moments(60, 1), moments(2000, 2))  # so few rows that shrinking helps
    test = moments(4000, 3)
    encoder = Encoder(Weight("w", value.shape, "float16", (CONSUMER,)))
    scheme = mp.Recipe.of("pal3-g16-gptq").default
    some = encode_calibrated(encoder, value, scheme, inputs)
    monkeypatch.setattr(encoding_module, "_TRIED", OUTPUTS)
    both = encode_calibrated(encoder, value, scheme, inputs)
    assert "gptq" in both.method
    assert some.method == both.method
    errors = [output_error(value, one.encoding.decode(), test, CONSUMER) for one in (some, both)]
    assert errors[0] == errors[1]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("scheme", ["int4", "int4-b16", "int8"])
def test_scales_below_one_of_float32_weights_do_not_overflow(scheme: str) -> None:
    """A grid's values stay finite: up to the largest float32 over its scale, which is beyond float32."""
    value = np.random.default_rng(0).normal(0, 1e-3, (32, WIDTH)).astype(np.float32)
    fit = moments(200, 1)
    assert fit.gram is not None
    plain = Encoder(Weight("w", value.shape, "float32", (CONSUMER,))).encode(
        value, mp.Recipe.of(scheme).default
    )
    fed, _ = feed_back(plain, value, Layout(value.shape, 1, WIDTH, False), fit.gram, 0.01)
    before, after = (output_error(value, form.decode(), fit, CONSUMER) for form in (plain, fed))
    assert after < before

"""Converted networks against torch: above 100 dB in float32, above 40 dB in the declared float16."""

from typing import Any

import numpy as np
import pytest
from interpreter_measure import snr

from milpasses.interpreter import Interpreter

torch = pytest.importorskip("torch")
import coremltools as ct  # noqa: E402
import interpreter_networks as nets  # noqa: E402

IMAGE = (1, 3, 32, 32)
CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "resnet": (lambda: nets.ResNet(8, (1, 1), 10), IMAGE),
    "mobilenet_v3": (nets.MobileNetV3Block, IMAGE),
    "densenet": (nets.DenseNet, IMAGE),
    "convnext": (nets.ConvNeXt, IMAGE),
    "swin": (nets.SwinBlock, IMAGE),
    "deeplab": (nets.DeepLab, IMAGE),
    "vit": (nets.ViT, IMAGE),
    "whisper": (nets.WhisperEncoder, (1, 16, 40)),
    "lstm": (lambda: nets.Recurrent(torch.nn.LSTM, True), (1, 9, 12)),
    "gru": (lambda: nets.Recurrent(torch.nn.GRU, False), (1, 9, 12)),
}


def _network(name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    make, shape = CASES[name]
    return make().eval(), torch.randn(shape)


@pytest.mark.parametrize("name", CASES)
def test_float32_programs_agree_above_100_db(name: str, convert: Any) -> None:
    network, x = _network(name)
    model = convert(network, x)
    with torch.no_grad():
        expected = network(x).numpy()
    for backend in ("torch", "numpy"):
        (result,) = Interpreter(model, backend=backend).run({"in0": x.numpy()}).values()
        assert result.dtype == np.float32
        assert snr(expected, result) > 100, backend


@pytest.mark.parametrize("name", CASES)
def test_float16_programs_agree_above_40_db(name: str, convert: Any) -> None:
    network, x = _network(name)
    model = convert(network, x, half=True)
    with torch.no_grad():
        expected = network(x).numpy()
    (declared,) = Interpreter(model).run({"in0": x.numpy()}).values()
    (exact,) = Interpreter(model, precision="float32").run({"in0": x.numpy()}).values()
    assert snr(expected, declared) > 40
    assert snr(expected, exact) > snr(expected, declared)


def test_bert_with_integer_tokens(convert: Any) -> None:
    torch.manual_seed(0)
    network = nets.Bert(100, 32, 4, 2).eval()
    ids = torch.randint(0, 100, (1, 12), dtype=torch.int32)
    model = convert(network, ids)
    with torch.no_grad():
        expected = network(ids).numpy()
    (result,) = Interpreter(model).run({"in0": ids.numpy()}).values()
    assert snr(expected, result) > 100


def test_stateful_decoder_keeps_its_cache(convert: Any) -> None:
    torch.manual_seed(0)
    network = nets.Decoder().eval()
    reference = nets.Decoder().eval()
    reference.load_state_dict(network.state_dict())
    example = (torch.randn(1, 1, 16), torch.zeros(1, 8, 1), torch.zeros(1, 1, 8))
    states = [ct.StateType(ct.TensorType(shape=(1, 8, 16)), name=name) for name in ("keys", "values")]
    model = convert(
        network,
        example,
        half=True,
        states=states,
        minimum_deployment_target=ct.target.iOS18,
    )
    interpreter = Interpreter(model)
    state, other = interpreter.make_state(), interpreter.make_state()
    for step in range(5):
        x, slot, mask = torch.randn(1, 1, 16), torch.zeros(1, 8, 1), torch.full((1, 1, 8), -1e4)
        slot[0, step], mask[..., : step + 1] = 1, 0
        with torch.no_grad():
            expected = reference(x, slot, mask).numpy()
        inputs = {"in0": x.numpy(), "in1": slot.numpy(), "in2": mask.numpy()}
        (result,) = interpreter.run(inputs, state).values()
        assert snr(expected, result) > 40, step
    assert snr(reference.keys.numpy(), state.values["keys"]) > 40
    assert not other.values["keys"].any()


def test_flexible_shapes(convert: Any) -> None:
    torch.manual_seed(0)
    network = nets.Flexible().eval()
    size = ct.RangeDim(8, 64, default=16)
    model = convert(network, torch.randn(1, 3, 16, 16), inputs=[ct.TensorType("in0", (1, 3, size, size))])
    interpreter = Interpreter(model)
    assert interpreter.inputs["in0"].shape == (1, 3, None, None)
    for shape in ((1, 3, 16, 16), (1, 3, 8, 64)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = network(x).numpy()
        (result,) = interpreter.run({"in0": x.numpy()}).values()
        assert snr(expected, result) > 100


def test_in_memory_programs_and_packages_run_alike(convert: Any, tmp_path: Any) -> None:
    network, x = _network("convnext")
    model = convert(network, x)
    path = tmp_path / "m.mlpackage"
    model.save(str(path))
    (from_path,) = Interpreter(path).run({"in0": x.numpy()}).values()
    (from_model,) = Interpreter(model).run({"in0": x.numpy()}).values()
    (from_program,) = Interpreter(model._mil_program).run({"in0": x.numpy()}).values()
    np.testing.assert_array_equal(from_path, from_model)
    np.testing.assert_array_equal(from_path, from_program)

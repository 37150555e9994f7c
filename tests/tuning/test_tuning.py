"""Tuning: never worse on held-out samples, the same forms and bytes, the same result for the same seed."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milpasses_tools import digits

import milpasses as mp
from milpasses.interpreter import Interpreter

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits.mlpackage"
    digits.convert().save(str(path))
    return path


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    return [{digits.INPUT: image[None]} for image in digits.load().images[:64]]


def forms(model: Any) -> dict[str, tuple[str, int]]:
    from milpasses.program.opening import open_program

    sites = open_program(model).sites()
    return {
        site.weight.name: ("dense" if site.existing is None else site.existing().form, site.nbytes)
        for site in sites
    }


def decibels(model: Any, reference: Any, samples: list[dict[str, Any]]) -> float:
    runs = [Interpreter(one).run for one in (reference, model)]
    pairs = [[np.float64(run(sample)[digits.OUTPUT]) for run in runs] for sample in samples]
    return 10 * np.log10(sum((a**2).sum() for a, _ in pairs) / sum(((a - b) ** 2).sum() for a, b in pairs))


@pytest.mark.parametrize("recipe", ["pal2-g16-gptq", "int4-b32", "sparse50+pal2", "sparse50"])
def test_held_out_outputs_come_nearer_in_the_same_forms_and_bytes(
    model: Path, samples: list[dict[str, Any]], recipe: str
) -> None:
    start = mp.compress(model, recipe, calibration=samples)
    tuned = mp.tune(model, start, samples, minutes=5, steps=30, batch=16)
    assert forms(tuned) == forms(start)
    held_out = samples[1::4]
    before, after = (decibels(one, model, held_out) for one in (start, tuned))
    assert after > before + 0.1
    notes = [note for note in tuned.report.notes if note.startswith("tuned ")]
    assert [note.split(":")[0] for note in notes] == ["tuned 3 blocks", "tuned tables", "tuned codes"]
    assert f"-> {after:.2f} dB on 16 held-out samples" in notes[-1]  # as the written model gives it
    assert start.report.records == tuned.report.records


def test_the_same_seed_gives_the_same_bytes_and_a_recipe_is_calibrated_first(
    model: Path, samples: list[dict[str, Any]], tmp_path: Path
) -> None:
    told: list[tuple[int, int, str]] = []
    for name in ("first", "second"):
        mp.tune(
            model, "pal2-g16-gptq", samples, minutes=5, steps=4, output=tmp_path / f"{name}.mlpackage",
            progress=lambda *step: told.append(step),
        )  # fmt: skip
    one, two = (next((tmp_path / f"{n}.mlpackage").rglob("weight.bin")) for n in ("first", "second"))
    assert one.read_bytes() == two.read_bytes()
    assert {name.split(":")[0] for _, _, name in told} == {
        "calibrating", "reading the outputs of the float model", "tables", "codes",
        *(f"block {i} of 3" for i in (1, 2, 3)),
    }  # fmt: skip
    first = [done for done, _, _ in told[: len(told) // 2]]
    assert first == sorted(first)
    assert (first[-1], {total for _, total, _ in told}) == (10_000, {10_000})


def test_no_time_gives_what_it_began_with(model: Path, samples: list[dict[str, Any]]) -> None:
    start = mp.compress(model, "pal3-g16", calibration=samples)
    tuned = mp.tune(model, start, samples, minutes=0, steps=5)
    for sample in samples[:3]:
        a, b = (Interpreter(one).run(sample)[digits.OUTPUT] for one in (start, tuned))
        assert np.array_equal(a, b)


def test_masks_stay(model: Path, samples: list[dict[str, Any]]) -> None:
    from milpasses.program.opening import open_program

    start = mp.compress(model, "sparse50+pal2", calibration=samples)
    tuned = mp.tune(model, start, samples, minutes=5, steps=6)
    masks = [
        [site.existing().mask for site in open_program(one).sites() if site.existing is not None]  # pyright: ignore
        for one in (start, tuned)
    ]
    assert len(masks[0]) > 0
    assert all(np.array_equal(a, b) for a, b in zip(*masks, strict=True))


def test_bad_input_is_one_line(
    model: Path, samples: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.mlpackage"

    def refused(match: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(mp.MilpassesError, match=match) as caught:
            mp.tune(*arguments, output=out, **options)
        assert "\n" not in str(caught.value)
        assert not out.exists()

    refused("7 samples are too few to tune with: give at least 8", model, "pal2-g16", samples[:7])
    refused("nothing to tune: no weight is stored in tables", model, "keep", samples)
    refused("no device 'tpu9'", model, "pal2-g16", samples, device="tpu9")
    refused("8-bit activations have no gradient", model, "int8+a8", samples)
    refused("NaN|not finite", model, "pal2-g16", [{digits.INPUT: s[digits.INPUT] * np.nan} for s in samples])
    refused("data=random: nothing is learned from random samples", model, "pal2-g16", "random")
    refused("part x: the model is no pipeline", model, "pal2-g16", samples, part="x")
    missing = importlib.util.find_spec("no_such_module_of_anyone")
    monkeypatch.setattr("milpasses.tuning.tuner.find_spec", lambda name: missing)
    refused(r"tuning needs torch: pip install 'milpasses\[torch\]'", model, "pal2-g16", samples)


def test_channels_of_very_unequal_ranges_learn_at_one_rate(samples: list[dict[str, Any]]) -> None:
    """One group's table is 200 times as large as another's: a step for the one is none for the other."""
    from milpasses.encoding.encodings import Palettized
    from milpasses.tuning.learned import LearnedTable

    rng = np.random.default_rng(0)
    sizes = np.array([1.0, 200.0], np.float32)
    lut = (sizes[:, None] * np.array([-1, -0.3, 0.3, 1], np.float32)).reshape(2, 1, 4, 1).astype(np.float16)
    form = Palettized(rng.integers(0, 4, (32, 8)).astype(np.uint8), lut, None)
    one = LearnedTable(form, None, "cpu")
    before = one.value().detach().numpy()
    assert np.array_equal(before, form.decode().astype(np.float32))
    ((moved, rate),) = one.parameters
    with torch.no_grad():
        moved += rate
    change = np.abs(one.value().detach().numpy() - before).reshape(2, 16, 8).mean((1, 2)) / sizes
    assert change[0] == pytest.approx(change[1], rel=0.5)


def test_tables_move_under_codes_and_codes_follow_their_gradient() -> None:
    from milpasses.encoding.encodings import Palettized
    from milpasses.tuning.learned import LearnedTable

    lut = np.array([0.5, -1, 1, -0.5], np.float16).reshape(1, 1, 4, 1)  # in no order
    codes = np.array([[0, 1, 2, 3]], np.uint8)
    one = LearnedTable(Palettized(codes, lut, None), None, "cpu")
    one.free(np.array([[0.2, -0.9, 2.0, -0.6]], np.float32))
    assert np.array_equal(one.value().detach().numpy(), [[0.5, -1, 1, -0.5]])
    one.value().sum().backward()
    assert np.allclose(one.latent.grad, [[1.0, 0.5, 0.5, 0.5]])  # steps between the entries around each
    ((moved, _),) = one.parameters
    with torch.no_grad():
        one.latent -= one.latent.grad  # towards smaller values
        moved += 0.1
    assert one.encoding().codes.tolist() == [[3, 1, 2, 1]]  # 2.0 lay beyond the last entry

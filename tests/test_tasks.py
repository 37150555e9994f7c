"""Tables of real tasks: what they count, which data they use, and three bits a weight for digits."""

from pathlib import Path

import numpy as np
import pytest

import milpasses as mp
from bench import _tasks_food as photos
from bench import tasks
from bench._tasks_measure import Task, candidates, file_bytes, lost
from milpasses import budget
from milpasses.recipe.schemes import Scheme

FOOD = photos.folder()


def test_loss_counts_the_answers_that_flip():
    before = np.array([True] * 60 + [False] * 40)
    after = before.copy()
    after[:3], after[60:61] = False, True
    loss, error = lost(before, after)
    assert loss == pytest.approx(2.0)
    assert error == pytest.approx(100 * np.sqrt((0.04 - 0.02**2) / 100))
    assert lost(before, before) == (0.0, 0.0)


def test_candidates_are_for_small_weights_too():
    found = candidates("pal4-g16-gptq", "int8")
    assert [one.weight_threshold for one in found] == [0, 0]
    assert Scheme.of("pal4-g16-gptq").weight_threshold > 0


def test_every_photo_is_measured_once_and_never_where_it_calibrated():
    labels = [f"dish {i % 7}" for i in range(350)]
    parts = photos.folds(labels)
    assert sorted(place for _, others in parts for place in others) == list(range(350))
    for (seen, others), count in zip(parts, (210, 140), strict=True):
        assert not set(seen) & set(others)
        assert len(others) == count
        assert all([labels[place] for place in seen].count(label) == 20 for label in set(labels))


def test_the_choice_looks_at_bytes_and_divergence_only():
    right, wrong, sure = np.ones(2, np.bool_), np.zeros(2, np.bool_), np.ones(2)
    found = {
        "large": [photos.Fold(600, 0.01, right, sure), photos.Fold(400, 0.3, right, sure)],
        "near": [photos.Fold(500, 0.1, wrong, sure), photos.Fold(500, 0.1, wrong, sure)],
        "far": [photos.Fold(300, 0.2, right, sure), photos.Fold(300, 0.05, right, sure)],
    }
    name, best = photos.chosen(found, 500)
    assert name == "near / far"
    assert [one.divergence for one in best] == [0.1, 0.05]


def test_divergence_is_zero_for_equal_and_known_for_two_classes():
    even, sure = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    assert photos.divergence(even, even) == 0
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert photos.divergence(even, sure) == pytest.approx(expected, rel=1e-5)


def test_food_says_that_it_was_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FOOD", str(tmp_path))
    table = tasks.food()
    assert not table.rows
    assert "Left out" in table.markdown()


@pytest.fixture(scope="module")
def digits_task() -> Task:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from bench._tasks_small import digits_task

    return digits_task()


def test_digits_calibrate_on_images_that_are_not_measured(digits_task: Task):
    from milpasses_tools import digits

    measured = {image.tobytes() for image in digits.load().images}
    assert len(digits_task.calibration) == 512
    shared = sum(one[digits.INPUT][0].tobytes() in measured for one in digits_task.calibration)
    assert shared <= 1  # two people may write one and the same 8 x 8 image; no more than that


def test_digits_lose_less_than_half_a_point_at_three_bits(digits_task: Task):
    task = digits_task
    assert task.weights == 83_456
    statistics = mp.statistics(task.model, task.calibration, full=True, held_out=4)
    found = budget.fit(
        task.model,
        3 * task.weights // 8,
        data=task.calibration,
        candidates=candidates("pal2-gptq", "pal2-g16-gptq", "pal3-gptq", "pal4-gptq", "pal8"),
        statistics=statistics,
        samples=8,
    )
    small = mp.compress(task.model, found.recipe, statistics=statistics)
    assert task.bits(small) <= 3.0
    assert file_bytes(small) <= 3 * task.weights / 8
    assert lost(task.hits(task.model), task.hits(small))[0] <= 0.5


def test_the_transformer_is_trained_on_other_topics_and_comes_back(tmp_path: Path):
    torch = pytest.importorskip("torch")
    from scripts import train_transformer as transformer

    own, held_out = transformer.texts()
    letters = transformer.alphabet(own)
    assert not any(line in own for line in held_out.splitlines() if len(line) > 75 and "*" not in line[:1])
    assert letters[0] == "\0"
    assert "".join(letters[i] for i in transformer.encode("for x in y: ü", letters)) == "for x in y: \0"
    path = tmp_path / "transformer.npz"
    score = transformer.fit(path, steps=2)
    network, known = transformer.load(path)
    assert known == letters
    codes = torch.from_numpy(transformer.encode(held_out, letters)).long()
    assert transformer.accuracy(network, codes) == pytest.approx(score, abs=1e-9)


def test_scores_of_the_transformer_do_not_see_what_follows():
    torch = pytest.importorskip("torch")
    from scripts import train_transformer as transformer

    torch.manual_seed(0)
    network = transformer.Network(20).eval()
    ids = torch.randint(20, (1, transformer.CONTEXT))
    changed = ids.clone()
    changed[0, 40:] = (ids[0, 40:] + 1) % 20
    with torch.no_grad():
        before, after = network(ids), network(changed)
    assert torch.equal(before[0, :40], after[0, :40])
    assert not torch.equal(before[0, 40:], after[0, 40:])


@pytest.mark.skipif(FOOD is None, reason="needs ../shared/data/food, or FOOD")
def test_colours_store_the_mean_image_in_fewer_bytes_with_less_error(tmp_path: Path):
    import coremltools as ct

    from milpasses.neuralnetwork import upgrade

    assert FOOD is not None
    model = tmp_path / "food.mlpackage"
    upgrade(FOOD / "food.mlmodel", None, ct.target.iOS18, output=model)
    records = []
    for scheme in (photos.colours(4), "pal2"):
        recipe = mp.Recipe(default="keep", rules=[mp.Rule(name=photos.MEAN, scheme=scheme)])
        records.append(next(r for r in mp.compress(model, recipe).report if r.status == "compressed"))
    colours, scalars = records
    assert colours.bytes_after < 0.7 * scalars.bytes_after
    assert colours.sqnr_db > scalars.sqnr_db + 10

"""``milpasses sweep`` of a real legacy network on real photos, where they are at hand."""

import csv
import json
import statistics
from pathlib import Path

import pytest
from milpasses_tools import sweep
from milpasses_tools._sweep.variants import Classic
from milpasses_tools.sweep import Sweep

FOOD = Path(__file__).resolve().parents[3] / "shared" / "data" / "food"
pytestmark = pytest.mark.skipif(not FOOD.exists(), reason="no food model")
PHOTOS = 12  # of each of the seven classes
CLOSE, FAR = Classic("kmeans", 6), Classic("linear", 2)


@pytest.fixture(scope="module")
def author() -> dict[str, tuple[int, float]]:
    """Bytes and mean accuracy of each variant, as the network's author measured them on 700 photos."""
    found: dict[str, tuple[int, float]] = {}
    for row in csv.DictReader((FOOD / "author_table.csv").open()):
        shares = [float(value) for title, value in row.items() if title not in ("model", " size", "", None)]
        found[row["model"].removesuffix(".mlmodel")] = int(row[" size"]), statistics.mean(shares)
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("food")
    for photo in sorted((FOOD / "photos").glob("*/*")):
        here = folder / "photos" / photo.parent.name
        here.mkdir(parents=True, exist_ok=True)
        if len(list(here.iterdir())) < PHOTOS:
            (here / photo.name).symlink_to(photo)
    return sweep(
        FOOD / "food.mlmodel", folder / "out", ["keep", "pal4-g16-gptq", "fit(4 bits)"], folder / "photos",
        variants=[CLOSE, FAR], max_loss=5,
    )  # fmt: skip


def test_sizes_and_accuracies_are_those_of_the_author(swept: Sweep, author: dict[str, tuple[int, float]]):
    for name, known in (("original", "food"), (CLOSE.name, "food_kmeans_6"), (FAR.name, "food_linear_2")):
        nbytes, accuracy = author[known]
        assert swept[name]["bytes"] == pytest.approx(nbytes, rel=0.002)
        # One in ten of other photos, scaled another way: three standard deviations are 0.18.
        assert swept[name]["accuracy"]["top1"] == pytest.approx(accuracy, abs=0.18)
    assert swept[FAR.name]["accuracy"]["top1"] < 0.05
    assert swept[CLOSE.name]["agreement"] > 0.8


def test_folders_name_classes(swept: Sweep):
    """Folders are called french_fries, classes french fries: all photos count, but those set aside."""
    assert [row["status"] for row in swept.rows] == ["done"] * 6
    split = json.loads((swept.folder / "split.json").read_text(encoding="utf-8"))
    assert (len(split["measured"]), len(split["calibration"])) == (70, 14)
    assert swept.rows[0]["accuracy"]["count"] == 70
    assert [one["count"] for one in swept.rows[0]["accuracy"]["classes"]] == [10] * 7


def test_modern_forms_are_smaller_than_classic_ones(swept: Sweep):
    assert swept["keep"]["agreement"] == 1
    for name in ("pal4-g16-gptq", "fit(4 bits)"):
        assert swept[name]["bytes"] < swept[CLOSE.name]["bytes"] / 2
        assert swept[name]["output_snr_db"] > 8
        assert swept[name]["agreement"] > 0.75
    assert 3.8 < swept["fit(4 bits)"]["bits_per_weight"] < 4.01
    assert 6 < swept[CLOSE.name]["bits_per_weight"] < 6.2

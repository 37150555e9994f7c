"""``milpasses sweep`` of a real legacy network on real photos, where they are at hand."""

import csv
import json
from pathlib import Path

import pytest
from milpasses_tools import sweep
from milpasses_tools._sweep.variants import Classic

FOOD = Path(__file__).resolve().parents[3] / "shared" / "data" / "food"
pytestmark = pytest.mark.skipif(not FOOD.exists(), reason="no food model")


def test_classic_and_modern_variants_of_one_network(tmp_path: Path):
    variants = [Classic("kmeans", 4), Classic("linear", 2)]
    found = sweep(
        FOOD / "food.mlmodel", tmp_path / "out", ["keep", "pal4"], FOOD / "photos", variants=variants,
        samples=14, by="agreement", max_loss=90,
    )  # fmt: skip
    assert [row["status"] for row in found.rows] == ["done"] * 5
    # Folders are called french_fries, classes french fries: all photos count.
    assert found.rows[0]["accuracy"]["count"] == 14
    assert len(found.rows[0]["accuracy"]["classes"]) == 7
    assert found.rows[0]["accuracy"]["top1"] > 0.5
    assert found["linear_2"]["accuracy"]["top1"] < 0.2
    assert found["keep"]["agreement"] == 1
    assert found["pal4"]["bytes"] < found["keep"]["bytes"]
    author = {row["model"]: int(row[" size"]) for row in csv.DictReader((FOOD / "author_table.csv").open())}
    assert found.rows[0]["bytes"] == author["food.mlmodel"]
    assert found["kmeans_4"]["bytes"] == pytest.approx(author["food_kmeans_4.mlmodel"], rel=1e-3)
    assert 4 < found["kmeans_4"]["bits_per_weight"] < 4.2
    assert 10 < found["kmeans_4"]["weight_sqnr_db"] < 30
    assert found.saved is not None
    split = json.loads((tmp_path / "out" / "split.json").read_text(encoding="utf-8"))
    assert len(split["measured"]) == 14

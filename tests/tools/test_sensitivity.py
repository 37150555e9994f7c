"""``milpasses sensitivity`` and ``milpasses compress --budget``: what they print, write and refuse."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import Run
from milpasses_tools import sensitivity
from milpasses_tools._sensitivity.order import by_sensitivity
from milpasses_tools.sensitivity import read_candidate_texts

from milpasses.budget import Sensitivity, fit
from milpasses.recipe.recipe import Recipe

FEW = "pal2,pal4,int8"


class TestTable:
    def test_lists_the_most_sensitive_first_and_totals(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ) -> None:
        table = tmp_path / "table.csv"
        arguments = ("sensitivity", digits_packages["iOS18"], "--candidates", FEW, "--csv", table)
        outcome = milpasses_command(*arguments, "--data", "random", "--samples", 2)
        assert (outcome.status, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert lines[0].split() == ["weight", "shape", "bytes", "known", "from", "pal2", "pal4", "int8"]
        names = [line.split()[0] for line in lines[1:4]]
        assert set(names) == {"const_6_to_fp16", "const_8_to_fp16", "hidden_weight_to_fp16"}
        assert all(line.split()[3] == "statistics" for line in lines[1:4])
        assert lines[4].startswith("all: dB")
        assert "3 weights" in lines
        assert lines[-2] == "data: random data, seed 0"
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 3 * 4
        saved = sum(int(row["saved"]) for row in rows if row["candidate"] == "int8")
        assert lines[5].split()[-1] == f"{saved:,}"
        errors = {r["weight"]: float(r["output_error"]) for r in rows if r["candidate"] == "pal4"}
        assert errors[names[0]] >= errors[names[-1]]

    def test_top_lists_fewer_and_says_so(
        self, milpasses_command: Run, digits_packages: dict[str, Path]
    ) -> None:
        outcome = milpasses_command(
            "sensitivity", digits_packages["iOS18"], "--candidates", "pal4", "--top", 1
        )
        assert "3 weights, 2 not listed" in outcome.out.splitlines()
        assert "of the ops that use each weight" in outcome.out

    def test_json_is_a_table_for_a_budget(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ) -> None:
        model, path = digits_packages["iOS18"], tmp_path / "table.json"
        outcome = milpasses_command("sensitivity", model, "--candidates", FEW, "--json")
        path.write_text(outcome.out, encoding="utf-8")
        table = Sensitivity.of(path)
        assert table == sensitivity(model, candidates=FEW.split(","))
        assert fit(model, "5 bits", sensitivity=path).table == table

    def test_exact_needs_data_and_runs_for_each_candidate(
        self, milpasses_command: Run, digits_packages: dict[str, Path]
    ) -> None:
        arguments = ("sensitivity", digits_packages["iOS18"], "--candidates", "pal4,int8", "--exact")
        refused = milpasses_command(*arguments)
        assert (refused.status, refused.out) == (2, "")
        assert refused.err == "milpasses: error: exact: the model has to run: give data\n"
        outcome = milpasses_command(*arguments, "--data", "random", "--samples", 1, "--json")
        table = Sensitivity.from_dict(json.loads(outcome.out))
        assert table.how == "exact"
        assert {weight.basis for weight in table} == {"measured"}

    def test_candidates_divided_by_commas_outside_brackets(self) -> None:
        text = "pal4, palettize(nbits=4, granularity=per_grouped_channel, group_size=8),int8,"
        assert read_candidate_texts(text) == [
            "pal4", "palettize(nbits=4, granularity=per_grouped_channel, group_size=8)", "int8",
        ]  # fmt: skip
        assert read_candidate_texts(None) is None


class TestPicture:
    def test_svg_has_a_cell_for_each_weight_and_candidate(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ) -> None:
        picture = tmp_path / "table.svg"
        model = digits_packages["iOS18"]
        milpasses_command("sensitivity", model, "--candidates", FEW, "--plot", picture)
        root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
        space = "{http://www.w3.org/2000/svg}"
        assert len(root.findall(f"{space}g")) == 9
        labels = [text.text or "" for text in root.findall(f"{space}text")]
        assert labels[:3] == ["pal2", "pal4", "int8"]
        assert labels[3:] == [
            one.name for one in by_sensitivity(sensitivity(model, candidates=FEW.split(",")))
        ]

    def test_page_loads_nothing(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ) -> None:
        page = tmp_path / "table.html"
        milpasses_command(
            "sensitivity", digits_packages["iOS18"], "--candidates", "pal4", "--plot", page, "--json"
        )
        text = page.read_text(encoding="utf-8")
        assert '<table id="weights">' in text
        assert not re.search(r"(src|href)=|@import|url\(", text)

    @pytest.mark.parametrize(
        ("option", "value", "expected"),
        [
            ("--plot", "table.png", "--plot: table.png: the name must end in .html or .svg"),
            ("--csv", "nowhere/table.csv", "nowhere/table.csv: the folder nowhere does not exist"),
            ("--candidates", "pale4", "unknown scheme 'pale4'"),
        ],
    )
    def test_refusals_are_one_line(
        self, milpasses_command: Run, digits_packages: dict[str, Path], option: str, value: str, expected: str
    ) -> None:
        outcome = milpasses_command("sensitivity", digits_packages["iOS18"], option, value)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.count("\n") == 1
        assert expected in outcome.err


class TestCompressToABudget:
    def test_keeps_it_and_saves_a_recipe_that_gives_the_same(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ) -> None:
        model, recipe = digits_packages["iOS18"], tmp_path / "recipe.yaml"
        first, second = tmp_path / "first.mlpackage", tmp_path / "second.mlpackage"
        outcome = milpasses_command(
            "compress", model, "--budget", "60 kB", "--candidates", FEW, "--data", "random",
            "--save-recipe", recipe, "-o", first, "--json",
        )  # fmt: skip
        assert (outcome.status, outcome.err) == (0, "")
        found = json.loads(outcome.out)["fit"]
        stored = sum(file.stat().st_size for file in first.rglob("*.bin"))
        assert 0 <= found["used_bytes"] - stored < 100
        assert found["used_bytes"] <= found["asked_bytes"] == 60_000
        assert found["measured_output_error"] > 0
        assert Recipe.of(recipe).to_text() == found["recipe"]
        milpasses_command("compress", model, "-r", recipe, "-o", second, "-q")
        weights = [next(iter(one.rglob("*.bin"))).read_bytes() for one in (first, second)]
        assert weights[0] == weights[1]

    def test_prints_what_it_chose(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ) -> None:
        outcome = milpasses_command(
            "compress", digits_packages["iOS16"], "--max-loss", "15 dB", "--candidates", "pal2,pal4-g16",
            "--target", "iOS18", "-o", tmp_path / "small.mlpackage",
        )  # fmt: skip
        assert (outcome.status, outcome.err) == (0, "")
        assert re.search(
            r"[\d,]+ bytes, \d\.\d\d bits a weight, \d+\.\d dB \(summed over layers\)", outcome.out
        )
        assert re.search(r"pal4-g16: \d weights", outcome.out)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ((), "give a --recipe such as pal4-g16, or a --budget or --max-loss"),
            (("-r", "int8", "--budget", "4 bits"), "--recipe and --budget: --budget finds the recipe itself"),
            (("-r", "int8", "--data", "random"), "--data random: random samples calibrate nothing"),
            (("--budget", "1 bit"), "too small: these candidates need at least"),
            (("--budget", "lots"), "expected one such as"),
            (("--budget", "4 bits", "--sensitivity", "nowhere.json"), "nowhere.json"),
        ],
    )
    def test_refusals_write_nothing(
        self,
        milpasses_command: Run,
        digits_packages: dict[str, Path],
        tmp_path: Path,
        arguments: tuple[str, ...],
        expected: str,
    ) -> None:
        output = tmp_path / "small.mlpackage"
        outcome = milpasses_command("compress", digits_packages["iOS18"], *arguments, "-o", output)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.count("\n") == 1
        assert expected in outcome.err
        assert list(tmp_path.iterdir()) == []

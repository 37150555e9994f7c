"""``milpasses compress``: what it writes, prints and refuses."""

import json
from importlib import import_module
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from conftest import Run
from milpasses_tools import digits, explain
from milpasses_tools._reasons import by_reason, merge_numbers
from test_cli import in_own_process
from test_explain import disk_bytes

import milpasses
from milpasses.errors import REASONS, Refusal
from milpasses.report import Record


def record(name: str, status: str, reason: str | Refusal) -> Record:
    why = {"refusal": reason} if isinstance(reason, Refusal) else {"notes": (reason,)}
    return Record(name, status, "dense", (10,), "float16", 20, 20, **why)  # pyright: ignore


class TestResult:
    def test_writes_a_model_and_tells_what_it_did(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ):
        model, output = digits_packages["iOS18"], tmp_path / "small.mlpackage"
        outcome = milpasses_command("compress", model, "-r", "int8", "-o", output)
        assert (outcome.status, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert lines[0].split()[:3] == ["weight", "shape", "status"]
        assert len([line for line in lines if " compressed  int8 per_channel " in line]) == 3
        assert "skipped 4 (7,168 bytes): 288..2,048 elements <= weight_threshold 2,048" in lines
        assert "skipped 7 (724 bytes): rank 1: Core ML needs vectors dense" in lines
        found = explain(output)
        totals = f"3 of 14 weights compressed by int8, 167,636 -> {found.weight_bytes:,} bytes, "
        assert lines[-2].startswith(totals)
        sizes = disk_bytes(model), disk_bytes(output)
        assert lines[-1].startswith(f"{model} {sizes[0]:,} bytes -> {output} {sizes[1]:,} bytes (")
        ct.models.MLModel(str(output), skip_model_load=True)

    def test_verbose_lists_every_weight(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ):
        output = tmp_path / "small.mlpackage"
        outcome = milpasses_command("compress", digits_packages["iOS18"], "-r", "int8", "-o", output, "-v")
        words = [line.split() for line in outcome.out.splitlines()]
        assert [line[2] for line in words[1:15]].count("skipped") == 11
        assert "288..2,048" not in outcome.out

    def test_a_rule_that_decides_no_weight_is_said_and_strictly_refused(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ):
        output = tmp_path / "small.mlpackage"
        options = ("compress", digits_packages["iOS18"], "-r", "int8; op_type=lstm -> keep", "-o", output)
        strict = milpasses_command(*options, "--strict")
        assert strict.status == 2
        assert "rule 1 (op_type=lstm) matches no weight; weights are used by " in strict.err
        assert not output.exists()
        outcome = milpasses_command(*options)
        assert (outcome.status, outcome.err) == (0, "")
        assert "warning: rule 1 (op_type=lstm) matches no weight; weights are used by " in outcome.out
        planned = milpasses_command("explain", digits_packages["iOS18"], "-r", "int8; op_type=lstm -> keep")
        assert "warning: rule 1 (op_type=lstm) matches no weight" in planned.out

    def test_nothing_to_compress(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ):
        output = tmp_path / "same.mlpackage"
        outcome = milpasses_command("compress", digits_packages["iOS18"], "-r", "keep", "-o", output)
        lines = outcome.out.splitlines()
        assert lines[0] == "kept 14 (167,636 bytes): default"
        assert lines[1].startswith("0 of 14 weights compressed by keep, 167,636 -> 167,636 bytes")
        assert "SQNR" not in lines[1]

    def test_quiet_prints_nothing(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ):
        output = tmp_path / "small.mlpackage"
        outcome = milpasses_command("compress", digits_packages["iOS18"], "-r", "int8", "-o", output, "-q")
        assert outcome == (0, "", "")
        assert output.is_dir()

    def test_json_and_report_file(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ):
        model, output, report = digits_packages["iOS18"], tmp_path / "o.mlpackage", tmp_path / "report.json"
        arguments = ("compress", model, "-r", "int8", "-o", output, "--json", "--report", report)
        outcome = milpasses_command(*arguments)
        assert outcome.err == ""
        content = json.loads(outcome.out)
        assert content["recipe"] == "int8"
        assert content["input"] == {"path": str(model), "bytes": disk_bytes(model)}
        assert content["output"] == {"path": str(output), "bytes": disk_bytes(output)}
        assert content["seconds"] > 0
        saved = json.loads(report.read_text(encoding="utf-8"))
        keys = ("milpasses", "recipe", "unmatched", "notes", "totals", "weights")
        assert saved == {key: content[key] for key in keys}

    def test_a_recipe_with_rules_and_one_in_yaml_are_the_same(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("default: keep\nrules:\n  - {op_type: linear, scheme: int8}\n", encoding="utf-8")
        totals: list[object] = []
        for number, text in enumerate((recipe, "keep; op_type=linear -> int8")):
            output = tmp_path / f"{number}.mlpackage"
            arguments = ("compress", digits_packages["iOS18"], "-r", text, "-o", output, "--json")
            totals.append(json.loads(milpasses_command(*arguments).out)["totals"])
        assert totals[0] == totals[1]
        assert totals[0]["compressed"] == 1  # pyright: ignore

    @pytest.mark.parametrize("target", ["iOS18", "ios18", "macOS15"])
    def test_target_raises_an_older_model(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path, target: str
    ):
        output = tmp_path / "raised.mlpackage"
        arguments = ("compress", digits_packages["iOS16"], "-r", "int4-b32", "-o", output, "--target", target)
        assert milpasses_command(*arguments, "-q").status == 0
        found = explain(output)
        assert found.target == "iOS18"
        assert any(weight.form.startswith("int4") for weight in found.weights)

    def test_requantize(self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path):
        once, again, anew = (tmp_path / f"{name}.mlpackage" for name in ("once", "again", "anew"))
        milpasses_command("compress", digits_packages["iOS18"], "-r", "int8", "-o", once, "-q")
        kept = milpasses_command("compress", once, "-r", "sparse75", "-o", again)
        assert "0 of 14 weights compressed" in kept.out
        assert "kept 3 (" in kept.out
        milpasses_command("compress", once, "-r", "sparse75", "-o", anew, "-q", "--requantize")
        assert sum(weight.form == "sparse 75%" for weight in explain(anew).weights) == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("target", "recipe", "more", "expected"),
        [
            ("iOS18", "nonsense", (), "unknown scheme 'nonsense'; accepted: int8,"),
            ("iOS18", "nowhere.yaml", (), "nowhere.yaml: no such recipe file"),
            ("iOS16", "pal4-g16", (), "supported since iOS18"),
            ("iOS16", "pal4-g16", ("--target", "iOS99"), "there is no target iOS99; there are iOS13, "),
            ("iOS18", "int8", ("--report", "nowhere/report.json"), "nowhere/report.json: the folder"),
        ],
    )
    def test_are_one_line_and_write_nothing(
        self,
        milpasses_command: Run,
        digits_packages: dict[str, Path],
        tmp_path: Path,
        target: str,
        recipe: str,
        more: tuple[str, ...],
        expected: str,
    ):
        output = tmp_path / "small.mlpackage"
        outcome = milpasses_command("compress", digits_packages[target], "-r", recipe, "-o", output, *more)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith("milpasses: error: ")
        assert outcome.err.count("\n") == 1
        assert expected in outcome.err
        assert list(tmp_path.iterdir()) == []

    def test_output_must_be_new_and_a_package(
        self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
    ):
        arguments = ("compress", digits_packages["iOS18"], "-q", "-r")
        output = tmp_path / "small.mlpackage"
        assert milpasses_command(*arguments, "keep", "-o", output).status == 0
        before = disk_bytes(output)
        refused = milpasses_command(*arguments, "int8", "-o", output)
        assert refused.status == 2
        assert "exists already; --force" in refused.err
        assert disk_bytes(output) == before
        assert milpasses_command(*arguments, "int8", "-o", output, "--force").status == 0
        assert disk_bytes(output) < before
        wrong = milpasses_command(*arguments, "int8", "-o", tmp_path / "small.mlmodel")
        assert "must end in .mlpackage" in wrong.err

    def test_in_a_process_of_its_own_output_is_plain(self, digits_packages: dict[str, Path], tmp_path: Path):
        output = tmp_path / "small.mlpackage"
        arguments = ("compress", digits_packages["iOS18"], "-r", "int8", "-o", output)
        done = in_own_process(*arguments, NO_COLOR="", TERM="xterm-256color")
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        assert done.stdout.isascii()


class TestReasons:
    def test_numbers_that_vary_become_ranges(self):
        texts = ["1,960 elements <= weight_threshold 2,048", "96 elements <= weight_threshold 2,048"]
        assert merge_numbers(texts) == "96..1,960 elements <= weight_threshold 2,048"
        assert merge_numbers(["3.5 of 2", "10 of 2", "7.25 of 2"]) == "3.5..10 of 2"
        assert merge_numbers(["no number"]) == "no number"

    def test_groups_keep_status_and_order_apart(self):
        lines = by_reason(
            [
                record("a", "skipped", "3 elements"),
                record("b", "kept", "4 elements"),
                record("c", "skipped", "5 elements"),
                record("d", "skipped", "5 channels"),
            ]
        )
        assert lines == [
            "skipped 2 (40 bytes): 3..5 elements",
            "kept 1 (20 bytes): 4 elements",
            "skipped 1 (20 bytes): 5 channels",
        ]

    def test_refusals_are_grouped_by_their_codes(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(REASONS, "vectors-not-divisible", "{name}: {wanted}, not of {size}")
        monkeypatch.setitem(REASONS, "low-sparsity", "{sparsity:.1f} of {minimum}")
        refusals = [
            Refusal("vectors-not-divisible", name="conv_1", wanted=2, size=7),
            Refusal("low-sparsity", sparsity=0.25, minimum=0.5),
            Refusal("vectors-not-divisible", name="conv_20", wanted=2, size=9),
            Refusal("low-sparsity", sparsity=0.125, minimum=0.5),
            Refusal("not-float", dtype="int32"),
            Refusal("not-float", dtype="int16"),
        ]
        records = [record("w", "skipped", refusal) for refusal in refusals]
        assert [line.partition(": ")[2] for line in by_reason(records)] == [
            "conv_1 and 1 more: 2, not of 7..9",
            "0.1..0.2 of 0.5",
            "int32 constants are not weights",
            "int16 constants are not weights",
        ]


class TestData:
    def test_calibrates(self, milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path):
        model, output = digits_packages["iOS18"], tmp_path / "small.mlpackage"
        data, statistics = tmp_path / "digits.npz", tmp_path / "statistics.npz"
        np.savez(data, image=digits.load().images[:40, None])
        arguments = ("compress", model, "-r", "pal2-gptq", "-o", output, "--json")
        outcome = milpasses_command(*arguments, "--data", data)
        assert outcome.status == 0, outcome.err
        made = [record for record in json.loads(outcome.out)["weights"] if record["status"] == "compressed"]
        assert len(made) == 3
        assert all("outputs" in record["reason"] for record in made)
        milpasses.statistics(model, data, full=True, held_out=4).save(statistics)
        again = milpasses_command(*arguments, "--force", "--statistics", statistics)
        assert again.status == 0, again.err
        both = milpasses_command(*arguments, "--force", "--statistics", statistics, "--data", data)
        assert (both.status, both.out) == (2, "")
        assert "not both" in both.err

    def test_tunes_the_candidates_of_a_budget(
        self,
        milpasses_command: Run,
        digits_packages: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        whole, runs = import_module("milpasses.data.collect").collect, []
        for user in ("budget.loaded", "calibration.ahead", "calibration.sources"):
            counted = lambda *a, **k: runs.append(1) or whole(*a, **k)  # noqa: E731
            monkeypatch.setattr(import_module(f"milpasses.{user}"), "collect", counted)
        model, recipe = digits_packages["iOS16"], tmp_path / "recipe.yaml"
        data, output = tmp_path / "digits.npz", tmp_path / "small.mlpackage"
        np.savez(data, image=digits.load().images[:40, None])
        outcome = milpasses_command(
            "compress", model, "--budget", "3 bits", "--data", data, "-o", output, "--save-recipe", recipe
        )
        assert outcome.status == 0, outcome.err
        assert "-gptq: " in outcome.out
        assert len(runs) == 1  # what the budget learnt, the compression knows
        calibrated = tmp_path / "calibrated.mlpackage"
        again = milpasses_command("compress", model, "-r", recipe, "--data", data, "-o", calibrated)
        assert again.status == 0, again.err
        weights = "Data/com.apple.CoreML/weights/weight.bin"
        assert (calibrated / weights).read_bytes() == (output / weights).read_bytes()
        again = milpasses_command("compress", model, "-r", recipe, "-o", tmp_path / "again.mlpackage")
        assert again.status == 2
        assert "needs to know what flows into the weight" in again.err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["-r", "pal4-gptq"], "needs to know what flows into the weight"),
            (["-r", "pal4", "--sequential"], "--sequential: only with --data"),
            (["-r", "pal4", "--candidates", "pal4"], "--candidates: only with --budget or --max-loss"),
            (["-r", "pal4", "--data", "nowhere.npz"], "nowhere.npz"),
        ],
    )
    def test_what_is_missing_is_said(
        self,
        milpasses_command: Run,
        digits_packages: dict[str, Path],
        tmp_path: Path,
        options: list[str],
        message: str,
    ):
        output = tmp_path / "small.mlpackage"
        outcome = milpasses_command("compress", digits_packages["iOS18"], *options, "-o", output)
        assert (outcome.status, outcome.out) == (2, "")
        assert message in outcome.err
        assert not output.exists()


def test_compare_says_what_compression_did_to_the_outputs(
    milpasses_command: Run, digits_packages: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ("compress", digits_packages["iOS18"], "-r", "pal2", "--compare", "random")
    text = milpasses_command(*arguments, "-o", tmp_path / "a.mlpackage")
    assert text.status == 0
    assert "random" in text.out
    outcome = milpasses_command(*arguments, "-o", tmp_path / "b.mlpackage", "--json")
    (scores,) = json.loads(outcome.out)["comparison"]["outputs"]
    assert 0 < scores["snr_db"] < 30

"""Fitting a recipe to a budget: what it stores, the error it makes, and that it can be used again."""

import logging
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from models import conv_linear_program, convert

import milpasses as mp
from milpasses import rewrite
from milpasses.budget import Fit, Option, Sensitivity, fit, sensitivity
from milpasses.budget.candidates import read_candidates
from milpasses.budget.probe import Probe, noise_share
from milpasses.budget.problem import Problem, choose_measured
from milpasses.data.samples import Samples
from milpasses.interpreter import Interpreter
from milpasses.program.opset import opset_of
from milpasses.program.package import open_package

FEW = ("pal2", "pal4", "pal6", "int8", "pal4-g16")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    from milpasses_tools import digits

    path = tmp_path_factory.mktemp("budget") / "digits.mlpackage"
    digits.convert().save(str(path))
    return path


def images(first: int, count: int) -> list[dict[str, np.ndarray]]:
    from milpasses_tools import digits

    return [{"image": image[None]} for image in digits.load().images[first : first + count]]


@pytest.fixture(scope="module")
def table(digits: Path) -> Sensitivity:
    return sensitivity(digits, images(0, 16), samples=16)


def file_bytes(model: Any) -> int:
    return sum(file.stat().st_size for file in Path(model.package_path).rglob("*.bin"))


def snr(digits: Path, model: Any, samples: list[Any]) -> float:
    taken = list(Samples.of(samples, Interpreter(digits)))
    before, after = (Probe(Interpreter(one), taken) for one in (digits, model))
    return -10 * np.log10(noise_share(before.reference, after.reference))


class TestTable:
    def test_bytes_are_those_that_compress_writes(self, digits: Path, table: Sensitivity) -> None:
        for scheme in table.candidates:
            small = mp.compress(digits, scheme)
            (used, _) = fit(digits, 1 << 30, sensitivity=table).uniform[scheme]
            inline = used - file_bytes(small)
            # Up to 63 bytes of padding at the end, and small tables, which the program holds.
            assert 0 <= inline < 64 + 16 * len(table), scheme

    def test_output_error_predicts_what_the_model_then_loses(self, digits: Path, table: Sensitivity) -> None:
        probe = Probe(Interpreter(digits), list(Samples.of(images(0, 16), Interpreter(digits))))
        exact = sensitivity(digits, images(0, 16), samples=16, exact=True, candidates=FEW)
        assert exact.how == "exact"
        assert table.how == "probed"
        for weight in exact:
            assert weight.basis == "measured"
            for option in weight.options[1:]:
                predicted = table[weight.name].option(option.scheme)
                assert predicted is not None
                assert 0.2 < predicted.output_error / option.output_error < 5
        assert probe.output_error({}) == 0

    def test_a_run_from_the_middle_is_a_whole_run(self, digits: Path) -> None:
        interpreter = Interpreter(digits)
        samples = list(Samples.of(images(0, 3), interpreter))
        probe = Probe(interpreter, samples)
        value = open_site(digits, "hidden_weight_to_fp16").weight.value
        changed = {"hidden_weight_to_fp16": value * np.float16(0.9)}
        share = probe.output_error(changed)
        assert 0 < share < 1
        assert probe.output_error({}) == 0
        other = Interpreter(digits)
        other.override(changed)
        outputs = [{"scores": other.run(sample.inputs)["scores"].astype(np.float64)} for sample in samples]
        assert share == noise_share([{"scores": one["scores"]} for one in probe.reference], outputs)

    def test_without_data_a_layer_is_its_own_error(self, digits: Path) -> None:
        plain = sensitivity(digits, candidates=["pal4"])
        assert plain.how == "layers"
        for weight in plain:
            option = weight.option("pal4")
            assert option is not None
            assert option.sqnr_db is not None
            assert weight.basis == "weight"
            assert option.output_error == pytest.approx(10 ** (-option.sqnr_db / 10), rel=1e-3)

    def test_full_statistics_give_the_error_of_the_outputs(self, digits: Path) -> None:
        data = images(0, 8)
        known = sensitivity(digits, statistics=mp.statistics(digits, data, full=True), candidates=["pal2"])
        interpreter = Interpreter(digits)
        weight = known["hidden_weight_to_fp16"]
        seen: list[np.ndarray] = []

        def see(op: Any, given: Any, outputs: Any) -> None:
            if op.op_type == "linear" and op.weight.name == weight.name:
                seen.append(given["x"])

        for sample in data:
            interpreter.run(sample, observers=[see])
        inputs = np.concatenate(seen).astype(np.float64)
        op = open_site(digits, weight.name).weight
        changed = open_site(mp.compress(digits, "pal2"), weight.name)
        assert changed.existing is not None
        error = changed.existing().decode().astype(np.float64) - op.value
        expected = np.sum((inputs @ error.T) ** 2) / np.sum((inputs @ op.value.astype(np.float64).T) ** 2)
        option = weight.option("pal2")
        assert option is not None
        assert option.layer_error == pytest.approx(expected, rel=1e-3)

    def test_samples_held_out_tell_what_a_layer_loses(self, digits: Path) -> None:
        """A table fitted to a few samples suits them better than others: those are not asked."""
        found = mp.statistics(digits, images(0, 40), full=True, held_out=2)
        apart = attrs.evolve(found, weights=found.held_out, held_out={})
        suited = attrs.evolve(found, held_out={})
        shares = {
            name: [
                o.layer_error
                for one in sensitivity(digits, statistics=known, candidates=["pal3"])
                for o in one.options
            ]
            for name, known in (("held out", found), ("these alone", apart), ("fitted to", suited))
        }
        assert shares["held out"] == shares["these alone"] != shares["fitted to"]

    def test_comes_back_from_json(self, table: Sensitivity) -> None:
        import json

        assert Sensitivity.from_dict(json.loads(json.dumps(table.to_dict(), allow_nan=False))) == table

    def test_an_older_target_gets_what_it_has(self) -> None:
        import coremltools as ct

        old = convert(conv_linear_program(ct.target.iOS16), ct.target.iOS16)
        assert sensitivity(old).candidates == tuple(read_candidates(None, opset_of(7)))
        with pytest.raises(mp.TargetError, match="supported since iOS18"):
            sensitivity(old, candidates=["pal4-g16"])


def open_site(model: Any, name: str) -> Any:
    from milpasses.program.opening import open_program
    from milpasses.program.saved import SavedProgram

    package = open_program(model).package
    return next(one for one in SavedProgram(package).sites() if one.weight.name == name)


class TestBudget:
    @pytest.mark.parametrize("scheme", ["pal3", "pal4-g16", "int4-b32"])
    def test_no_worse_than_one_scheme_for_all_at_the_same_bytes(
        self, digits: Path, table: Sensitivity, scheme: str
    ) -> None:
        asked, error = fit(digits, 1 << 30, sensitivity=table).uniform[scheme]
        found = fit(digits, asked, sensitivity=table)
        assert found.used <= asked
        assert found.output_error <= error
        best = fit(digits, asked, sensitivity=table, data=images(0, 64), samples=32)
        fitted = mp.compress(digits, best.recipe)
        assert file_bytes(fitted) <= asked
        unseen = images(200, 64)
        assert snr(digits, fitted, unseen) >= snr(digits, mp.compress(digits, scheme), unseen) - 0.1

    def test_what_is_measured_is_measured_on_other_samples(self, digits: Path, table: Sensitivity) -> None:
        other = images(200, 64)
        found = fit(digits, "3.2 bits", data=images(0, 16), validation=other, sensitivity=table, samples=16)
        assert found.snr_db == pytest.approx(snr(digits, mp.compress(digits, found.recipe), other), abs=0.05)

    def test_error_feedback_is_measured_on_samples_held_out(self, digits: Path) -> None:
        """It is fitted to the others, and suits them better than any that come after them."""
        data = images(0, 32)
        found = fit(digits, max_loss="26 dB", data=data, candidates=["pal3-gptq", "pal4-gptq", "pal6-gptq"])
        statistics = mp.statistics(digits, data, full=True, held_out=4)
        small = mp.compress(digits, found.recipe, statistics=statistics)
        assert found.snr_db == pytest.approx(snr(digits, small, data[1::4]), abs=0.5)
        assert found.snr_db >= 26
        unseen = snr(digits, small, images(40, 300))
        assert abs(found.snr_db - unseen) < abs(snr(digits, small, data) - unseen)

    @pytest.mark.parametrize("budget", ["3.5 bits", "60 kB", "50%", 70_000])
    def test_ways_to_say_it(self, digits: Path, table: Sensitivity, budget: Any) -> None:
        found = fit(digits, budget, sensitivity=table)
        weights = sum(path.stat().st_size for path in digits.rglob("*.bin"))
        asked = {
            "3.5 bits": int(3.5 * table.elements / 8),
            "60 kB": 60_000,
            "50%": weights // 2,
            70_000: 70_000,
        }
        assert found.asked is not None
        assert abs(found.asked - asked[budget]) < 64
        assert found.used <= found.asked
        assert 0 <= found.used - file_bytes(mp.compress(digits, found.recipe)) < 100

    def test_max_loss_takes_the_fewest_bytes(self, digits: Path, table: Sensitivity) -> None:
        loose, tight = (fit(digits, max_loss=loss, sensitivity=table) for loss in ("20 dB", "35 dB"))
        assert loose.output_error <= 0.01
        assert tight.output_error <= 10**-3.5
        assert loose.used < tight.used
        measured = fit(digits, max_loss="1 %", sensitivity=table, data=images(0, 32), samples=16)
        assert measured.measured is not None
        assert measured.measured <= 0.01
        assert measured.used < tight.used

    @pytest.mark.parametrize("exponent", [0.3, 1.0, 2.0])
    def test_max_loss_where_predictions_are_far_off(self, table: Sensitivity, exponent: float) -> None:
        limit, problem = 1e-3, Problem(table)

        def measured(options: tuple[Option, ...]) -> float:
            return 2 * limit * (sum(one.output_error for one in options) / limit) ** exponent

        choice, error = choose_measured(problem, None, limit, measured)
        assert 0.2 * limit < error <= limit
        assert problem.bytes(choice) < 0.6 * problem.bytes_now

    def test_both_limits(self, digits: Path, table: Sensitivity) -> None:
        assert fit(digits, "60 kB", max_loss="20 dB", sensitivity=table).used <= 60_000
        with pytest.raises(
            mp.MilpassesError, match=r"60,000 bytes allow .* not 50\.0 dB: it needs [\d,]+ bytes"
        ):
            fit(digits, "60 kB", max_loss="50 dB", sensitivity=table)

    def test_rules_pin_and_exclude(self, digits: Path) -> None:
        rules = [{"name": "hidden_weight*", "scheme": "int8"}, mp.Rule("keep", name="const_6*")]
        found = fit(digits, "8 bits", rules=rules, candidates=FEW)
        small = mp.compress(digits, found.recipe)
        assert small.report["hidden_weight_to_fp16"].form == "int8 per_channel"
        assert small.report["const_6_to_fp16"].status == "kept"
        assert small.report["const_8_to_fp16"].status == "compressed"
        assert 0 <= found.used - file_bytes(small) < 100

    def test_shared_weights_count_once(self) -> None:
        from models import random, weights_program

        weight = random((64, 96), 1)
        model = convert(weights_program(weight, weight))
        found = fit(model, "5 bits", candidates=["pal4"])
        assert len(found.table) == 1
        assert 0 <= found.used - file_bytes(mp.compress(model, found.recipe)) < 100

    def test_report(self, digits: Path, table: Sensitivity) -> None:
        found = fit(digits, "4 bits", sensitivity=table)
        first = str(found).splitlines()[0]
        assert first.startswith(f"{found.used:,} of {found.asked:,} bytes, {found.bits_per_weight:.2f} bits")
        assert sum(weights for weights, _, _ in found.distribution().values()) == len(table)
        assert found.to_dict()["used_bytes"] == found.used
        assert mp.Recipe.from_yaml(found.to_yaml()) == found.recipe


@pytest.fixture(scope="module")
def fitted(digits: Path, table: Sensitivity) -> Fit:
    return fit(digits, "4 bits", sensitivity=table)


class TestReuse:
    def test_text_and_yaml_read_back(self, fitted: Fit) -> None:
        assert mp.Recipe.parse(fitted.recipe.to_text()) == fitted.recipe
        assert mp.Recipe.from_yaml(fitted.recipe.to_yaml()) == fitted.recipe
        assert all(rule.content and rule.name for rule in fitted.recipe.rules)

    def test_a_fine_tuned_model_matches_by_name(self, digits: Path, fitted: Fit) -> None:
        weight = open_site(digits, "hidden_weight_to_fp16").weight
        tuned = attrs.evolve(weight, load=lambda: weight.value * np.float16(1.5))
        assert fitted.recipe.decide(tuned).scheme == fitted.recipe.decide(weight).scheme
        assert fitted.recipe.decide(tuned).rule_index is not None

    def test_a_renamed_weight_matches_by_content_alone(self, digits: Path, fitted: Fit) -> None:
        weight = open_site(digits, "hidden_weight_to_fp16").weight
        renamed = attrs.evolve(weight, name="renamed")
        assert fitted.recipe.decide(renamed).rule_index == fitted.recipe.decide(weight).rule_index
        as_float32 = attrs.evolve(renamed, dtype="float32", load=lambda: weight.value.astype(np.float32))
        assert fitted.recipe.decide(as_float32).rule_index == fitted.recipe.decide(weight).rule_index
        other = attrs.evolve(renamed, load=lambda: weight.value * np.float16(1.5))
        assert fitted.recipe.decide(other).rule_index is None

    def test_a_name_that_moved_to_another_shape_does_not_match(self, digits: Path, fitted: Fit) -> None:
        weight = open_site(digits, "const_6_to_fp16").weight
        moved = attrs.evolve(weight, name="hidden_weight_to_fp16")
        assert fitted.recipe.decide(moved).rule_index == fitted.recipe.decide(weight).rule_index

    def test_content_that_is_none(self) -> None:
        with pytest.raises(mp.RecipeError, match="content: expected a shape and 16 hexadecimal digits"):
            mp.Rule("int8", content="beef")


def test_a_model_is_opened_once(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes, values, statistics and runs are all of one open package."""
    read: list[str] = []
    read_bytes = Path.read_bytes

    def counted(self: Path) -> bytes:
        if digits in self.parents:
            read.append(self.name)
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    fit(digits, "6 bits", data=images(0, 8), candidates=["pal4", "int8"])
    assert read == ["model.mlmodel"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "give a budget=, such as"),
            ({"budget": "four bits"}, "expected one such as"),
            ({"budget": "4 dB"}, "expected one such as"),
            ({"budget": 0}, "expected one such as"),
            ({"max_loss": 30}, "expected one such as"),
            ({"max_loss": "loud"}, "expected one such as"),
            ({"budget": "1 bit"}, r"too small: these candidates need at least 28,888 \(2\.76 bits\)"),
        ],
    )
    def test_limits(self, digits: Path, table: Sensitivity, options: dict[str, Any], message: str) -> None:
        with pytest.raises(mp.MilpassesError, match=message):
            fit(digits, sensitivity=table, **options)

    def test_unknown_candidate(self, digits: Path) -> None:
        with pytest.raises(mp.RecipeError, match="unknown scheme 'pale4'"):
            fit(digits, "4 bits", candidates=["pale4"])
        with pytest.raises(mp.MilpassesError, match="no candidates"):
            fit(digits, "4 bits", candidates=["keep"])

    def test_error_feedback_needs_statistics(self, digits: Path) -> None:
        with pytest.raises(mp.MilpassesError, match="pal4-gptq: needs to know what flows into the weights"):
            sensitivity(digits, candidates=["pal4-gptq"])
        known = mp.statistics(digits, images(0, 16), full=True)
        for weight in sensitivity(digits, candidates=["pal4", "pal4-gptq"], statistics=known):
            plain, fed_back = (weight.option(scheme) for scheme in ("pal4", "pal4-gptq"))
            assert plain is not None
            assert fed_back is not None
            assert fed_back.layer_error < plain.layer_error

    def test_error_feedback_runs_once_for_each_candidate(
        self, digits: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        schemes: list[str] = []
        whole = rewrite.encode_calibrated

        def counted(encoder: Any, value: Any, scheme: Any, *more: Any) -> Any:
            schemes.append(str(scheme))
            return whole(encoder, value, scheme, *more)

        monkeypatch.setattr(rewrite, "encode_calibrated", counted)
        found = fit(
            digits, "4.4 bits", data=images(0, 16), candidates=["pal3-gptq", "pal4-gptq", "pal6-gptq"]
        )
        assert found.measured is not None
        assert any("gptq" in option.scheme for option in found.chosen.values())
        assert len(schemes) == 3 * len(found.table)
        assert set(np.unique(schemes, return_counts=True)[1]) == {len(found.table)}

    def test_statistics_and_tables_of_another_model(self, digits: Path, table: Sensitivity) -> None:
        other = convert(conv_linear_program())
        statistics = mp.statistics(other, "random", limit=1)
        with pytest.raises(mp.MilpassesError, match="know none of its weights"):
            fit(digits, "4 bits", statistics=statistics)
        with pytest.raises(mp.MilpassesError, match="the table is of another model"):
            fit(other, "4 bits", sensitivity=table)
        moments = mp.statistics(digits, images(0, 1))
        moments.weights["const_8_to_fp16"] = moments.weights["hidden_weight_to_fp16"]
        with pytest.raises(mp.MilpassesError, match="belong to another model"):
            fit(digits, "4 bits", statistics=moments)

    def test_validation_alone(self, digits: Path) -> None:
        with pytest.raises(mp.MilpassesError, match="give data, too"):
            fit(digits, "4 bits", validation=images(0, 4))

    def test_nothing_to_choose(self, digits: Path, tmp_path: Path) -> None:
        with pytest.raises(mp.MilpassesError, match="no candidate applies to any weight"):
            fit(mp.compress(digits, "int8"), "4 bits", candidates=["pal4"])
        again = fit(mp.compress(digits, "int8"), "4 bits", candidates=["pal4", "pal2"], requantize=True)
        assert again.used <= (again.asked or 0)

    def test_damaged_table(self, digits: Path, tmp_path: Path) -> None:
        path = tmp_path / "table.json"
        with pytest.raises(mp.MilpassesError, match="No such file"):
            fit(digits, "4 bits", sensitivity=path)
        path.write_text("{}", encoding="utf-8")
        with pytest.raises(mp.MilpassesError, match="not a sensitivity table"):
            fit(digits, "4 bits", sensitivity=path)
        assert open_package(digits).spec is not None

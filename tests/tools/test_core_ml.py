"""``milpasses doctor --core-ml``, with stand-ins for Core ML: nothing here can tell what Core ML does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import core_ml_standins
import pytest
from conftest import Run
from core_ml_standins import StandIn
from milpasses_tools._core_ml import cases, trials
from milpasses_tools._core_ml.cases import ACTIVATIONS, DENSE, FORMS, FUNCTIONS, HALF, SCALED, Case, make_case
from milpasses_tools._core_ml.runtime import UNITS, CoreMLRuntime
from milpasses_tools._core_ml.trials import Trial, try_case, try_core_ml
from milpasses_tools._core_ml.worker import compare, run_case

from milpasses.program.opening import open_program

pytestmark = pytest.mark.slow
NAMES = cases.case_names()


def standing_in(name: str) -> str:
    return f"{core_ml_standins.__name__}:{name}"


def test_every_form_of_every_target_is_tried() -> None:
    by_target = {target: {form for form, other in NAMES if other == target} for _, target in NAMES}
    assert set(by_target) == {"iOS16", "iOS17", "iOS18", "iOS26"}
    assert by_target["iOS18"] == {*FORMS, *ACTIVATIONS, DENSE, HALF, SCALED, FUNCTIONS} == by_target["iOS26"]
    assert by_target["iOS17"] - by_target["iOS16"] == {"a8", "int8+a8", "int8+a8-asym"}
    assert {"int8", "pal4", "sparse50", DENSE, HALF} < by_target["iOS16"]
    assert not {"int4", "pal3", "pal4-g16", "sparse50+pal4", FUNCTIONS} & by_target["iOS17"]
    assert len(set(NAMES)) == len(NAMES) > 100


@pytest.mark.parametrize("form", [*FORMS, *ACTIVATIONS, DENSE, HALF, SCALED, FUNCTIONS])
def test_each_form_is_what_it_says_and_agrees_with_itself(form: str, tmp_path: Path) -> None:
    case = make_case(form, "iOS18", tmp_path / "case")
    program = open_program(case.folder / cases.MODEL)
    weights = [site for site in program.sites() if site.weight.rank > 1]
    forms = {site.existing().form for site in weights if site.existing is not None}
    dense = [site for site in weights if site.existing is None]
    assert len(weights) >= 3
    assert bool(dense) == (form in (DENSE, "a8"))
    ops = {op.type for function in program.functions for op in function.operations()}
    assert ("quantize" in ops) == (form in ACTIVATIONS)
    if form == SCALED:
        assert all("scaled" in one for one in forms)
    if "sparse" in form:
        assert all(one.startswith("sparse") for one in forms)
    answers: list[dict[str, Any]] = []
    run_case(case.folder, case.functions, ["CPU_ONLY"], StandIn(), lambda **words: answers.append(words))
    compared = [answer for answer in answers if answer["stage"] == "compared"]
    assert [answer["function"] for answer in compared] == list(case.functions)
    assert all(answer["sqnr_db"] == "inf" and answer["max_error"] == 0 for answer in compared)


def test_functions_give_other_outputs(tmp_path: Path) -> None:
    import numpy as np

    case = make_case(FUNCTIONS, "iOS18", tmp_path / "case")
    assert case.functions == ("first", "second")
    first, second = (dict(np.load(cases.expected_path(case.folder, name))) for name in case.functions)
    assert all(not np.allclose(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case("int8", "iOS16", tmp_path_factory.mktemp("core-ml") / "case")


def verdicts(found: list[Trial]) -> dict[str, tuple[str, str]]:
    return {trial.unit: (trial.verdict, trial.stage) for trial in found}


@pytest.mark.parametrize(
    ("name", "gpu", "engine", "words"),
    [
        ("StandIn", ("agrees", "compared"), ("agrees", "compared"), ""),
        ("WrongOnGPU", ("differs", "compared"), ("differs", "compared"), ""),
        ("Refuses", ("fails", "predict"), ("fails", "load"), "Failed to build the model execution plan"),
        ("Crashes", ("agrees", "compared"), ("fails", "run"), "the process ended with status -6"),
    ],
)
def test_what_becomes_of_a_case(
    case: Case, name: str, gpu: tuple[str, str], engine: tuple[str, str], words: str
) -> None:
    found = try_case(case, UNITS, standing_in(name))
    assert [trial.unit for trial in found] == list(UNITS)
    assert verdicts(found) == {
        "CPU_ONLY": ("agrees", "compared"), "CPU_AND_GPU": gpu, "CPU_AND_NE": engine,
        "ALL": ("agrees", "compared"),
    }  # fmt: skip
    assert words in found[2].error
    assert "\n" not in found[2].error


def test_a_model_that_does_not_compile(case: Case) -> None:
    found = try_case(case, UNITS, standing_in("CompilesNothing"))
    assert verdicts(found) == dict.fromkeys(UNITS, ("fails", "compile"))
    assert found[0].error == "RuntimeError: unsupported op"


def test_a_unit_that_hangs(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], *, timeout: float, env: dict[str, str], **_: Any) -> Any:
        """As ``subprocess.run``, with the time over as soon as the unit that hangs has begun."""
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
            assert process.stdout is not None
            lines: list[bytes] = []
            while not lines or not {UNITS[1], "started"} <= set(json.loads(lines[-1]).values()):
                lines.append(process.stdout.readline())
            process.kill()
        raise subprocess.TimeoutExpired(command, timeout, b"".join(lines))

    monkeypatch.setattr(trials.subprocess, "run", run)
    found = try_case(case, UNITS[:2], standing_in("Hangs"))
    assert [trial.verdict for trial in found] == ["agrees", "fails"]
    assert found[1].error == "no answer in 300 seconds"


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
def test_core_ml_itself_fails_with_words_where_it_is_not(case: Case) -> None:
    (trial,) = try_case(case, UNITS[:1])
    assert (trial.verdict, trial.stage) == ("fails", "compile")
    assert trial.error


def test_the_documented_calls(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of coremltools: names, arguments and members that it has."""
    import inspect

    import coremltools as ct

    calls: list[Any] = []
    for owner, name in ((ct.models.utils, "compile_model"), (ct.models, "CompiledMLModel")):
        signature = inspect.signature(getattr(owner, name))

        def record(*arguments: Any, name: str = name, signature: Any = signature, **options: Any) -> Any:
            calls.append((name, dict(signature.bind(*arguments, **options).arguments)))
            return "made.mlmodelc"

        monkeypatch.setattr(owner, name, record)
    compiled = CoreMLRuntime().compile(case.folder / cases.MODEL, case.folder / "compiled.mlmodelc")
    for unit in UNITS:
        CoreMLRuntime().load(compiled, unit, "")
    CoreMLRuntime().load(compiled, "ALL", "second")
    assert calls[0][1]["destination_path"].endswith("compiled.mlmodelc")
    assert [arguments["compute_units"] for _, arguments in calls[1:]] == [
        *(ct.ComputeUnit[unit] for unit in UNITS), ct.ComputeUnit.ALL,
    ]  # fmt: skip
    assert calls[-1][1]["function_name"] == "second"
    assert "function_name" not in calls[1][1]


def test_comparing() -> None:
    import numpy as np

    reference = np.array([[3.0, 4.0]])
    assert compare({"y": reference}, [{"y": [3.0, 4.0]}]) == {"sqnr_db": "inf", "max_error": 0.0}
    assert compare({"y": reference}, [{"y": [3.0, 4.5]}]) == {"sqnr_db": 20.0, "max_error": 0.5}
    assert compare({"y": reference}, [{"y": [3.0, np.inf]}]) == {"sqnr_db": None, "max_error": None}
    with pytest.raises(KeyError):
        compare({"y": reference}, [{"z": [3.0, 4.0]}])
    with pytest.raises(ValueError, match="shape"):
        compare({"y": reference}, [{"y": [[3.0, 4.0]]}])


class TestCommand:
    @pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
    def test_elsewhere_it_is_one_line(self, milpasses_command: Run) -> None:
        outcome = milpasses_command("doctor", "--core-ml")
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith("milpasses: error: --core-ml needs macOS")

    @pytest.fixture
    def tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        work = try_core_ml
        names = [("int8", "iOS16"), (FUNCTIONS, "iOS18")]

        def with_standin(progress: Any) -> Any:
            return work(progress, names, UNITS[:2], standing_in(self.standin))

        monkeypatch.setattr(trials, "try_core_ml", with_standin)
        monkeypatch.setattr(sys, "platform", "darwin")

    standin = "StandIn"

    @pytest.mark.usefixtures("tried")
    def test_json(self, milpasses_command: Run) -> None:
        outcome = milpasses_command("doctor", "--core-ml", "--json")
        assert outcome.status == 0, outcome.err
        content = json.loads(outcome.out)
        assert content["agrees"] is True
        assert "not been tried on macOS" in content["note"]
        assert set(content["machine"]) == {"milpasses", "coremltools", "python", "system", "processor"}
        assert len(content["trials"]) == 6
        first = content["trials"][0]
        assert (first["form"], first["target"], first["unit"], first["verdict"], first["sqnr_db"]) == (
            "int8", "iOS16", "CPU_ONLY", "agrees", "inf",
        )  # fmt: skip

    @pytest.mark.usefixtures("tried")
    def test_table(self, milpasses_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TestCommand, "standin", "WrongOnGPU")
        outcome = milpasses_command("doctor", "--core-ml")
        assert outcome.status == 1
        lines = outcome.out.splitlines()
        assert lines[1].split() == ["form", "target", "CPU_ONLY", "CPU_AND_GPU"]
        assert lines[2].split() == ["int8", "iOS16", "exact", "dB", "6.0", "dB", "(differs)"]
        assert [line.partition("  ")[0] for line in lines[2:5]] == [
            "int8", f"{FUNCTIONS}: first", f"{FUNCTIONS}: second",
        ]  # fmt: skip
        assert "3 of 6 agree" in outcome.out
        assert "not been tried on macOS" in outcome.out
        assert "milpasses doctor --core-ml --json > core-ml.json" in outcome.out

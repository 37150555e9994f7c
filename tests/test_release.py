"""What a release rests on: one version, a changelog that names it, workflows that call what is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import milpasses
from scripts import release

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_version_stands_in_one_place() -> None:
    assert milpasses.__version__ == release.version()
    date, text = release.changes(release.version())
    assert date
    assert "milpasses.compress" in text
    assert release.changes("99.0") == ("", "")
    sources = [path for root in ("milpasses", "kernels", "tools") for path in (ROOT / root).rglob("*.py")]
    assert sources
    stated = re.compile(rf"""["']{re.escape(release.version())}["']""")
    assert [path for path in sources if stated.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("heading", "fault"),
    [
        ("## 1.2.3 (2026-01-31)\n\n* A change.\n", ""),
        ("## 1.2.3 (unreleased)\n\n* A change.\n", "give 1.2.3 its date"),
        ("## 1.2.30 (2026-01-31)\n\n* A change.\n", "says nothing of 1.2.3"),
        ("## 1.2.3 (2026-01-31)\n\n## 1.2.2\n\n* Older.\n", "says nothing of 1.2.3"),
    ],
)
def test_faults_of_a_changelog(
    heading: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}", encoding="utf-8")
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(release, "git", lambda *_: "")
    found = release.faults("1.2.3")
    assert len(found) == bool(fault)
    assert fault in "".join(found)


def test_a_release_needs_a_clean_checkout_and_a_new_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "changes", lambda _: ("2026-01-31", "* A change."))
    monkeypatch.setattr(release, "git", lambda *words: "something")
    found = release.faults("1.2.3")
    assert [word in text for word, text in zip(("not committed", "v1.2.3"), found, strict=True)] == [
        True,
        True,
    ]


def test_the_oldest_dependencies_are_the_lower_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import oldest_dependencies

    lines = oldest_dependencies.constraints()
    assert "numpy==1.26.*" in lines
    assert all(re.fullmatch(r"[\w-]+==[\d.]+(\.\*)?", line) for line in lines)
    assert "torch==2.4.*" in oldest_dependencies.constraints("torch")
    assert len(oldest_dependencies.constraints("torch")) == len(lines) + 1


def test_workflows_call_what_is_there() -> None:
    sessions = set(
        re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.M)
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert sessions == {"oldest", "newest", "no_torch", "no_extras"}
    assert len(WORKFLOWS) == 3
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        jobs = yaml.safe_load(text)["jobs"]
        assert jobs
        for job in jobs.values():
            for step in job["steps"]:
                for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")):
                    assert target in targets, f"{path.name}: make {target}"
                for script in re.findall(r"python (scripts/\w+\.py)", step.get("run", "")):
                    assert (ROOT / script).is_file(), f"{path.name}: {script}"
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    others = {entry["session"] for entry in tests["others"]["strategy"]["matrix"]["include"]}
    assert others | {"newest"} == sessions
    assert tests["newest"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]


EXTRAS = ("torch", "PIL", "matplotlib", "distributed", "sklearn", "playwright", "model_explorer")


def test_the_suite_is_collected_without_any_extra() -> None:
    """What ``nox -s no_extras`` needs first: tests of an extra skip, and no module fails where it is not."""
    code = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS})); import pytest; sys.exit(pytest.main())"
    command = [sys.executable, "-c", code, "--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:]

"""The trials as a table: a row for each form and target, a column for each compute unit."""

from milpasses_tools._core_ml.trials import AGREES_DB, UNTRIED, CoreMLReport, Trial
from milpasses_tools._output import sqnr_text
from milpasses_tools._table import print_table

SEND = "milpasses doctor --core-ml --json > core-ml.json"


def print_report(report: CoreMLReport) -> None:
    """Print the table, what failed and why, and how to send it in."""
    print(", ".join(f"{name} {value}" for name, value in report.machine.items()))
    units = list(dict.fromkeys(trial.unit for trial in report.trials))
    rows: dict[tuple[str, str, str], dict[str, Trial]] = {}
    for trial in report.trials:
        rows.setdefault((trial.form, trial.target, trial.function), {})[trial.unit] = trial
    cells = [
        [f"{form}: {function}" if function else form, target, *(_cell(by_unit.get(unit)) for unit in units)]
        for (form, target, function), by_unit in rows.items()
    ]
    print_table(["form", "target", *units], cells)
    for trial in report.trials:
        if trial.verdict == "fails":
            print(f"{trial.form} {trial.target} on {trial.unit}: {trial.stage}: {trial.error}")
    count = sum(trial.verdict == "agrees" for trial in report.trials)
    print(
        f"{count} of {len(report.trials)} agree: {AGREES_DB} dB or more of signal to noise against "
        "milpasses' interpreter"
    )
    print(UNTRIED)
    print(f"To send it in: {SEND}, attached to an issue.")


def _cell(trial: Trial | None) -> str:
    if trial is None:
        return ""
    if trial.verdict == "fails":
        return f"no: {trial.stage}"
    ratio = "nan" if trial.sqnr_db is None else sqnr_text(trial.sqnr_db)
    return f"{ratio} dB" if trial.verdict == "agrees" else f"{ratio} dB (differs)"

"""The weights of one program, each calibrated or not, as the outputs of the whole model bear it out."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from numpy.typing import NDArray

from milpasses.calibration.encode import plain_method
from milpasses.calibration.paired import PairedRewriter, Rewritten, WeightRewriter
from milpasses.calibration.sources import HELD_OUT, OnlineStatistics
from milpasses.calibration.validation import Alternatives, Decoded, Validation, validate
from milpasses.errors import Refusal
from milpasses.program.weights import Site
from milpasses.report import OutputRecord, Report, decibels

_Progress = Callable[[int, int, str], None]
_FEW = 4  # held-out samples


def chosen_outcomes(
    rewriter: WeightRewriter,
    without_data: WeightRewriter,
    source: OnlineStatistics,
    sites: Sequence[Site],
    report: Report,
    progress: _Progress,
) -> dict[Site, Rewritten]:
    """The outcome for each of ``sites``; ``report`` takes what the outputs lose.

    ``rewriter`` calibrates by ``source``; ``without_data`` is the same without it.
    """
    paired = PairedRewriter(rewriter, sites)
    outcomes: dict[Site, Rewritten] = {}
    for site in sites:
        outcomes[site] = paired.rewrite(site)
        progress(len(outcomes), len(sites), site.weight.name)
    changed = [site for site in sites if _is_calibrated(rewriter, site, outcomes[site])]
    runs = source.held_out_runs() if changed else None
    if runs is None or not runs.outputs:
        if changed:
            report.notes.append("no held-out outputs: calibration was not judged by the whole model")
        return outcomes
    plain: dict[Site, Rewritten] = {}
    alternatives: list[Alternatives] = []
    for site in changed:
        bias = paired.bias_of(site) if outcomes[site].bias is not None else None
        both = [site] if bias is None else [site, bias]
        plain |= {each: without_data.rewrite(each) for each in both}
        calibrated = _values(source, site, outcomes[site])
        if bias is not None and (corrected := outcomes[site].bias) is not None:
            calibrated |= _decoded(source, bias, lambda corrected=corrected: corrected)
        alternatives.append(Alternatives(calibrated, _merged(source, both, plain)))
    settled = set(changed) | plain.keys()
    fixed = _merged(source, [site for site in sites if site not in settled], outcomes)
    found = validate(
        runs, fixed, alternatives, lambda done, total: progress(done, total, "comparing the model's outputs")
    )
    for place, site in enumerate(changed):
        if place not in found.borne_out:
            outcomes[site] = _back(plain[site], plain_method(rewriter.recipe.decide(site.weight).scheme))
            bias = paired.bias_of(site)
            if bias in plain:
                outcomes[bias] = plain[bias]
    _say(report, found, len(changed))
    return outcomes


def _is_calibrated(rewriter: WeightRewriter, site: Site, outcome: Rewritten) -> bool:
    """Statistics changed what it became."""
    return outcome.record.method not in ("", plain_method(rewriter.recipe.decide(site.weight).scheme))


def _decoded(source: OnlineStatistics, site: Site, decode: Callable[[], NDArray[Any]]) -> dict[str, Decoded]:
    decoded = Decoded(site.weight.shape, decode)
    return dict.fromkeys(site.variables(source.function), decoded)


def _values(source: OnlineStatistics, site: Site, outcome: Rewritten) -> dict[str, Decoded]:
    """What the variables of ``site`` decode to, none where it stays as it was."""
    return {} if outcome.encoding is None else _decoded(source, site, outcome.encoding.decode)


def _merged(
    source: OnlineStatistics, sites: Sequence[Site], outcomes: dict[Site, Rewritten]
) -> dict[str, Decoded]:
    merged: dict[str, Decoded] = {}
    for site in sites:
        merged |= _values(source, site, outcomes[site])
    return merged


def _back(outcome: Rewritten, method: str) -> Rewritten:
    """A weight without data, and why."""
    notes = (*outcome.record.notes, f"not calibrated: {Refusal('outputs-worse')}")
    return attrs.evolve(outcome, record=attrs.evolve(outcome.record, notes=notes, method=method))


def _say(report: Report, found: Validation, calibrated: int) -> None:
    report.outputs += [
        OutputRecord(name, decibels(1.0, found.chosen[name]), decibels(1.0, error), found.samples)
        for name, error in found.plain.items()
    ]
    back = calibrated - len(found.borne_out)
    if back:
        report.notes.append(
            f"{back} of {calibrated} calibrated weights went back to their encodings without data: an output "
            "of the model was worse with them on held-out samples"
        )
    if found.samples < _FEW:
        report.notes.append(
            f"held-out samples that judge calibration: {found.samples}; give {HELD_OUT * _FEW} or more in all"
        )

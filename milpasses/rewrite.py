"""What the entry points share: match, check, encode, verify each weight; it never touches a graph."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from numpy.typing import NDArray

from milpasses.calibration.biases import Bias
from milpasses.calibration.chosen import chosen_outcomes
from milpasses.calibration.encode import can_calibrate, encode_calibrated, feedback_method
from milpasses.calibration.paired import PairedRewriter, Rewritten
from milpasses.calibration.sources import OnlineStatistics, Prepare, StatisticsSource, source_for
from milpasses.encoding.encoder import Encoder
from milpasses.encoding.encodings import Encoding
from milpasses.encoding.lowering import OpSpec, dense, inline_nbytes, lower
from milpasses.encoding.verify import check_finite, checked_errors
from milpasses.errors import MilpassesError, Refusal
from milpasses.program.model import CompressedModel, Model, write_model
from milpasses.program.opset import Opset, check_target
from milpasses.program.pipelines import SavedPipeline
from milpasses.program.protocol import WeightProgram
from milpasses.program.saved import SavedProgram, check_functions
from milpasses.program.weights import FLOATS, Site, Weight
from milpasses.program.writer import SavedCopy
from milpasses.recipe.nothing import require_compressed
from milpasses.recipe.recipe import Decision, Recipe
from milpasses.recipe.schemes import Keep, Scheme
from milpasses.recipe.unmatched import find_unmatched
from milpasses.report import METADATA_KEY, Record, Report, Status

Progress = Callable[[int, int, str], None]


@attrs.frozen
class Rewriter:
    """Applies a recipe to weights, one at a time.

    ``requantize``: a weight that is compressed already is decoded and compressed anew. ``join``: it keeps its
    form and gets the scheme's on top (coremltools' ``joint_compression``). ``fit_groups`` as in
    ``Encoder``, and ``separate_scales``. ``only_if_smaller``: keep a weight dense where its new form would
    not save a byte; this holds for per-channel scales in any case.
    ``calibration``: where to ask what flows into a weight; the encoding is then chosen by its outputs.
    ``strict``: a rule that decides no weight is an error, not a warning; so is that nothing was compressed.
    ``tunes``: what recipes with ``method="tune"`` ask for is done to what comes of this.
    """

    recipe: Recipe
    target: Opset
    requantize: bool = False
    join: bool = False
    fit_groups: bool = True
    only_if_smaller: bool = True
    separate_scales: bool = False
    calibration: StatisticsSource | None = None
    strict: bool = False
    tunes: bool = False

    def check(self, sites: Sequence[Site]) -> None:
        """Refuse, before anything is rewritten, a recipe that asks of some weight what the target lacks."""
        self.check_target(sites)
        for site in sites:
            decision = self.recipe.decide(site.weight)
            needs_inputs = self.calibration is None and feedback_method(decision.scheme)
            if needs_inputs and self.unwanted(site, decision) is None:
                needed = Refusal("needs-calibration", scheme=decision.scheme)
                raise MilpassesError(f"{site.weight.name}: {needed}")
        if self.recipe.wants_tuning and not self.tunes:
            raise MilpassesError(
                f"{self.recipe}: a converted model is tuned, on the samples themselves: leave -tune out "
                "here, or give the recipe to milpasses.compress with calibration=data"
            )

    def check_target(self, sites: Sequence[Site]) -> None:
        """Raise ``TargetError`` for the first of ``sites`` of which the recipe asks what the target lacks."""
        if self.recipe.rest is not None and sites:
            check_target(self.recipe.rest, self.target, sites[0].weight.name)
        for site in sites:
            decision = self.recipe.decide(site.weight)
            if self.unwanted(site, decision) is None:
                check_target(decision.scheme, self.target, site.weight.name)

    def calibrates(self, site: Site) -> bool:
        """Statistics of this site's weight would be asked for."""
        decision = self.recipe.decide(site.weight)
        return self.unwanted(site, decision) is None and can_calibrate(decision.scheme) and not self.join

    def unwanted(self, site: Site, decision: Decision) -> tuple[Status, Refusal | None] | None:
        """The cheap checks, which need no values: a status and why, or None to go on."""
        weight = site.weight
        if isinstance(decision.scheme, Keep):
            return "kept", None
        if site.existing is not None and not (self.requantize or self.join):
            return "kept", Refusal("compressed-already")
        if site.blocked is not None:
            return "skipped", site.blocked
        if weight.dtype not in FLOATS:
            return "skipped", Refusal("not-float", dtype=weight.dtype)
        if weight.rank < 2:
            return "skipped", Refusal("vector", rank=weight.rank)
        if decision.skip is not None:
            return "skipped", decision.skip
        if not (weight.is_multiplied or self.recipe.takes_every_constant(decision)):
            op_types = ", ".join(sorted({use.op_type for use in weight.consumers}))
            return "skipped", Refusal("not-multiplied", op_types=op_types)
        return None

    def rewrite(self, site: Site, bias: Bias | None = None) -> Rewritten:
        """Decide, encode and verify one weight; ``bias``: of the op that uses it, if it may be corrected."""
        decision = self.recipe.decide(site.weight)
        rewritten = self._rewrite(site, decision, bias)
        rest, why = self.recipe.rest, rewritten.record.refusal
        if rest is None or why is None or rewritten.record.status != "skipped":
            return rewritten
        reason = f"{decision.reason}; the rest, as {decision.scheme} was refused: {why}"
        stored = self._rewrite(site, attrs.evolve(decision, scheme=rest, skip=None, reason=reason), None)
        return stored if stored.specs is not None else rewritten

    def _rewrite(self, site: Site, decision: Decision, bias: Bias | None) -> Rewritten:
        """One weight under the scheme of ``decision``."""
        weight = site.weight
        unwanted = self.unwanted(site, decision)
        if unwanted is not None:
            status, refusal = unwanted
            return Rewritten(self.record(site, decision, status, refusal))
        existing = site.existing() if site.existing is not None else None
        value = weight.value if existing is None else existing.decode()
        encoder = Encoder(
            weight, self.target.generation, self.fit_groups,
            separate_scales=self.separate_scales, mask_zeros=not self.only_if_smaller,
        )  # fmt: skip
        chosen: dict[str, Any] = {}
        corrected = None
        try:
            check_finite(value)
            if existing is not None and self.join:
                encoding = encoder.extend(existing, value, decision.scheme)
            else:
                encoding, chosen, corrected = self._encode(encoder, value, decision.scheme, bias)
            smaller = self.only_if_smaller or getattr(decision.scheme, "enable_per_channel_scale", False)
            if smaller and encoding.nbytes >= site.nbytes:
                raise Refusal("not-smaller", form=encoding.form, nbytes=encoding.nbytes, stored=site.nbytes)
        except Refusal as refusal:
            record = self.record(site, decision, "skipped", refusal)
            return Rewritten(attrs.evolve(record, refused=True))
        errors = checked_errors(value, encoding, weight.name, self.target.generation)
        specs = lower(encoding, weight.name, self.target.generation)
        record = attrs.evolve(
            self.record(site, decision, "compressed"),
            notes=tuple(encoder.notes),
            form=encoding.form,
            bytes_after=encoding.nbytes + max(len(site.places) - 1, 0) * inline_nbytes(specs),
            **errors,
            **chosen,
        )
        if self.calibration is not None:
            self.calibration.done(weight, encoding.decode())
            if isinstance(bias, Site) and corrected is not None:
                self.calibration.done(bias.weight, corrected)
        return Rewritten(record, specs, encoding, corrected)

    def _encode(
        self, encoder: Encoder[Weight], value: NDArray[Any], scheme: Scheme, bias: Bias | None
    ) -> tuple[Encoding, dict[str, Any], NDArray[Any] | None]:
        """The encoding, by its outputs where statistics tell, what a record says of how, and the bias."""
        if self.calibration is None or not can_calibrate(scheme):
            return encoder.encode(value, scheme), {}, None
        inputs = self.calibration.inputs(encoder.weight)
        if isinstance(inputs, Refusal):
            encoding = encoder.encode(value, scheme)
            encoder.notes.append(f"not calibrated: {inputs}")
            return encoding, {}, None
        given = bias.weight.value if isinstance(bias, Site) else bias
        found = encode_calibrated(encoder, value, scheme, inputs, given)
        encoder.notes.append(f"{found.method}: outputs {found.output_sqnr_db:.1f} dB")
        encoder.notes.extend(map(str, found.notes))
        chosen = {"method": found.method, "output_sqnr_db": found.output_sqnr_db}
        return found.encoding, chosen, found.bias

    def record(
        self, site: Site, decision: Decision, status: Status, refusal: Refusal | None = None
    ) -> Record:
        """The record of a site that stays as it is."""
        weight = site.weight
        return Record(
            name=weight.name,
            status=status,
            refusal=refusal,
            form="dense" if site.existing is None else site.existing().form,
            shape=weight.shape,
            dtype=weight.dtype,
            bytes_before=site.all_nbytes,
            bytes_after=site.all_nbytes,
            rule=decision.reason,
            scheme=str(decision.scheme),
            consumers=tuple(f"{use.op_name}:{use.op_type}.{use.param}" for use in weight.consumers),
            functions=weight.functions,
            rule_index=decision.rule_index,
        )


def rewrite_program(
    program: WeightProgram,
    rewriter: Rewriter,
    report: Report,
    progress: Progress | None = None,
    say_unmatched: bool = True,
) -> int:
    """Rewrite every weight of ``program`` that the recipe wants; fills ``report``, returns the count.

    ``say_unmatched``: as ``find_unmatched`` does, which a part of a pipeline alone cannot tell.
    """
    sites = program.sites()
    if say_unmatched:
        find_unmatched(report, rewriter.recipe, [site.weight for site in sites], rewriter.strict)
    rewriter.check(sites)
    report.recipe = str(rewriter.recipe)
    if not isinstance(rewriter.calibration, OnlineStatistics):
        return _replace(program, sites, report, PairedRewriter(rewriter, sites).rewrite, progress)
    without_data = attrs.evolve(rewriter, calibration=None)
    outcomes = chosen_outcomes(
        rewriter, without_data, rewriter.calibration, sites, report, progress or (lambda *_: None)
    )
    return _replace(program, sites, report, outcomes.__getitem__, None)


def rewriter_for(
    program: SavedProgram,
    recipe: Recipe,
    *,
    requantize: bool = False,
    statistics: Any = None,
    calibration: Any = None,
    sequential: bool = False,
    strict: bool = False,
    function: str | None = None,
    progress: Progress | None = None,
    prepare: Prepare | None = None,
    tunes: bool = False,
) -> Rewriter:
    """What applies ``recipe`` to ``program``, with the statistics or data of ``milpasses.compress``.

    ``prepare``: as for ``OnlineStatistics``; ``tunes``: as for ``Rewriter``.
    """
    rewriter = Rewriter(recipe, program.target, requantize=requantize, strict=strict, tunes=tunes)
    source = source_for(
        program, rewriter.calibrates, statistics, calibration, sequential, function, progress, prepare
    )
    return attrs.evolve(rewriter, calibration=source)


def write_rewritten(
    program: SavedProgram,
    rewriter: Rewriter,
    make: Callable[..., Model],
    output: "str | os.PathLike[str] | None" = None,
    force: bool = False,
    progress: Progress | None = None,
    finish: Callable[[Any, Report], None] | None = None,
) -> Model:
    """Apply ``rewriter`` to every weight of ``program`` and write the result, as ``write_model`` does.

    ``make`` gets the path, ``report`` and how to load it; ``finish`` the new specification and the report.
    """
    check_functions(program)
    report = Report(notes=list(program.notes))

    def write_weights(folder: Path) -> Any:
        copy = SavedCopy(program, folder)
        rewrite_program(copy, rewriter, report, progress)
        if finish is not None:
            finish(copy.spec, report)
        if rewriter.strict:
            require_compressed(report)
        copy.spec.description.metadata.userDefined[METADATA_KEY] = report.to_metadata()
        return copy.spec

    return write_model(
        program.package, write_weights, make, output, force, report=report, **program.load_options
    )


def write_parts(
    pipeline: SavedPipeline, rewriters: Mapping[str, Rewriter] | None, report: Report,
    make: Callable[..., Model], output: "str | os.PathLike[str] | None", force: bool, *,
    part: str | None = None, progress: Progress | None = None,
    finish: Callable[[Any], None] | None = None,
    finish_part: Callable[[str, Any, Report], None] | None = None, **loading: Any,
) -> Model:  # fmt: skip
    """Apply each of ``rewriters`` to its part of ``pipeline`` and write all, as ``write_model`` does.

    Parts without one stay as they are; with None for ``rewriters``, all of them (or ``part``) are
    decompressed. ``report`` gets what was done to each part; ``finish`` the new specification,
    and ``finish_part`` the name, specification and report of each part that is rewritten.
    """
    if rewriters:  # a rule may be for one part alone
        rewriter = next(iter(rewriters.values()))
        weights = [site.weight for program in pipeline.raised.values() for site in program.sites()]
        find_unmatched(report, rewriter.recipe, weights, rewriter.strict)

    def rewrite_part(name: str, copy: SavedCopy) -> None:
        found = Report()
        if rewriters is None:
            decompress_program(copy, found)
        elif name in rewriters:
            rewrite_program(copy, rewriters[name], found, progress, say_unmatched=False)
            if finish_part is not None:
                finish_part(name, copy.spec, found)
        else:
            copy.replace([], lambda _: None)
            return
        report.add_part(name, found)

    def write_weights(folder: Path) -> Any:
        spec = pipeline.write(folder, rewrite_part, part)
        if finish is not None:
            finish(spec)
        if any(rewriter.strict for rewriter in (rewriters or {}).values()):
            require_compressed(report)
        metadata = spec.description.metadata.userDefined
        if rewriters is None:
            metadata.pop(METADATA_KEY, None)
        elif rewriters:
            metadata[METADATA_KEY] = report.to_metadata()
        return spec

    return write_model(pipeline.package, write_weights, make, output, force, report=report, **loading)


def write_decompressed(
    program: SavedProgram, output: "str | os.PathLike[str] | None" = None, force: bool = False
) -> CompressedModel:
    """Store every compressed weight of ``program`` densely and write the result, as ``write_model`` does."""
    report = Report()

    def write_weights(folder: Path) -> Any:
        copy = SavedCopy(program, folder)
        decompress_program(copy, report)
        copy.spec.description.metadata.userDefined.pop(METADATA_KEY, None)
        return copy.spec

    return write_model(
        program.package, write_weights, CompressedModel, output, force, report=report, **program.load_options
    )


def decompress_program(program: WeightProgram, report: Report) -> int:
    """Store every compressed weight of ``program`` densely; fills ``report``, returns the count."""
    sites = [site for site in program.sites() if site.existing is not None]
    report.recipe = "decompress"
    return _replace(program, sites, report, decompressed, None)


def _replace(
    program: WeightProgram,
    sites: Sequence[Site],
    report: Report,
    rewrite: Callable[[Site], Rewritten],
    progress: Progress | None,
) -> int:
    report.records.clear()

    def rewrite_site(site: Site) -> list[OpSpec] | None:
        rewritten = rewrite(site)
        report.records.append(rewritten.record)
        if progress is not None:
            progress(len(report.records), len(sites), site.weight.name)
        return rewritten.specs

    return program.replace(sites, rewrite_site)


def decompressed(site: Site) -> Rewritten:
    """A compressed site as a dense constant again, in the type it decodes to."""
    assert site.existing is not None
    weight, existing = site.weight, site.existing()
    value = existing.decode()
    record = Record(
        name=weight.name,
        status="compressed",
        notes=(f"was {existing.form}",),
        form="dense",
        shape=weight.shape,
        dtype=value.dtype.name,
        bytes_before=site.all_nbytes,
        bytes_after=value.nbytes,
        sqnr_db=float("inf"),
        max_error=0.0,
        scheme="decompress",
        functions=weight.functions,
    )
    return Rewritten(record, [dense(weight.name, value)])

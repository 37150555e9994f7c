"""What the entry points share: for each weight match, check, encode, verify; then the program emits.

This module decides and encodes; it never touches a graph.
"""

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.calibration import StatisticsSource
from milpasses.calibration.encode import can_calibrate, encode_calibrated, feedback_method
from milpasses.encoding.encoder import Encoder
from milpasses.encoding.encodings import Encoding
from milpasses.encoding.lowering import OpSpec, Stored, lower
from milpasses.encoding.verify import check_decoding
from milpasses.errors import MilpassesError, Refusal
from milpasses.program.opset import Opset, check_target
from milpasses.program.weights import Site
from milpasses.recipe.recipe import Decision, Recipe
from milpasses.recipe.schemes import Keep, Scheme
from milpasses.report import Record, Status

FLOATS = ("float16", "float32")


@attrs.frozen(eq=False)
class Rewritten:
    """The outcome for one site: its record, and the ops that take its place, if any.

    ``bias``: what the bias of the weight's op becomes with it, None where it stays as it is.
    """

    record: Record
    specs: list[OpSpec] | None = None
    encoding: Encoding | None = None
    bias: NDArray[Any] | None = None


@attrs.frozen
class Rewriter:
    """Applies a recipe to weights, one at a time.

    ``requantize``: a weight that is compressed already is decoded and compressed anew. ``join``: it keeps its
    form and gets the scheme's on top (coremltools' ``joint_compression``). ``fit_groups`` as in
    ``Encoder``. ``only_if_smaller``: keep a weight dense where its new form would not save a byte.
    ``calibration``: where to ask what flows into a weight; the encoding is then chosen by its outputs.
    """

    recipe: Recipe
    target: Opset
    requantize: bool = False
    join: bool = False
    fit_groups: bool = True
    only_if_smaller: bool = True
    calibration: StatisticsSource | None = None

    def check(self, sites: Sequence[Site]) -> None:
        """Refuse, before anything is rewritten, a recipe that asks of some weight what the target lacks."""
        for site in sites:
            decision = self.recipe.decide(site.weight)
            if not self.not_wanted(site, decision):
                check_target(decision.scheme, self.target, site.weight.name)
                if self.calibration is None and feedback_method(decision.scheme):
                    raise MilpassesError(
                        f"{site.weight.name}: {decision.scheme} needs to know what flows into the weight: "
                        "pass calibration=data (samples to run the model on) or statistics="
                    )

    def calibrates(self, site: Site) -> bool:
        """Statistics of this site's weight would be asked for."""
        decision = self.recipe.decide(site.weight)
        return self.not_wanted(site, decision) is None and can_calibrate(decision.scheme) and not self.join

    def not_wanted(self, site: Site, decision: Decision) -> tuple[Status, str] | None:
        """The cheap checks, which need no values: a status and a reason, or None to go on."""
        weight = site.weight
        if isinstance(decision.scheme, Keep):
            return "kept", decision.reason
        if site.existing is not None and not (self.requantize or self.join):
            return "kept", str(Refusal("compressed-already"))
        if site.blocked:
            return "skipped", str(site.blocked)
        if weight.dtype not in FLOATS:
            return "skipped", str(Refusal("not-float", dtype=weight.dtype))
        if weight.rank < 2:
            return "skipped", str(Refusal("vector", rank=weight.rank))
        if decision.skip:
            return "skipped", decision.skip
        return None

    def rewrite(self, site: Site, bias: Site | str | None = None) -> Rewritten:
        """Decide, encode and verify one weight.

        ``bias``: of the op that uses it, where it may be corrected for the weight; or why it may not.
        """
        weight, decision = site.weight, self.recipe.decide(site.weight)
        refused = self.not_wanted(site, decision)
        if refused:
            return Rewritten(self.record(site, decision, *refused))
        existing = site.existing() if site.existing is not None else None
        value = weight.value if existing is None else existing.decode()
        encoder = Encoder(weight, self.target.generation, self.fit_groups)
        chosen: dict[str, Any] = {}
        corrected = None
        try:
            _check_finite(value)
            if existing is not None and self.join:
                encoding = encoder.extend(existing, value, decision.scheme)
            else:
                encoding, chosen, corrected = self._encode(encoder, value, decision.scheme, bias)
            if self.only_if_smaller and encoding.nbytes >= site.nbytes:
                raise Refusal("not-smaller", form=encoding.form, nbytes=encoding.nbytes, stored=site.nbytes)
        except Refusal as refusal:
            record = self.record(site, decision, "skipped", str(refusal))
            return Rewritten(attrs.evolve(record, refused=True))
        decoded = encoding.decode()
        check_decoding(encoding, decoded, weight.name, self.target.generation)
        record = self.record(site, decision, "compressed", "; ".join(encoder.notes))
        record = attrs.evolve(
            record, form=encoding.form, bytes_after=encoding.nbytes, **errors(value, decoded), **chosen
        )
        if self.calibration is not None:
            self.calibration.done(weight, decoded)
            if isinstance(bias, Site) and corrected is not None:
                self.calibration.done(bias.weight, corrected)
        return Rewritten(record, lower(encoding, weight.name, self.target.generation), encoding, corrected)

    def _encode(
        self, encoder: Encoder, value: NDArray[Any], scheme: Scheme, bias: Site | str | None
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

    def record(self, site: Site, decision: Decision, status: Status, reason: str) -> Record:
        """The record of a site that stays as it is."""
        weight = site.weight
        form = "dense" if site.existing is None else site.existing().form
        return Record(
            name=weight.name,
            status=status,
            reason=reason,
            form=form,
            shape=weight.shape,
            dtype=weight.dtype,
            bytes_before=site.nbytes,
            bytes_after=site.nbytes,
            rule=decision.reason,
            scheme=str(decision.scheme),
            consumers=tuple(f"{use.op_name}:{use.op_type}.{use.param}" for use in weight.consumers),
            functions=weight.functions,
            rule_index=decision.rule_index,
        )


def _check_finite(value: NDArray[Any]) -> None:
    from milpasses_kernels.finite import nonfinite

    nans, infs = nonfinite(value)
    if nans or infs:
        raise Refusal("nonfinite", nans=nans, infinities=infs)


def errors(value: NDArray[Any], decoded: NDArray[Any]) -> dict[str, float]:
    """``sqnr_db`` and ``max_error`` of a decoded weight, as a ``Record`` has them."""
    from milpasses_kernels.decode import error_sums

    signal, noise, largest = error_sums(np.ascontiguousarray(value), decoded)
    if noise == 0:
        return {"sqnr_db": math.inf, "max_error": 0.0}
    ratio = signal / noise
    return {"sqnr_db": 10 * math.log10(ratio) if ratio > 0 else -math.inf, "max_error": largest}


def decompressed(site: Site) -> Rewritten:
    """A compressed site as a dense constant again, in the type it decodes to."""
    assert site.existing is not None
    weight, existing = site.weight, site.existing()
    value = existing.decode()
    record = Record(
        name=weight.name,
        status="compressed",
        reason=f"was {existing.form}",
        form="dense",
        shape=weight.shape,
        dtype=value.dtype.name,
        bytes_before=site.nbytes,
        bytes_after=value.nbytes,
        sqnr_db=math.inf,
        max_error=0.0,
        scheme="decompress",
        functions=weight.functions,
    )
    output = (value.shape, value.dtype.name)
    return Rewritten(
        record, [OpSpec("const", weight.name, {"val": Stored(value, value.dtype.name)}, (output,))]
    )

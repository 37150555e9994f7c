"""What went wrong, and what was refused.

``MilpassesError`` and its kinds are raised for what a person can put right: one clear line each. A
``Refusal`` is an answer, not an error: why something does not apply to one weight, as a code and the numbers
that decided; ``REASONS`` puts it into words.
"""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class MilpassesError(ValueError):
    """Something was asked that cannot be done; the message says what, and what would work."""


class TargetError(MilpassesError):
    """The deployment target of the model lacks the form that was asked for."""


class JointError(MilpassesError, NotImplementedError):
    """Two forms cannot be joined in the way that was asked for."""


class SampleError(MilpassesError):
    """Data that cannot be fed to the model; the message names the file or sample and what would fit."""


class UnmatchedRuleWarning(UserWarning):
    """A rule of a recipe decides no weight of the model: its name, or type of op, is not there."""


class PackageError(MilpassesError):
    """A file is not the model that was expected: missing, truncated, foreign or damaged."""


_NEAR = 0.61  # of 1: two of three letters are the same; iOS26 is not what iOS99 was to be
_LONGEST = 400  # characters of a value in a message
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 4, 200, 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 12


def shown(value: object) -> str:
    """``value`` as messages show it: its ``repr``, but of what is long or deep only the beginning."""
    try:
        return shortened(_SHORT.repr(value))
    except (ValueError, RecursionError):  # Python writes no number of more than 4,300 digits
        return f"a {type(value).__name__}"


def shortened(value: object) -> str:
    """The text of ``value``, if that is a text, as it was given, but not of any length; else as ``shown``."""
    text = value if isinstance(value, str) else shown(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` where one of ``known`` is near to ``wanted``, which is none of them."""
    names = {name.lower(): name for name in known}
    nearest = get_close_matches(wanted.lower()[:_LONGEST], sorted(names), 1, _NEAR)
    return f"; did you mean {names[nearest[0]]}?" if nearest else ""


def no_such_file(path: Path, what: str = "no such file or folder") -> str:
    """That nothing is at ``path``, and which file beside it was meant, if one has nearly that name."""
    try:
        beside = [one.name for one in path.absolute().parent.iterdir()]
    except (OSError, ValueError):  # no such folder either, or none that may be read, or can be
        return f"{shortened(str(path))}: {what}"
    return f"{shortened(str(path))}: {what}{did_you_mean(path.name, beside)}"


def unmatched_text(rules: Sequence[str]) -> str:
    """What a warning or an error says of rules that decide nothing."""
    return "the recipe does not do all that it says: " + "; ".join(rules)


class Refusal(Exception):  # noqa: N818 (an answer, not an error: it becomes a record's reason)
    """Why a scheme, a statistic or a correction does not apply to one weight.

    ``code`` is a key of ``REASONS``, ``details`` the names and numbers that its words take. Refusals are
    returned where they are one of two answers, and raised from inside an encoder. Equal by code and details.
    """

    def __init__(self, code: str, **details: Any) -> None:
        super().__init__(code)
        self.code = code
        self.details: Mapping[str, Any] = details

    def __str__(self) -> str:
        return reason_text(self.code, self.details)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refusal) and (self.code, self.details) == (other.code, other.details)

    def __hash__(self) -> int:
        return hash(self.code)


def reason_text(code: str, details: Mapping[str, Any]) -> str:
    """A refusal in words; the code and its details themselves where it is of a newer version."""
    words = REASONS.get(code)
    if words is None:
        return " ".join([code, *(f"{name}={value}" for name, value in details.items())])
    return words.format(**details)


REASONS = {
    # What the recipe, or the place of the weight, decides: no values are read.
    "compressed-already": "compressed already; requantize=True compresses it anew",
    "returned-by-block": "a block returns it: Core ML takes no constexpr as an output",
    "unused": "no op uses it",
    "part-of-compressed": "part of a compressed weight",
    "inferred-value": "{op} ({op_type}) has a value that was inferred from it: "
    "a later pass would put the old weight back",
    "not-float": "{dtype} constants are not weights",
    "vector": "rank {rank}: Core ML needs vectors dense",
    "not-multiplied": "no op multiplies and sums with it: a constant of {op_types}",
    "stated": "{text}",
    "small": "{size:,} elements <= {which} {limit:,}",
    "all-zero": "every element is zero: a sparse form would store no value",
    "needs-calibration": "{scheme} needs to know what flows into the weight: "
    "pass calibration=data (samples to run the model on) or statistics=",
    "target": "{need} needs {since}; this model targets {target}",
    # Why a bias does not take up what its op's weight loses on average.
    "bias-shared": "{name} has other uses",
    "bias-blocked": "{name}: {why}",
    "bias-compressed": "{name}: compressed already",
    "bias-shape": "{name} is {dtype} of shape {shape}",
    "bias-kept": "a rule keeps {name}",
    # What its channels or values decide.
    "half-already": "half stores float32 weights as float16, and this one is {dtype}",
    "half-overflow": "{count:,} values past float16's range (the largest is {largest:.4g})",
    "half-underflow": "float16 cannot hold values this small: a relative error of {error:.2g} (the largest "
    "value is {largest:.4g})",
    "no-encoding": "{scheme} encodes nothing",
    "not-divisible": "{what} {wanted} does not divide {size} channels",
    "block-rank": "block_size has {given} entries, the weight rank {rank}",
    "axis-outside": "channel_axis {axis} is outside rank {rank}",
    "vectors-not-divisible": "The `cluster_dim` is invalid for {name}: {wanted} does not divide {size} "
    "channels. Skipped this op.",
    "too-many-unique": "Unique values in weight cannot be represented by 8 bits palettization.",
    "table-size": "lut_function gave a table of shape {shape}; a table is a vector of {sizes} entries",
    "small-table": "a look-up table of {size} entries: nothing to gain",
    "few-nonzeros": "{count} non-zero values: nothing to gain",
    "masked-vectors": "a mask goes only with look-up tables of scalars, not of vectors",
    "masked-tables": "pruned weights take look-up tables of scalars without per-channel scales",
    "not-joinable": "{form} cannot be joined with {scheme}",
    "unstructured-op": "structured pruning is for the weights of conv and linear ops",
    "ratio-too-wide": "n_m_ratio {n}:{m} needs m at most half of the {size} channels",
    "block-too-wide": "block_size {block} is more than half of {size} channels",
    "low-sparsity": "sparsity {sparsity:.3f} < minimum_sparsity_percentile {minimum}",
    "nonfinite": "{nans} NaN and {infinities} infinite values: not a weight to compress",
    "not-smaller": "{form} would take {nbytes} bytes, {stored} are stored now",
    # Weights of legacy neural networks.
    "nn-not-selected": "the selector leaves it as it is",
    "nn-updatable": "it is trained on the device, which takes float32",
    "nn-half-mixed": "float16 and float32 do not mix in a layer, and the selector leaves a part of this one "
    "as it is",
    "nn-half-overflow": "float16 ends at 65,504, but the layer's weights reach {largest:,.0f}",
    "nn-already": "it is {form} already",
    "nn-int8-layer": "its layer quantizes its input too, and takes int8 alone",
    "nn-not-smaller": "{nbytes:,} bytes quantized are no fewer than {stored:,} as {form}",
    # What is known of a weight's inputs.
    "not-reached": "no sample reached {op_type} {op}",
    "no-use-rule": "{op_type} {op}: {op_type} has no rule for its {param}",
    "hidden-states": "{op_type} {op}: the hidden states that it meets stay inside the op",
    "vector-operand": "{op_type} {op}: one side of the matmul is a vector",
    "batched-lookup": "{op_type} {op}: {op_type} with batch_dims reads a table of each batch",
    "other-lookup-axis": "{op_type} {op} reads it along another axis than {first}",
    "other-channels": "{op_type} {op} uses it along other channels than {others}",
    "no-normalization": "no normalization before it",
    "no-statistics": "no statistics of it",
    "lookup-table": "a table that gather reads has no second moment",
    "only-held-out": "only held-out samples reached it",
    "not-selected": "not to be calibrated",
    # Why an activation stays float.
    "no-range": "no sample reached it: there is no range",
    "nonfinite-activation": "{count:,} NaN or infinite values in the samples",
    "point-range": "every value in the samples is {value:g}: give samples in which it varies",
    # What calibration leaves undone.
    "few-rows": "only {rows} rows reach its {width} inputs: give more samples",
    "outputs-worse": "an output of the model was worse with it on held-out samples",
    "nothing-held-out": "nothing held out",
    "bias-not-corrected": "bias not corrected: {reason}",
    "no-full-moment": "no error feedback: the statistics hold no full second moment (full=True)",
    "feedback-form": "plain rounding: no error feedback into {form}",
    "feedback-integer-vectors": "plain rounding: no error feedback into integer tables of vectors",
    "feedback-vector-axis": "plain rounding: no error feedback into vectors along axis {axis}, which are not "
    "outputs",
    "moment-nonfinite": "plain rounding: the second moment holds NaN or infinity",
    "moment-zero": "plain rounding: the second moment is zero: no input was ever anything else",
    "moment-indefinite": "plain rounding: the second moment is not positive, even with a damping of "
    "{damping:g}",
}

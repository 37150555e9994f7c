"""One weight, one scheme and what flows into the weight: the encoding whose outputs are nearest.

Candidates, in order: the plain encoding; the same with each weight's error counted by E[x^2] of its input;
for a scheme or for inputs that ask for it, error feedback into that; and each of these with the op's bias
corrected. The one whose outputs change least on held-out inputs wins, so that no step is kept that only suits
the samples it was fitted to.
"""

import math
from typing import Any

import attrs
import numpy as np
from milpasses_kernels._threads import one_blas_thread
from numpy.typing import NDArray

from milpasses.calibration.matrices import Layout, layout_of
from milpasses.calibration.outputs import Loss, correct, difference, output_error
from milpasses.calibration.sources import Inputs
from milpasses.data.moments import Moments
from milpasses.encoding.encoder import Encoder
from milpasses.encoding.encodings import Encoding, Sparse
from milpasses.errors import Refusal
from milpasses.program.weights import Weight
from milpasses.recipe.schemes import Joint, Palettize, Prune, Quantize, Scheme
from milpasses.report import decibels

Array = NDArray[Any]
_DAMPING = 0.01
_FEEDBACK = ("gptq", "obs", "tune")  # tuning begins with what gptq gives
_TRIED = 256  # outputs
_ROWS = 256  # of a second moment that are looked at together
_CLEARLY = 0.95  # of the error: means of few samples differ by chance, and biases of all layers add up
_CONFIRMED = 0.95  # a share of the correlations that needs no shrinking


@attrs.frozen(eq=False)
class Calibrated:
    """The encoding that won, the method that made it, and its output error on the validation inputs.

    ``output_sqnr_db``: 10 log10 of E|W x|^2 / E|(W - W') x|^2, over the outputs, less what ``bias`` takes up:
    the op's bias corrected for the encoding, where that won.
    """

    encoding: Encoding
    method: str
    output_sqnr_db: float
    notes: tuple[Refusal, ...]
    bias: Array | None = None


def feedback_method(scheme: Scheme) -> str:
    """``gptq``, ``obs``, ``tune``, or two: what a second moment is needed for; empty where it is not."""
    parts = (scheme.first, scheme.second) if isinstance(scheme, Joint) else (scheme,)
    return " + ".join(part.method for part in parts if getattr(part, "method", "") in _FEEDBACK)  # pyright: ignore


def plain_method(scheme: Scheme) -> str:
    """The method by which a scheme encodes without statistics."""
    parts = (scheme.first, scheme.second) if isinstance(scheme, Joint) else (scheme,)
    return " + ".join(_plain(part) for part in parts)


def _plain(scheme: Scheme) -> str:
    if isinstance(scheme, Quantize):
        return "minmax" if scheme.method == "minmax" else "search"
    if isinstance(scheme, Palettize):
        return scheme.mode
    return "magnitude" if isinstance(scheme, Prune) else scheme.kind


def can_calibrate(scheme: Scheme) -> bool:
    """Statistics can improve what the scheme makes: it is not bound to given grids or values."""
    if isinstance(scheme, Joint):
        return can_calibrate(scheme.first) or can_calibrate(scheme.second)
    if isinstance(scheme, Quantize):
        return scheme.method != "minmax"
    if isinstance(scheme, Palettize):
        return scheme.mode == "kmeans"
    return isinstance(scheme, Prune) and scheme.method == "obs"


@one_blas_thread()
def encode_calibrated(
    encoder: Encoder[Weight],
    value: Array,
    scheme: Scheme,
    inputs: Inputs,
    bias: Array | Refusal | None = None,
) -> Calibrated:
    """The best encoding of ``value`` for the outputs; raises ``Refusal`` as ``Encoder.encode``.

    ``bias``: of the op, float16 or float32 (outputs,), where it may be corrected for what the weight loses;
    a refusal says why it may not.
    """
    weight = encoder.weight
    layout = layout_of(weight, inputs.fit)
    consumer = weight.product
    assert consumer is not None
    notes: list[Refusal] = []
    if _few(inputs.fit, layout):
        notes.append(Refusal("few-rows", rows=inputs.fit.rows, width=layout.width))
    method = plain_method(scheme)
    plain = encoder.encode(value, scheme)
    candidates = [(method, plain)]
    importance = layout.spread(_importance(inputs.fit))
    weighing = attrs.evolve(encoder, importance=importance, notes=[])
    weighted = weighing.encode(value, scheme)
    candidates.append((f"weighted {method}", weighted))
    asked = feedback_method(scheme)
    if asked or (inputs.feedback and not isinstance(weighted, Sparse)):
        feeding = _Feeding(weighing, value, scheme, layout, notes if asked else [])
        candidates += feeding.encodings(weighted, inputs)
    correctable = np.zeros(layout.outputs, np.float32) if isinstance(bias, Refusal) else bias
    validation = inputs.validation
    validated: list[_Candidate] = []
    corrected: list[_Candidate] = []
    for name, encoding in candidates:
        change = difference(value, encoding.decode(), validation, consumer, weight.name)
        loss = Loss.of(change, validation)
        validated.append(_Candidate(loss.error, name, encoding))
        correction = None if correctable is None else correct(correctable, change, loss, inputs)
        if correction is not None:
            corrected.append(_Candidate(correction.error, f"{name} + bias", encoding, correction.bias))
    best = min(validated, key=_error)  # of equals the first
    if corrected and (with_bias := min(corrected, key=_error)).error < _CLEARLY * best.error:
        if isinstance(bias, Refusal):
            notes.append(Refusal("bias-not-corrected", reason=str(bias)))
        else:
            best = with_bias
    if inputs.held_out is None and inputs.fit.rows > 1:
        notes.append(Refusal("nothing-held-out"))
    signal = output_error(value, np.zeros_like(value), validation, consumer, weight.name)
    sqnr = decibels(signal, best.error) if signal > 0 else math.inf
    return Calibrated(best.encoding, best.method, sqnr, tuple(notes), best.bias)


@attrs.frozen(eq=False)
class _Candidate:
    """An encoding and its output error, with the bias that belongs to it."""

    error: float
    method: str
    encoding: Encoding
    bias: Array | None = None


def _error(candidate: _Candidate) -> float:
    return candidate.error


def _few(moments: Moments, layout: Layout) -> bool:
    """Fewer rows than inputs cannot span them; one row stands for moments of unknown scale."""
    return 1 < moments.rows < layout.width


def _importance(moments: Moments) -> Array:
    """E[x^2] of each input, a little for inputs that were always zero, scaled to a mean of 1."""
    squares = moments.square_sum / moments.rows
    mean = squares.mean()
    if mean <= 0:
        return np.ones_like(squares, np.float32)
    return (squares / mean + _DAMPING).astype(np.float32)


@attrs.frozen(eq=False)
class _Feeding:
    """Error feedback for one weight; ``notes`` takes why it could not be."""

    encoder: Encoder[Weight]
    value: Array
    scheme: Scheme
    layout: Layout
    notes: list[Refusal]

    def encodings(self, weighted: Encoding, inputs: Inputs) -> list[tuple[str, Encoding]]:
        """Feedback into ``weighted`` by each second moment that is worth trying."""
        if inputs.fit.gram is None:
            self.notes.append(Refusal("no-full-moment"))
            return []
        encodings: list[tuple[str, Encoding]] = []
        few = _few(inputs.fit, self.layout)
        # Held-out rows tell how far few rows can be trusted; without them ten times the damping stands in.
        damping = 10 * _DAMPING if few and inputs.held_out is None else _DAMPING
        for note, gram in self._grams(weighted, inputs, few, damping):
            try:
                encoding, used = self._fed(weighted, gram, damping)
            except Refusal as refusal:
                self.notes.append(refusal)
                break
            damped = "" if used == _DAMPING else f", damping {used:g}"
            encodings.append(((feedback_method(self.scheme) or "gptq") + note + damped, encoding))
        return encodings

    def _grams(
        self, weighted: Encoding, inputs: Inputs, few: bool, damping: float
    ) -> list[tuple[str, Array]]:
        """What ``_grams`` gives; for a large weight the one that is better for some of its outputs."""
        from milpasses.calibration.feedback import feedback_error

        grams = _grams(inputs, few)
        if len(grams) == 1 or self.layout.outputs < 4 * _TRIED or isinstance(self.scheme, Joint):
            return grams
        assert inputs.held_out is not None
        assert inputs.held_out.gram is not None
        known, held_out = (weighted, self.value, self.layout), inputs.held_out.gram
        try:
            errors = [feedback_error(*known, gram, damping, held_out, _TRIED) for _, gram in grams]
        except Refusal:
            return grams
        return [grams[int(np.argmin(errors))]]

    def _fed(self, weighted: Encoding, gram: Array, damping: float) -> tuple[Encoding, float]:
        """Of a joint form first the floats under the mask: tables and scales are for what they become."""
        from milpasses_kernels.sparsity import gather

        from milpasses.calibration.feedback import feed_back

        if isinstance(self.scheme, Joint) and isinstance(weighted, Sparse):
            floats = Sparse(weighted.mask, gather(self.value, weighted.mask))
            made_up = feed_back(floats, self.value, self.layout, gram, damping)[0].decode()
            weighted = self.encoder.fill(weighted.mask, made_up, self.scheme.second)
        return feed_back(weighted, self.value, self.layout, gram, damping)


def _grams(inputs: Inputs, few: bool) -> list[tuple[str, Array]]:
    """The second moment as it is, where rows abound, and shrunk, where held-out rows do not confirm it."""
    assert inputs.fit.gram is not None
    plain = ("", inputs.fit.gram)
    if inputs.held_out is None or inputs.held_out.gram is None:
        return [plain]
    share, shrunk = _shrunk(inputs.fit.gram, inputs.held_out.gram)
    if share >= _CONFIRMED:
        return [plain]
    return [*([] if few else [plain]), (", shrunk", shrunk)]


def _shrunk(gram: Array, held_out: Array) -> tuple[float, Array]:
    """What share of its correlations the held-out rows confirm, and ``gram`` with that share of them.

    Correlations found in few rows are partly noise, which feedback would fit. The share that predicts those
    of the held-out rows best is the regression of the ones on the others (a shrinkage towards the diagonal,
    as Ledoit and Wolf's, 2004, with the share measured).
    """
    both = own = 0.0
    for first, second in zip(gram, held_out, strict=True):
        scale = np.sqrt(np.maximum(np.diagonal(first), np.finfo(np.float64).tiny))
        inverse = np.where(np.diagonal(first) > 0, 1 / scale, 0)
        ratio = np.trace(first) / max(np.trace(second), np.finfo(np.float64).tiny)
        for start in range(0, len(first), _ROWS):  # some rows at a time: no second matrix is made
            rows = slice(start, start + _ROWS)
            a, b = (inverse[rows, None] * part[rows] * inverse for part in (first, second))
            a[np.arange(len(a)), np.arange(start, start + len(a))] = 0
            own += float(np.vdot(a, a))
            both += float(np.vdot(a, b)) * ratio
    share = min(max(both / own, 0.0), 1.0) if own > 0 else 1.0
    shrunk = share * gram
    diagonal = np.arange(gram.shape[-1])
    shrunk[:, diagonal, diagonal] = gram[:, diagonal, diagonal]
    return share, shrunk

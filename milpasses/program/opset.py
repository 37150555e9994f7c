"""What a deployment target has: the forms that its ops can hold. The only place that knows targets by number.

A new target is one entry of ``OPSETS``.
"""

from collections.abc import Iterable

import attrs

from milpasses.encoding.generation import IOS16, IOS18, OpGeneration
from milpasses.errors import TargetError
from milpasses.recipe.schemes import Joint, Palettize, Quantize, Scheme


@attrs.frozen
class Opset:
    """The ops of a deployment target (``"iOS18"``); ``version`` is that of the specification (9).

    ``constexpr``: the generation of its ops for compressed weights, None where it has none.
    ``integer_bits``: bits of affine codes. ``blocks``: a scale for each block; ``table_groups``: a look-up
    table for each group of channels; ``vectors``: look-up tables of vectors; ``joint``: two forms on one
    weight; ``activations``: 8-bit ``quantize`` and ``dequantize`` ops.
    """

    name: str
    version: int
    constexpr: OpGeneration | None = None
    integer_bits: tuple[int, ...] = ()
    blocks: bool = False
    table_groups: bool = False
    vectors: bool = False
    joint: bool = False
    activations: bool = False

    @property
    def lut_bits(self) -> tuple[int, ...]:
        """Bits of an index into a look-up table."""
        return () if self.constexpr is None else self.constexpr.lut_bits

    @property
    def generation(self) -> OpGeneration:
        """The generation of its ops for compressed weights; ``TargetError`` where it has none."""
        if self.constexpr is None:
            raise TargetError(_no_weights(self))
        return self.constexpr

    def missing(self, scheme: Scheme) -> str | None:
        """What in ``scheme`` the target has no op for, in coremltools' words; None if it has all."""
        if self.constexpr is None:
            return "compressed weights"
        if isinstance(scheme, Joint):
            return None if self.joint else "joint compression"
        if isinstance(scheme, Quantize):
            if scheme.granularity == "per_block" and not self.blocks:
                return "per_block quantization"
            return None if scheme.nbits in self.integer_bits else f"{scheme.nbits}-bit quantization"
        if isinstance(scheme, Palettize):
            return self._missing_tables(scheme)
        return None

    def _missing_tables(self, scheme: Palettize) -> str | None:
        if scheme.granularity == "per_grouped_channel" and not self.table_groups:
            return "per_grouped_channel palettization"
        if scheme.cluster_dim > 1 and not self.vectors:
            return "vector palettization"
        if scheme.nbits is not None and scheme.nbits not in self.lut_bits:
            return f"{scheme.nbits}-bit palettization"
        if scheme.enable_per_channel_scale and not self.table_groups:
            return "per-channel-scale palettization"
        return None


OPSETS = (
    Opset("iOS13", 4),
    Opset("iOS14", 5),
    Opset("iOS15", 6),
    Opset("iOS16", 7, IOS16, integer_bits=(8,)),
    Opset("iOS17", 8, IOS16, integer_bits=(8,), activations=True),
    Opset(
        "iOS18", 9, IOS18, integer_bits=(4, 8), blocks=True, table_groups=True, vectors=True, joint=True,
        activations=True,
    ),
    Opset(
        "iOS26", 10, IOS18, integer_bits=(4, 8), blocks=True, table_groups=True, vectors=True, joint=True,
        activations=True,
    ),
)  # fmt: skip


def opset_of(version: int, name: str = "") -> Opset:
    """The opset of a specification's version, or of a ``ct.target``.

    One that is newer than all known ones has at least what the newest has; it goes by ``name``.
    """
    version = int(version)
    known = next((opset for opset in OPSETS if opset.version == version), None)
    if known is not None:
        return known
    if version > OPSETS[-1].version:
        newest = OPSETS[-1]
        return attrs.evolve(newest, name=name or f"newer than {newest.name}", version=version)
    return Opset(name or "unknown", version)


def lowest_opset(schemes: Iterable[Scheme]) -> Opset:
    """The oldest opset that has everything that ``schemes`` need."""
    wanted = list(schemes)
    return next(opset for opset in OPSETS if opset.constexpr and not any(map(opset.missing, wanted)))


def compressible(opset: Opset) -> Opset:
    """``opset``; where it is older than all with ops for compressed weights, the oldest of those."""
    oldest = lowest_opset(())
    return oldest if opset.constexpr is None and opset.version < oldest.version else opset


def raised_note(old: Opset, new: Opset) -> str:
    """What is said of a model that was raised unasked, to hold compressed weights."""
    return f"raised from {old.name} to {new.name}: {old.name} has no compressed weights"


def check_target(scheme: Scheme, opset: Opset, weight: str) -> None:
    """Raise ``TargetError`` if ``opset`` has no op for ``scheme``, which ``weight`` is to get."""
    if opset.constexpr is None:
        raise TargetError(_no_weights(opset))
    need = opset.missing(scheme)
    if need:
        since = lowest_opset([scheme]).name
        raise TargetError(
            f"{weight}: The {need} is {supported_since(since)}, or pass "
            f"minimum_deployment_target=ct.target.{since} to milpasses; the recipe asks for {scheme} and "
            f"this model targets {opset.name}"
        )


def activations_since() -> Opset:
    """The oldest opset that has 8-bit activations."""
    return next(opset for opset in OPSETS if opset.activations)


def check_activations(opset: Opset) -> None:
    """Raise ``TargetError`` if ``opset`` has no 8-bit activations."""
    if not opset.activations:
        since = activations_since().name
        raise TargetError(
            f"8-bit activations are {supported_since(since)}, or pass "
            f"minimum_deployment_target=ct.target.{since} to milpasses; this model targets {opset.name}"
        )


def supported_since(target: str) -> str:
    """The words of coremltools' own error, which people search for."""
    return (
        f"supported since {target}. Please re-convert your model with minimum_deployment_target set to at "
        f"least ct.target.{target}"
    )


def _no_weights(opset: Opset) -> str:
    return (
        f"compressed weights need an ML Program for iOS16 or later, and this one targets {opset.name}: "
        "pass minimum_deployment_target=ct.target.iOS16 or later (iOS18 has every form), and leave "
        'convert_to at its default "mlprogram"'
    )

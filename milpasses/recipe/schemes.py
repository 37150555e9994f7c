"""Schemes: what a weight becomes. Frozen, checked when made, with a text form that reads back."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar, cast

import attrs

from milpasses.recipe.errors import RecipeError, check_names, comma, wrong
from milpasses.recipe.fields import block_sizes, dtype_of, flag, number, one_of, optional, ratio, whole
from milpasses.recipe.text import read_terms, value_text, write_short

S = TypeVar("S", bound="Scheme")

LUT_BITS = (1, 2, 3, 4, 6, 8)


class Scheme:
    """What a weight becomes: Quantize, Palettize, Prune, Half, Keep, or two joined by ``+``.

    Fields have coremltools' names and meaning, and take text where they take a value (``"4"``, ``"true"``).
    Weights of ``weight_threshold`` elements or fewer are left alone. ``str`` gives the fields that differ
    from their defaults, ``palettize(nbits=4, granularity=per_grouped_channel, group_size=16)``, and never
    raises. Raises RecipeError for a field, or fields together, that cannot be.
    """

    __slots__ = ()
    kind: ClassVar[str]
    weight_threshold: int

    @staticmethod
    def parse(text: str) -> "Scheme":
        """Read a scheme from its text form or a short name; see ``short_name``."""
        schemes = [_kind(kind).from_fields(fields) for kind, fields in read_terms(text)]
        return _joined(schemes)

    @staticmethod
    def of(value: object) -> "Scheme":
        """Read a scheme from what stands for one.

        That is a scheme, its text form, a short name, or a mapping of kind to fields, as YAML has them:
        ``{"palettize": {"nbits": 4}}``; two kinds join.
        """
        if isinstance(value, Scheme):
            return value
        if isinstance(value, str):
            return Scheme.parse(value)
        if not isinstance(value, Mapping) or not value:
            expected = "a scheme, its text form, a short name or a mapping of kind to fields"
            raise wrong("scheme", expected, cast(object, value))
        schemes: list[Scheme] = []
        for kind, fields in cast(Mapping[object, object], value).items():
            if not isinstance(fields, Mapping | None):
                raise wrong(str(kind), "a mapping of its fields", fields)
            schemes.append(_kind(kind).from_fields(cast(Mapping[str, object], fields or {})))
        return _joined(schemes)

    @classmethod
    def from_fields(cls: type[S], fields: Mapping[str, Any]) -> S:
        """Make a scheme from named fields, typed or as text; an unknown name lists what is accepted."""
        check_names(cls.kind, fields, (field.name for field in attrs.fields(cls) if field.init))
        return cls(**fields)

    def to_text(self) -> str:
        """Return the text form, which ``parse`` reads back; RecipeError where a function has none."""
        for name, value in self._stated().items():
            if callable(value):
                raise RecipeError(f"{self.kind}: {name} is a Python function: it has no text form")
        return str(self)

    def _stated(self) -> dict[str, object]:
        """The fields that the text form states: those that differ from their defaults."""
        values = ((field, getattr(self, field.name)) for field in attrs.fields(type(self)) if field.init)
        return {field.name: value for field, value in values if value != field.default}

    def __str__(self) -> str:
        return (
            f"{self.kind}({comma(f'{name}={value_text(value)}' for name, value in self._stated().items())})"
        )

    def __add__(self, other: object) -> "Joint":
        return Joint(self, other) if isinstance(other, Scheme) else NotImplemented


def _threshold() -> Any:
    return attrs.field(default=2048, converter=whole("weight_threshold", 0))


def _function(value: object) -> Callable[..., Any]:
    if not callable(value):
        raise wrong("lut_function", "a Python function (it has no text form)", value)
    return value


@attrs.frozen
class Quantize(Scheme):
    """Integers on an affine grid: ``w = scale * (q - zero_point)``.

    ``block_size`` goes with ``per_block``: one size, along the input channels, or a size for each axis, 0 for
    the whole of it. ``method="search"`` finds the scales of least squared error, ``"minmax"`` takes
    coremltools' own; ``"gptq"``, which needs statistics, chooses the codes so that outputs change least;
    ``"tune"``, which needs data, goes on from there by gradients (``milpasses.tune``).
    """

    kind: ClassVar[str] = "quantize"

    dtype: Literal["int8", "uint8", "int4", "uint4"] = attrs.field(
        default="int8", converter=dtype_of("dtype", "int8", "uint8", "int4", "uint4")
    )
    mode: Literal["linear_symmetric", "linear"] = attrs.field(
        default="linear_symmetric", converter=one_of("mode", "linear_symmetric", "linear")
    )
    granularity: Literal["per_channel", "per_tensor", "per_block"] = attrs.field(
        default="per_channel", converter=one_of("granularity", "per_channel", "per_tensor", "per_block")
    )
    block_size: int | tuple[int, ...] = attrs.field(default=32, converter=block_sizes("block_size"))
    method: Literal["search", "minmax", "gptq", "tune"] = attrs.field(
        default="search", converter=one_of("method", "search", "minmax", "gptq", "tune")
    )
    weight_threshold: int = _threshold()

    def __attrs_post_init__(self) -> None:
        if self.block_size != 32 and self.granularity != "per_block":
            raise RecipeError(f"block_size: only with granularity=per_block, not {self.granularity}")

    @property
    def nbits(self) -> int:
        """Bits of a stored integer."""
        return int(self.dtype[-1])

    @property
    def signed(self) -> bool:
        """Whether the stored integers have a sign."""
        return not self.dtype.startswith("u")

    @property
    def symmetric(self) -> bool:
        """Whether the grid is symmetric around zero."""
        return self.mode == "linear_symmetric"

    def _stated(self) -> dict[str, object]:
        return {"dtype": self.dtype} | super()._stated()


@attrs.frozen
class Palettize(Scheme):
    """Codes into a lookup table of ``2**nbits`` entries, each a weight, or ``cluster_dim`` of them.

    ``nbits`` counts the bits of a code. ``mode="custom"`` calls ``lut_function(weight) -> (lut, indices)``
    for each group, as coremltools does, and ``nbits`` follows from the table. ``group_size`` goes with
    ``per_grouped_channel``; so does ``channel_axis``, which is also the axis of vectors. ``method="gptq"``,
    which needs statistics and ``mode=kmeans``, chooses codes and tables so that outputs change least;
    ``"tune"``, which needs data, goes on from there by gradients (``milpasses.tune``).
    """

    kind: ClassVar[str] = "palettize"

    nbits: int | None = attrs.field(default=None, converter=optional(whole("nbits")))
    mode: Literal["kmeans", "uniform", "unique", "custom"] = attrs.field(
        default="kmeans", converter=one_of("mode", "kmeans", "uniform", "unique", "custom")
    )
    granularity: Literal["per_tensor", "per_grouped_channel"] = attrs.field(
        default="per_tensor", converter=one_of("granularity", "per_tensor", "per_grouped_channel")
    )
    group_size: int = attrs.field(default=32, converter=whole("group_size", 1))
    channel_axis: int | None = attrs.field(default=None, converter=optional(whole("channel_axis")))
    cluster_dim: int = attrs.field(default=1, converter=whole("cluster_dim", 1))
    enable_per_channel_scale: bool = attrs.field(default=False, converter=flag("enable_per_channel_scale"))
    lut_function: Callable[..., Any] | None = attrs.field(default=None, converter=optional(_function))
    method: Literal["plain", "gptq", "tune"] = attrs.field(
        default="plain", converter=one_of("method", "plain", "gptq", "tune")
    )
    weight_threshold: int = _threshold()

    def __attrs_post_init__(self) -> None:
        self._check_table()
        grouped = self.granularity == "per_grouped_channel"
        if self.cluster_dim > 1 and self.mode not in ("kmeans", "unique"):
            raise RecipeError(
                f"cluster_dim: {self.cluster_dim} goes only with mode=kmeans or unique, not {self.mode}"
            )
        if self.method != "plain" and self.mode != "kmeans":
            raise RecipeError(f"method: {self.method} goes only with mode=kmeans, not {self.mode}")
        if self.group_size != 32 and not grouped:
            raise RecipeError(
                f"group_size: only with granularity=per_grouped_channel, not {self.granularity}"
            )
        if self.channel_axis is not None and not grouped and self.cluster_dim == 1:
            raise RecipeError("channel_axis: only with granularity=per_grouped_channel or cluster_dim > 1")

    def _check_table(self) -> None:
        """Check what fills the table, and how large it is."""
        if self.nbits is not None and self.nbits not in LUT_BITS:
            raise RecipeError(
                f"nbits: Core ML has lookup tables of 1, 2, 3, 4, 6 and 8 bits, not {self.nbits}"
            )
        if self.nbits is None and self.mode in ("kmeans", "uniform"):
            raise RecipeError(f"nbits: mode={self.mode} needs one of {comma(LUT_BITS)}, none given")
        if self.nbits is not None and self.mode in ("unique", "custom"):
            raise RecipeError(f"nbits: mode={self.mode} finds it, give none, not {self.nbits}")
        if self.lut_function is None and self.mode == "custom":
            raise RecipeError("lut_function: mode=custom needs a function, none given")
        if self.lut_function is not None and self.mode != "custom":
            raise RecipeError(f"lut_function: only with mode=custom, not {self.mode}")


@attrs.frozen
class Prune(Scheme):
    """Zeros, and a bit mask that says where: exactly one of three ways to choose them.

    ``target_sparsity``: that share, the smallest magnitudes (of blocks of ``block_size`` along ``dim``, if
    given). ``threshold``: magnitudes up to it, if at least ``minimum_sparsity_percentile`` (a share, 0 to 1)
    of the weight ends up zero. ``n_m_ratio``: the n smallest of every m along ``dim``. ``dim`` is 0 for
    blocks and 1 for n:m unless given, None where there is neither. ``method="obs"``, which needs statistics,
    prunes what the outputs miss least, and lets the other weights make up for it.
    """

    kind: ClassVar[str] = "prune"

    target_sparsity: float | None = attrs.field(
        default=None, converter=optional(number("target_sparsity", 1))
    )
    threshold: float | None = attrs.field(default=None, converter=optional(number("threshold")))
    minimum_sparsity_percentile: float = attrs.field(
        default=0.5, converter=number("minimum_sparsity_percentile", 1)
    )
    n_m_ratio: tuple[int, int] | None = attrs.field(default=None, converter=optional(ratio("n_m_ratio")))
    block_size: int | None = attrs.field(default=None, converter=optional(whole("block_size", 2)))
    dim: int | None = attrs.field(default=None, converter=optional(whole("dim")))
    method: Literal["magnitude", "obs"] = attrs.field(
        default="magnitude", converter=one_of("method", "magnitude", "obs")
    )
    weight_threshold: int = _threshold()

    def __attrs_post_init__(self) -> None:
        ways = ("target_sparsity", "threshold", "n_m_ratio")
        chosen = [way for way in ways if getattr(self, way) is not None]
        if len(chosen) != 1:
            raise RecipeError(
                f"prune: give exactly one of {comma(ways)}, not {' and '.join(chosen) or 'none'}"
            )
        if self.block_size is not None and self.target_sparsity is None:
            raise RecipeError(f"block_size: only with target_sparsity, not {chosen[0]}")
        if self.minimum_sparsity_percentile != 0.5 and self.threshold is None:
            raise RecipeError(f"minimum_sparsity_percentile: only with threshold, not {chosen[0]}")
        if self.dim not in (None, 0, 1):
            raise wrong("dim", "0 or 1", self.dim)
        if self.dim is not None and self._usual_dim is None:
            raise RecipeError("dim: only with block_size or n_m_ratio")
        if self.dim is None:
            object.__setattr__(self, "dim", self._usual_dim)

    @property
    def _usual_dim(self) -> int | None:
        if self.n_m_ratio is not None:
            return 1
        return None if self.block_size is None else 0

    def _stated(self) -> dict[str, object]:
        stated = super()._stated()
        if self.dim == self._usual_dim:
            stated.pop("dim", None)
        return stated


@attrs.frozen
class Half(Scheme):
    """Float32 stored as float16, which the op casts back: half of the bytes, and float32 in the arithmetic.

    A weight that float16 cannot hold is refused: values past its range, or a relative error of the whole
    weight above 2^-11, which is what rounding a value in float16's normal range costs at most. It is for
    programs with float32 weights (``compute_precision=FLOAT32``).
    """

    kind: ClassVar[str] = "half"

    weight_threshold: int = attrs.field(default=0, converter=whole("weight_threshold", 0))


@attrs.frozen
class Keep(Scheme):
    """The weight stays as it is."""

    kind: ClassVar[str] = "keep"

    weight_threshold: int = attrs.field(default=0, init=False, repr=False)


def _larger(joint: Any) -> int:
    for part in (joint.first, joint.second):
        if not isinstance(part, Scheme):
            raise wrong("joint", "two schemes", part)
    return max(joint.first.weight_threshold, joint.second.weight_threshold)


@attrs.frozen
class Joint(Scheme):
    """Two schemes on one weight, made by ``first + second``; ``weight_threshold`` is the larger of theirs.

    ``Prune + Palettize`` and ``Prune + Quantize`` store the codes of the non-zeros; ``Palettize + Quantize``
    stores the entries of the lookup table as 8-bit integers with one scale a table.
    """

    kind: ClassVar[str] = "joint"

    first: Scheme
    second: Scheme
    weight_threshold: int = attrs.field(
        init=False, repr=False, default=attrs.Factory(_larger, takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        pairs = ((Prune, Palettize), (Prune, Quantize), (Palettize, Quantize))
        if (type(self.first), type(self.second)) not in pairs:
            allowed = comma(f"{first.kind} + {second.kind}" for first, second in pairs)
            raise RecipeError(f"cannot join {self.first.kind} + {self.second.kind}; allowed: {allowed}")
        table = self.second if isinstance(self.first, Palettize) else None
        if isinstance(table, Quantize) and (table.nbits != 8 or table.granularity != "per_tensor"):
            raise RecipeError(
                "palettize + quantize: the lookup table's entries take dtype=int8 or uint8 and "
                f"granularity=per_tensor, not {table.dtype} and {table.granularity}"
            )

    def to_text(self) -> str:
        """Return the text form, which ``parse`` reads back; RecipeError where a function has none."""
        return f"{self.first.to_text()} + {self.second.to_text()}"

    def __str__(self) -> str:
        return f"{self.first} + {self.second}"


def short_name(scheme: Scheme) -> str | None:
    """Return the short name of a scheme (``pal4-g16``), None where there is none that says all of it.

    The grammar: ``int8 | uint8 | int4 | uint4`` with ``-b<N>``, ``-tensor``, ``-asym``, ``-minmax``,
    ``-gptq``, ``-tune``; ``pal<bits> | unique`` with ``-g<N>``, ``-v<D>``, ``-uniform``, ``-gptq``,
    ``-tune``; ``sparse<percent>``, ``sparse<n>of<m>`` with ``-obs``; ``half``; ``keep``; two joined by ``+``.
    After a palettize ``int8`` is per tensor.
    """
    parts = (scheme.first, scheme.second) if isinstance(scheme, Joint) else (scheme,)
    name = "+".join(write_short(part.kind, attrs.asdict(part)) for part in parts)
    if isinstance(parts[0], Palettize):
        name = name.replace("-tensor", "")
    try:
        return name if Scheme.parse(name) == scheme else None
    except RecipeError:
        return None  # a block of several sizes has no short name


def scheme_text(scheme: Scheme) -> str:
    """The shortest text that reads back: the short name, else the text form (which may raise RecipeError)."""
    return short_name(scheme) or scheme.to_text()


def scheme_words(scheme: Scheme) -> str:
    """The shortest text for people to read: as ``scheme_text``, but never raises."""
    return short_name(scheme) or str(scheme)


_KINDS: dict[str, type[Scheme]] = {cls.kind: cls for cls in (Quantize, Palettize, Prune, Half, Keep)}


def _kind(name: object) -> type[Scheme]:
    kind = str(name).lower()
    check_names("scheme", [kind], _KINDS)
    return _KINDS[kind]


def _joined(schemes: list[Scheme]) -> Scheme:
    result, *others = schemes
    for scheme in others:
        result = result + scheme
    return result

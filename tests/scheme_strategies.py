"""Hypothesis strategies that draw any scheme there can be."""

from hypothesis import strategies as st

from milpasses.recipe import Half, Joint, Keep, Palettize, Prune, Quantize

thresholds = st.sampled_from([0, 2048, 4096]) | st.integers(0, 10**9)
sizes = st.integers(0, 512) | st.lists(st.integers(0, 512), min_size=2, max_size=5).map(tuple)
shares = st.floats(0, 1) | st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def quantizes(draw: st.DrawFn, **fixed: object) -> Quantize:
    granularity = fixed.pop("granularity", None) or draw(
        st.sampled_from(["per_channel", "per_tensor", "per_block"])
    )
    fields = {
        "dtype": draw(st.sampled_from(["int8", "uint8", "int4", "uint4"])),
        "mode": draw(st.sampled_from(["linear_symmetric", "linear"])),
        "method": draw(st.sampled_from(["search", "minmax"])),
        "block_size": draw(sizes) if granularity == "per_block" else 32,
        "weight_threshold": draw(thresholds),
    }
    return Quantize(granularity=granularity, **(fields | fixed))


@st.composite
def palettizes(draw: st.DrawFn) -> Palettize:
    mode = draw(st.sampled_from(["kmeans", "uniform", "unique"]))
    grouped = draw(st.booleans())
    vector = draw(st.integers(1, 4)) if mode == "kmeans" else 1
    return Palettize(
        nbits=None if mode == "unique" else draw(st.sampled_from([1, 2, 3, 4, 6, 8])),
        mode=mode,
        granularity="per_grouped_channel" if grouped else "per_tensor",
        group_size=draw(st.integers(1, 256)) if grouped else 32,
        channel_axis=draw(st.none() | st.integers(-4, 4)) if grouped or vector > 1 else None,
        cluster_dim=vector,
        enable_per_channel_scale=draw(st.booleans()),
        weight_threshold=draw(thresholds),
    )


@st.composite
def prunes(draw: st.DrawFn) -> Prune:
    way = draw(st.sampled_from(["target_sparsity", "threshold", "n_m_ratio"]))
    fields: dict[str, object] = {"weight_threshold": draw(thresholds)}
    if way == "threshold":
        fields |= {"threshold": draw(st.floats(0, 1e30)), "minimum_sparsity_percentile": draw(shares)}
    elif way == "n_m_ratio":
        m = draw(st.integers(1, 64))
        fields |= {"n_m_ratio": (draw(st.integers(0, m)), m), "dim": draw(st.sampled_from([None, 0, 1]))}
    else:
        block = draw(st.none() | st.integers(2, 64))
        fields |= {"target_sparsity": draw(shares), "block_size": block}
        fields["dim"] = draw(st.sampled_from([None, 0, 1])) if block else None
    return Prune(**fields)


tables = quantizes(granularity="per_tensor", dtype="int8") | quantizes(
    granularity="per_tensor", dtype="uint8"
)
joints = (
    st.builds(Joint, prunes(), palettizes())
    | st.builds(Joint, prunes(), quantizes())
    | st.builds(Joint, palettizes(), tables)
)
schemes = (
    quantizes()
    | palettizes()
    | prunes()
    | joints
    | st.just(Keep())
    | st.builds(Half, weight_threshold=thresholds)
)

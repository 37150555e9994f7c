"""Random recipes as text: every short name, fields, two joined, rules, the rest."""

from typing import Any

import numpy as np

Rng = np.random.Generator


def _quantize(rng: Rng, new: bool) -> str:
    bits = "48" if new else "8"
    name = f"{rng.choice(['', 'u'])}int{rng.choice(list(bits))}"
    if rng.random() < 0.15:
        name += "-tensor"
    elif new and rng.random() < 0.5:
        name += f"-b{rng.choice([1, 2, 4, 5, 8, 16, 32])}"
    name += str(rng.choice(["", "", "-asym"]))
    return name + str(rng.choice(["", "", "", "-minmax"]))


def _palettize(rng: Rng, new: bool) -> str:
    if rng.random() < 0.1:
        return "unique"
    bits = rng.choice([1, 2, 3, 4, 6, 8] if new else [1, 2, 4, 6, 8])
    if new and rng.random() < 0.1:
        return f"palettize(nbits={bits}, enable_per_channel_scale=true)"
    if new and rng.random() < 0.1:
        axis, size = rng.choice([0, 1, -1]), rng.choice([1, 2, 8])
        groups = f"granularity=per_grouped_channel, group_size={size}, channel_axis={axis}"
        return f"palettize(nbits={bits}, {groups})"
    name = f"pal{bits}"
    if new and rng.random() < 0.4:
        name += f"-g{rng.choice([1, 2, 4, 5, 8, 16, 32])}"
    if rng.random() < 0.15:
        return name + "-uniform"
    if new and rng.random() < 0.2:
        name += f"-v{rng.choice([2, 3, 4])}"
    return name


def _prune(rng: Rng) -> str:
    way = rng.random()
    if way < 0.5:
        return f"sparse{rng.choice([1, 25, 50, 75, 90, 99])}"
    if way < 0.7:
        return str(rng.choice(["sparse2of4", "sparse1of2", "sparse3of4", "sparse1of3"]))
    if way < 0.85:
        return f"prune(threshold={rng.choice([1e-3, 0.05, 1.0])}, minimum_sparsity_percentile=0)"
    return f"prune(target_sparsity=0.5, block_size={rng.choice([2, 4])}, dim={rng.choice([0, 1])})"


def random_scheme(rng: Rng, new: bool) -> str:
    """The text of a scheme; ``new``: of those that need iOS18, too."""
    way = rng.random()
    if way < 0.3:
        return _quantize(rng, new)
    if way < 0.6:
        return _palettize(rng, new)
    if way < 0.75 or not new:
        return _prune(rng) if rng.random() < 0.8 else str(rng.choice(["half", "keep"]))
    if way < 0.95:
        joined = rng.random()
        if joined < 0.35:
            return f"{_prune(rng)} + {_palettize(rng, new)}"
        if joined < 0.7:
            return f"{_prune(rng)} + {_quantize(rng, new)}"
        return f"{_palettize(rng, new)} + {rng.choice(['int8', 'uint8', 'int8-asym', 'uint8-asym'])}"
    return str(rng.choice(["half", "keep"]))


def calibrated_recipe(rng: Rng, typed: bool) -> str:
    """The text of a recipe that is fitted to data: error feedback of each kind, or weighted by what flows in.

    Biases stay, of which there would be no record to compare.
    """
    way = rng.random()
    if way < 0.4:
        scheme = f"pal{rng.choice([1, 2, 4, 6])}"
        scheme += f"-g{rng.choice([1, 4, 8])}" if typed and rng.random() < 0.5 else ""
        scheme += "-gptq" if rng.random() < 0.8 else ""
    elif way < 0.7:
        scheme = f"int{rng.choice([4, 8]) if typed else 8}"
        scheme += f"-b{rng.choice([2, 8, 32])}" if typed and rng.random() < 0.5 else ""
        scheme += str(rng.choice(["", "-asym"])) + ("-gptq" if rng.random() < 0.8 else "")
    elif way < 0.9 or not typed:
        scheme = f"sparse{rng.choice([25, 50, 90])}-obs"
    else:
        scheme = f"sparse50-obs+{rng.choice(['pal4-gptq', 'int8-gptq', 'pal2'])}"
    return f"{scheme}; rank=1 min_elements=0 -> keep; min_elements=0 -> {scheme}"


_CONDITIONS = (
    "op_type=conv", "op_type=linear", "op_type=linear,matmul", "op_type=gather", "rank=4", "min_rank=3",
    "max_elements=300", "min_channels=16", "min_input_channels=8", "name=*weight*", "name=const_*",
    "op_name=dense*", "op_name=block.0*", "param=weight_ih",
)  # fmt: skip


def random_recipe(rng: Rng, typed: bool) -> str:
    """The text of a recipe for a target that has the ops of iOS18 (``typed``), or not.

    Mostly for small weights as well, and sometimes for what the target does not have.
    """
    new = bool(rng.random() < (0.97 if typed else 0.05))
    default = random_scheme(rng, new)
    parts = [default]
    parts += [
        f"{rng.choice(_CONDITIONS)} min_elements=0 -> {random_scheme(rng, new)}"
        for _ in range(int(rng.choice([0, 0, 1, 2, 3])))
    ]
    if rng.random() < 0.9:
        parts.append(f"min_elements=0 -> {default}")
    if rng.random() < 0.12:
        parts.append("scope=all")
    if rng.random() < 0.25:
        parts.append("rest=half")
    return "; ".join(parts)


def drop_in_config(rng: Rng, typed: bool) -> tuple[str, Any]:
    """The name of one of coremltools' functions, and a config for it."""
    from coremltools.optimize import coreml as cto

    way = int(rng.integers(3))
    if way == 0:
        granularity = str(rng.choice(["per_tensor", "per_channel"] + ["per_block"] * typed))
        dtype = str(rng.choice(["int8", "uint8"] + ["int4", "uint4"] * typed))
        mode = str(rng.choice(["linear", "linear_symmetric"]))
        config: Any = cto.OpLinearQuantizerConfig(
            mode=mode,
            dtype=dtype,
            granularity=granularity,
            block_size=int(rng.choice([2, 4, 8])),
            weight_threshold=0,
        )
        return "linear_quantize_weights", cto.OptimizationConfig(config)
    if way == 1:
        grouped = typed and rng.random() < 0.5
        config = cto.OpPalettizerConfig(
            nbits=int(rng.choice([1, 2, 4, 6, 8])),
            mode=str(rng.choice(["kmeans", "uniform"])),
            granularity="per_grouped_channel" if grouped else "per_tensor",
            group_size=int(rng.choice([1, 2, 4])),
            enable_per_channel_scale=bool(typed and rng.random() < 0.3),
            weight_threshold=0,
        )
        return "palettize_weights", cto.OptimizationConfig(config)
    sparsity = float(rng.choice([0.3, 0.5, 0.9]))
    config = cto.OpMagnitudePrunerConfig(target_sparsity=sparsity, weight_threshold=0)
    return "prune_weights", cto.OptimizationConfig(config)

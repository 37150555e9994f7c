"""The page of short names: how one is built, and the form that it becomes in a model."""

from typing import Any

from milpasses_tools import digits

import milpasses as mp

# In the order of a reader who starts with what is safe. All of them are tried on the digits network.
NAMES = (
    *("int8", "uint8", "int8-tensor", "int8-asym", "int4", "int4-b32", "int4-b32-gptq"),
    *("pal8", "pal6", "pal4", "pal3", "pal2", "pal1", "pal4-g16", "pal4-g16-gptq", "pal4-v2", "pal4-uniform"),
    *("unique", "sparse50", "sparse50-obs", "sparse2of4", "sparse50+int8", "sparse50+pal4", "pal4+int8"),
    *("half", "keep"),
)

HEAD = """\
# Short names

A short name is a kind, its size, and suffixes, joined by `+` where two kinds share a weight:

| piece | says | pieces |
| --- | --- | --- |
| `int8` `uint8` `int4` `uint4` | integers with a scale | `-tensor` one scale in all, `-b32` one for 32 input channels, \
`-asym` a zero point too, `-minmax` coremltools' scales, `-gptq` fitted to data, `-tune` then learned |
| `pal4` | a look-up table (LUT) of 2^4 entries | `-g16` a table for each 16 channels, `-v2` entries of two weights, \
`-uniform` even steps, `-gptq` fitted to data, `-tune` then learned |
| `unique` | a table of exactly the values that are there | `-g16`, `-v2` as above |
| `sparse50` `sparse2of4` | 50 % zeros, or 2 of each 4 | `-obs` fitted to data |
| `half` | float32 stored as float16 | |
| `keep` | as it is | |
| `a8` | 8-bit activations, behind a name or alone | `-sym`, `-asym`, `-uint8` |

The report, `explain` and the pages name the **form** that came of it: what is stored in the model, in coremltools'
words. This table was made when the site was built, by compressing the digits network of `milpasses demo` with each name; bits a
weight count every stored byte (codes, tables, scales, masks), SQNR is that of the weights.

| short name | text form | form of the first linear | bits a weight | SQNR dB |
| --- | --- | --- | ---: | ---: |
"""


def row(name: str, model: Any, statistics: Any) -> str:
    """What ``name`` made of the first linear of the network."""
    recipe = mp.Recipe.of(name)
    small = mp.compress(model, recipe, statistics=statistics if name.endswith(("-gptq", "-obs")) else None)
    record = next(record for record in small.report if record.name.startswith("hidden_weight"))
    form = record.form if record.form else record.status
    quality = "" if record.sqnr_db is None else f"{record.sqnr_db:.1f}"
    bits = "" if record.bits_per_weight is None else f"{record.bits_per_weight:.2f}"
    return f"| `{name}` | `{recipe.default.to_text()}` | {form} | {bits} | {quality} |"


def page() -> str:
    """Markdown of the page."""
    model = digits.convert()
    samples = [{digits.INPUT: image[None]} for image in digits.load().images[:64]]
    statistics = mp.statistics(model, samples, full=True, held_out=16)
    return HEAD + "\n".join(row(name, model, statistics) for name in NAMES) + "\n"

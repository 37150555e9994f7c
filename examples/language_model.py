"""A language model.

It guesses the next character of Python's manual. 4 bits in blocks and 4-bit tables, with and without error
feedback, measured in bits a character on text that training never saw; less is better.
"""

from _networks import bits_a_character, letters_model, texts

import milpasses as mp

model = letters_model()
data = [{"tokens": tokens[:, :-1]} for tokens in texts(False, 48)]
statistics = mp.statistics(model, data, full=True, held_out=12)

costs = {"float16": bits_a_character(model)}
print(f"{'float16':16} 16.00 bits a weight, {costs['float16']:.3f} bits a character")
for recipe in ("int8", "pal3-g16", "pal3-g16-gptq"):
    small = mp.compress(model, f"{recipe}; op_type=gather -> int8", statistics=statistics)
    costs[recipe] = bits_a_character(small)
    print(
        f"{recipe:16} {small.report.bits_per_weight:.2f} bits a weight, {costs[recipe]:.3f} bits a character"
    )

assert costs["float16"] < 2.5
assert costs["int8"] < costs["float16"] + 0.02
assert costs["pal3-g16-gptq"] < costs["pal3-g16"]

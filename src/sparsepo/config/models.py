"""Sections of a config: where a model and its tokenizer come from."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sparsepo.config.base import Count, Dtype, Strict, refuse
from sparsepo.folders import check_model_folder


class TokenizerConfig(Strict):
    """A tokenizer trained on the task's corpus: `word` splits at white space, `bpe` is byte-level BPE."""

    kind: Literal["word", "bpe"] = "word"
    vocabulary: Count = 4096


class ScratchModel(Strict):
    """A model with random weights: `config` is a transformers config, `model_type` included, without vocab_size."""

    source: Literal["scratch"]
    config: dict[str, Any]
    tokenizer: TokenizerConfig = TokenizerConfig()
    seed: int = 0
    dtype: Dtype = "float32"

    @field_validator("config")
    @classmethod
    def _has_type(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(config.get("model_type"), str):
            refuse("a transformers config needs 'model_type', for example gpt2, llama or gpt_neox")
        return config


class HubModel(Strict):
    """A model of the Hugging Face hub; safetensors only, no remote code."""

    source: Literal["hub"]
    id: str
    revision: str = "main"
    dtype: Dtype = "float32"


class FolderModel(Strict):
    """A Hugging Face model folder on this machine."""

    source: Literal["folder"]
    path: Path
    dtype: Dtype = "float32"

    @field_validator("path")
    @classmethod
    def _is_model(cls, path: Path) -> Path:
        problem = check_model_folder(path)
        return refuse(problem) if problem else path


class GgufModel(Strict):
    """A GGUF file inside an installed Python package, de-quantised to `dtype`."""

    source: Literal["gguf"]
    package: str
    file: str = "*.gguf"
    dtype: Dtype = "float32"


ModelConfig = Annotated[ScratchModel | HubModel | FolderModel | GgufModel, Field(discriminator="source")]

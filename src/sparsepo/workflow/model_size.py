"""How large a model is, before it is loaded or downloaded: from its config, the headers of its files or its name."""

import re
from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from sparsepo.config.models import FolderModel, GgufModel, HubModel, ModelConfig, ScratchModel
from sparsepo.data.readers import package_file
from sparsepo.runtime.atomic_folder import read_adapter_config, read_mapping
from sparsepo.runtime.errors import UserError

WIDTH_PER_LAYER = 100  # of a model of which only the parameters are known: 36 for GPT-2 large, 128 for Llama 7B


class ModelSize(NamedTuple):
    """Numbers of a decoder: parameters, layers, their width, the vocabulary, and tokens of its context."""

    parameters: float
    layers: int
    width: int
    vocab_size: int
    context: int


def model_size(model: ModelConfig, parameters: float | None = None) -> ModelSize | None:
    """How large the model of a task is at most; None where neither its files, its config nor its name say it.

    `parameters` are those that the task's config gives, for a model whose files are not at hand.
    """
    if isinstance(model, FolderModel):
        base = _base_of(model.path)
        if size := _in_folder(base):
            return size
        parameters = parameters or (None if base == model.path else number_in(base.name))
    if isinstance(model, ScratchModel) and (size := _of_config(model.config, model.tokenizer.vocab_size)):
        return size
    if isinstance(model, HubModel):
        parameters = parameters or number_in(model.id.split("/")[-1])
    if isinstance(model, GgufModel):
        parameters = parameters or _in_package(model.package, model.file)
    return typical_size(parameters) if parameters else None


def _base_of(folder: Path) -> Path:
    """The folder of a model, or what the adapter in it names as its base, a folder or a hub id."""
    try:
        return Path(read_adapter_config(folder)["base_model_name_or_path"])
    except UserError:
        return folder


def typical_size(parameters: float) -> ModelSize:
    """A decoder with so many parameters, 12 layers width^2 of them in its blocks."""
    layers = max(1, round((parameters / (12 * WIDTH_PER_LAYER**2)) ** (1 / 3)))
    return ModelSize(parameters, layers, WIDTH_PER_LAYER * layers, 50_304 if parameters < 2e9 else 128_256, 1_000_000)


def _of_config(config: Mapping[str, Any], vocab_size: int) -> ModelSize | None:
    """What a transformers config makes at most, as if each layer had a gate and keys and values for each head.

    None where it leaves layers or width to transformers.
    """
    layers, width = _number(config, "n_layer", "num_hidden_layers"), _number(config, "n_embd", "hidden_size", "d_model")
    if not layers or not width:
        return None
    attention = max(width, (_number(config, "head_dim") or 0) * (_number(config, "num_attention_heads") or 1))
    inner = _number(config, "n_inner", "intermediate_size", "ffn_dim") or 4 * width
    parameters = layers * width * (4 * attention + 3 * inner) + 2 * vocab_size * width
    context = _number(config, "n_positions", "max_position_embeddings") or 2048
    return ModelSize(parameters, layers, width, vocab_size, context)


@cache
def _in_folder(folder: Path) -> ModelSize | None:
    """With the parameters that its safetensors files hold; None where they cannot be read."""
    parameters = 0
    try:
        config = read_mapping(folder / "config.json") or {}
        size = _of_config(config, _number(config, "vocab_size") or 1)
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "numpy") as file:
                parameters += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())
    except (OSError, ValueError, SafetensorError):
        return None
    return (size or typical_size(parameters))._replace(parameters=parameters) if parameters else None


@cache
def _in_package(package: str, pattern: str) -> float | None:
    """The parameters of a GGUF file by its name or its bytes; of one that is not installed, by its package's name."""
    try:
        path = package_file(package, pattern)
    except UserError:
        return number_in(package)
    return number_in(path.name) or path.stat().st_size * 2  # of 4 bits each, at most


def number_in(name: str) -> float | None:
    """The first number with a unit of millions or billions, as in pythia-1.4b; none in mixtures such as 8x7B."""
    match = re.search(r"(?<![\dx.])(\d+(?:\.\d+)?)([mb])(?![a-z])", name.lower())
    return float(match[1]) * {"m": 1e6, "b": 1e9}[match[2]] if match else None


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these settings that is a positive number; transformers says what is wrong with any other value."""
    return next((config[name] for name in names if type(config.get(name)) is int and config[name] > 0), None)

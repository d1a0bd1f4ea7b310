"""How large a model is, told before it is loaded: from its config, the headers of its files or its name."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sparsepo.config.models import FolderModel, GgufModel, HubModel, ModelConfig, ScratchModel
from sparsepo.data.readers import package_file
from sparsepo.runtime.errors import UserError

PLAIN = {"bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt", "phi", "starcoder2"}
"""Types of models whose feed-forward layers are two maps; those of all others have a third, the gate."""
UNTIED = {"codegen", "gpt_neox", "gptj", "llama", "mistral", "olmo", "olmo2", "phi", "phi3", "qwen2", "qwen3"}
"""Types whose output head is a map of its own unless their config says otherwise."""
LEARNED_POSITIONS = {"gpt2", "gpt_bigcode", "gpt_neo", "opt"}
ASPECT = 100
"""Width of a model over its layers where only its weights are known: it is 36 for GPT-2 large, 128 for Llama 7B."""


@dataclass(frozen=True)
class Shape:
    """Numbers of a decoder. `embeddings`: those of its `parameters` that are outside the blocks; `context`: tokens."""

    parameters: float
    embeddings: float
    layers: int
    width: int
    vocabulary: int
    context: int

    @property
    def blocks(self) -> float:
        """Weights that every token is multiplied by, the output head left out."""
        return self.parameters - self.embeddings


def shape_of(model: ModelConfig, parameters: float | None = None) -> Shape:
    """The shape of a task's model; `parameters`, where the config gives them, are believed.

    Nothing is downloaded or loaded. Raises UserError where neither a file nor a name says how many weights there are.
    """
    if isinstance(model, ScratchModel):
        found = _from_config(model.config, model.tokenizer.vocab_size)
        if found is not None:
            return found
    elif isinstance(model, FolderModel):
        return _from_folder(model.path)
    count = parameters or _named(model)
    if count is None:
        raise UserError(
            f"how large {_title(model)} is cannot be told from here, and memory and time of its jobs depend on it: "
            "give resources.parameters, its number of weights, as in 1.4e9"
        )
    return typical(count)


def typical(parameters: float) -> Shape:
    """A decoder of so many weights: 12 layers width^2 in its blocks, its width `ASPECT` times its layers."""
    layers = max(1, round((parameters / (12 * ASPECT**2)) ** (1 / 3)))
    vocabulary, width = 50_304 if parameters < 2e9 else 128_256, ASPECT * layers
    return Shape(parameters, min(vocabulary * width, parameters / 2), layers, width, vocabulary, 1_000_000)


def _from_config(config: Mapping[str, Any], vocabulary: int) -> Shape | None:
    """What a transformers config makes; None where it leaves layers or width to transformers."""
    kind = config.get("model_type", "")
    layers, width = _first(config, "n_layer", "num_hidden_layers"), _first(config, "n_embd", "hidden_size", "d_model")
    if not layers or not width:
        return None
    heads = _first(config, "n_head", "num_attention_heads") or 1
    own = 1 if kind == "gpt_bigcode" and config.get("multi_query", True) else _first(config, "num_key_value_heads")
    size = _first(config, "head_dim") or width / heads
    inner = _first(config, "n_inner", "intermediate_size", "ffn_dim") or 4 * width
    context = _first(config, "n_positions", "max_position_embeddings") or (1024 if kind in LEARNED_POSITIONS else 2048)
    block = 2 * width * size * (heads + (own or heads))  # queries and output, keys and values
    block += 2 * width * inner + 13 * width if kind in PLAIN else 3 * width * inner + 2 * width  # biases and norms too
    tied = config.get("tie_word_embeddings", kind not in UNTIED)
    outside = vocabulary * width * (1 if tied else 2) + context * width * (kind in LEARNED_POSITIONS)
    return Shape(layers * block + outside, outside, layers, width, vocabulary, context)


@cache
def _from_folder(folder: Path) -> Shape:
    """Counted from the headers of its safetensors files."""
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = [shape for path in sorted(folder.glob("*.safetensors")) for shape in tensor_shapes(path)]
        found = _from_config(config, _first(config, "vocab_size") or 1)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: its config.json or the header of its weights cannot be read ({error})") from None
    sizes = [_product(shape) for shape in tensors]
    if found is None:
        return typical(sum(sizes))
    outside = [size for size, shape in zip(sizes, tensors, strict=True) if shape[:1] == [found.vocabulary]]
    return Shape(sum(sizes), sum(outside), found.layers, found.width, found.vocabulary, found.context)


def tensor_shapes(path: Path) -> list[list[int]]:
    """The shapes of the tensors in a safetensors file. Raises ValueError for a file that is none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path.name} is cut or no safetensors file")
        header = json.loads(file.read(length))
    return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]


def _named(model: ModelConfig) -> float | None:
    """The number of weights that a model's name says, as in pythia-1.4b or Llama-3-8B."""
    if isinstance(model, HubModel):
        return number_in(model.id.rsplit("/", 1)[-1])
    return _of_package(model.package, model.file) if isinstance(model, GgufModel) else None


@cache
def _of_package(package: str, pattern: str) -> float | None:
    try:
        path = package_file(package, pattern)
    except UserError:
        return number_in(package)  # it may be installed where the jobs run
    return number_in(path.name) or path.stat().st_size * 2  # of 4 bits each, at most


def number_in(name: str) -> float | None:
    """The first number with a unit of millions or billions; mixtures such as 8x7B say something else."""
    found = re.search(r"(?<![\dx.])(\d+(?:\.\d+)?)([mb])(?![a-z])", name.lower())
    return float(found[1]) * {"m": 1e6, "b": 1e9}[found[2]] if found else None


def _title(model: ModelConfig) -> str:
    if isinstance(model, HubModel):
        return f"'{model.id}'"
    return (
        f"the model in package '{model.package}' (not installed here)"
        if isinstance(model, GgufModel)
        else "the model from scratch"
    )


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these settings that is a number; transformers says what is wrong with any other value."""
    return next((config[name] for name in names if type(config.get(name)) is int and config[name] > 0), None)


def _product(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size

"""Causal LMs and tokenizers, from a hub, a folder, a GGUF file in an installed package or scratch; and their parts."""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerFast

from sparsepo.data.readers import package_file
from sparsepo.models.trust import OPTIONS, announce, content, keywords, refusal
from sparsepo.runtime.atomic_folder import atomic_folder, check_model_folder
from sparsepo.runtime.errors import UserError, did_you_mean

UNLOADABLE = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError, EOFError),
    *(SafetensorError, StrictDataclassError, UnpicklingError),
)


# --- loading


def load_model(
    folder: str | Path,
    dtype: str = "float32",
    *,
    quantization: str = "none",
    compute: str = "float32",
    trust_remote_code: bool = False,
    pickled_weights: bool = False,
) -> Any:
    """A causal LM from a Hugging Face folder: on the accelerator if there is one, in eval mode, dropout off.

    quantization: `nf4` keeps the linear maps of the blocks in 4 bits, multiplied in the dtype `compute`. Code of the
    folder's own runs only with `trust_remote_code`, and is named in the log. Raises UserError when the folder holds no
    such model, or not all of its weights, or what is not allowed, or the library for 4 bits is not there.
    """
    folder = Path(folder)
    require_model_folder(folder, pickled_weights)
    settings = {"dtype": getattr(torch, dtype), "output_loading_info": True}
    settings |= keywords(pickled_weights=pickled_weights, trust_remote_code=trust_remote_code)
    try:
        if trust_remote_code:
            announce(folder, content(folder))
        if quantization != "none":
            settings["quantization_config"] = _four_bits(quantization, compute)
        model, info = AutoModelForCausalLM.from_pretrained(folder, **settings)
    except ImportError as error:
        raise UserError(f"quantization '{quantization}' cannot be used here ({_first_line(error)})") from None
    except UNLOADABLE as error:
        refused = refusal(folder, error, trust_remote_code)
        raise UserError(refused or f"{folder}: cannot be loaded as a causal LM ({_first_line(error)})") from None
    if info["missing_keys"]:
        lost = sorted(info["missing_keys"])
        raise UserError(f"{folder}: the weights lack {len(lost)} tensors that config.json asks for, {lost[0]} first")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return without_dropout(_kept_trainable(model)).eval().to(device)


def _four_bits(kind: str, compute: str) -> BitsAndBytesConfig:
    """As in QLoRA: 4 bits a weight, and the scales of each block of weights quantised once more."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute),
    )


def _kept_trainable(model: Any) -> Any:
    """On some CPUs bitsandbytes packs 4-bit weights anew at their first use in eval mode, with a product that has no
    gradient: training after it would go wrong in silence. Not so here."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer beside a model; a missing pad token becomes the end token (padding is masked by position)."""
    require_model_folder(Path(folder), pickled_weights=True)
    try:
        tokenizer = _tokenizer_class(Path(folder)).from_pretrained(folder, trust_remote_code=False)
    except UNLOADABLE as error:
        raise UserError(f"{folder}: no tokenizer that transformers can load ({_first_line(error)})") from None
    if not tokenizer("a b c", add_special_tokens=False)["input_ids"]:
        raise UserError(f"{folder}: no tokenizer files, or a tokenizer that encodes text to nothing")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: the tokenizer has no end-of-text token, which responses need")
    return _padding(tokenizer)


def _padding(tokenizer: Any) -> Any:
    """The tokenizer, padding with the end token if it has no token for it."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _tokenizer_class(folder: Path) -> Any:
    """AutoTokenizer, but for a generic fast tokenizer, which it would replace by that of the architecture."""
    try:
        named = json.loads((folder / "tokenizer_config.json").read_text()).get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        named = None
    generic = named in ("PreTrainedTokenizerFast", "TokenizersBackend") and (folder / "tokenizer.json").is_file()
    return PreTrainedTokenizerFast if generic else AutoTokenizer


def require_model_folder(folder: Path, pickled_weights: bool = False) -> None:
    """Raises UserError unless `folder` has a config.json and safetensors weights, or pickled ones where allowed."""
    problem = check_model_folder(folder, pickled_weights)
    if problem:
        raise UserError(problem)


def fetch_model(spec: dict[str, Any], corpus: list[str]) -> tuple[Any, Any]:
    """(model, tokenizer) of a config's `model` section; `corpus` trains the tokenizer of a model from scratch."""
    makers = {"hub": _from_hub, "folder": _from_folder, "gguf": _from_gguf}
    if spec["source"] == "scratch":
        model, tokenizer = _from_scratch(spec, corpus)
    else:
        model, tokenizer = makers[spec["source"]](spec)
    return without_dropout(model), _padding(tokenizer)


def _from_folder(spec: dict[str, Any]) -> tuple[Any, Any]:
    allowed = {option: spec[option] for option in OPTIONS}
    return load_model(spec["path"], spec["dtype"], **allowed), load_tokenizer(spec["path"])


def _from_hub(spec: dict[str, Any]) -> tuple[Any, Any]:
    name, trusted = spec["id"], spec["trust_remote_code"]
    settings = {"revision": spec["revision"], "dtype": getattr(torch, spec["dtype"])}
    settings |= keywords(**{option: spec[option] for option in OPTIONS})
    try:
        if trusted:
            announce(name, spec["revision"])
        return AutoModelForCausalLM.from_pretrained(name, **settings), fetch_tokenizer(spec)
    except UNLOADABLE as error:
        refused = refusal(name, error, trusted, spec["revision"])
        raise UserError(refused or f"model.id '{name}' cannot be loaded from the hub ({_first_line(error)})") from None


def _from_gguf(spec: dict[str, Any]) -> tuple[Any, Any]:
    """De-quantised to full precision; what marks the model as quantised is dropped so that it saves as a plain one."""
    path = package_file(spec["package"], spec["file"])
    dtype = getattr(torch, spec["dtype"])
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
    model.is_quantized, model.quantization_method = False, None  # else it is taken for one that cannot be trained
    return model, fetch_tokenizer(spec)


def fetch_tokenizer(spec: dict[str, Any]) -> Any:
    """The tokenizer alone of a model that has one already (hub, folder or gguf)."""
    if spec["source"] == "folder":
        return load_tokenizer(spec["path"])
    if spec["source"] == "gguf":
        path = package_file(spec["package"], spec["file"])
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    try:
        return AutoTokenizer.from_pretrained(spec["id"], revision=spec["revision"], trust_remote_code=False)
    except UNLOADABLE as error:
        raise UserError(f"model.id '{spec['id']}' cannot be loaded from the hub ({_first_line(error)})") from None


def _from_scratch(spec: dict[str, Any], corpus: list[str]) -> tuple[Any, Any]:
    tokenizer = train_tokenizer(corpus, spec["tokenizer"]["kind"], spec["tokenizer"]["vocab_size"])
    settings = {**spec["config"], "vocab_size": len(tokenizer)}
    ids = {f"{name}_token_id": tokenizer.eos_token_id for name in ("bos", "eos")}
    torch.manual_seed(spec["seed"])
    try:
        known = AutoConfig.for_model(settings["model_type"])
        unknown = [key for key in settings if key != "model_type" and not _is_setting(known, key)]
        if unknown:
            nearest = did_you_mean(unknown[0], known.to_dict())
            raise UserError(f"model.config has an unknown key '{unknown[0]}'; {nearest}")
        config = AutoConfig.for_model(**settings, **ids, pad_token_id=tokenizer.pad_token_id)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, spec["dtype"])), tokenizer
    except UNLOADABLE as error:
        raise UserError(f"model.config makes no causal LM of transformers ({_first_line(error)})") from None


def _is_setting(config: Any, key: str) -> bool:
    """Whether a key is a value of a config of transformers, not one of its methods."""
    return not key.startswith("_") and hasattr(config, key) and not callable(getattr(config, key))


def train_tokenizer(corpus: list[str], kind: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """`word`: one token a whitespace word; `bpe`: byte-level BPE. Both trained on `corpus`, deterministic."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<end>", "<pad>", "<unk>"]
    if kind == "word":
        backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    else:
        backend = Tokenizer(models.BPE(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    backend.train_from_iterator(corpus, trainer)
    names = {"bos_token": "<end>", "eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """A Hugging Face folder that `from_pretrained` loads anywhere."""
    with atomic_folder(folder) as place:
        model.save_pretrained(place, max_shard_size="1000GB")  # one file, which a workflow can name
        tokenizer.save_pretrained(place)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def without_dropout(model: Any) -> Any:
    """Turn dropout off for good, also where it is a plain number: policy and reference must agree at step 0."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def context_of(model: Any) -> int:
    """How many tokens the model can look at; a model without a limit says a million."""
    return getattr(model.config, "max_position_embeddings", None) or 1_000_000

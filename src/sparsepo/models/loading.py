"""Causal LMs and tokenizers: from a hub, a folder, a GGUF file in an installed package, or created from scratch."""

import json
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from sparsepo.data.chat import set_chat_template
from sparsepo.data.readers import package_file
from sparsepo.models.limits import NO_LIMIT, config_context_length
from sparsepo.models.trust import TRUST_OPTIONS, code_hashes, log_custom_code, trust_error, trust_kwargs
from sparsepo.runtime.atomic_folder import atomic_folder, check_model_folder
from sparsepo.runtime.errors import UserError, did_you_mean

LOADING_ERRORS = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError, EOFError),
    *(SafetensorError, StrictDataclassError, UnpicklingError),
)


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

    quantization: `nf4` keeps the linear maps of the blocks in 4 bits and multiplies in the dtype `compute`. The
    folder's own code runs only with `trust_remote_code`, and is named in the log. Raises UserError when the folder has
    no such model, or not all of its weights, or needs what is not allowed, or the library for 4 bits is missing.
    """
    folder = Path(folder)
    require_model_folder(folder, pickled_weights)
    settings = {"dtype": getattr(torch, dtype), "output_loading_info": True}
    settings |= trust_kwargs(pickled_weights=pickled_weights, trust_remote_code=trust_remote_code)
    try:
        if trust_remote_code:
            log_custom_code(folder, code_hashes(folder))
        if quantization != "none":
            settings["quantization_config"] = _quantization_config(quantization, compute)
        model, info = AutoModelForCausalLM.from_pretrained(folder, **settings)
    except ImportError as error:
        raise UserError(f"quantization '{quantization}' cannot be used here ({_first_line(error)})") from None
    except LOADING_ERRORS as error:
        refused = trust_error(folder, error, trust_remote_code)
        raise UserError(refused or f"{folder}: cannot be loaded as a causal LM ({_first_line(error)})") from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(f"{folder}: {len(missing)} tensors of the model of config.json are missing, {missing[0]} first")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return disable_dropout(_keep_trainable(model)).eval().to(device)


def _quantization_config(kind: str, compute: str) -> BitsAndBytesConfig:
    """As in QLoRA: 4 bits a weight, and double quantisation of the scales."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute),
    )


def _keep_trainable(model: Any) -> Any:
    """On some CPUs bitsandbytes repacks 4-bit weights at their first use in eval mode, for a product without gradient,
    and training after it would be wrong without an error. This turns it off."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer beside a model; a missing pad token becomes the end token (padding is masked by position).

    Raises UserError for a folder without a tokenizer, or one that has no end token.
    """
    require_model_folder(Path(folder), pickled_weights=True)
    try:
        tokenizer = _tokenizer_class(Path(folder)).from_pretrained(folder, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise UserError(f"{folder}: no tokenizer that transformers can load ({_first_line(error)})") from None
    if not tokenizer("a b c", add_special_tokens=False)["input_ids"]:
        raise UserError(f"{folder}: no tokenizer files, or a tokenizer that encodes text to nothing")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: the tokenizer has no end-of-text token, which responses need")
    return _set_pad_token(tokenizer)


def text_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer itself, or that of a processor of texts and images."""
    return tokenizer.tokenizer if isinstance(tokenizer, ProcessorMixin) else tokenizer


def _set_pad_token(tokenizer: Any) -> Any:
    """The tokenizer, with the end token as pad token if it has none."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _tokenizer_class(folder: Path) -> Any:
    """AutoTokenizer, except for a generic fast tokenizer, which AutoTokenizer would replace by the architecture's."""
    try:
        named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        named = None
    generic = named in ("PreTrainedTokenizerFast", "TokenizersBackend") and (folder / "tokenizer.json").is_file()
    return PreTrainedTokenizerFast if generic else AutoTokenizer


def require_model_folder(folder: Path, pickled_weights: bool = False) -> None:
    """Raises UserError unless the folder has a config.json and safetensors weights, or pickled ones where allowed."""
    problem = check_model_folder(folder, pickled_weights)
    if problem:
        raise UserError(problem)


def fetch_model(spec: dict[str, Any], corpus: list[str]) -> tuple[Any, Any]:
    """(model, tokenizer) of a config's `model` section; `corpus` trains the tokenizer of a model from scratch."""
    loaders = {"hub": _from_hub, "folder": _from_folder, "gguf": _from_gguf}
    if spec["source"] == "scratch":
        model, tokenizer = _from_scratch(spec, corpus)
    else:
        model, tokenizer = loaders[spec["source"]](spec)
    return disable_dropout(model), set_chat_template(_set_pad_token(tokenizer), spec.get("chat_template", "auto"))


def _from_folder(spec: dict[str, Any]) -> tuple[Any, Any]:
    trust = {option: spec[option] for option in TRUST_OPTIONS}
    return load_model(spec["path"], spec["dtype"], **trust), load_tokenizer(spec["path"])


def _from_hub(spec: dict[str, Any]) -> tuple[Any, Any]:
    name, trusted = spec["id"], spec["trust_remote_code"]
    settings = {"revision": spec["revision"], "dtype": getattr(torch, spec["dtype"])}
    settings |= trust_kwargs(**{option: spec[option] for option in TRUST_OPTIONS})
    try:
        if trusted:
            log_custom_code(name, spec["revision"])
        return AutoModelForCausalLM.from_pretrained(name, **settings), fetch_tokenizer(spec)
    except LOADING_ERRORS as error:
        refused = trust_error(name, error, trusted, spec["revision"])
        raise UserError(refused or f"model.id '{name}' cannot be loaded from the hub ({_first_line(error)})") from None


def _from_gguf(spec: dict[str, Any]) -> tuple[Any, Any]:
    """Dequantised to full precision; the marks of a quantised model are removed so that it saves as a plain one."""
    path = package_file(spec["package"], spec["file"])
    dtype = getattr(torch, spec["dtype"])
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
    model.is_quantized, model.quantization_method = False, None  # else transformers refuses to train it
    return model, fetch_tokenizer(spec)


def fetch_tokenizer(spec: dict[str, Any]) -> Any:
    """The tokenizer of a model of source hub, folder or gguf, with the chat template that the section names."""
    if spec["source"] == "folder":
        tokenizer = load_tokenizer(spec["path"])
    elif spec["source"] == "gguf":
        path = package_file(spec["package"], spec["file"])
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(spec["id"], revision=spec["revision"], trust_remote_code=False)
        except LOADING_ERRORS as error:
            raise UserError(f"model.id '{spec['id']}' cannot be loaded from the hub ({_first_line(error)})") from None
    return set_chat_template(tokenizer, spec.get("chat_template", "auto"))


def spec_context_length(spec: dict[str, Any]) -> int:
    """How many tokens the model of a config's `model` section can read at once; none of its code is run."""
    config = spec_config(spec)
    return NO_LIMIT if config is None else config_context_length(config)


def spec_config(spec: dict[str, Any]) -> Any:
    """The config of the text part of a config's `model` section; None if it cannot be had: loading tells why."""
    try:
        if spec["source"] == "folder":
            return folder_config(spec["path"])
        if spec["source"] == "scratch":
            config = AutoConfig.for_model(**spec["config"])
        elif spec["source"] == "gguf":
            path = package_file(spec["package"], spec["file"])
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        else:
            config = AutoConfig.from_pretrained(spec["id"], revision=spec["revision"], trust_remote_code=False)
    except LOADING_ERRORS:
        return None
    return config.get_text_config(decoder=True)


def folder_config(folder: str | Path) -> Any:
    """The config of the text part of the model in a folder, by its config.json; its own code is not run for that."""
    raw = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    if raw.get("model_type") in CONFIG_MAPPING:
        return AutoConfig.for_model(**raw).get_text_config(decoder=True)
    return SimpleNamespace(**raw.get("text_config", raw))


def folder_context_length(folder: str | Path) -> int:
    """How many tokens the model in a folder can read at once."""
    return config_context_length(folder_config(folder))


def _from_scratch(spec: dict[str, Any], corpus: list[str]) -> tuple[Any, Any]:
    tokenizer = train_tokenizer(corpus, spec["tokenizer"]["kind"], spec["tokenizer"]["vocab_size"])
    settings = {**spec["config"], "vocab_size": len(tokenizer)}
    ids = {f"{name}_token_id": tokenizer.eos_token_id for name in ("bos", "eos")}
    torch.manual_seed(spec["seed"])
    try:
        known = AutoConfig.for_model(settings["model_type"])
        unknown = [key for key in settings if key != "model_type" and not _is_setting(known, key)]
        if unknown:
            hint = did_you_mean(unknown[0], known.to_dict())
            raise UserError(f"model.config has an unknown key '{unknown[0]}'; {hint}")
        config = AutoConfig.for_model(**settings, **ids, pad_token_id=tokenizer.pad_token_id)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, spec["dtype"])), tokenizer
    except LOADING_ERRORS as error:
        raise UserError(f"model.config is no valid causal LM of transformers ({_first_line(error)})") from None


def _is_setting(config: Any, key: str) -> bool:
    """Whether a key is a value of a transformers config, not one of its methods."""
    return not key.startswith("_") and hasattr(config, key) and not callable(getattr(config, key))


def train_tokenizer(corpus: list[str], kind: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """`word`: one token for each word between spaces; `bpe`: byte-level BPE. Trained on `corpus`, deterministic."""
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
    """Write a Hugging Face folder that `from_pretrained` can load."""
    with atomic_folder(folder) as place:
        model.save_pretrained(place, max_shard_size="1000GB")  # one file, which a workflow can name
        tokenizer.save_pretrained(place)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def disable_dropout(model: Any) -> Any:
    """Set all dropout to 0, also where it is a plain number: policy and reference must agree at step 0."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model

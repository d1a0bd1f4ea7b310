"""Causal LMs and tokenizers: from a hub, a folder, a GGUF file in an installed package, or created from scratch."""

import warnings
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
from sparsepo.models.adapter_folder import AdapterBase, read_base, read_tensors
from sparsepo.models.limits import NO_LIMIT, config_context_length
from sparsepo.models.trust import TRUST_OPTIONS, code_hashes, log_custom_code, trust_error, trust_kwargs
from sparsepo.runtime.atomic_folder import atomic_folder, check_model_folder, is_adapter_folder, read_mapping
from sparsepo.runtime.errors import UserError, did_you_mean, one_line
from sparsepo.runtime.files import check_folder

START_NAME = "start"
"""Name of a loaded adapter that another one may be trained on."""
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "lm_head.weight", "embed_out.weight")
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

    quantization: `nf4` keeps the linear maps of the blocks in 4 bits and multiplies in the dtype `compute`; tensors are
    read and quantised one by one. The folder of an adapter gives its base with the adapter, see `_with_adapter`. The
    folder's own code runs only with `trust_remote_code`, and is named in the log. Raises UserError when the folder has
    no such model, or not all of its weights, or needs what is not allowed, or the library for 4 bits is missing.
    """
    folder = Path(folder)
    require_model_folder(folder, pickled_weights)
    trust = {"trust_remote_code": trust_remote_code, "pickled_weights": pickled_weights}
    if is_adapter_folder(folder):
        model = _with_adapter(folder, read_base(folder), dtype, quantization, compute, trust)
    else:
        model = _from_pretrained(folder, None, dtype, quantization, compute, trust)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return disable_dropout(model).eval().to(device)


def _from_pretrained(
    name: str | Path, revision: str | None, dtype: str, quantization: str, compute: str, trust: dict[str, bool]
) -> Any:
    """The causal LM of a folder, or of a hub id at a revision. Raises UserError, see `load_model`."""
    settings = {"dtype": getattr(torch, dtype), "output_loading_info": True, "revision": revision or "main"}
    settings |= trust_kwargs(**trust)
    try:
        if trust["trust_remote_code"]:
            log_custom_code(name, code_hashes(Path(name)) if Path(name).is_dir() else settings["revision"])
        if quantization != "none":
            settings["quantization_config"] = _quantization_config(quantization, compute)
        model, info = AutoModelForCausalLM.from_pretrained(name, **settings)
    except ImportError as error:
        raise UserError(f"quantization '{quantization}' cannot be used here ({_first_line(error)})") from None
    except LOADING_ERRORS as error:
        refused = trust_error(name, error, trust["trust_remote_code"], revision)
        raise UserError(refused or f"{name}: cannot be loaded as a causal LM ({_first_line(error)})") from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(f"{name}: {len(missing)} tensors of the model of config.json are missing, {missing[0]} first")
    if unused := sorted(info["unexpected_keys"]):
        first = one_line(unused[0], 100)
        print(f"warning: {name}: {len(unused)} tensors of its files are not in the model of config.json ({first})")
    return _keep_trainable(model)


def load_merged(folder: Path) -> Any:
    """The base of an adapter with the adapter merged into it, on the CPU, in the dtype of the base's own config.

    An adapter that was trained on 4-bit weights is merged into those of full precision. Raises UserError as
    `load_model`.
    """
    require_model_folder(folder)
    own = getattr(folder_config(folder), "dtype", None) or torch.float32
    dtype = str(own).removeprefix("torch.")
    base = read_base(folder)
    if base.quantization != "none":
        base = base._replace(dtype=dtype, quantization="none")
    trust = dict.fromkeys(TRUST_OPTIONS, False)
    return disable_dropout(_with_adapter(folder, base, dtype, "none", "float32", trust)).eval().cpu()


def _with_adapter(
    folder: Path, base: AdapterBase, dtype: str, quantization: str, compute: str, trust: dict[str, bool]
) -> Any:
    """The base of an adapter as it was loaded for its training, with the adapter.

    The adapter is merged in memory, in float32 at least, before the cast to `dtype`; on 4-bit weights it stays beside
    them as the frozen adapter `START_NAME`. `start_adapter` of the model is the folder: an adapter that is trained on
    top is saved together with this one.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError(f"{folder}: an adapter needs the library peft: pip install 'sparsepo[qlora]'") from None
    tensors = read_tensors(folder)
    bits = (quantization, compute) if base.quantization == "none" else (base.quantization, base.compute)
    model = _load_base(base, base.dtype or dtype, *bits, trust)
    rows = [value.shape[0] for name, value in tensors.items() if name.endswith(EMBEDDINGS)]
    if rows and rows[0] != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows[0], mean_resizing=False)
    plain, wanted = bits[0] == "none", getattr(torch, dtype)
    if plain:
        model.to(torch.promote_types(torch.promote_types(model.dtype, wanted), torch.float32))
    tied = getattr(model.config, "tie_word_embeddings", False)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Model has `tie_word_embeddings=True`|Input and output embeddings are no longer"
        )
        try:
            settings = {"adapter_name": START_NAME, "autocast_adapter_dtype": False}
            adapted = PeftModel.from_pretrained(model, str(folder), **settings)
        except LOADING_ERRORS as error:
            raise UserError(f"{folder}: peft cannot load this adapter on {base.name} ({_first_line(error)})") from None
        _check_all_loaded(adapted, tensors, folder, base)
        model = adapted.merge_and_unload().to(wanted) if plain else model
    if plain:
        if tied and torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            model.config.tie_word_embeddings = True  # peft makes two copies, and says that they are not tied
            model.tie_weights()
        vars(model).pop("peft_config", None)
        model.requires_grad_(True)
    elif rows:
        raise UserError(f"{folder}: trained embeddings on 4-bit weights cannot be loaded: merge the adapter first")
    else:
        model._hf_peft_config_loaded = True  # so that transformers adds a second adapter
    model.start_adapter = folder
    return model


def _load_base(base: AdapterBase, dtype: str, quantization: str, compute: str, trust: dict[str, bool]) -> Any:
    if base.is_folder:
        return load_model(base.name, dtype, quantization=quantization, compute=compute, **trust)
    return _from_pretrained(base.name, base.revision, dtype, quantization, compute, trust)


def _check_all_loaded(adapted: Any, tensors: dict[str, Any], folder: Path, base: AdapterBase) -> None:
    """peft only warns of tensors that the base has no place for, or that a file lacks."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(adapted, adapter_name=START_NAME, save_embedding_layers=False)
    wrong = sorted({name.removeprefix("base_model.model.") for name in state}.symmetric_difference(tensors))
    if wrong:
        raise UserError(f"{folder}: the adapter does not fit its base {base.name} ({wrong[0]})")


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
    if is_adapter_folder(Path(folder)) and not (Path(folder) / "tokenizer_config.json").is_file():
        base = read_base(Path(folder))
        return load_tokenizer(base.name) if base.is_folder else _set_pad_token(_hub_tokenizer(base.name, base.revision))
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
    named = (read_mapping(folder / "tokenizer_config.json") or {}).get("tokenizer_class")
    generic = named in ("PreTrainedTokenizerFast", "TokenizersBackend") and (folder / "tokenizer.json").is_file()
    return PreTrainedTokenizerFast if generic else AutoTokenizer


def require_model_folder(folder: Path, pickled_weights: bool = False) -> None:
    """Raises UserError unless the folder has a config.json and safetensors weights, or pickled ones where allowed.

    Files that have a checksum are compared with it.
    """
    check_folder(folder)
    problem = check_model_folder(folder, pickled_weights)
    if problem:
        raise UserError(problem)


def fetch_model(
    spec: dict[str, Any], corpus: list[str], quantization: str = "none", compute: str = "float32"
) -> tuple[Any, Any]:
    """(model, tokenizer) of a config's `model` section; `corpus` trains the tokenizer of a model from scratch.

    quantization, compute: see `load_model`; for the sources hub and folder only.
    """
    if spec["source"] == "scratch":
        model, tokenizer = _from_scratch(spec, corpus)
    elif spec["source"] == "gguf":
        model, tokenizer = _from_gguf(spec)
    else:
        load = _from_hub if spec["source"] == "hub" else _from_folder
        model, tokenizer = load(spec, quantization=quantization, compute=compute)
    return disable_dropout(model), set_chat_template(_set_pad_token(tokenizer), spec.get("chat_template", "auto"))


def _from_folder(spec: dict[str, Any], **bits: str) -> tuple[Any, Any]:
    trust = {option: spec[option] for option in TRUST_OPTIONS}
    return load_model(spec["path"], spec["dtype"], **bits, **trust), load_tokenizer(spec["path"])


def _from_hub(spec: dict[str, Any], **bits: str) -> tuple[Any, Any]:
    name, trust = spec["id"], {option: spec[option] for option in TRUST_OPTIONS}
    try:
        model = _from_pretrained(name, spec["revision"], spec["dtype"], trust=trust, **bits)
    except UserError as error:
        raise UserError(f"model.id {error}") from None
    if hasattr(model, "peft_config"):
        raise UserError(
            f"model.id {name} is an adapter: download it (hf download {name} --local-dir FOLDER), and write "
            "source: folder, path: FOLDER"
        )
    return model, fetch_tokenizer(spec)


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
        tokenizer = _hub_tokenizer(spec["id"], spec["revision"])
    return set_chat_template(tokenizer, spec.get("chat_template", "auto"))


def _hub_tokenizer(name: str, revision: str | None) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise UserError(f"model.id '{name}' cannot be loaded from the hub ({_first_line(error)})") from None


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
            return _hub_config(spec["id"], spec["revision"])
    except LOADING_ERRORS:
        return None
    return config.get_text_config(decoder=True)


def _hub_config(name: str, revision: str | None) -> Any:
    config = AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    return config.get_text_config(decoder=True)


def folder_config(folder: str | Path) -> Any:
    """The config of the text part of the model in a folder, by its config.json; its own code is not run for that."""
    if is_adapter_folder(Path(folder)):
        base = read_base(Path(folder))
        return folder_config(base.name) if base.is_folder else _hub_config(base.name, base.revision)
    raw = read_mapping(Path(folder) / "config.json") or {}
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

"""Chat templates as models have them, written out, and small tokenizers of each kind."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
LLAMA_2 = """\
{%- if messages[0].role == 'system' -%}
{%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}{%- set messages = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{- bos_token + '[INST] ' + (system if loop.first else '') + message.content + ' [/INST]' -}}
{%- else -%}{{- ' ' + message.content + ' ' + eos_token -}}{%- endif -%}
{%- endfor -%}
"""
LLAMA_3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""
GEMMA = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}
{{- message.content | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""
MISTRAL = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{- '[INST] ' + message.content + ' [/INST]' -}}
{%- elif message.role == 'assistant' -%}{{- message.content + eos_token -}}
{%- else -%}{{- raise_exception('Only user and assistant roles are supported!') -}}{%- endif -%}
{%- endfor -%}
"""
PHI = """\
{%- for message in messages -%}
{{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- else -%}{{- eos_token -}}{%- endif -%}
"""
QWEN_3 = """\
{%- if tools -%}{{- '<|im_start|>system\\n' + tools | tojson + '<|im_end|>\\n' -}}{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' and loop.last -%}
{{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}{{- '<tool_call>' + call | tojson + '</tool_call>' -}}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}
"""
ZEPHYR = """\
{%- for message in messages -%}
{{- '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' -}}
{%- if loop.last and add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
{%- endfor -%}
"""
WITH_GENERATION = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
{%- else -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""As ChatML, with the mark of what the assistant says."""

TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "llama 2": (LLAMA_2, "</s>"),
    "llama 3": (LLAMA_3, "<|eot_id|>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "mistral": (MISTRAL, "</s>"),
    "phi": (PHI, "<|end|>"),
    "qwen 3": (QWEN_3, "<|im_end|>"),
    "zephyr": (ZEPHYR, "</s>"),
}
"""Name -> (template, the token that ends a turn of the assistant)."""

SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"),
    *("<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
TEXTS = [
    "Hello world, how are you?",
    "The quick brown fox is fine. [INST] user assistant",
    "你好，世界！ 再见",
    "a\n\nb\tc  d",
] * 3
KINDS = (
    "byte-level BPE",
    "SentencePiece BPE",
    "SentencePiece BPE, dummy prefix",
    "SentencePiece of Llama 2",
    "Unigram",
    "WordPiece",
)
LOSSLESS = KINDS[:2] + KINDS[3:4]
"""Of these, the ids of a text decode to the text; Metaspace alone drops a space at the start of a text."""


@cache
def _backend(kind: str) -> Tokenizer:
    special = ["<unk>", "<s>", "</s>", *SPECIAL]
    if kind == "byte-level BPE":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "Unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    elif kind == "WordPiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        fused = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        strip = [] if kind == "SentencePiece BPE" else [decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(fused + strip)
        scheme = "never" if kind == "SentencePiece BPE" else "first"
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special + byte_tokens, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    if kind == "SentencePiece of Llama 2":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.pre_tokenizer = pre_tokenizers.Sequence([])
    return made


def make_tokenizer(kind: str, template: str | None = None, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of one of KINDS with <s> and </s>; with `adds_bos` it puts <s> in front of texts."""
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer.from_str(_backend(kind).to_str())
    if adds_bos:
        backend.post_processor = TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    made.chat_template = template
    return made


def save_instruct_model(folder, template: str = CHATML, end: str = "<|im_end|>"):
    """A tiny Llama with a chat template and two end tokens, </s> and `end`, as a folder; returns its tokenizer."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer("byte-level BPE", template)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(["</s>", end]))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer

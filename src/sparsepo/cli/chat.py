"""`sparsepo chat`: the answers of one or more policies to what a user types."""

from pathlib import Path
from typing import Any

from sparsepo.runtime.errors import UserError


def chat(folders: list[Path], max_new_tokens: int, seed: int) -> None:
    """Read prompts from stdin until its end; print the answer of each policy.

    A tokenizer with a chat template keeps the conversation, a policy its own; without one each prompt is continued.
    """
    import torch

    from sparsepo.data.chat import has_own_template
    from sparsepo.models.loading import load_model, load_tokenizer

    policies = [(load_model(folder), load_tokenizer(folder)) for folder in folders]
    conversations: list[list[dict[str, str]]] = [[] for _ in folders]
    torch.manual_seed(seed)
    while (prompt := read_prompt()) is not None:
        for folder, (model, tokenizer), messages in zip(folders, policies, conversations, strict=True):
            messages.append({"role": "user", "content": prompt})
            answer = continuation(model, tokenizer, messages, has_own_template(tokenizer), max_new_tokens)
            messages.append({"role": "assistant", "content": answer})
            print(f"[{folder}]\n{answer}\n", flush=True)


def read_prompt() -> str | None:
    """The next line that is not empty; None at the end of the input or after Ctrl-C."""
    try:
        while not (line := input("> ").strip()):
            pass
    except (EOFError, KeyboardInterrupt):
        print()
        return None
    return line


def continuation(model: Any, tokenizer: Any, messages: list[dict[str, str]], is_chat: bool, max_new_tokens: int) -> str:
    """A sampled answer to the last message. Raises UserError if it does not fit into the context of the model."""
    from sparsepo.models.limits import context_length

    if is_chat:
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    else:
        inputs = tokenizer(messages[-1]["content"], return_tensors="pt")
    ids = inputs["input_ids"].to(model.device)
    context = context_length(model)
    if ids.shape[1] + max_new_tokens > context:
        given = f"{ids.shape[1]} tokens of prompt and {max_new_tokens} new ones"
        raise UserError(f"{given} are more than the context of the model, {context}; start again, or --max-new-tokens")
    mask = ids.new_ones(ids.shape)
    tokens = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)

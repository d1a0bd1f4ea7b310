"""Text classifiers of transformers, which scorers and NLI models are."""

from typing import Any

from sparsepo.errors import UserError


def load_classifier(name: str, role: str) -> tuple[Any, Any]:
    """Tokenizer and model of a hub id or folder; `role` is what to call it in a message.

    Raises UserError if they cannot be loaded, or for weights without a classification head: transformers would only
    warn and draw one.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, loading = AutoModelForSequenceClassification.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{role} '{name}' cannot be loaded: {reason}") from None
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"]))
        raise UserError(f"{role} '{name}' is no trained classifier: it lacks {missing}")
    if tokenizer.pad_token is None:  # as on a GPT or Llama; the mask hides the pads
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model

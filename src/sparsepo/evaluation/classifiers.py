"""Text classifiers of transformers, which scorers and NLI models are."""

from typing import Any

from sparsepo.errors import UserError


def load_classifier(name: str, role: str, pickled_weights: bool = False) -> tuple[Any, Any]:
    """Tokenizer and model of a hub id or folder; `role` is what to call it in a message.

    Code of the model's own never runs, and pickled weights are refused unless allowed. Raises UserError if they cannot
    be loaded, or for weights without a classification head: transformers would only warn and draw one.
    """
    from pickle import UnpicklingError

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from sparsepo.trust import keywords, refusal

    settings = keywords(pickled_weights=pickled_weights) | {"output_loading_info": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, loading = AutoModelForSequenceClassification.from_pretrained(name, **settings)
    except (OSError, ValueError, UnpicklingError) as error:
        reason = refusal(name, error, trusted=True) or str(error).split("\n")[0]
        unless = "" if pickled_weights else "; pickled weights are refused unless the config says pickled_weights: true"
        raise UserError(f"{role} '{name}' cannot be loaded: {reason}{unless}") from None
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"]))
        raise UserError(f"{role} '{name}' is no trained classifier: it lacks {missing}")
    if tokenizer.pad_token is None:  # as on a GPT or Llama; the mask hides the pads
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model

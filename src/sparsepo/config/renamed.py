"""Keys of a config that had another name in earlier versions."""

from collections.abc import Collection

RENAMED = {
    "also": "extra_scorers",
    "epochs": "num_train_epochs",
    "fewshot": "num_fewshot",
    "initial_zeros": "init_sparsity",
    "keep": "checkpoint_selection",
    "key_variable": "api_key_env",
    "kinds": "activation_sites",
    "mean": "target_mean",
    "opening": "prompt_tokens",
    "parallel": "max_concurrency",
    "processes": "num_processes",
    "quantise": "quantization",
    "schedule": "lr_scheduler_type",
    "size": "scale",
    "targets": "target_modules",
    "vocabulary": "vocab_size",
    "warmup": "warmup_ratio",
    "wins": "win_rate",
}
"""Former name -> name."""


def renamed_key_error(key: str, allowed: Collection[str]) -> str | None:
    """The error message for a former name of one of the `allowed` keys; None for any other key."""
    new = RENAMED.get(key)
    return f"'{key}' is now called '{new}': write {new} instead" if new in allowed else None

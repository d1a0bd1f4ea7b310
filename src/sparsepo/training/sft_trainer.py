"""Supervised fine-tuning: next-token loss on the response part of each document."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsepo.config.training import SftConfig
from sparsepo.data.collation import encode_prompt, encode_response
from sparsepo.data.records import Text
from sparsepo.models import adapters
from sparsepo.models.architecture import checkpoint_blocks
from sparsepo.models.loading import context_of
from sparsepo.runtime.errors import UserError
from sparsepo.training.base_trainer import ResumableTrainer

IGNORED = -100  # what transformers' loss skips


class SFTTrainer(ResumableTrainer):
    """Train `model` on documents; the loss is the mean over all target tokens of a batch (transformers' own).

    With `config.adapter` an adapter is added to the model, whose own weights are frozen.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        corpus: Sequence[Text],
        *,
        config: SftConfig,
        folder: str | Path,
        seed: int = 0,
        identity: str = "",
    ):
        limit = min(config.max_tokens, context_of(model))
        rows = [row for row in (encode_document(tokenizer, text, limit) for text in corpus) if row is not None]
        print(f"{len(rows)} of {len(corpus)} documents have tokens to learn within {limit} tokens", flush=True)
        if len(rows) < config.batch_size:
            raise UserError(
                f"the SFT corpus has {len(rows)} usable documents, fewer than sft.batch_size {config.batch_size}"
            )
        self.tokenizer = tokenizer
        if config.adapter is not None:
            torch.manual_seed(seed)
            adapters.add(model, config.adapter)
        if config.gradient_checkpointing:
            checkpoint_blocks(model)
        batches = Documents(tokenizer.pad_token_id, config.micro_batch_size)
        super().__init__(model, rows, batches, config, folder=folder, seed=seed, identity=identity)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the losses of a micro-batch's target tokens."""
        given = {name: inputs[name] for name in ("input_ids", "labels", "attention_mask")}
        loss = super().compute_loss(model, given, num_items_in_batch=1)
        return loss if self.model_accepts_loss_kwargs else loss * inputs["targets"]  # without them it is a mean

    def save(self, folder: str | Path) -> None:
        """The model as a Hugging Face folder; an adapter is merged into plain weights, see `adapters.save`."""
        if self.gather():
            adapters.save(self.model, self.tokenizer, folder)


@dataclass(frozen=True)
class Documents:
    """Batches of (ids, length of the prompt in them), cut into `size` documents each; target tokens are counted."""

    pad: int
    size: int | None

    def cut(self, rows: Sequence[tuple[list[int], int]]) -> list[Sequence[tuple[list[int], int]]]:
        size = self.size or max(1, len(rows))
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def collate(self, rows: Sequence[tuple[list[int], int]]) -> dict[str, Any]:
        tokens = sum(len(ids) for ids, _ in rows)
        return {**collate(rows, self.pad), "tokens": tokens, "targets": self.count(rows)}

    def count(self, rows: Sequence[tuple[list[int], int]]) -> int:
        return sum(len(ids) - max(prompt, 1) for ids, prompt in rows)


def encode_document(tokenizer: Any, text: Text, limit: int) -> tuple[list[int], int] | None:
    """(ids, length of the prompt in them), cut at `limit`; None when nothing is left to learn."""
    prompt = encode_prompt(tokenizer, text.prompt) if text.prompt else []
    ids = (prompt + encode_response(tokenizer, text.text, ended=True))[:limit]
    return (ids, len(prompt)) if len(ids) > max(len(prompt), 1) else None


def collate(batch: Sequence[tuple[list[int], int]], pad_id: int) -> dict[str, Tensor]:
    """Right-padded ids with labels; prompt and padding are ignored by the loss."""
    longest = max(len(ids) for ids, _ in batch)
    ids, labels, mask = [], [], []
    for row, prompt in batch:
        padding, start = longest - len(row), max(prompt, 1)  # nothing predicts a first token, nor may it be counted
        ids.append(row + [pad_id] * padding)
        labels.append([IGNORED] * start + row[start:] + [IGNORED] * padding)
        mask.append([1] * len(row) + [0] * padding)
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "attention_mask": torch.tensor(mask)}

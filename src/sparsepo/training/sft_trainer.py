"""Supervised fine-tuning: next-token loss on the response part of each document."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsepo.config.training import SftConfig
from sparsepo.data.batches import Batch
from sparsepo.data.encoding import Encoder
from sparsepo.data.records import Text
from sparsepo.models.adapters import make_trainable, save_trained
from sparsepo.models.architecture import checkpoint_blocks
from sparsepo.models.limits import check_sequences, context_length, text_config, vocabulary_size
from sparsepo.models.loading import text_tokenizer
from sparsepo.runtime.errors import UserError
from sparsepo.training.base_trainer import ResumableTrainer
from sparsepo.training.identity import identity_parts

IGNORED_LABEL = -100  # of transformers' loss


class Document(NamedTuple):
    """Token ids, of which the first `prompt_length` are not learned; nor is a first token, which nothing predicts."""

    ids: list[int]
    prompt_length: int

    @property
    def first_target(self) -> int:
        return max(self.prompt_length, 1)


@dataclass(frozen=True, kw_only=True)
class DocumentBatch(Batch):
    """input_ids, labels, attention_mask: (documents, T), right-padded; num_targets: labels that are not ignored."""

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    num_targets: int


class SFTTrainer(ResumableTrainer):
    """Train `model` on documents; the loss is the mean over all target tokens of a batch (transformers' own).

    With `config.adapter` an adapter is added to the model, whose own weights are frozen. Raises UserError for fewer
    usable documents than a batch, and for what `make_trainable` and `check_sequences` refuse.
    """

    section = "sft"

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
        tokenizer = text_tokenizer(tokenizer)
        limit = min(config.max_tokens, context_length(model))
        encoder = Encoder(tokenizer, model)
        encoded = (encode_document(encoder, text, limit) for text in corpus)
        documents = [document for document in encoded if document is not None]
        check_sequences(model, (document.ids for document in documents))
        print(f"{len(documents)} of {len(corpus)} documents have tokens to learn within {limit} tokens", flush=True)
        if len(documents) < config.batch_size:
            raise UserError(
                f"the SFT corpus has {len(documents)} usable documents, fewer than sft.batch_size {config.batch_size}"
            )
        self.tokenizer = tokenizer
        parts = {} if identity else identity_parts(config, seed, documents=documents, model=model)
        torch.manual_seed(seed)
        make_trainable(model, config)
        if config.gradient_checkpointing:
            checkpoint_blocks(model)
        pad_id = tokenizer.pad_token_id  # masked: any id that the model can read will do
        pad_id = pad_id if pad_id is not None and pad_id < vocabulary_size(model) else 0
        maker = DocumentBatches(pad_id, config.micro_batch_size)
        super().__init__(
            model, documents, maker, config, folder=folder, seed=seed, identity=identity, identity_parts=parts
        )
        longest = max(len(document.ids) for document in documents)
        self.fit_micro_batch(model, longest, lambda size: size * longest)
        self.data_collator.maker = replace(maker, size=self.settings.micro_batch_size)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the losses of a micro-batch's target tokens."""
        tensors = {name: getattr(inputs, name) for name in ("input_ids", "labels", "attention_mask")}
        loss, outputs = super().compute_loss(model, tensors, return_outputs=True, num_items_in_batch=1)
        if not self.model_accepts_loss_kwargs:  # transformers returns a mean
            return loss * inputs.num_targets
        router_loss = getattr(outputs, "aux_loss", None)
        if router_loss is None:
            return loss
        # of a mixture of experts, see `add_router_loss`: transformers has added it once, to the sum
        return loss + (inputs.num_targets - 1) * text_config(self.model).router_aux_loss_coef * router_loss

    def batch_content(self, batch):
        """The token ids."""
        return batch.input_ids

    def save(self, folder: str | Path) -> None:
        """Write the model as a Hugging Face folder, see `save_trained`."""
        if self.gather_weights():
            save_trained(self.model, self.tokenizer, folder, self.settings.adapter)


@dataclass(frozen=True)
class DocumentBatches:
    """Makes batches of `size` documents each (None: of all), padded with `pad_id`; counts target tokens."""

    pad_id: int
    size: int | None

    def split(self, documents: Sequence[Document]) -> list[Sequence[Document]]:
        size = self.size or max(1, len(documents))
        return [documents[start : start + size] for start in range(0, len(documents), size)]

    def collate(self, documents: Sequence[Document]) -> DocumentBatch:
        longest = max(len(document.ids) for document in documents)
        ids, labels, mask = [], [], []
        for document in documents:
            padding, start = longest - len(document.ids), document.first_target
            ids.append(document.ids + [self.pad_id] * padding)
            labels.append([IGNORED_LABEL] * start + document.ids[start:] + [IGNORED_LABEL] * padding)
            mask.append([1] * len(document.ids) + [0] * padding)
        return DocumentBatch(
            input_ids=torch.tensor(ids),
            labels=torch.tensor(labels),
            attention_mask=torch.tensor(mask),
            num_tokens=sum(len(document.ids) for document in documents),
            num_targets=self.count(documents),
        )

    def count(self, documents: Sequence[Document]) -> int:
        return sum(len(document.ids) - document.first_target for document in documents)


def encode_document(encoder: Encoder, text: Text, limit: int) -> Document | None:
    """Prompt and text as one document, cut at `limit` tokens; None when no token is left to learn."""
    prompt = encoder.encode_prompt(text.prompt, text.rendered)
    ids = (prompt + encoder.encode_response(text.prompt, text.text, True, text.rendered))[:limit]
    document = Document(ids, len(prompt))
    return document if len(ids) > document.first_target else None

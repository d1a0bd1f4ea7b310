"""Outputs of the frozen reference, computed once for all runs and read from memory-mapped files."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.batches import PairBatch
from sparsepo.data.collation import collate_pairs, split_into_micro_batches
from sparsepo.data.encoding import TokenPair
from sparsepo.data.records import Preference, write_json
from sparsepo.methods.registry import METHODS
from sparsepo.models.architecture import check_lm_head, hidden_states, lm_head
from sparsepo.models.loading import disable_dropout
from sparsepo.objective.mask_builder import build_masks
from sparsepo.objective.token_terms import token_terms
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.files import atomic_file, check_folder, file_hash
from sparsepo.training.layout_choice import choose_layout
from sparsepo.training.pair_objective import run_reference

BATCH_FIELDS = {"states": "ref_states", "logps": "ref_logps", "weights": "ref_weights"}
"""Kind of a cache, up to the first ~ -> field of a PairBatch."""
TEXT_FIELDS = (
    *("prompt", "rejected_prompt", "rendered", "chosen", "rejected", "chosen_ended", "rejected_ended"),
    *("chosen_ids", "rejected_ids"),
)
CONFIG_FIELDS = ("max_prompt_tokens", "max_response_tokens", "precision")


def content_hash(reference: Path, pairs: Sequence[Preference], config: PreferenceConfig) -> str:
    """Of all that cached values depend on: weights, model config, tokenizer, texts, truncation, precision.

    Numbers and scores of the pairs are left out, so that one cache serves pairs with the scores of any oracle.
    """
    suffixes = (".safetensors", ".json", ".model", ".txt", ".jinja")
    files = sorted(path for path in reference.iterdir() if path.suffix in suffixes and path.name != "run.json")
    parts = [f"{path.name} {file_hash(path)}" for path in files]
    parts += [json.dumps([getattr(pair, name) for name in TEXT_FIELDS]) for pair in pairs]
    parts += [f"{name} {getattr(config, name)}" for name in CONFIG_FIELDS]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@torch.no_grad()
def write_cache(
    reference: Any, pairs: Sequence[TokenPair], kind: str, config: PreferenceConfig, folder: str | Path, content: str
) -> None:
    """Write `values.bin`, the values of a kind for every response token, pair by pair, chosen before rejected.

    `index.json`, with the kind and the `content_hash`, is written last: without it there is no cache.
    """
    folder = Path(folder)
    (folder / "index.json").unlink(missing_ok=True)
    ends = list(accumulate(len(pair.chosen) + len(pair.rejected) for pair in pairs))
    with atomic_file(folder / "values.bin") as temporary, open(temporary, "wb") as file:
        for number, values in reference_values(reference, pairs, kind, config):
            file.seek((ends[number] - len(values)) * values[0].nbytes)
            file.write(values.contiguous().view(torch.uint8).numpy())
    index = {"kind": kind, "of": content, "dtype": str(values.dtype).removeprefix("torch.")}
    write_json(folder / "index.json", index | {"shape": list(values.shape[1:]), "ends": ends})


def reference_values(
    model: Any, pairs: Sequence[TokenPair], kind: str, config: PreferenceConfig
) -> Iterator[tuple[int, Tensor]]:
    """Yields (index of the pair, values (n, ...), chosen before rejected), in the order in which they are computed.

    kind: `states`, `logps` or `weights~READING~SITES`, see `Method.required_reference_outputs`. The model is left
    in eval mode, without dropout. Raises UserError for one whose output head is not known.
    """
    return values_of_pairs(model, pairs, config, lambda batch: batch_values(model, batch, kind))


def values_of_pairs(
    model: Any, pairs: Sequence[TokenPair], config: PreferenceConfig, compute: Callable[[PairBatch], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """As `reference_values`, of what `compute` returns for a batch: (n, ...), in the order of its response tokens."""
    model = disable_dropout(model).eval()
    check_lm_head(model)
    layout = choose_layout((model,), config.layout, pairs)
    device, dtype = model.get_output_embeddings().weight.device, getattr(torch, config.precision)
    limits = config.micro_batch_size or 8, config.micro_batch_tokens
    for indices in split_into_micro_batches(range(len(pairs)), pairs, layout, *limits):
        batch = collate_pairs([pairs[index] for index in indices], 0, layout).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
            values = compute(batch).cpu()
        yield from zip(indices, values.tensor_split(batch.pair_ends[:-1]), strict=True)


@torch.no_grad()
def batch_values(model: Any, batch: PairBatch, kind: str) -> Tensor:
    """(n, ...) values of a kind for the response tokens of a batch."""
    name, *details = kind.split("~")
    if name == "weights":
        reading, sites = details
        parameters = {"reading": reading, "activation_sites": None if sites == "all" else sites.split("+")}
        masks = build_masks(0, 0, mask="activations", share="common", **parameters)
        return batch.responses.from_grid(masks(run_reference(model, masks, batch).mask_inputs)[0])
    hidden = batch.responses.select_hidden(hidden_states(model, batch.inputs))
    if name == "states":
        return hidden
    return token_terms(hidden, None, lm_head(model), None, batch.labels, kl=()).logps


@dataclass(frozen=True)
class ReferenceCache:
    """One kind of cached values; the file is mapped at the first read, in a data loader's worker by the worker."""

    folder: Path
    field: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def open(cls, folder: str | Path, content: str) -> "ReferenceCache":
        """Raises UserError if there is no cache, or one of another `content_hash`; one that is damaged is deleted."""
        folder = Path(folder)
        try:
            check_folder(folder)
        except UserError as error:
            for name in ("index.json", "values.bin"):
                (folder / name).unlink(missing_ok=True)
            reason = str(error).partition(":")[0]
            raise UserError(f"{reason}: it is deleted, run again, which computes it again") from None
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{folder}: no cache of a reference (index.json is missing or broken); run again") from None
        if index["of"] != content:
            raise UserError(
                f"{folder} was computed from other weights, pairs or limits (content {index['of']}, needed {content}): "
                "remove it"
            )
        shape, field = tuple(index["shape"]), BATCH_FIELDS[index["kind"].split("~")[0]]
        return cls(folder, field, getattr(torch, index["dtype"]), shape, tuple(index["ends"]))

    @cached_property
    def values(self) -> Tensor:
        path, size = self.folder / "values.bin", self.ends[-1] * torch.Size(self.shape).numel()
        return torch.from_file(str(path), size=size, dtype=self.dtype).view(-1, *self.shape)

    def of_pairs(self, indices: Sequence[int]) -> Tensor:
        """(n, ...) of the response tokens of these pairs, in the order of a PairBatch."""
        starts = (0, *self.ends)
        return torch.cat([self.values[starts[index] : self.ends[index]] for index in indices])


def check_caches(
    method: str, hyper: Mapping[str, Any], config: PreferenceConfig, caches: Sequence[ReferenceCache], num_pairs: int
) -> None:
    """Raises UserError unless these caches hold, for as many pairs, what the method needs of the reference."""
    required = METHODS[method].required_reference_outputs(hyper, config.log_kl)
    if required is None:
        raise UserError(f"{method} needs more of the reference than a cache holds (all layers, or other pairs)")
    fields = {cache.field for cache in caches}
    missing = [kind for kind in required if BATCH_FIELDS[kind.split("~")[0]] not in fields]
    if missing:
        raise UserError(f"{method} needs the reference model or a cache of its {missing[0]}")
    for cache in caches:
        if len(cache.ends) != num_pairs:
            raise UserError(f"{cache.folder} holds {len(cache.ends)} pairs, not the {num_pairs} that can be trained on")

"""What runs need of the frozen reference, computed once for all of them and read from memory-mapped files."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import TokenPair, collate, onto, rows_of, split
from sparsepo.data.records import Preference, write_json
from sparsepo.methods.registry import METHODS
from sparsepo.models.architecture import check_head, hidden_states, lm_head
from sparsepo.models.loading import without_dropout
from sparsepo.objective.mask_builder import build_masks
from sparsepo.objective.token_terms import token_terms
from sparsepo.runtime.errors import UserError, add_path_to_disk_error
from sparsepo.runtime.result_cache import file_hash
from sparsepo.training.layout_choice import choose_layout
from sparsepo.training.pair_objective import look

FIELDS = {"states": "ref_states", "logps": "ref_logps", "weights": "ref_weights"}
"""Kind of a cache, up to the first ~ -> its name in a batch."""
TEXTS = ("prompt", "chosen", "rejected", "chosen_ended", "rejected_ended")
CUTS = ("max_prompt_tokens", "max_response_tokens", "precision")


def content(reference: Path, pairs: Sequence[Preference], config: PreferenceConfig) -> str:
    """A hash of all that cached values depend on: weights, config, tokenizer, texts, truncation, precision.

    Numbers that pairs bring are no part of it, so that one cache serves them with the scores of whatever oracle.
    """
    suffixes = (".safetensors", ".json", ".model", ".txt")
    files = sorted(path for path in reference.iterdir() if path.suffix in suffixes and path.name != "run.json")
    parts = [f"{path.name} {file_hash(path)}" for path in files]
    parts += [json.dumps([getattr(pair, name) for name in TEXTS]) for pair in pairs]
    parts += [f"{name} {getattr(config, name)}" for name in CUTS]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@torch.no_grad()
def write_cache(
    reference: Any, pairs: Sequence[TokenPair], kind: str, config: PreferenceConfig, folder: str | Path, of: str
) -> None:
    """Write `values.bin`, the values of `kind` for every response token, pair by pair, chosen before rejected.

    `index.json`, which says what they are and `of` which content, comes last: without it there is no cache.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    (folder / "values.bin").unlink(missing_ok=True)
    ends = list(accumulate(len(pair.chosen) + len(pair.rejected) for pair in pairs))
    target, shape = None, ()
    for place, part in computed(reference, pairs, kind, config):
        if target is None:
            shape = part.shape[1:]
            target = _mapped(folder / "values.bin", ends[-1], shape, part.dtype, new=True)
        target[ends[place] - len(part) : ends[place]] = part
    index = {"kind": kind, "of": of, "dtype": str(target.dtype).removeprefix("torch."), "shape": list(shape)}
    write_json(folder / "index.json", index | {"ends": ends})


@torch.no_grad()
def computed(
    model: Any, pairs: Sequence[TokenPair], kind: str, config: PreferenceConfig
) -> Iterator[tuple[int, Tensor]]:
    """(place, values) of each pair, in the order in which they are computed: (n, ...), chosen before rejected.

    The model is left in eval mode, without dropout. Raises UserError for one whose head is not known.
    """
    model = without_dropout(model).eval()
    check_head(model)
    layout = choose_layout((model,), config.layout, pairs)
    device, dtype = model.get_output_embeddings().weight.device, getattr(torch, config.precision)
    for places in split(range(len(pairs)), pairs, layout, config.micro_batch_size or 8, config.micro_batch_tokens):
        batch = onto(device, collate([pairs[place] for place in places], 0, layout))
        with torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
            values = compute(model, batch, kind).cpu()
        yield from zip(places, values.tensor_split(batch["ends"][:-1]), strict=True)


def compute(reference: Any, batch: dict[str, Any], kind: str) -> Tensor:
    """(n, ...) values of a kind for the response tokens of a batch."""
    rows = rows_of(batch)
    name, *details = kind.split("~")
    if name == "weights":
        normalisation, kinds = details
        masks = build_masks(0, 0, mask="activations", activation_sites=kinds.split("+"), normalisation=normalisation)
        return rows.tokens(masks(look(reference, masks, batch, rows)[1])[0])
    states = rows.take(hidden_states(reference, batch))
    if name == "states":
        return states
    return token_terms(states, None, lm_head(reference), None, rows.labels(batch["input_ids"]), kl=()).logps


@dataclass(frozen=True)
class Cache:
    """One kind of cached values, mapped when they are first read: a data loader's worker maps them itself."""

    folder: Path
    field: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def open(cls, folder: str | Path, of: str) -> "Cache":
        """Raises UserError if there is no cache, or one of another content."""
        folder = Path(folder)
        try:
            index = json.loads((folder / "index.json").read_text())
        except (OSError, ValueError):
            raise UserError(f"{folder}: no cache of a reference (index.json is missing or broken)") from None
        if index["of"] != of:
            raise UserError(
                f"{folder} was made of other weights, pairs or limits (content {index['of']}, needed {of}): remove it"
            )
        shape, field = tuple(index["shape"]), FIELDS[index["kind"].split("~")[0]]
        return cls(folder, field, getattr(torch, index["dtype"]), shape, tuple(index["ends"]))

    @cached_property
    def values(self) -> Tensor:
        return _mapped(self.folder / "values.bin", self.ends[-1], self.shape, self.dtype, new=False)

    def of_pairs(self, places: Sequence[int]) -> Tensor:
        """(n, ...) in the order of a batch's rows."""
        starts = (0, *self.ends)
        return torch.cat([self.values[starts[place] : self.ends[place]] for place in places])


def check_cache(
    method: str, hyper: Mapping[str, Any], config: PreferenceConfig, cache: Sequence[Cache], pairs: int
) -> None:
    """Raises UserError unless these caches, of as many pairs, hold what the method needs of the reference."""
    needs = METHODS[method].required_reference_outputs(hyper, config.log_kl)
    if needs is None:
        raise UserError(f"{method} looks at more of the reference than a cache holds (all layers, or other pairs)")
    there = {one.field for one in cache}
    missing = [kind for kind in needs if FIELDS[kind.split("~")[0]] not in there]
    if missing:
        raise UserError(f"{method} needs the reference model or a cache of its {missing[0]}")
    for one in cache:
        if len(one.ends) != pairs:
            raise UserError(f"{one.folder} holds {len(one.ends)} pairs, not the {pairs} that can train")


def _mapped(path: Path, rows: int, shape: Sequence[int], dtype: torch.dtype, new: bool) -> Tensor:
    """(rows, *shape) backed by a file."""
    size = rows * torch.Size(shape).numel()
    wanted = size * torch.empty(0, dtype=dtype).element_size()
    if not new and path.stat().st_size != wanted:
        raise UserError(f"{path}: {path.stat().st_size} bytes, {wanted} are expected: remove it")
    if new and hasattr(os, "posix_fallocate"):
        with add_path_to_disk_error(path), open(path, "wb") as file:
            # A mapped file that finds no room later kills its process.
            os.posix_fallocate(file.fileno(), 0, wanted)
    return torch.from_file(str(path), shared=new, size=size, dtype=dtype).view(rows, *shape)

"""What mask heads see of a reference: its states or activations at the positions that predict response tokens."""

from typing import Any

import torch
from torch import Tensor

from sparsepo.models.architecture import hidden_states, recording
from sparsepo.objective.mask_builder import Masks
from sparsepo.objective.masks import Views
from sparsepo.objective.token_terms import Rows
from sparsepo.runtime.errors import UserError


def look(reference: Any, masks: Masks | None, batch: dict[str, Any], rows: Rows) -> tuple[Tensor, Views]:
    """The reference's last hidden states at the response rows (n, d), and what the masks make of it.

    The reference runs without gradient. Learned heads project each layer's states as soon as they are there; no layer
    is stored for them.
    """
    heads = () if masks is None else list(masks.heads.values())
    kinds = {kind for head in heads for kind in getattr(head, "kinds", ())}
    projected: dict[str, list[Tensor]] = {}
    trains, shape = torch.is_grad_enabled(), batch["input_ids"].shape

    def see(layer: int, depth: int, states: Tensor) -> None:
        with torch.set_grad_enabled(trains):
            for name, made in masks.project(layer, depth, rows.take(states)).items():
                projected.setdefault(name, []).append(made)

    learns = masks is not None and "states" in masks.looks_at
    with torch.no_grad(), recording(reference, kinds) as record:
        hidden = rows.take(hidden_states(reference, batch, see if learns else None))
    grids = {name: rows.grid(torch.cat(made, -1)) for name, made in projected.items()}
    odd = next((kind for kind in kinds for value in record[kind] if value.numel() != shape.numel()), None)
    if odd is not None:
        raise UserError(f"{type(reference).__name__}: its '{odd}' has not one value a token; use other `kinds`")
    activations = {kind: [rows.grid(rows.take(value.view(shape))) for value in record[kind]] for kind in kinds}
    return hidden, Views(rows.valid, activations=activations, projected=grids, values=values_of(batch, rows))


def values_of(batch: dict[str, Any], rows: Rows) -> Tensor | None:
    """(s, t): the numbers that the pairs of a batch bring for their tokens, if they do."""
    return rows.grid(batch["values"]) if "values" in batch else None

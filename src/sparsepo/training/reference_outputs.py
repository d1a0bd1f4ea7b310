"""What the frozen reference computes for a batch, for the loss and for the mask heads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsepo.data.batches import PairBatch
from sparsepo.models.activations import record_activations
from sparsepo.models.architecture import hidden_states
from sparsepo.objective.mask_builder import Masks
from sparsepo.objective.masks import MaskInputs
from sparsepo.runtime.errors import UserError


@dataclass(frozen=True)
class ReferenceOutputs:
    """hidden: (n, d) last hidden states at the positions that predict response tokens; None where nothing needs them.

    mask_inputs: what the mask heads read.
    """

    hidden: Tensor | None
    mask_inputs: MaskInputs


def stored_outputs(batch: PairBatch) -> ReferenceOutputs:
    """Those that were stored before and are in the batch."""
    weights = None if batch.ref_weights is None else batch.responses.to_grid(batch.ref_weights)
    return ReferenceOutputs(
        batch.ref_states, MaskInputs(batch.responses.valid, weights=weights, values=batch.values_grid())
    )


def run_reference(reference: Any, masks: Masks | None, batch: PairBatch) -> ReferenceOutputs:
    """Run the reference without gradient; the projections of learned heads keep theirs.

    Learned heads project the states of each layer as soon as they are computed, so no layer is stored for them. Raises
    UserError for an architecture whose activations are not one value for each token.
    """
    index, shape = batch.responses, batch.inputs.input_ids.shape
    sites = set() if masks is None else {site for head in masks.heads.values() for site in head.sites}
    projections: dict[str, list[Tensor]] = {}
    grad_enabled = torch.is_grad_enabled()

    def project_layer(layer: int, num_layers: int, states: Tensor) -> None:
        with torch.set_grad_enabled(grad_enabled):
            for name, projection in masks.project(layer, num_layers, index.select_hidden(states)).items():
                projections.setdefault(name, []).append(projection)

    on_layer = project_layer if masks is not None and "hidden_states" in masks.reads else None
    with torch.no_grad(), record_activations(reference, sites) as record:
        hidden = index.select_hidden(hidden_states(reference, batch.inputs, on_layer))
    for site, values in record.items():
        if any(value.numel() != shape.numel() for value in values):
            raise UserError(
                f"{type(reference).__name__}: '{site}' is not one value for each token; use other `activation_sites`"
            )
    mask_inputs = MaskInputs(
        index.valid,
        projections={name: index.to_grid(torch.cat(layers, -1)) for name, layers in projections.items()},
        activations={
            site: [index.to_grid(index.select_hidden(value.view(shape))) for value in values]
            for site, values in record.items()
        },
        values=batch.values_grid(),
    )
    return ReferenceOutputs(hidden, mask_inputs)

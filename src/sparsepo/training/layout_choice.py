"""How a run computes, depending on model and memory: the layout of its batches, and where gradients are computed."""

from collections.abc import Sequence
from typing import Any

import psutil
import torch

from sparsepo.data.collation import LAYOUTS, collate_pairs
from sparsepo.data.encoding import TokenPair
from sparsepo.models.architecture import hidden_states, lm_head
from sparsepo.models.limits import vocabulary_size
from sparsepo.models.segment_attention import UnsupportedLayout, check_row_length
from sparsepo.objective.fused_head import rows_per_group
from sparsepo.runtime.errors import UserError

PREFERRED = ("shared", "pairs", "padded")
PROBE = [TokenPair([1, 2, 3, 4], [5, 6, 7], [8, 9]), TokenPair([3, 1], [2, 7], [4, 6, 8, 1, 5])]


def choose_layout(models: Sequence[Any], wanted: str, pairs: Sequence[TokenPair]) -> str:
    """The first of `PREFERRED` that every model computes correctly, or the wanted one.

    Prints the layout, and why earlier ones do not work. Raises UserError if the wanted one does not.
    """
    for layout in PREFERRED if wanted == "auto" else (wanted,):
        problems = ((type(model).__name__, layout_problem(model, layout, pairs)) for model in models)
        name, problem = next((item for item in problems if item[1] is not None), ("", None))
        if problem is None:
            print(f"layout: {layout}", flush=True)
            return layout
        if wanted != "auto":
            raise UserError(f"training.layout '{layout}' does not work for {name}: {problem}; write 'auto'")
        print(f"layout '{layout}' does not work for {name}: {problem}", flush=True)


@torch.no_grad()
def layout_problem(model: Any, layout: str, pairs: Sequence[TokenPair]) -> str | None:
    """Why a model cannot compute a layout, or in what its states differ from those of plain padding; None: nothing.

    Tried on `PROBE` and on the longest pair: some architectures attend only to a window, and their configs name it in
    different ways.
    """
    if layout == "padded":
        return None
    if any(pair.rejected_prompt for pair in pairs):
        return "a rejected response has a prompt of its own"
    device, dtype = model.get_output_embeddings().weight.device, model.dtype
    vocabulary = vocabulary_size(model)
    parts = [(pair.prompt, pair.chosen, pair.rejected) for pair in PROBE]
    probe = [TokenPair(*([token % vocabulary for token in ids] for ids in pair)) for pair in parts]
    row_length = LAYOUTS["pairs"].num_positions
    longest = max(pairs, key=lambda pair: row_length([pair]))
    states = {"padded": [], layout: []}
    try:
        if layout == "pairs":
            check_row_length(model, row_length([longest]))
        for trial in (probe, [longest]):
            for name in states:
                batch = collate_pairs(trial, 0, name).to(device)
                states[name].append(batch.responses.select_hidden(hidden_states(model, batch.inputs)).float())
    except UnsupportedLayout as error:
        return str(error)
    except Exception as error:  # any error of an architecture that was not written for this layout
        return f"it fails ({type(error).__name__}: {str(error).partition(chr(10))[0][:160]})"
    padded, other = (torch.cat(parts) for parts in states.values())
    error = float((other - padded).abs().max() / padded.abs().max())
    allowed = 1e-3 if dtype in (torch.float32, torch.float64) else 0.05
    return None if error <= allowed else f"its states would be off by {error:.2g} of the largest"


def choose_gradients(policy: Any, wanted: str, pairs: Sequence[TokenPair]) -> str:
    """`forward` where the logits of both models for the rows of a group fit into a quarter of the free memory."""
    if wanted != "auto":
        return wanted
    weight = lm_head(policy).weight
    rows = rows_per_group(weight) + max(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    float32_copies = 16 if weight.is_cuda else 0  # bytes a logit, in case the elementwise passes are not compiled
    need = rows * len(weight) * (2 * weight.element_size() + float32_copies)
    fits = need < free_bytes(weight.device) / 4
    print(f"gradients: {'in the forward pass' if fits else 'recomputed'} ({need / 2**20:.0f} MB of logits)", flush=True)
    return "forward" if fits else "recompute"


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or the available memory of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available

"""How a run computes: the layout of its batches and the way to its gradients, by what model and memory allow."""

from collections.abc import Sequence
from typing import Any

import psutil
import torch

from sparsepo.data.collation import LAYOUTS, TokenPair, collate, onto, rows_of
from sparsepo.models.architecture import hidden_states, lm_head
from sparsepo.models.segment_attention import CannotSegment, chunk_of, look_back
from sparsepo.objective.fused_head import rows_together
from sparsepo.runtime.errors import UserError

PREFERRED = ("shared", "pairs", "padded")
PROBE = [TokenPair([1, 2, 3, 4], [5, 6, 7], [8, 9]), TokenPair([3, 1], [2, 7], [4, 6, 8, 1, 5])]


def choose_layout(models: Sequence[Any], wanted: str, pairs: Sequence[TokenPair]) -> str:
    """The best layout that every model computes right, or the wanted one; a line says which and why not another.

    Raises UserError when the wanted layout is none of them.
    """
    for layout in PREFERRED if wanted == "auto" else (wanted,):
        name, reason = next(
            ((type(model).__name__, found) for model in models if (found := why_not(model, layout, pairs))),
            ("", None),
        )
        if reason is None:
            print(f"layout: {layout}", flush=True)
            return layout
        if wanted != "auto":
            raise UserError(f"training.layout '{layout}' does not work for {name}: {reason}; write 'auto'")
        print(f"layout '{layout}' does not work for {name}: {reason}", flush=True)


@torch.no_grad()
def why_not(model: Any, layout: str, pairs: Sequence[TokenPair]) -> str | None:
    """Why the states of some pairs differ from those of plain padding, or cannot be had; None: they agree.

    They are two made-up ones and the longest: some architectures look back only so far, and no two tell it alike.
    """
    if layout == "padded":
        return None
    device, dtype = model.get_output_embeddings().weight.device, model.dtype
    vocabulary = model.config.vocab_size
    parts = [(pair.prompt, pair.chosen, pair.rejected) for pair in PROBE]
    probe = [TokenPair(*([token % vocabulary for token in part] for part in each)) for each in parts]
    row = LAYOUTS["pairs"].cost  # of one pair: the length of its row
    longest = max(pairs, key=lambda pair: row([pair]))
    found = []
    try:
        _check_reach(model, layout, row([longest]))
        for some in (probe, [longest]):
            for name in ("padded", layout):
                batch = onto(device, collate(some, 0, name))
                found.append(rows_of(batch).take(hidden_states(model, batch)).float())
    except CannotSegment as error:
        return str(error)
    except Exception as error:  # code of any architecture, which was not made for this
        return f"it fails ({type(error).__name__}: {str(error).partition(chr(10))[0][:160]})"
    padded, own = torch.cat(found[::2]), torch.cat(found[1::2])
    error = float((own - padded).abs().max() / padded.abs().max())
    allowed = 1e-3 if dtype in (torch.float32, torch.float64) else 0.05
    return None if error <= allowed else f"its states would be off by {error:.2g} of the largest"


def _check_reach(model: Any, layout: str, longest: int) -> None:
    reach = min(look_back(model), chunk_of(model))
    if layout == "pairs" and longest > reach:
        raise CannotSegment(f"its layers look back {reach} tokens, and prompt, chosen and rejected are up to {longest}")


def choose_gradients(policy: Any, wanted: str, pairs: Sequence[TokenPair]) -> str:
    """`forward` where the logits of both models for the rows of a group fit into a quarter of what memory is free."""
    if wanted != "auto":
        return wanted
    weight = lm_head(policy).weight
    rows = rows_together(weight) + max(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    on_device = 16 if weight.is_cuda else 0  # float32 copies of elementwise passes there, should none be compiled
    need = rows * len(weight) * (2 * weight.element_size() + on_device)
    fits = need < free_bytes(weight.device) / 4
    print(f"gradients: {'in the forward pass' if fits else 'recomputed'} ({need / 2**20:.0f} MB of logits)", flush=True)
    return "forward" if fits else "recompute"


def free_bytes(device: torch.device) -> int:
    """What is free on an accelerator, or available on the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available

"""The golden problem: two tiny GPT-2 models, four pairs and the weights of mask heads, in float64 and float32."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sparsepo.data.encoding import TokenPair

FOLDER = Path(__file__).parents[1] / "fixtures" / "golden"


EXACT = [("float64", layout) for layout in ("padded", "left", "shared", "pairs")]


@pytest.fixture(scope="session", params=[*EXACT, ("float32", "padded"), ("float32", "shared")], ids="-".join)
def problem(request):
    """Models, pairs and head weights in one dtype, with the relative tolerance that this dtype deserves, and a layout.

    `left` is padding on the left, which the package never makes but computes.
    """
    dtype = getattr(torch, request.param[0])
    load = {
        who: AutoModelForCausalLM.from_pretrained(FOLDER / who, dtype=dtype).eval() for who in ("policy", "reference")
    }
    # the golden gradients of the output matrix are those through the logits alone, so the tie is cut
    load["policy"].lm_head.weight = torch.nn.Parameter(load["policy"].lm_head.weight.detach().clone())
    return SimpleNamespace(
        policy=load["policy"],
        reference=load["reference"],
        pairs=[TokenPair(**pair) for pair in json.loads((FOLDER / "pairs.json").read_text())],
        heads={name: value.to(dtype) for name, value in load_file(FOLDER / "mask_heads.safetensors").items()},
        dtype=dtype,
        layout=request.param[1],
        gradients="forward" if request.param[1] == "shared" else "recompute",
        tolerance={"float64": 1e-9, "float32": 2e-5}[request.param[0]],
    )

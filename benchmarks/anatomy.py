"""Where the time of our step goes: its parts timed one by one on one CPU thread, as shares of the whole.

    python benchmarks/anatomy.py [float32 | bfloat16]

SmolLM2-135M, 4 pairs of `mixed` lengths, prompts shared, gradients of the head in the forward pass.
"""

import statistics
import sys
import time
from typing import Any

import torch
from workloads import SHORT, Workload

from sparsepo.data.batches import PairBatch
from sparsepo.data.collation import collate_pairs
from sparsepo.models.architecture import hidden_states
from sparsepo.training.method_masks import build_method_masks
from sparsepo.training.pair_objective import PairObjective, run_reference


def parts(objective: PairObjective, batch: PairBatch) -> dict[str, float]:
    """Seconds of each part; the head is what is left of the step when its neighbours are taken away."""
    seconds = {}

    def timed(name: str, part: Any) -> Any:
        start = time.process_time()
        out = part()
        seconds[name] = time.process_time() - start
        return out

    timed("reference", lambda: run_reference(objective.reference, None, batch))
    timed("reference and masks", lambda: run_reference(objective.reference, objective.masks, batch))
    states = timed("policy forward", lambda: hidden_states(objective.policy, batch.inputs))
    whole = timed("forward", lambda: objective(batch).total)
    timed("whole backward", whole.backward)
    timed("policy backward", lambda: states.backward(torch.ones_like(states)))
    objective.zero_grad()
    return {
        "reference": seconds["reference"],
        "masks": seconds["reference and masks"] - seconds["reference"],
        "policy, forward": seconds["policy forward"],
        "policy, backward": seconds["policy backward"],
        "head and loss": seconds["forward"] - seconds["reference and masks"] - seconds["policy forward"],
        "whole": seconds["forward"] + seconds["whole backward"],
    }


def main(dtype: str = "float32") -> None:
    torch.set_num_threads(1)
    workload = Workload("smollm2", dtype, "mixed", batches=2)
    policy, reference = workload.models()
    masks = build_method_masks("sparsepo_independent", reference, {})
    hyper = {"beta": 0.1, "form": "released"}
    objective = PairObjective(policy, reference, "sparsepo_independent", hyper, masks, kl=(), gradients="forward")
    parts(objective, collate_pairs([SHORT], 0, "shared"))
    found = [parts(objective, collate_pairs(pairs, 0, "shared")) for pairs in workload.draw(policy.config.vocab_size)]
    print(f"| part | seconds ({dtype}) | share |\n|---|---|---|")
    for name in found[0]:
        seconds = statistics.median(batch[name] for batch in found)
        share = statistics.median(batch[name] / batch["whole"] for batch in found)
        print(f"| {name} | {seconds:.2f} | {100 * share:.0f}% |")


if __name__ == "__main__":
    main(*sys.argv[1:])

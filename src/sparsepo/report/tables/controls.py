"""Whether masks beat the control: the same loss with random weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsepo.methods.method import MASKS
from sparsepo.methods.registry import METHODS
from sparsepo.report.frontier_score import FrontierScores, frontier_scores


def control_cautions(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each method with learned masks or masks of activations that does not beat random weights.

    They are compared by the frontier score, on the same prompts; a method beats random weights where the whole
    95% interval of the difference is above 0. One sentence also where no run has random weights in the same loss.
    scores: files of scores of all runs; without a reward only the second kind can be said.
    """
    masks: dict[str, set[str]] = {}
    labels = {score["method"]: score["label"] for score in scores}
    for score in scores:
        if score["method"] in METHODS:
            masks.setdefault(score["method"], set()).add(METHODS[score["method"]].mask(score["params"]))
    masked = [method for method, names in masks.items() if any(map(_is_tested, names))]
    random = [method for method, names in masks.items() if names == {"random"}]
    frontier = frontier_scores(scores)
    sentences, without = [], []
    for method in masked:
        controls = [control for control in random if METHODS[control].loss == METHODS[method].loss]
        if not controls:
            without.append(labels[method])
        sentences += [text for control in controls for text in _compared(frontier, method, control, labels[method])]
    if without:
        sentences.append(
            f"{', '.join(without)}: no run has random weights in the same loss, so it is not known whether it matters "
            "which tokens weigh more; add sparsepo_random or `mask: random`."
        )
    return sentences


def _is_tested(mask: str) -> bool:
    return mask != "none" and (MASKS[mask].is_learned or mask == "activations")


def _compared(frontier: FrontierScores, method: str, control: str, label: str) -> list[str]:
    if not {method, control} <= frontier.gains.keys():
        return []
    difference = frontier.difference(method, control)
    if difference.low > 0:
        return []
    interval = "" if difference.low != difference.low else f" [{difference.low:.3f}, {difference.high:.3f}]"
    return [
        f"{label}: its frontier score is not above that of random weights (difference {difference.mean:.3f}{interval})."
    ]

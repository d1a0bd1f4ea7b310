"""Points of the reward-KL frontier, during training and after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.records import Completion, Prompt, read_records
from sparsepo.evaluation.kl import Divergence, divergences
from sparsepo.evaluation.scorers import Scorer, build_scorer
from sparsepo.generation.generate import check_room, sample


@dataclass(frozen=True)
class Samples:
    """Sampled responses with their rewards, a list for each scorer, and divergences, in one order."""

    completions: list[Completion]
    rewards: dict[str, list[float]]
    divergences: list[Divergence]


@dataclass(frozen=True)
class FrontierEvaluator:
    """Samples a policy on fixed prompts and measures (reward, KL)."""

    reference: Any
    tokenizer: Any
    prompts: Sequence[Prompt]
    sampling: SamplingConfig
    scorers: Mapping[str, Scorer]
    batch_size: int

    def samples(self, policy: Any) -> Samples:
        """Sampled anew, with everything that is measured of each response."""
        return self.measured(policy, sample(policy, self.tokenizer, self.prompts, self.sampling))

    def measured(self, policy: Any, completions: list[Completion]) -> Samples:
        """Rewards and divergences of responses sampled before."""
        prompts, texts = [row.prompt for row in completions], [row.text for row in completions]
        rewards = {name: scorer(prompts, texts) for name, scorer in self.scorers.items()}
        apart = divergences(policy, self.reference, self.tokenizer, completions, self.batch_size)
        return Samples(completions, rewards, apart)

    def __call__(self, policy: Any) -> dict[str, float]:
        """The point of the frontier where `policy` stands, by the scorer `reward`."""
        was_training = policy.training
        policy.eval()
        made = self.samples(policy)
        policy.train(was_training)
        return {
            "reward": fmean(made.rewards["reward"]),
            "kl_sample": fmean(row.sample for row in made.divergences),
            "kl_exact": fmean(row.exact for row in made.divergences),
            "samples": len(made.completions),
        }


def frontier_evaluator(settings: Mapping[str, Any], reference: Any, tokenizer: Any, path: Path) -> FrontierEvaluator:
    """What measures the policy's place on the frontier while it trains, on the first prompts of a file."""
    evaluation = settings["evaluation"]
    prompts = read_records(path, Prompt)[: evaluation["frontier_prompts"]]
    sampling = SamplingConfig(**{**settings["sampling"], "samples": 1})
    check_room(reference, tokenizer, prompts, sampling, path)
    scorers = {"reward": build_scorer(evaluation["scorer"])}
    return FrontierEvaluator(reference, tokenizer, prompts, sampling, scorers, evaluation["batch_size"])

"""Points of the reward-KL frontier, during training and after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.scorers import ScorerConfig
from sparsepo.data.chat import scored_prompt
from sparsepo.data.records import Completion, Prompt, read_records
from sparsepo.evaluation.kl import ResponseDivergence, response_divergences
from sparsepo.evaluation.scorers import Scorer, build_scorer
from sparsepo.generation.generate import check_prompt_lengths, sample


@dataclass(frozen=True)
class ScoredSamples:
    """Sampled responses with their rewards, a list for each scorer, and divergences, in one order."""

    completions: list[Completion]
    rewards: dict[str, list[float]]
    divergences: list[ResponseDivergence]


def score_samples(
    policy: Any,
    reference: Any,
    tokenizer: Any,
    completions: list[Completion],
    scorers: Mapping[str, Scorer],
    batch_size: int,
) -> ScoredSamples:
    """Rewards of sampled responses by each scorer, and their divergences."""
    prompts, texts = [scored_prompt(row) for row in completions], [row.text for row in completions]
    rewards = {name: scorer(prompts, texts) for name, scorer in scorers.items()}
    divergences = response_divergences(policy, reference, tokenizer, completions, batch_size)
    return ScoredSamples(completions, rewards, divergences)


@dataclass(frozen=True)
class FrontierEvaluator:
    """Samples a policy on fixed prompts and measures its point of the frontier (reward, KL)."""

    reference: Any
    tokenizer: Any
    prompts: Sequence[Prompt]
    sampling: SamplingConfig
    scorer: Scorer
    batch_size: int

    def __call__(self, policy: Any) -> dict[str, float]:
        """Means over the sampled responses: "reward", "kl_sample", "kl_exact", and their number, "samples"."""
        was_training = policy.training
        policy.eval()
        completions = sample(policy, self.tokenizer, self.prompts, self.sampling)
        scorers = {"reward": self.scorer}
        scored = score_samples(policy, self.reference, self.tokenizer, completions, scorers, self.batch_size)
        policy.train(was_training)
        return {
            "reward": fmean(scored.rewards["reward"]),
            "kl_sample": fmean(row.sample for row in scored.divergences),
            "kl_exact": fmean(row.exact for row in scored.divergences),
            "samples": len(completions),
        }


def frontier_evaluator(
    reference: Any,
    tokenizer: Any,
    path: Path,
    fitted_scorer: Path | None,
    *,
    sampling: SamplingConfig,
    scorer: ScorerConfig,
    prompts: int,
    batch_size: int,
) -> FrontierEvaluator:
    """The evaluator of a training run, on the first `prompts` prompts of a file, with one response to each.

    fitted_scorer: the folder of the scorer that the workflow fitted, where `scorer` is that one.
    """
    records, sampling = read_records(path, Prompt)[:prompts], sampling.model_copy(update={"samples": 1})
    check_prompt_lengths(reference, tokenizer, records, sampling, path)
    return FrontierEvaluator(reference, tokenizer, records, sampling, build_scorer(scorer, fitted_scorer), batch_size)

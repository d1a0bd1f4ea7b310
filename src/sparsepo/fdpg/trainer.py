"""f-DPG: a policy is trained on samples of its own towards an energy-based target, on transformers' Trainer."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import collate_responses, encode_prompt, onto, rows_of
from sparsepo.data.records import Completion, Prompt
from sparsepo.evaluation.statistics import distinct_n
from sparsepo.fdpg.target import Target, usable
from sparsepo.generation.generate import row_seed, sample
from sparsepo.models import adapters
from sparsepo.models.architecture import checkpoint_blocks, hidden_states, lm_head
from sparsepo.models.loading import context_of, without_dropout
from sparsepo.objective.f_divergence import DIVERGENCES, surrogate
from sparsepo.objective.token_terms import token_terms
from sparsepo.runtime.errors import UserError
from sparsepo.training.base_trainer import ResumableTrainer
from sparsepo.training.checks import check_models

WINDOW = 1024
"""Responses that the baseline is a mean over."""


class Moving:
    """Running estimates, float64.

    Z_c = E_q[P / q] is the mean of P / q over all responses drawn to prompt c so far, whatever policy q drew them:
    each has the same expectation. It is kept as log sum and count, so that no energy overflows. As the responses of the
    step are in it, no weight P / (Z q) is larger than the number of responses that were drawn to its prompt.

    The baseline is the mean of the pseudo-rewards of the last `WINDOW` responses before the step (0 before the first),
    one for all prompts, as in the authors' code (naver/disco). As it does not look at the responses of the step, it
    leaves the expected gradient as it is.
    """

    def __init__(self, prompts: int):
        self.log_sum = torch.full((prompts,), -torch.inf, dtype=torch.float64)
        self.count = torch.zeros(prompts, dtype=torch.float64)
        self.window = torch.zeros(0, dtype=torch.float64)

    def see(self, places: Tensor, log_ratios: Tensor) -> None:
        """log P - log q, (c, s), of s responses to each of the prompts `places` (c,), which are distinct."""
        self.log_sum[places] = torch.logaddexp(self.log_sum[places], log_ratios.logsumexp(-1))
        self.count[places] += log_ratios.shape[-1]

    def log_z(self, places: Tensor) -> Tensor:
        """(c,): -inf for a prompt that was never seen."""
        return self.log_sum[places] - self.count[places].log()

    @property
    def baseline(self) -> float:
        return float(self.window.mean()) if len(self.window) else 0.0

    def add(self, pseudo_rewards: Tensor) -> None:
        """Those of the responses of a step."""
        self.window = torch.cat([self.window, pseudo_rewards.flatten()])[-WINDOW:]

    def write(self, path: Path) -> None:
        save_file(dict(vars(self)), path)

    def read(self, path: Path) -> None:
        for name, value in load_file(path).items():
            setattr(self, name, value)


MOVING = "moving.safetensors"


class OnPolicyTrainer(ResumableTrainer):
    """Train `policy` towards `target` by f-DPG, on `sampling.samples` responses of its own to each prompt of a step.

        loss = -mean[ sg(pi / q) (R - B) log pi ],   R = -f'(t),   t = pi Z_c / P

    R is the pseudo-reward of the `divergence`, one of `DIVERGENCES`; Z_c and the baseline B are those of `Moving`. The
    policy q that drew the responses is pi itself, as a step is one update: pi / q is 1 up to rounding, and dropout
    of an adapter. Responses are drawn at temperature 1 with numbers of (seed, step): a resumed run draws the same.

    policy, reference: as in `PreferenceTrainer`; an adapter goes on the policy. prompts: those that are empty, longer
    than `config.max_prompt_tokens` or leave no room for a response in the model's context are dropped and counted.
    `config.batch_size` and `micro_batch_size` count responses.

    `dynamics.jsonl` holds means over the responses of an interval: the loss, the target's values, estimates of the four
    divergences from the target and of KL(pi || a), entropy (-log pi of a response), all in nats, log Z, and distinct-n
    of a step's responses. While Z rests on few responses to a prompt the divergences are too low: the log of n bounds
    KL(p || pi).

    Raises UserError for models that `check_models` refuses, a batch that `sampling.samples` does not divide, and
    fewer usable prompts than a step takes.
    Source: Go et al. 2023; naver/disco, tuners.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any,
        tokenizer: Any,
        prompts: Sequence[Prompt],
        *,
        target: Target,
        divergence: str,
        sampling: SamplingConfig,
        config: PreferenceConfig,
        folder: str | Path,
        seed: int = 0,
        identity: str = "",
        measure: Callable[[Any], dict[str, float]] | None = None,
    ):
        check_models(policy, reference, tokenizer, config)
        self.prompts, self.dropped = usable(tokenizer, prompts, config, sampling, context_of(policy))
        print(f"{len(self.prompts)} of {len(prompts)} prompts can train; dropped: {self.dropped or 'none'}", flush=True)
        each = prompts_a_step(config, sampling, len(self.prompts), self.dropped)
        self.tokenizer, self.target, self.sampling = tokenizer, target, sampling
        self.divergence = DIVERGENCES[divergence]
        self.moving = Moving(len(self.prompts))
        self.reference = without_dropout(reference).requires_grad_(False).eval()
        prepare(policy, config, seed)
        self._sums: Counter[str] = Counter()
        self._seen = 0
        super().__init__(
            policy,
            range(len(self.prompts)),
            Places(),
            config.model_copy(update={"batch_size": each}),
            folder=folder,
            seed=seed,
            identity=identity,
            measure=measure,
            measure_every=config.frontier_every,
        )
        self.reference.to(self.args.device)

    def save(self, folder: str | Path) -> None:
        """The policy as a Hugging Face folder; an adapter is merged into plain weights, see `adapters.save`."""
        adapters.save(self.model, self.tokenizer, folder)

    # what transformers' Trainer asks for

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Draw responses to the prompts of the step, and learn from them by micro-batches."""
        (step,) = inputs["micro"]
        model.eval()
        drawn = self._draw(step["places"])
        batches = self._batches(drawn)
        with torch.no_grad(), self.compute_loss_context_manager():
            log_q, log_a = (
                _in_order([(batch["at"], response_logps(each, batch)) for batch in batches])
                for each in (model, self.reference)
            )
        advantage = self._judge(torch.tensor(step["places"]), drawn, log_q, log_a)
        micro = [
            {**batch, "weight": 1, "log_q": log_q[batch["at"]].float(), "advantage": advantage[batch["at"]].float()}
            for batch in batches
        ]
        return super().training_step(model, {"micro": micro, "count": len(drawn)}, num_items_in_batch)

    def _judge(self, places: Tensor, drawn: Sequence[Completion], log_q: Tensor, log_a: Tensor) -> Tensor:
        """(c * s,) pseudo-rewards minus the baseline, of s responses to each of c prompts."""
        samples = self.sampling.samples
        values = torch.tensor(self.target.value([row.prompt for row in drawn], [row.text for row in drawn])).double()
        log_p = log_a + self.target.scale * values
        self.moving.see(places, (log_p - log_q).unflatten(0, (-1, samples)))
        log_z = self.moving.log_z(places).repeat_interleave(samples)
        log_w = log_p - log_z - log_q
        of_sample = {self.target.name: values, "log_z": log_z, "entropy": -log_q, "kl_to_reference": log_q - log_a}
        self._note(drawn, log_w, of_sample)
        pseudo_rewards, baseline = self.divergence.pseudo_reward(log_w), self.moving.baseline
        self.moving.add(pseudo_rewards)
        return pseudo_rewards - baseline

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the losses of a micro-batch's responses."""
        return surrogate(response_logps(model, inputs), inputs["log_q"], inputs["advantage"]).sum()

    def _draw(self, places: Sequence[int]) -> list[Completion]:
        """Responses, those to a prompt together."""
        seed = row_seed(self.args.seed, [self.state.global_step], 0)
        prompts = [self.prompts[at] for at in places]
        how = self.sampling.model_copy(update={"seed": seed, "temperature": 1.0, "top_p": 1.0})
        return sample(self.model, self.tokenizer, prompts, how, quiet=True)

    def _batches(self, drawn: Sequence[Completion]) -> list[dict[str, Any]]:
        """Micro-batches of responses of like length, the longest first; `at` are their places among those drawn."""
        size = self.settings.micro_batch_size or len(drawn)
        prompts = [encode_prompt(self.tokenizer, row.prompt) for row in drawn]
        length = [len(prompt) + len(row.tokens) for prompt, row in zip(prompts, drawn, strict=True)]
        order = sorted(range(len(drawn)), key=lambda at: -length[at])
        made = []
        for start in range(0, len(order), size):
            part = order[start : start + size]
            batch = collate_responses(
                [prompts[at] for at in part], [drawn[at].tokens for at in part], self.tokenizer.pad_token_id
            )
            made.append({**onto(self.args.device, batch), "at": part, "tokens": sum(length[at] for at in part)})
        return made

    def _note(self, drawn: Sequence[Completion], log_w: Tensor, values: dict[str, Tensor]) -> None:
        """Add what a step's responses say to what is logged."""
        found = {f"{name}_to_target": kind.estimate(log_w) for name, kind in DIVERGENCES.items()} | values
        sums = {name: float(value.sum()) for name, value in found.items()}
        tokens = [row.tokens for row in drawn]
        sums |= {f"distinct_{n}": len(drawn) * distinct_n(tokens, n) for n in (1, 2)}
        self._sums.update(sums)
        self._seen += len(drawn)

    def extra_logs(self) -> dict[str, float]:
        means = {name: total / self._seen for name, total in self._sums.items()}
        self._sums, self._seen = Counter(), 0
        return means

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir)
        self.moving.write(Path(output_dir) / MOVING)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint)
        self.moving.read(Path(resume_from_checkpoint) / MOVING)


class Places:
    """The prompts of a step as they are: responses to them are drawn first, and cut into micro-batches then."""

    def cut(self, places: Sequence[int]) -> list[Sequence[int]]:
        return [places]

    def collate(self, places: Sequence[int]) -> dict[str, Any]:
        return {"places": list(places)}

    def count(self, places: Sequence[int]) -> int:
        return len(places)


def prompts_a_step(config: PreferenceConfig, sampling: SamplingConfig, there: int, dropped: dict[str, int]) -> int:
    """How many prompts have their responses in one step, of so many usable ones."""
    each, rest = divmod(config.batch_size, sampling.samples)
    if rest or each > there:
        raise UserError(
            f"training.batch_size {config.batch_size} is {config.batch_size / sampling.samples:g} prompts with "
            f"{sampling.samples} responses each (on_policy.samples): a whole number of the {there} usable prompts is "
            f"needed; dropped: {dropped or 'none'}"
        )
    return each


def prepare(policy: Any, config: PreferenceConfig, seed: int) -> None:
    """Without dropout, which would make pi another policy than drew the responses; or with a new adapter."""
    torch.manual_seed(seed)
    without_dropout(policy)
    if config.adapter is not None:
        adapters.add(policy, config.adapter)
    if config.gradient_checkpointing:
        checkpoint_blocks(policy)


def response_logps(model: Any, batch: dict[str, Any]) -> Tensor:
    """(b,) log-probs of the responses of a batch of `collate_responses`, nats, with gradient."""
    rows = rows_of(batch)
    hidden = rows.take(hidden_states(model, batch))
    terms = token_terms(hidden, None, lm_head(model), None, rows.labels(batch["input_ids"]), kl=())
    return rows.grid(terms.logps).sum(-1)


def _in_order(parts: Sequence[tuple[list[int], Tensor]]) -> Tensor:
    """Values at their places, float64 on the CPU."""
    values = torch.cat([value for _, value in parts]).double().cpu()
    return torch.empty_like(values).scatter(0, torch.tensor([at for places, _ in parts for at in places]), values)

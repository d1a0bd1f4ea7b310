"""f-DPG: a policy is trained on samples of its own towards an energy-based target, on transformers' Trainer."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import PreferenceConfig
from sparsepo.data.batches import Batch, ResponseBatch
from sparsepo.data.chat import scored_prompt
from sparsepo.data.collation import collate_responses
from sparsepo.data.encoding import Encoder
from sparsepo.data.records import Completion, Prompt
from sparsepo.evaluation.statistics import distinct_n
from sparsepo.fdpg.running_estimates import RunningEstimates
from sparsepo.fdpg.target import Target, usable_prompts
from sparsepo.generation.generate import sample
from sparsepo.generation.sampler import response_seed
from sparsepo.models.adapters import make_trainable, save_trained
from sparsepo.models.architecture import add_router_loss, checkpoint_blocks, hidden_states, lm_head, run_backbone
from sparsepo.models.limits import check_sequences, context_length
from sparsepo.models.loading import disable_dropout, text_tokenizer
from sparsepo.objective.f_divergence import DIVERGENCES, surrogate
from sparsepo.objective.token_terms import token_terms
from sparsepo.runtime.errors import UserError
from sparsepo.training.base_trainer import ResumableTrainer
from sparsepo.training.checks import check_models
from sparsepo.training.identity import identity_parts
from sparsepo.training.memory import HEAD_ROWS

ESTIMATES_FILE = "running_estimates.safetensors"  # in a checkpoint


class OnPolicyTrainer(ResumableTrainer):
    """Train `policy` towards `target` by f-DPG, on `sampling.samples` responses of its own to each prompt of a step.

        loss = -mean[ sg(pi / q) (R - B) log pi ],   R = -f'(t),   t = pi Z_c / P

    R is the pseudo-reward of the `divergence`, one of `DIVERGENCES`; Z_c and the baseline B are `RunningEstimates`. The
    responses of a step are sampled from pi itself, as a step is one update: pi / q is 1 up to rounding, and dropout of
    an adapter. They are drawn at temperature 1 with numbers of (seed, step), so a resumed run draws the same.

    policy, reference: as in `PreferenceTrainer`; an adapter is added to the policy. prompts: those that are empty,
    longer than `config.max_prompt_tokens` or leave no room in the model's context are dropped and counted.
    `config.batch_size` and `micro_batch_size` count responses. identity: see `ResumableTrainer`; of `target.value`, a
    function, a run without one knows the name only.

    `dynamics.jsonl` has means over the responses of an interval: the loss, the target's values, estimates of the four
    divergences from the target and of KL(pi || a), entropy (-log pi of a response), all in nats, log Z, and distinct-n
    of a step's responses. With n responses to each prompt so far, the estimate of KL(p || pi) is at most log n.

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
        tokenizer = text_tokenizer(tokenizer)
        check_models(policy, reference, tokenizer, config)
        self.prompts, self.dropped = usable_prompts(tokenizer, prompts, config, sampling, context_length(policy))
        longest, encoder = [0] * sampling.max_new_tokens, Encoder(tokenizer)
        for model in (policy, reference):
            check_sequences(model, (encoder.prompt_ids(prompt) + longest for prompt in self.prompts))
        print(f"{len(self.prompts)} of {len(prompts)} prompts can train; dropped: {self.dropped or 'none'}", flush=True)
        step_prompts = prompts_per_step(config, sampling, len(self.prompts), self.dropped)
        self.tokenizer, self.target, self.sampling = tokenizer, target, sampling
        self.divergence = DIVERGENCES[divergence]
        self.estimates = RunningEstimates(len(self.prompts))
        parts: dict[str, Any] = {}
        if not identity:
            parts = identity_parts(
                config,
                seed,
                target=f"{target.name} * {target.scale}",
                divergence=divergence,
                sampling=sampling.model_dump(mode="json"),
                prompts=self.prompts,
                policy=policy,
                reference=reference,
            )
        self.reference = disable_dropout(reference).requires_grad_(False).eval()
        prepare_policy(policy, config, seed)
        self._sums: Counter[str] = Counter()
        self._count = 0
        super().__init__(
            policy,
            range(len(self.prompts)),
            PromptBatches(),
            config.model_copy(update={"batch_size": step_prompts}),
            folder=folder,
            seed=seed,
            identity=identity,
            identity_parts=parts,
            measure=measure,
            measure_every=config.frontier_every,
        )
        self.reference.to(self.args.device)
        self.batch_share = config.batch_size  # responses
        length = max(len(encoder.prompt_ids(prompt)) for prompt in self.prompts) + sampling.max_new_tokens
        self.fit_micro_batch(policy, length, lambda size: min(size * length, 2 * HEAD_ROWS))

    def save(self, folder: str | Path) -> None:
        """Write the policy as a Hugging Face folder, see `save_trained`."""
        save_trained(self.model, self.tokenizer, folder, self.settings.adapter)

    # --- methods of transformers' Trainer

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Sample responses to the prompts of the step, and train on them in micro-batches."""
        (step,) = inputs["micro_batches"]
        model.eval()
        responses = self._sample_responses(step.prompts)
        batches = self._batches(responses)
        with torch.no_grad(), self.compute_loss_context_manager():
            log_q, log_a = (
                _in_sampling_order(
                    [
                        (batch.indices, response_logps(network, batch, hidden_states(network, batch.inputs)))
                        for batch in batches
                    ]
                )
                for network in (model, self.reference)
            )
        advantage = self._advantages(torch.tensor(step.prompts), responses, log_q, log_a)
        batches = [
            replace(batch, log_q=log_q[batch.indices].float(), advantage=advantage[batch.indices].float())
            for batch in batches
        ]
        inputs = {"micro_batches": [batch.to(self.args.device) for batch in batches], "count": len(responses)}
        return super().training_step(model, inputs, num_items_in_batch)

    def _advantages(self, prompts: Tensor, responses: Sequence[Completion], log_q: Tensor, log_a: Tensor) -> Tensor:
        """(c * s,) pseudo-rewards minus the baseline, of s responses to each of c prompts."""
        samples, texts = self.sampling.samples, [row.text for row in responses]
        values = torch.tensor(self.target.value([scored_prompt(row) for row in responses], texts)).double()
        log_p = log_a + self.target.scale * values
        self.estimates.add_ratios(prompts, (log_p - log_q).unflatten(0, (-1, samples)))
        log_z = self.estimates.log_z(prompts).repeat_interleave(samples)
        log_w = log_p - log_z - log_q
        logged = {self.target.name: values, "log_z": log_z, "entropy": -log_q, "kl_to_reference": log_q - log_a}
        self._record(responses, log_w, logged)
        pseudo_rewards, baseline = self.divergence.pseudo_reward(log_w), self.estimates.baseline
        self.estimates.add_pseudo_rewards(pseudo_rewards)
        return pseudo_rewards - baseline

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the losses of a micro-batch's responses."""
        outputs = run_backbone(model, inputs.inputs)
        logps = response_logps(model, inputs, outputs.last_hidden_state)
        loss = surrogate(logps, inputs.log_q, inputs.advantage).sum()
        return add_router_loss(loss, len(logps), model, outputs, inputs.inputs)

    def _sample_responses(self, indices: Sequence[int]) -> list[Completion]:
        """Responses to these prompts; those to one prompt are neighbours."""
        seed = response_seed(self.args.seed, [self.state.global_step], 0)
        prompts = [self.prompts[index] for index in indices]
        sampling = self.sampling.model_copy(update={"seed": seed, "temperature": 1.0, "top_p": 1.0})
        return sample(self.model, self.tokenizer, prompts, sampling, quiet=True)

    def _batches(self, responses: Sequence[Completion]) -> list["SampleBatch"]:
        """Micro-batches of responses of similar length, the longest first."""
        size = self.settings.micro_batch_size or len(responses)
        encoder = Encoder(self.tokenizer)
        prompts = [encoder.prompt_ids(row) for row in responses]
        lengths = [len(prompt) + len(row.tokens) for prompt, row in zip(prompts, responses, strict=True)]
        order = sorted(range(len(responses)), key=lambda index: -lengths[index])
        batches = []
        for start in range(0, len(order), size):
            part = order[start : start + size]
            batch = collate_responses(
                [prompts[index] for index in part],
                [responses[index].tokens for index in part],
                self.tokenizer.pad_token_id or 0,  # any token
            )
            batches.append(SampleBatch(**vars(batch.to(self.args.device)), indices=part))
        return batches

    def _record(self, responses: Sequence[Completion], log_w: Tensor, values: dict[str, Tensor]) -> None:
        """Add the values of a step's responses to the sums for the next log."""
        estimates = {f"{name}_to_target": kind.estimate(log_w) for name, kind in DIVERGENCES.items()}
        tokens, count = [row.tokens for row in responses], len(responses)
        self._sums.update({name: float(value.sum()) for name, value in (estimates | values).items()})
        self._sums.update({f"distinct_{n}": count * distinct_n(tokens, n) for n in (1, 2)})
        self._count += count

    def extra_logs(self) -> dict[str, float]:
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = Counter(), 0
        return means

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir)
        self.estimates.write(Path(output_dir) / ESTIMATES_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint)
        self.estimates.read(Path(resume_from_checkpoint) / ESTIMATES_FILE)


@dataclass(frozen=True, kw_only=True)
class PromptBatch(Batch):
    """The indices of the prompts of a step."""

    prompts: list[int]


@dataclass(frozen=True, kw_only=True)
class SampleBatch(ResponseBatch):
    """Some of the responses of a step: their indices, log-probs under the sampling policy and advantages (b,)."""

    indices: list[int]
    log_q: Tensor | None = None
    advantage: Tensor | None = None


class PromptBatches:
    """The prompts of a step as one batch: their responses are sampled first, and then split into micro-batches."""

    def split(self, prompts: Sequence[int]) -> list[Sequence[int]]:
        return [prompts]

    def collate(self, prompts: Sequence[int]) -> PromptBatch:
        return PromptBatch(num_tokens=0, prompts=list(prompts))

    def count(self, prompts: Sequence[int]) -> int:
        return len(prompts)


def prompts_per_step(config: PreferenceConfig, sampling: SamplingConfig, usable: int, dropped: dict[str, int]) -> int:
    """The number of prompts of one step. Raises UserError if it is not whole, or more than the `usable` prompts."""
    count, rest = divmod(config.batch_size, sampling.samples)
    if rest or count > usable:
        raise UserError(
            f"training.batch_size {config.batch_size} is {config.batch_size / sampling.samples:g} prompts with "
            f"{sampling.samples} responses each (on_policy.samples): a whole number of the {usable} usable prompts is "
            f"needed; dropped: {dropped or 'none'}"
        )
    return count


def prepare_policy(policy: Any, config: PreferenceConfig, seed: int) -> None:
    """Switch dropout off, as pi must be the policy that the responses are sampled from, and add the adapter, if any."""
    torch.manual_seed(seed)
    disable_dropout(policy)
    make_trainable(policy, config)
    if config.gradient_checkpointing:
        checkpoint_blocks(policy)


def response_logps(model: Any, batch: ResponseBatch, states: Tensor) -> Tensor:
    """(b,) log-probs of the responses by the model's last hidden states (b, T, d), nats, with gradient."""
    hidden = batch.responses.select_hidden(states)
    terms = token_terms(hidden, None, lm_head(model), None, batch.labels, kl=())
    return batch.responses.to_grid(terms.logps).sum(-1)


def _in_sampling_order(parts: Sequence[tuple[list[int], Tensor]]) -> Tensor:
    """The values of micro-batches, in the order in which the responses were sampled; float64 on the CPU."""
    values = torch.cat([value for _, value in parts]).double().cpu()
    return torch.empty_like(values).scatter(0, torch.tensor([at for places, _ in parts for at in places]), values)

"""Preference optimisation of a policy against a frozen reference, on transformers' Trainer."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from torch import Tensor

from sparsepo.config import PreferenceConfig
from sparsepo.data.collation import PairCollator, encode_pairs
from sparsepo.data.records import Preference, as_record, write_json
from sparsepo.errors import UserError
from sparsepo.models import check_head, context_of, save_model, without_dropout
from sparsepo.objective.losses import Side
from sparsepo.objective.masks import Masks
from sparsepo.objective.methods import check_parameters
from sparsepo.training.loop import Loop
from sparsepo.training.objective import Outcome, PairObjective, masks_for

CALIBRATION_PAIRS = 64
STEP_0_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}


class PreferenceTrainer(Loop):
    """Train `policy` on preference pairs with a method of `METHODS`.

    policy, reference: causal LMs with the same vocabulary; the policy starts as a copy of the reference.
    pairs: `Preference` records or mappings with `prompt`, `chosen`, `rejected` texts.
    hyper: what to change from the method's defaults, mask parameters included.
    folder: where checkpoints and `dynamics.jsonl` go while training.

    Raises UserError for an unknown method or parameter, an architecture whose logits cannot be reproduced, fewer
    usable pairs than one batch, and at step 0 if policy and reference differ.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any,
        tokenizer: Any,
        pairs: Sequence[Preference | Mapping[str, Any]],
        *,
        method: str,
        hyper: Mapping[str, Any] | None = None,
        config: PreferenceConfig | None = None,
        folder: str | Path,
        seed: int = 0,
        identity: str = "",
        measure: Callable[[Any], dict[str, float]] | None = None,
    ):
        config = config or PreferenceConfig()
        self.method, self.tokenizer, self.hyper = method, tokenizer, dict(hyper or {})
        loss_hyper, _ = check_parameters(method, self.hyper).split(self.hyper)
        if policy is reference:
            raise UserError("policy and reference must be two models, as one is trained: pass copy.deepcopy(policy)")
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-text token (tokenizer.eos_token), which responses need")
        check_head(without_dropout(policy))
        records = [
            pair if isinstance(pair, Preference) else as_record(pair, Preference, f"pairs[{place}]")
            for place, pair in enumerate(pairs)
        ]
        limits = config.max_prompt_tokens, config.max_response_tokens, context_of(policy)
        encoded = encode_pairs(tokenizer, records, *limits)
        self.dropped = encoded.dropped
        print(f"{len(encoded.pairs)} of {len(records)} pairs can train; dropped: {self.dropped or 'none'}", flush=True)
        if len(encoded.pairs) < config.batch_size:
            raise UserError(
                f"{len(encoded.pairs)} usable pairs are fewer than one batch of {config.batch_size} "
                f"(training.batch_size); dropped: {encoded.dropped or 'none'}"
            )
        torch.manual_seed(seed)
        masks = masks_for(method, reference, self.hyper)
        reference = without_dropout(reference).requires_grad_(False).eval()
        objective = PairObjective(policy, reference, method, loss_hyper, masks)
        self._sums: dict[str, Tensor] = {}
        self._pairs = 0
        super().__init__(
            objective,
            encoded.pairs,
            PairCollator(tokenizer.pad_token_id or 0),  # never looked at: the attention mask tells padding
            config,
            folder=folder,
            seed=seed,
            identity=identity,
            measure=None if measure is None else lambda model: measure(model.policy),
            measure_every=config.frontier_every,
        )
        if config.gradient_checkpointing:
            policy.activation_checkpointing_enable()
        self.loss_is_scaled_for_ga = True
        objective.reference.to(self.args.device)
        self._calibrate(encoded.pairs[:CALIBRATION_PAIRS])

    @property
    def policy(self) -> Any:
        return self.model.policy

    @property
    def masks(self) -> Masks | None:
        return self.model.masks

    def save(self, folder: str | Path) -> None:
        """The policy as a Hugging Face folder, and its mask heads beside it; heads are not needed for inference."""
        save_model(self.policy, self.tokenizer, folder)
        if self.masks is not None:
            write_json(Path(folder) / "masks.json", {"method": self.method, "hyper": self.hyper})
            save_weights(self.masks, str(Path(folder) / "masks.safetensors"))

    def _calibrate(self, pairs: list[Any]) -> None:
        size = self.args.per_device_train_batch_size
        batches = (self.data_collator(pairs[start : start + size]) for start in range(0, len(pairs), size))
        device = self.args.device
        self.model.calibrate({name: value.to(device) for name, value in batch.items()} for batch in batches)

    # what transformers' Trainer asks for

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one step, and their number of pairs: the loss is the mean over all of them."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, sum(len(batch["valid"]) // 2 for batch in batches)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outcome = model(inputs)
        if self.state.global_step == 0:
            self._check_step_0(outcome)
        self._pairs += len(outcome.loss)
        with torch.no_grad():
            for name, value in metrics(outcome).items():
                self._sums[name] = self._sums.get(name, 0.0) + value.sum()
        loss = outcome.loss.sum() / (num_items_in_batch or len(outcome.loss))
        return (loss, outcome) if return_outputs else loss

    def extra_logs(self) -> dict[str, float]:
        means = {name: float(total) / self._pairs for name, total in self._sums.items()}
        self._sums, self._pairs = {}, 0
        return means

    def create_optimizer(self, model=None):
        """AdamW with a group of its own for the mask heads."""
        if self.optimizer is None:
            config = self.settings
            groups = [{"params": [p for p in self.policy.parameters() if p.requires_grad]}]
            if self.masks is not None and self.masks.learned:
                heads = list(self.masks.parameters())
                groups.append(
                    {"params": heads, "lr": config.mask_learning_rate, "weight_decay": config.mask_weight_decay}
                )
            self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        return self.optimizer

    def _check_step_0(self, outcome: Outcome) -> None:
        sides = (outcome.chosen, outcome.rejected)
        worst = max(float(side.logratio.detach().where(side.valid, 0.0).abs().max()) for side in sides)
        exact = self.args.bf16 is False and self.args.fp16 is False
        tolerance = STEP_0_TOLERANCE.get(self.policy.dtype, 0.5) if exact else 0.5
        if worst > tolerance:
            raise UserError(
                f"policy and reference differ before the first step (largest |log pi - log ref| of a token: {worst:.3g}"
                f", allowed {tolerance:g}): both must start from the same weights, dtype and tokenizer"
            )

    def _save(self, output_dir=None, state_dict=None):
        target = Path(output_dir or self.args.output_dir)
        target.mkdir(parents=True, exist_ok=True)
        save_weights(self.model, str(target / "model.safetensors"))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        load_weights(model or self.model, str(Path(resume_from_checkpoint) / "model.safetensors"))


def metrics(outcome: Outcome) -> dict[str, Tensor]:
    """Numbers to log, each (b,); rewards are those the loss itself used, KL and log-probs sums over the response."""
    pair = outcome.pair
    values = {
        "reward_chosen": pair.chosen_reward,
        "reward_rejected": pair.rejected_reward,
        "reward_margin": pair.chosen_reward - pair.rejected_reward,
        "reward_accuracy": (pair.chosen_reward > pair.rejected_reward).float(),
    }
    for name, side in (("chosen", outcome.chosen), ("rejected", outcome.rejected)):
        for term in ("reverse_kl", "forward_kl"):
            values[f"{term}_{name}"] = _total(getattr(side, term), side)
        values[f"logp_change_{name}"] = _total(side.logratio, side)
        for letter in "ud":
            weight = getattr(side, f"m_{letter}")
            if weight is not None:
                values[f"sparsity_{letter}_{name}"] = _average((weight == 0).float(), side)
    if outcome.chosen.m_u is not None:
        for letter in "ud":
            both = [_average(getattr(side, f"m_{letter}"), side) for side in (outcome.chosen, outcome.rejected)]
            values[f"mask_{letter}_mean"] = torch.stack(both).mean(0)
        values["mask_l1"] = outcome.penalty
    return values


def _total(values: Tensor, side: Side) -> Tensor:
    return values.where(side.valid, 0.0).sum(-1)


def _average(values: Tensor, side: Side) -> Tensor:
    return _total(values, side) / side.valid.sum(-1)


def load_masks(folder: str | Path, reference: Any) -> Masks | None:
    """The mask heads that `PreferenceTrainer.save` put beside a policy, or None. UserError on another reference."""
    folder = Path(folder)
    if not (folder / "masks.json").exists():
        return None
    made = json.loads((folder / "masks.json").read_text())
    masks = masks_for(made["method"], reference, made["hyper"])
    try:
        load_weights(masks, str(folder / "masks.safetensors"))
    except (RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{folder}/masks.safetensors: heads of another reference model ({reason})") from None
    return masks

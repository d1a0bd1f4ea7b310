"""Preference optimisation of a policy against a frozen reference, on transformers' Trainer."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from torch import Tensor, nn

from sparsepo import adapters
from sparsepo.anatomy import check_head
from sparsepo.config import PreferenceConfig
from sparsepo.data.collation import onto
from sparsepo.data.records import Preference, write_json
from sparsepo.errors import UserError
from sparsepo.models import save_model, without_dropout
from sparsepo.objective.masks import Masks
from sparsepo.objective.methods import check_parameters
from sparsepo.objective.terms import KL
from sparsepo.training.batches import MicroBatches, encode
from sparsepo.training.loop import Loop
from sparsepo.training.metrics import metrics
from sparsepo.training.objective import Outcome, PairObjective, masks_for
from sparsepo.training.plan import choose_gradients, choose_layout
from sparsepo.training.reference import Cache, check_cache

CALIBRATION_PAIRS = 64
STEP_0_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}


class PreferenceTrainer(Loop):
    """Train `policy` on preference pairs with a method of `METHODS`.

    policy, reference: causal LMs with the same vocabulary; the policy starts as a copy of the reference. With a `cache`
    of all that the method needs of the reference (`training.reference`) the latter may be None.
    With `config.adapter` an adapter is added to the policy, whose own weights are frozen: then the reference best is
    `adapters.twin(policy)`, made before, which shares these weights, so that one model is in memory.
    pairs: `Preference` records or mappings with `prompt`, `chosen`, `rejected` texts.
    hyper: what to change from the method's defaults, mask parameters included.
    folder: where checkpoints and `dynamics.jsonl` go while training.

    Raises UserError for an unknown method or parameter, an architecture whose logits cannot be reproduced, fewer
    usable pairs than one batch, and at step 0 if policy and reference differ.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any | None,
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
        cache: Sequence[Cache] = (),
    ):
        config = config or PreferenceConfig()
        self.method, self.tokenizer, self.hyper = method, tokenizer, dict(hyper or {})
        loss_hyper, _ = check_parameters(method, self.hyper).split(self.hyper)
        if policy is reference or (config.adapter is None and adapters.are_twins(policy, reference)):
            raise UserError("policy and reference must be two models, as one is trained: pass copy.deepcopy(policy)")
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-text token (tokenizer.eos_token), which responses need")
        check_head(without_dropout(policy))
        encoded = encode(tokenizer, pairs, config, policy)
        self.dropped = encoded.dropped
        if len(encoded.pairs) < config.batch_size:
            raise UserError(
                f"{len(encoded.pairs)} usable pairs are fewer than one batch of {config.batch_size} "
                f"(training.batch_size); dropped: {encoded.dropped or 'none'}"
            )
        if reference is None:
            check_cache(method, self.hyper, config, cache, len(encoded.pairs))
        else:
            reference = without_dropout(reference).requires_grad_(False).eval()
        torch.manual_seed(seed)
        masks = masks_for(method, policy, self.hyper)
        if config.adapter is not None:
            adapters.add(policy, config.adapter)
        models = [model for model in (policy, reference) if model is not None]
        layout = choose_layout(models, config.layout, encoded.pairs)
        objective = PairObjective(
            policy,
            reference,
            method,
            loss_hyper,
            masks,
            kl=KL if config.log_kl else (),
            gradients=choose_gradients(policy, config.gradients, encoded.pairs),
        )
        self._sums: dict[str, Tensor] = {}
        self._pairs = 0
        super().__init__(
            objective,
            range(len(encoded.pairs)),
            MicroBatches(encoded.pairs, layout, config, cache),
            config,
            folder=folder,
            seed=seed,
            identity=identity,
            measure=None if measure is None else lambda model: measure(model.policy),
            measure_every=config.frontier_every,
            whole_batches=True,
        )
        if config.gradient_checkpointing:
            policy.activation_checkpointing_enable()
        if reference is not None:
            reference.to(self.args.device)
        some = self.data_collator(range(min(CALIBRATION_PAIRS, len(encoded.pairs))))["micro"]
        objective.calibrate(onto(self.args.device, batch) for batch in some)

    @property
    def policy(self) -> Any:
        return self.model.policy

    @property
    def masks(self) -> Masks | None:
        return self.model.masks

    def save(self, folder: str | Path) -> None:
        """The policy as a Hugging Face folder, and its mask heads beside it; heads are not needed for inference.

        An adapter is merged into plain weights, see `adapters.merged`, and also lies beside them in `adapter`.
        """
        plain = self.policy
        if adapters.adapted(plain):
            plain.save_pretrained(Path(folder) / "adapter")
            plain = adapters.merged(plain)
        save_model(plain, self.tokenizer, folder)
        if self.masks is not None:
            write_json(Path(folder) / "masks.json", {"method": self.method, "hyper": self.hyper})
            save_weights(self.masks, str(Path(folder) / "masks.safetensors"))

    # what transformers' Trainer asks for

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One step: the gradient of the mean loss over all its pairs, micro-batch by micro-batch."""
        model.train()
        batches = self._prepare_inputs(inputs)["micro"]
        pairs = self._mean_over_ranks(sum(len(batch["pairs"]) for batch in batches))
        found = []
        for batch in batches:
            with self.accelerator.no_sync(model) if len(found) < len(batches) - 1 else nullcontext():
                with self.compute_loss_context_manager():
                    loss = self.compute_loss(model, batch) / pairs
                self.accelerator.backward(loss)
            found.append(loss.detach())
            self.watch(found[-1], [vars(self.data_collator.pairs[at]) for at in batch["pairs"]], batch["tokens"])
        return torch.stack(found).sum()

    def _mean_over_ranks(self, pairs: int) -> float:
        """Gradients are averaged over ranks, whose batches may differ in size at the end of an epoch."""
        if self.accelerator.num_processes == 1:
            return pairs
        return float(self.accelerator.gather(torch.tensor([pairs], device=self.args.device)).float().mean())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the losses of a micro-batch's pairs."""
        outcome = model(inputs)
        if self.state.global_step == 0:
            self._check_step_0(outcome)
        self._pairs += len(outcome.loss)
        with torch.no_grad():
            for name, value in metrics(outcome).items():
                self._sums[name] = self._sums.get(name, 0.0) + value.sum()
        return (outcome.total, outcome) if return_outputs else outcome.total

    def extra_logs(self) -> dict[str, float]:
        names = list(self._sums)
        totals = torch.stack([self._sums[name].double() for name in names]).tolist()  # the one sync of an interval
        means = {name: total / self._pairs for name, total in zip(names, totals, strict=True)}
        self._sums, self._pairs = {}, 0
        return means

    def create_optimizer(self, model=None):
        """The optimiser, with a group of its own for the mask heads."""
        if self.optimizer is None:
            config = self.settings
            groups = [{"params": [p for p in self.policy.parameters() if p.requires_grad]}]
            if self.masks is not None and self.masks.learned:
                heads = list(self.masks.parameters())
                groups.append(
                    {"params": heads, "lr": config.mask_learning_rate, "weight_decay": config.mask_weight_decay}
                )
            self.optimizer = self.optimizer_of(groups)
        return self.optimizer

    def _check_step_0(self, outcome: Outcome) -> None:
        sides = (outcome.chosen, outcome.rejected)
        if outcome.chosen.ref_logps is None:
            return
        worst = max(float(side.logratio.detach().where(side.valid, 0.0).abs().max()) for side in sides)
        exact = self.args.bf16 is False and self.args.fp16 is False
        tolerance = STEP_0_TOLERANCE.get(self.policy.dtype, 0.5) if exact else 0.5
        if worst > tolerance:
            raise UserError(
                f"policy and reference differ before the first step (largest |log pi - log ref| of a token: {worst:.3g}"
                f", allowed {tolerance:g}): both must start from the same weights, dtype and tokenizer"
            )

    def _resumable(self) -> nn.Module:
        """What a checkpoint holds: policy and mask heads, but of an adapted policy only what is trained."""
        if not adapters.adapted(self.policy):
            return self.model
        heads = {} if self.masks is None else {"masks": self.masks}
        return nn.ModuleDict({"adapter": adapters.trained(self.policy), **heads})

    def _save(self, output_dir=None, state_dict=None):
        target = Path(output_dir or self.args.output_dir)
        target.mkdir(parents=True, exist_ok=True)
        save_weights(self._resumable(), str(target / "model.safetensors"))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        load_weights(self._resumable(), str(Path(resume_from_checkpoint) / "model.safetensors"))


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

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
from torch import Tensor

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import Encoded, onto
from sparsepo.data.records import Preference, write_json
from sparsepo.methods.registry import METHODS, check_pair_method
from sparsepo.models import adapters
from sparsepo.models.architecture import checkpoint_blocks, compile_blocks
from sparsepo.models.loading import context_of, without_dropout
from sparsepo.objective.mask_builder import Masks
from sparsepo.objective.token_terms import KL
from sparsepo.runtime.atomic_folder import atomic_folder
from sparsepo.runtime.errors import UserError
from sparsepo.training.base_trainer import ResumableTrainer
from sparsepo.training.batching import MicroBatches, encode, order_of, records_of
from sparsepo.training.checkpoints import set_weights
from sparsepo.training.checks import check_brought, check_known, check_models, check_pairs, check_step_0
from sparsepo.training.distributed import Shares
from sparsepo.training.layout_choice import choose_gradients, choose_layout
from sparsepo.training.logging import EveryFromTheStart, metrics
from sparsepo.training.pair_objective import PairObjective, masks_for
from sparsepo.training.reference_cache import Cache
from sparsepo.training.step_statistics import statistic_of
from sparsepo.training.validation import Best, validate

CALIBRATION_PAIRS = 64
BEST = "best.safetensors"
STATE = "statistic.json"


class PreferenceTrainer(ResumableTrainer):
    """Train `policy` on preference pairs with a method of `METHODS`.

    policy, reference: causal LMs with the same vocabulary; the policy starts as a copy of the reference, or where the
    loss looks at `values` of the pairs, as the model whose log-probs these are. With a `cache` of all that the method
    needs of the reference (`training.reference`) the latter may be None, but for validation. With `config.adapter` an
    adapter is added to the policy, whose own weights are frozen: then a reference of the same weights best is
    `adapters.twin(policy)`, made before, which shares them, so that one model is in memory.
    pairs: `Preference` records or mappings with `prompt`, `chosen`, `rejected` texts. Where they name an `epoch` each,
    epoch by epoch is trained on its own pairs.
    validation: such pairs to validate on, of which the epoch is no matter.
    hyper: what to change from the method's defaults, mask parameters included.
    folder: where checkpoints and `dynamics.jsonl` go while training.

    Raises UserError for an unknown method or parameter, an architecture whose logits cannot be reproduced, fewer
    usable pairs than one batch, pairs of other epochs than are trained, and at step 0 if the policy is another.
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
        validation: Sequence[Preference | Mapping[str, Any]] = (),
    ):
        self.method, self.tokenizer, self.hyper = method, tokenizer, dict(hyper or {})
        row = check_pair_method(method, self.hyper)
        config = (config or PreferenceConfig()).changed(row.training_settings(self.hyper))
        check_models(policy, reference, tokenizer, config)
        records = records_of(pairs)
        encoded = encode(tokenizer, records, config, policy)
        validates = config.validate_every > 0
        held_out = encode(tokenizer, validation, config, policy, "validate") if validates else Encoded([], [], {})
        check_pairs(encoded, held_out, config)
        check_brought(method, self.hyper, [*encoded.pairs, *held_out.pairs])
        self.dropped = encoded.dropped
        check_known(method, self.hyper, config, reference, cache, len(encoded.pairs))
        self._order = order_of([records[place].epoch for place in encoded.kept], config.num_train_epochs, seed)
        if self._order is not None:  # all epochs are one pass over all pairs
            config = config.model_copy(
                update={"num_train_epochs": config.num_train_epochs / len(set(self._order.epochs))}
            )
        objective = self._objective(policy, reference, config, seed, encoded.pairs)
        models = [model for model in (policy, reference) if model is not None]
        layout = choose_layout(models, config.layout, [*encoded.pairs, *held_out.pairs])
        batches = MicroBatches(encoded.pairs, layout, config, cache)
        self.best: Best | None = None
        self._sums: dict[str, Tensor] = {}
        self._pairs = 0
        super().__init__(
            objective,
            range(len(encoded.pairs)),
            batches,
            config,
            folder=folder,
            seed=seed,
            identity=identity,
            measure=None if measure is None else lambda model: self._uncompiled(measure),
            measure_every=config.frontier_every,
        )
        of = (method, self.hyper, encoded.pairs), (method, self.hyper, held_out.pairs)
        self.statistic, self.of_held_out = (statistic_of(*each, layout, context_of(policy)) for each in of)
        held = MicroBatches(held_out.pairs, layout, config)
        self.held_out = Shares(held, self.args.process_index, self.args.world_size)
        if config.validate_every:
            self.add_callback(EveryFromTheStart(config.validate_every, self._validate))
        if config.gradient_checkpointing:
            checkpoint_blocks(policy)
        if reference is not None:
            reference.to(self.args.device)
        some = batches.cut(range(min(CALIBRATION_PAIRS, len(encoded.pairs))))
        objective.calibrate(onto(self.args.device, batches.collate(places)) for places in some)
        if config.compile:
            for model in models:
                compile_blocks(model)

    def _uncompiled(self, measure: Callable[[Any], dict[str, float]]) -> dict[str, float]:
        """What is measured of the policy; sampling would have its blocks compiled anew, for caches."""
        with torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext():
            return measure(self.policy)

    def _objective(self, policy, reference, config, seed, pairs) -> PairObjective:
        """The objective with new mask heads, and with a new adapter on the policy if the config has one."""
        if reference is not None:
            reference = without_dropout(reference).requires_grad_(False).eval()
        torch.manual_seed(seed)
        masks = masks_for(self.method, policy, self.hyper)
        if config.adapter is not None:
            adapters.add(policy, config.adapter)
        hyper, _ = METHODS[self.method].split(self.hyper)
        how = {"kl": KL if config.log_kl else (), "gradients": choose_gradients(policy, config.gradients, pairs)}
        return PairObjective(policy, reference, self.method, hyper, masks, **how)

    @property
    def policy(self) -> Any:
        return self.model.policy

    @property
    def masks(self) -> Masks | None:
        return self.model.masks

    @property
    def kept_step(self) -> int:
        """The step whose weights the model has after `train`."""
        return self.state.global_step if self.best is None else self.best.step

    def train(self) -> None:
        """Train; where the config says so, end with the weights of the lowest validation loss."""
        super().train()
        if self.best is not None:
            set_weights(self.model, self.best.weights)

    def save(self, folder: str | Path) -> None:
        """The policy as a Hugging Face folder, and its mask heads beside it; heads are not needed for inference.

        An adapter is merged into plain weights, see `adapters.save`.
        """
        if not self.gather():
            return
        with atomic_folder(folder) as place:
            adapters.save(self.policy, self.tokenizer, place)
            if self.masks is not None:
                write_json(place / "masks.json", {"method": self.method, "hyper": self.hyper})
                save_weights(self.masks, str(place / "masks.safetensors"))

    # what transformers' Trainer asks for

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the losses of a micro-batch's pairs."""
        outcome = model(inputs)
        if self.state.global_step == 0:
            start = "values" if METHODS[self.method].needs_values else "ref_logps"
            check_step_0(outcome, self.policy.dtype, self.args.bf16 or self.args.fp16, start)
        self._pairs += inputs["weight"] * len(outcome.loss)
        with torch.no_grad():
            for name, value in metrics(outcome).items():
                self._sums[name] = self._sums.get(name, 0.0) + inputs["weight"] * value.sum()
        return (outcome.total, outcome) if return_outputs else outcome.total

    def prepare(self, model, micro):
        if self.statistic is None:
            return
        with self.compute_loss_context_manager():
            self.statistic.prepare(model, micro, self.total, self.args.seed, trains=True)
        self.rest()

    def content(self, batch):
        """The token ids of its pairs."""
        return [vars(self.data_collator.batches.pairs[place]) for place in batch["pairs"]]

    def extra_logs(self) -> dict[str, float]:
        pairs, *totals = self.total([self._pairs, *self._sums.values()])
        means = {name: total / pairs for name, total in zip(self._sums, totals, strict=True)}
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

    def _get_train_sampler(self, train_dataset=None):
        return self._order if self._order is not None else super()._get_train_sampler(train_dataset)

    def _validate(self) -> None:
        """A row of the log; after a step, the weights too if no earlier ones were better and the best are wanted."""
        step = self.state.global_step
        with self.exclude_from_timing():
            how = (self.compute_loss_context_manager, self.args.seed, self.total)
            row = validate(self.model, self.held_out, *how, self.of_held_out)
            self.rest()
        self.write_line("dynamics.jsonl", {"step": step} | row)
        loss = row["validation_loss"]
        if self.settings.checkpoint_selection == "best" and step > 0 and (self.best is None or loss < self.best.loss):
            self.best = Best.of(self.model, step, loss)

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir)
        if not self.is_world_process_zero():
            return
        if self.best is not None:
            self.best.write(Path(output_dir) / BEST)
        if self.statistic is not None:
            write_json(Path(output_dir) / STATE, self.statistic.state)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint)
        if self.statistic is not None:
            self.statistic.state = json.loads((Path(resume_from_checkpoint) / STATE).read_text())
        best = Path(resume_from_checkpoint) / BEST
        self.best = Best.read(best) if best.exists() else None


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

"""Preference optimisation of a policy against a frozen reference, on transformers' Trainer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import LAYOUTS
from sparsepo.data.encoding import EncodedPairs, TokenPair
from sparsepo.data.records import read_json, write_json
from sparsepo.methods.registry import METHODS, check_pair_method
from sparsepo.models.adapters import make_trainable, save_trained
from sparsepo.models.architecture import checkpoint_blocks, compile_blocks
from sparsepo.models.limits import check_sequences, context_length
from sparsepo.models.loading import disable_dropout, text_tokenizer
from sparsepo.objective.mask_builder import Masks
from sparsepo.objective.token_terms import KL_DIRECTIONS
from sparsepo.runtime.atomic_folder import atomic_folder
from sparsepo.runtime.errors import UserError
from sparsepo.training.base_trainer import ResumableTrainer
from sparsepo.training.batching import (
    PairBatches,
    Pairs,
    as_preferences,
    encode_usable_pairs,
    epoch_sampler,
    pair_sequences,
)
from sparsepo.training.checkpoints import set_weights
from sparsepo.training.checks import check_models, check_num_pairs, check_pair_data, check_reference, check_step_0
from sparsepo.training.distributed import StepCollator
from sparsepo.training.identity import identity_parts
from sparsepo.training.layout_choice import choose_gradients, choose_layout
from sparsepo.training.logging import EveryNSteps, pair_metrics
from sparsepo.training.memory import HEAD_ROWS
from sparsepo.training.method_masks import build_method_masks, save_masks
from sparsepo.training.pair_objective import PairObjective
from sparsepo.training.reference_cache import ReferenceCache
from sparsepo.training.step_statistics import build_statistic
from sparsepo.training.validation import BestWeights, validate

CALIBRATION_PAIRS = 64
BEST_FILE = "best.safetensors"
STATISTIC_FILE = "statistic.json"


class PreferenceTrainer(ResumableTrainer):
    """Train `policy` on preference pairs with a method of `METHODS`.

    policy, reference: causal LMs with the same vocabulary; the policy starts as a copy of the reference, or where the
    loss reads `values` of the pairs, as the model whose log-probs these are. With caches of all that the method needs
    of the reference (`training.reference_cache`) it may be None, except for validation. With `config.adapter` an
    adapter is added to the policy, whose own weights are frozen: then pass `clone_sharing_weights(policy)`, made
    before, as the reference, so that one model is in memory.
    pairs: `Preference` records or mappings with `prompt`, `chosen`, `rejected` texts. Where they have an `epoch` each,
    every epoch trains on its own pairs.
    validation: such pairs to validate on; their epoch is ignored.
    hyper: what to change from the method's defaults, mask parameters included.
    starts_as_reference: False for a policy that starts from another model, of any size but with the same tokenizer.
    Then the reference must be given, and pairs are encoded for it as for a policy that starts from it.
    folder: for checkpoints and `dynamics.jsonl` during training, of this run only. identity: see `ResumableTrainer`.

    Raises UserError for an unknown method or parameter, models that `check_models`, `make_trainable` or
    `check_sequences` refuses, fewer usable pairs than one batch, pairs of other epochs than are trained; in `train` for
    a folder of another run, and at step 0 if the policy starts from another model than was said.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any | None,
        tokenizer: Any,
        pairs: Pairs,
        *,
        method: str,
        hyper: Mapping[str, Any] | None = None,
        config: PreferenceConfig | None = None,
        folder: str | Path,
        seed: int = 0,
        identity: str = "",
        measure: Callable[[Any], dict[str, float]] | None = None,
        caches: Sequence[ReferenceCache] = (),
        validation: Pairs = (),
        starts_as_reference: bool = True,
    ):
        self.tokenizer = tokenizer = text_tokenizer(tokenizer)
        self.method, self.hyper = method, dict(hyper or {})
        row = check_pair_method(method, self.hyper)
        config = (config or PreferenceConfig()).changed(row.training_overrides(self.hyper))
        check_models(policy, reference, tokenizer, config)
        if not starts_as_reference and reference is None:
            raise UserError("a policy that does not start as the reference has another output head: pass the reference")
        self._starts_as_reference = starts_as_reference
        encoded_for = policy if starts_as_reference else reference
        training_pairs, validation_pairs = self._encode_pairs(pairs, validation, config, encoded_for)
        check_reference(method, self.hyper, config, reference, caches, len(training_pairs))
        other = reference if starts_as_reference else policy
        if other is not None:
            check_sequences(other, pair_sequences([*training_pairs, *validation_pairs]))
        parts: dict[str, Any] = {}
        if not identity:
            parts = identity_parts(
                config,
                seed,
                method=method,
                hyper=row.resolve(self.hyper),
                pairs=[training_pairs, self._pair_epochs],
                validation=validation_pairs,
                policy=policy,
                reference=reference,
                caches=[(cache.folder / "index.json").read_text(encoding="utf-8") for cache in caches],
            )
        self._sampler = epoch_sampler(self._pair_epochs, config.num_train_epochs, seed)
        if self._sampler is not None:  # all epochs are one pass over all pairs
            num_epochs = config.num_train_epochs / len(set(self._sampler.epochs))
            config = config.model_copy(update={"num_train_epochs": num_epochs})
        objective = self._build_objective(policy, reference, config, seed, training_pairs)
        models = [model for model in (policy, reference) if model is not None]
        layout = choose_layout(models, config.layout, [*training_pairs, *validation_pairs])
        maker = PairBatches(training_pairs, layout, config, caches)
        self.best: BestWeights | None = None
        self._metric_sums: dict[str, Tensor] = {}
        self._num_logged_pairs = 0
        self._is_dead_mask_told = False
        super().__init__(
            objective,
            range(len(training_pairs)),
            maker,
            config,
            folder=folder,
            seed=seed,
            identity=identity,
            identity_parts=parts,
            measure=None if measure is None else lambda model: self._measure_uncompiled(measure),
            measure_every=config.frontier_every,
        )
        longest = max(LAYOUTS[layout].num_positions([pair]) for pair in training_pairs)
        rows = max(len(pair.chosen) + len(pair.rejected) for pair in training_pairs)
        self.fit_micro_batch(policy, longest, lambda size: min(size * rows, 2 * HEAD_ROWS + rows))
        maker.config = config = self.settings
        context = context_length(policy)
        self.statistic = build_statistic(method, self.hyper, training_pairs, layout, context)
        self._prepare_validation(PairBatches(validation_pairs, layout, config), context)
        if config.gradient_checkpointing:
            checkpoint_blocks(policy)
        if reference is not None:
            reference.to(self.args.device)
        calibration = maker.split(range(min(CALIBRATION_PAIRS, len(training_pairs))))
        objective.calibrate(maker.collate(indices).to(self.args.device) for indices in calibration)
        for model in models if config.compile else ():
            compile_blocks(model)

    def _encode_pairs(
        self, pairs: Pairs, validation: Pairs, config: PreferenceConfig, model: Any
    ) -> tuple[list[TokenPair], list[TokenPair]]:
        """The pairs to train and to validate on that the model can read.

        Raises UserError if there are too few or they lack data.
        """
        records = as_preferences(pairs, self.tokenizer)
        training = encode_usable_pairs(self.tokenizer, records, config, model)
        held_out = EncodedPairs([], [], {})
        if config.validate_every:
            held_out = encode_usable_pairs(self.tokenizer, validation, config, model, "validate")
        check_num_pairs(training, held_out, config)
        check_pair_data(self.method, self.hyper, [*training.pairs, *held_out.pairs])
        self.dropped = training.dropped
        self._pair_epochs = [records[index].epoch for index in training.indices]
        return training.pairs, held_out.pairs

    def _prepare_validation(self, maker: PairBatches, context: int) -> None:
        self.validation_statistic = build_statistic(self.method, self.hyper, maker.pairs, maker.layout, context)
        self.validation_collator = StepCollator(maker, self.args.process_index, self.args.world_size)
        if self.settings.validate_every:
            self.add_callback(EveryNSteps(self.settings.validate_every, self._validate, at_start=True))

    def _measure_uncompiled(self, measure: Callable[[Any], dict[str, float]]) -> dict[str, float]:
        """Numbers of the policy; sampling would compile its blocks again, for key-value caches."""
        with torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext():
            return measure(self.policy)

    def _build_objective(
        self, policy: Any, reference: Any | None, config: PreferenceConfig, seed: int, pairs: Sequence[TokenPair]
    ) -> PairObjective:
        """The objective with new mask heads, and with a new adapter on the policy if the config has one."""
        if reference is not None:
            reference = disable_dropout(reference).requires_grad_(False).eval()
        torch.manual_seed(seed)
        masks = build_method_masks(self.method, policy if reference is None else reference, self.hyper)
        make_trainable(policy, config)
        loss_kwargs, _ = METHODS[self.method].split_parameters(self.hyper)
        options = {
            "kl": KL_DIRECTIONS if config.log_kl else (),
            "gradients": choose_gradients(policy, config.gradients, pairs),
        }
        return PairObjective(policy, reference, self.method, loss_kwargs, masks, **options)

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
        """Train; with `checkpoint_selection: best`, end with the weights of the lowest validation loss."""
        super().train()
        if self.best is not None:
            set_weights(self.model, self.best.weights)

    def save(self, folder: str | Path) -> None:
        """Write the policy as a Hugging Face folder, see `save_trained`, with its mask heads, if any, beside it.

        Mask heads are not needed for inference.
        """
        if not self.gather_weights():
            return
        with atomic_folder(folder) as place:
            save_trained(self.policy, self.tokenizer, place, self.settings.adapter)
            if self.masks is not None:
                save_masks(self.masks, self.method, self.hyper, place)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the losses of a micro-batch's pairs."""
        output = model(inputs)
        needs_values = METHODS[self.method].needs_values
        if self.state.global_step == 0 and (needs_values or self._starts_as_reference):
            start = "values" if needs_values else "ref_logps"
            check_step_0(output, self.policy.dtype, self.args.bf16 or self.args.fp16, start)
        self._num_logged_pairs += inputs.weight * len(output.loss)
        with torch.no_grad():
            with_negative = self.masks is not None and self.masks.can_be_negative
            for name, value in pair_metrics(output, with_negative=with_negative).items():
                self._metric_sums[name] = self._metric_sums.get(name, 0.0) + inputs.weight * value.sum()
        return (output.total, output) if return_outputs else output.total

    def prepare_step(self, model, batches):
        """With what the losses of some methods need of all pairs of the step."""
        if self.statistic is None:
            return batches
        with self.compute_loss_context_manager():
            batches = self.statistic.add_to_batches(
                model, batches, self.sum_over_processes, self.args.seed, is_training=True
            )
        self.reshard()
        return batches

    def batch_content(self, batch):
        """The token ids of its pairs."""
        return [vars(self.data_collator.maker.pairs[index]) for index in batch.pair_indices]

    def extra_logs(self) -> dict[str, float]:
        """Means over all pairs since the last row."""
        num_pairs, *sums = self.sum_over_processes([self._num_logged_pairs, *self._metric_sums.values()])
        means = {name: total / num_pairs for name, total in zip(self._metric_sums, sums, strict=True)}
        self._metric_sums, self._num_logged_pairs = {}, 0
        zeros = [share for name, share in means.items() if name.startswith("sparsity_u")]
        if zeros and min(zeros) == 1.0 and not self._is_dead_mask_told:
            self._is_dead_mask_told = True
            print(
                f"warning: step {self.state.global_step}: all weights m_u are 0, so the reward trains nothing; with "
                "init: authors take another seed or init: ones, with an L1 penalty a smaller l1_u",
                flush=True,
            )
        if "mask_u_mean" in means:
            beta = METHODS[self.method].effective_beta(self.hyper, means["mask_u_mean"])
            means |= {} if beta is None else {"effective_beta": beta}
        return means

    def create_optimizer(self, model=None):
        """The optimiser, with groups of their own for the mask heads.

        Their weight decay acts on the weights of linear maps, not on biases and the LayerNorm, as in the authors' code.
        """
        if self.optimizer is None:
            config, rate = self.settings, self.settings.mask_learning_rate
            groups = [{"params": [p for p in self.policy.parameters() if p.requires_grad]}]
            if self.masks is not None and self.masks.has_parameters:
                linear = [module.weight for module in self.masks.modules() if isinstance(module, nn.Linear)]
                others = [weight for weight in self.masks.parameters() if all(weight is not each for each in linear)]
                groups.append({"params": linear, "lr": rate, "weight_decay": config.mask_weight_decay})
                groups.append({"params": others, "lr": rate, "weight_decay": 0.0})
            self.optimizer = self.build_optimizer(groups)
        return self.optimizer

    def _get_train_sampler(self, train_dataset=None):
        return self._sampler if self._sampler is not None else super()._get_train_sampler(train_dataset)

    def _validate(self) -> None:
        """Write a row of the log; after a step keep the weights if they are the best and the best are selected."""
        step = self.state.global_step
        with self.exclude_from_timing():
            options = self.compute_loss_context_manager, self.args.seed, self.sum_over_processes
            row = validate(self.model, self.validation_collator, *options, self.validation_statistic)
            self.reshard()
        self.write_log_row("dynamics.jsonl", {"step": step} | row)
        loss = row["validation_loss"]
        if self.settings.checkpoint_selection == "best" and step > 0 and (self.best is None or loss < self.best.loss):
            self.best = BestWeights.of_model(self.model, step, loss)

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir)
        if not self.is_world_process_zero():
            return
        if self.best is not None:
            self.best.write(Path(output_dir) / BEST_FILE)
        if self.statistic is not None:
            write_json(Path(output_dir) / STATISTIC_FILE, self.statistic.state)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint)
        if self.statistic is not None:
            self.statistic.state = read_json(Path(resume_from_checkpoint) / STATISTIC_FILE)
        best = Path(resume_from_checkpoint) / BEST_FILE
        self.best = BestWeights.read(best) if best.exists() else None

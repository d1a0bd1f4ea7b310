"""What all trainers share: transformers' Trainer with resumable checkpoints and a JSONL log of steps."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from sparsepo.config.training import OptimisationConfig
from sparsepo.data.batches import Batch
from sparsepo.data.records import read_json, write_bytes, write_json
from sparsepo.runtime.errors import UserError, is_out_of_memory
from sparsepo.runtime.status import update_metrics
from sparsepo.training.checkpoints import (
    LOGS,
    checkpoint_step,
    cut_logs,
    deleted_on_error,
    latest_checkpoint,
    lock_folder,
    mark_complete,
)
from sparsepo.training.distributed import BatchMaker, DistributedTrainer, StepCollator
from sparsepo.training.identity import claim_folder, text_hash
from sparsepo.training.layout_choice import free_bytes
from sparsepo.training.logging import EveryNSteps, ProgressLogger, append_line
from sparsepo.training.memory import (
    FLOAT,
    USED,
    DecoderShape,
    largest_size,
    micro_batch_bytes,
    next_smaller,
    state_bytes,
)

MICRO_BATCH_FILE = "micro_batch_size.json"
OPTIMIZERS = {  # transformers' names
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
NOT_LOGGED = {
    *("total_flos", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second", "epoch")
}


class ResumableTrainer(DistributedTrainer):
    """A Trainer that writes `dynamics.jsonl` and resumes where it was killed.

    folder: checkpoints and logs during training. Checkpoints hold the trained parameters only, of an adapted model
    those of the adapter. identity: of all that the result depends on, if the caller knows it; checkpoints of another
    identity are deleted. If it is "", it is the hash of `identity_parts`, see `training.identity`, and a folder in
    which another run has trained is an error.
    measure: called on the model every `measure_every` steps and at the end; returns numbers for `frontier.jsonl`, to
    which its seconds are added.

    section: that of the config, for messages. A subclass defines the loss of a micro-batch, summed over what `maker`
    counts. Only the first process writes files.
    """

    section = "training"

    def __init__(
        self,
        model: Any,
        data: Sequence[Any],
        maker: BatchMaker,
        config: OptimisationConfig,
        *,
        folder: str | Path,
        seed: int,
        identity: str,
        identity_parts: dict[str, Any],
        measure: Callable[[Any], dict[str, float]] | None = None,
        measure_every: int = 0,
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.identity, self._identity_parts = identity or text_hash(identity_parts), identity_parts
        self.settings = self.config = config
        self.batch_share = max(1, config.batch_size // config.num_processes)
        self.clock = time.perf_counter
        self._log_time, self._tokens = self.clock(), 0
        self.measuring_seconds = 0.0
        self._recent_losses: list[tuple[int, Tensor, Any]] = []  # step, loss, content of the batch
        arguments = training_arguments(config, self.folder, seed)
        collator = StepCollator(maker, arguments.process_index, arguments.world_size)
        super().__init__(model=model, args=arguments, data_collator=collator, train_dataset=data)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(ProgressLogger())
        if measure is not None and measure_every:
            self.add_callback(EveryNSteps(measure_every, lambda: self._measure(measure)))

    def fit_micro_batch(self, model: Any, length: int, head: Callable[[int], float]) -> None:
        """Choose `micro_batch_size` by the free memory, unless the config has it or `micro_batch_tokens`.

        length: the most positions of one item. head: number of items -> rows of logits at once. A resumed run keeps its
        size, and takes a smaller one after it ran out of memory.
        """
        config = self.settings
        if self._is_micro_batch_given:
            return
        share, path = self.batch_share, self.folder / MICRO_BATCH_FILE
        own_size = self._kept_size(path, share) or self._fitting_size(model, length, head, share)
        size = min(gather_object([own_size]))
        if self.is_world_process_zero():
            write_json(path, size)
        self.settings = config.model_copy(update={"micro_batch_size": size})

    @property
    def _is_micro_batch_given(self) -> bool:
        return bool(self.config.micro_batch_size or getattr(self.config, "micro_batch_tokens", None))

    def _kept_size(self, path: Path, share: int) -> int | None:
        """The size that an earlier attempt wrote, if it divides the batch."""
        size = read_json(path) if path.is_file() else 0
        return size if size and share % size == 0 else None

    def _fitting_size(self, model: Any, length: int, head: Callable[[int], float], share: int) -> int:
        config, decoder = self.settings, DecoderShape.of(model)
        half, checkpointing = config.precision != "float32", config.gradient_checkpointing
        trained = sum(value.numel() for value in self.model.parameters() if value.requires_grad)
        copied = sum(value.numel() for value in model.parameters() if value.dtype == torch.float32)
        runs = getattr(config, "together", 1)
        room = USED * free_bytes(self.args.device) - runs * state_bytes(trained, copied, half, config.optimizer)
        room -= (runs - 1) * FLOAT * trained

        def need(size: int) -> float:
            return micro_batch_bytes(decoder, size * length, head(size), half, checkpointing)

        size = largest_size(share, lambda size: need(size) <= room)
        what = f"{need(size) / 2**30:.2g} GB of {max(room, 0) / 2**30:.2g} GB"
        print(f"micro_batch_size: {size} of {share} by the free memory ({what})", flush=True)
        return size

    def _memory_error(self) -> UserError:
        """What to write in the config after a run went out of memory; of a chosen size the next attempt takes half."""
        section, size = self.section, self.settings.micro_batch_size
        tokens = getattr(self.settings, "micro_batch_tokens", None)
        if tokens:
            return UserError(f"out of memory: write {section}.micro_batch_tokens: {tokens // 2} (it was {tokens})")
        smaller = next_smaller(self.batch_share, size or self.batch_share)
        if smaller is None:
            return UserError(
                f"out of memory with {section}.micro_batch_size: 1: write {section}.gradient_checkpointing: true, "
                f"shorter limits of tokens, or an {section}.adapter"
            )
        line = f"out of memory: write {section}.micro_batch_size: {smaller} (it was {size or self.batch_share})"
        if not self._is_micro_batch_given:
            write_json(self.folder / MICRO_BATCH_FILE, smaller)
            line += "; another attempt takes that by itself"
        return UserError(line)

    @contextmanager
    def exclude_from_timing(self) -> Iterator[None]:
        """For work that is not training: its time is left out of the tokens per second."""
        start = self.clock()
        yield
        seconds = self.clock() - start
        self._log_time += seconds
        self.measuring_seconds += seconds

    def _measure(self, measure: Callable[[Any], dict[str, float]]) -> None:
        start = self.clock()
        with self.exclude_from_timing():
            numbers = measure(self.model)
        seconds = round(self.clock() - start, 3)
        update_metrics({name: value for name, value in numbers.items() if name == "reward"})
        self.write_log_row("frontier.jsonl", {"step": self.state.global_step} | numbers | {"seconds": seconds})

    def write_log_row(self, name: str, row: dict[str, Any]) -> None:
        """Append a row to a log; all processes have the row, the first one writes it."""
        if self.is_world_process_zero():
            append_line(self.folder / name, row)

    def train(self) -> None:
        """Train from the last complete checkpoint of this run in `folder`, or from the start.

        Raises UserError for a folder in which another run has trained, unless this one was given an `identity`, and
        with the micro-batch size to write when memory runs out.
        """
        checkpoint = broadcast_object_list([self._prepare_folder() if self.is_world_process_zero() else None])[0]
        step = 0 if checkpoint is None else checkpoint_step(checkpoint)
        if checkpoint is not None and read_json(checkpoint / "trainer_state.json")["max_steps"] == step:
            self._load_from_checkpoint(str(checkpoint))
            self.state.global_step = step
            return  # transformers would train one more step
        set_seed(self.args.seed + self.args.process_index)  # independent of what was drawn since __init__
        self._log_time = self.clock()
        try:
            super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise self._memory_error() from error

    def _prepare_folder(self) -> Path | None:
        """Lock the folder and return the checkpoint to resume from; log rows of later steps are dropped."""
        lock_folder(self.folder)
        if self._identity_parts:
            claim_folder(self.folder, self._identity_parts)
        checkpoint = latest_checkpoint(self.folder, self.identity)
        if checkpoint is not None:
            print(f"resuming at step {checkpoint_step(checkpoint)} from {checkpoint}", flush=True)
        cut_logs(self.folder, checkpoint)
        return checkpoint

    def finish(self, dynamics: Path, frontier: Path | None = None) -> None:
        """Copy the logs to their outputs and delete the working folder; to be called when the weights are saved."""
        self.accelerator.end_training()
        if not self.is_world_process_zero():
            return
        for name, target in zip(LOGS, (dynamics, frontier), strict=True):
            if target is not None:
                source = self.folder / name
                write_bytes(target, source.read_bytes() if source.exists() else b"")
        shutil.rmtree(self.folder)

    def on_micro_batch(self, loss: Tensor, batch: Batch) -> None:
        """Count tokens, and keep loss and batch until the next log row: reading the loss now would stall a GPU."""
        self._tokens += batch.weight * batch.num_tokens
        self._recent_losses.append((self.state.global_step + 1, loss, self.batch_content(batch)))

    def batch_content(self, batch: Any) -> Any:
        """What is written to a file of a batch whose loss is not finite."""
        return batch.inputs.input_ids

    def _check_losses(self) -> None:
        """Raises UserError if a loss since the last log row is not finite on any process, and writes its batch."""
        recent, self._recent_losses = self._recent_losses, []
        is_finite = torch.stack([loss for _, loss, _ in recent]).isfinite().tolist() if recent else []
        first_bad = [entry for entry, finite in zip(recent, is_finite, strict=True) if not finite][:1]
        if self.sum_over_processes([len(first_bad)]) == [0]:
            return
        plain = [
            (step, float(loss), content.tolist() if isinstance(content, Tensor) else content)
            for step, loss, content in first_bad
        ]
        step, loss, content = min(gather_object(plain), key=lambda entry: entry[0])
        path = self.folder / "bad_batch.json"
        if self.is_world_process_zero():
            write_json(path, {"step": step, "batch": content})
        raise UserError(f"the loss is {loss} at step {step}; the batch is in {path}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one row for each logging interval."""
        logs = {name: value for name, value in logs.items() if name not in NOT_LOGGED}
        if "loss" not in logs:
            return
        self._check_losses()
        logs = {"step": self.state.global_step} | logs | self.extra_logs()
        now, (tokens,) = self.clock(), self.sum_over_processes([self._tokens])
        logs["tokens_per_second"] = tokens / max(now - self._log_time, 1e-9)
        self._log_time, self._tokens = now, 0
        self.write_log_row("dynamics.jsonl", logs)
        super().log(logs, start_time)

    def extra_logs(self) -> dict[str, float]:
        """Numbers that a subclass adds to a row."""
        return {}

    def build_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of the config for parameter groups. Raises UserError if its library is not installed."""
        try:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            return optimizer_class(groups, **options | {"weight_decay": self.settings.weight_decay})
        except (ImportError, ValueError) as error:
            name = self.settings.optimizer
            raise UserError(f"optimizer '{name}' cannot be used here ({str(error).splitlines()[0][:120]})") from None

    def _save_checkpoint(self, model, trial):
        target = self.folder / f"checkpoint-{self.state.global_step}"
        with deleted_on_error(target, self.state.global_step):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes the state of its random numbers
            if self.is_world_process_zero():
                mark_complete(target, self.identity)


def training_arguments(config: OptimisationConfig, folder: Path, seed: int) -> TrainingArguments:
    """transformers' arguments for our config. Saving and logging are ours; what is not named keeps its default.

    A process trains on one GPU, even if it sees more: transformers would distribute a batch over all.
    """
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,  # of all processes: the collator takes a share
        average_tokens_across_devices=False,  # training_step divides by the count of all processes
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,  # below 1 it is a share of all steps
        optim=OPTIMIZERS[config.optimizer],
        use_cpu=not torch.accelerator.is_available(),  # transformers refuses bfloat16 on a CPU without it
        bf16=config.precision == "bfloat16",
        fp16=config.precision == "float16",
        logging_steps=config.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps" if config.checkpoint_every else "no",
        save_steps=config.checkpoint_every or 500,
        save_total_limit=2,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
        seed=seed,
        data_seed=seed,  # the same on every process
        dataloader_pin_memory=cuda,
        dataloader_num_workers=int(cuda),  # collates the next step while the GPU computes this one
        accelerator_config={"non_blocking": cuda},
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments

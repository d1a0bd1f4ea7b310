"""What SFT and preference training share: transformers' Trainer with resumable checkpoints and a JSONL log of steps."""

import json
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
from sparsepo.data.records import write_json, write_text
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.status import update_metrics
from sparsepo.training.checkpoints import latest, lock_folder, mark_complete, step_of, writing
from sparsepo.training.distributed import Batches, SharedTrainer, Shares
from sparsepo.training.logging import Every, Progress, append_line, keep_until

OPTIMIZERS = {  # transformers' names
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
QUIET = {"total_flos", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second", "epoch"}


class ResumableTrainer(SharedTrainer):
    """A Trainer that writes `dynamics.jsonl` and goes on where it was killed.

    `folder` holds checkpoints and logs while training. `identity` names everything the result depends on: a checkpoint
    of another identity is dropped; it holds the trained parameters alone, of an adapted model those of the adapter.
    `measure`, called on the model every `measure_every` steps and at the end, returns numbers for `frontier.jsonl`, to
    which its seconds are added.

    A subclass says what the loss of a micro-batch is, summed over what `batches` counts. Of several processes the first
    alone writes.
    """

    def __init__(
        self,
        model: Any,
        data: Sequence[Any],
        batches: Batches,
        config: OptimisationConfig,
        *,
        folder: str | Path,
        seed: int,
        identity: str,
        measure: Callable[[Any], dict[str, float]] | None = None,
        measure_every: int = 0,
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.identity = identity
        self.settings = config
        self._clock, self._tokens = time.perf_counter(), 0
        self.measuring = 0.0  # seconds that are not training
        self._watched: list[tuple[int, Tensor, Any]] = []
        arguments = arguments_of(config, self.folder, seed)
        shares = Shares(batches, arguments.process_index, arguments.world_size)
        super().__init__(model=model, args=arguments, data_collator=shares, train_dataset=data)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(Progress())
        if measure is not None and measure_every:
            self.add_callback(Every(measure_every, lambda: self._measure(measure)))

    @contextmanager
    def exclude_from_timing(self) -> Iterator[None]:
        """Work whose time counts neither as training nor in its tokens per second."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._clock += seconds
        self.measuring += seconds

    def _measure(self, measure: Callable[[Any], dict[str, float]]) -> None:
        start = time.perf_counter()
        with self.exclude_from_timing():
            point = measure(self.model)
        seconds = round(time.perf_counter() - start, 3)
        update_metrics({name: value for name, value in point.items() if name == "reward"})
        self.write_line("frontier.jsonl", {"step": self.state.global_step} | point | {"seconds": seconds})

    def write_line(self, name: str, row: dict[str, Any]) -> None:
        """Append a row to a log; every process has it, the first writes it."""
        if self.is_world_process_zero():
            append_line(self.folder / name, row)

    def train(self) -> None:
        """Train from the last complete checkpoint of this run in `folder`, or from the start."""
        checkpoint = broadcast_object_list([self._clear_up() if self.is_world_process_zero() else None])[0]
        step = 0 if checkpoint is None else step_of(checkpoint)
        if checkpoint is not None and json.loads((checkpoint / "trainer_state.json").read_text())["max_steps"] == step:
            self._load_from_checkpoint(str(checkpoint))
            self.state.global_step = step
            return  # transformers would take one step more
        set_seed(self.args.seed + self.args.process_index)  # whatever was drawn since the trainer was made
        self._clock = time.perf_counter()
        super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _clear_up(self) -> Path | None:
        """The checkpoint to go on from, in a folder that is ours alone; what was logged after it is forgotten."""
        lock_folder(self.folder)
        checkpoint = latest(self.folder, self.identity)
        if checkpoint is not None:
            print(f"resuming at step {step_of(checkpoint)} from {checkpoint}", flush=True)
        for name in ("dynamics.jsonl", "frontier.jsonl"):
            keep_until(self.folder / name, -1 if checkpoint is None else step_of(checkpoint))
        return checkpoint

    def finish(self, dynamics: Path, frontier: Path | None = None) -> None:
        """Copy the logs to their outputs and delete the working folder; called when the weights are saved."""
        self.accelerator.end_training()
        if not self.is_world_process_zero():
            return
        for name, target in (("dynamics.jsonl", dynamics), ("frontier.jsonl", frontier)):
            if target is not None:
                source = self.folder / name
                write_text(target, source.read_text() if source.exists() else "")
        shutil.rmtree(self.folder)

    def watch(self, loss, batch):
        """Count tokens, and keep the loss with its batch until the next log: to look at it here would stall a GPU."""
        self._tokens += batch["weight"] * batch["tokens"]
        self._watched.append((self.state.global_step + 1, loss, self.content(batch)))

    def content(self, batch: dict[str, Any]) -> Any:
        """What is written down of a batch whose loss is not finite."""
        return batch["input_ids"]

    def _stop_on_nan(self) -> None:
        """Raises UserError if a loss since the last look was not finite on any process, with its batch written down."""
        watched, self._watched = self._watched, []
        finite = torch.stack([loss for _, loss, _ in watched]).isfinite().tolist() if watched else []
        bad = [found for found, good in zip(watched, finite, strict=True) if not good][:1]
        if self.total([len(bad)]) == [0]:
            return
        mine = [(at, float(loss), batch.tolist() if isinstance(batch, Tensor) else batch) for at, loss, batch in bad]
        step, loss, batch = min(gather_object(mine), key=lambda found: found[0])
        path = self.folder / "bad_batch.json"
        if self.is_world_process_zero():
            write_json(path, {"step": step, "batch": batch})
        raise UserError(f"the loss is {loss} at step {step}; the batch is in {path}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line of numbers a logging interval."""
        logs = {name: value for name, value in logs.items() if name not in QUIET}
        if "loss" not in logs:
            return
        self._stop_on_nan()
        logs = {"step": self.state.global_step} | logs | self.extra_logs()
        now, (tokens,) = time.perf_counter(), self.total([self._tokens])
        logs["tokens_per_second"] = tokens / max(now - self._clock, 1e-9)
        self._clock, self._tokens = now, 0
        self.write_line("dynamics.jsonl", logs)
        super().log(logs, start_time)

    def extra_logs(self) -> dict[str, float]:
        """What a subclass adds to a line."""
        return {}

    def optimizer_of(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser that the config names, over parameter groups; UserError if its library is not there."""
        try:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            return kind(groups, **options | {"weight_decay": self.settings.weight_decay})
        except (ImportError, ValueError) as error:
            name = self.settings.optimizer
            raise UserError(f"optimizer '{name}' cannot be used here ({str(error).splitlines()[0][:120]})") from None

    def _save_checkpoint(self, model, trial):
        target = self.folder / f"checkpoint-{self.state.global_step}"
        with writing(target, self.state.global_step):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes the state of its random numbers
            if self.is_world_process_zero():
                mark_complete(target, self.identity)


def arguments_of(config: OptimisationConfig, folder: Path, seed: int) -> TrainingArguments:
    """Our few settings as transformers' many. Saving and logging are ours to name; the rest keeps its default.

    A process trains on one GPU, however many it sees: transformers would deal a batch out to all.
    """
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,  # which its collator cuts
        average_tokens_across_devices=False,  # a step's data are counted there
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,  # a value below 1 is a share of all steps
        optim=OPTIMIZERS[config.optimizer],
        use_cpu=not torch.accelerator.is_available(),  # bfloat16 is refused on a CPU that is not asked for
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
        data_seed=seed,  # of every process
        dataloader_pin_memory=cuda,
        dataloader_num_workers=int(cuda),  # collates the next step while the device computes this one
        accelerator_config={"non_blocking": cuda},
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments

"""Sections of a config: SFT, adapters and preference training."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sparsepo.config.accelerate import accelerate_mistakes, is_sharded, read_accelerate
from sparsepo.config.base import (
    Count,
    CountOrZero,
    Dtype,
    Epochs,
    NotNegative,
    Positive,
    Seed,
    Share,
    Strict,
    refuse,
    refuse_all,
)
from sparsepo.config.grids import Mistake
from sparsepo.config.online import OnPolicyConfig, RoundsConfig

NO_TARGETS = {"lm_head", "embed_out", "embed_in", "embed_tokens", "wte", "wpe"}
"""Common names of output heads and embeddings; `adapters.add` refuses them by what they are, whatever their name."""


class AdapterConfig(Strict):
    """LoRA: W + (alpha / rank) B A in place of W, where W is frozen and B (out, rank), A (rank, in) are trained.

    `target_modules`: every linear map of every block, or those of these names, as in [q_proj, v_proj] or [attn.c_proj];
    the embeddings and the output head never. `quantization`: nf4 keeps the frozen maps of the blocks in 4 bits (QLoRA),
    policy and reference alike. `dropout`, of what enters A, is on in training steps only.
    """

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Share = 0.0
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    quantization: Literal["none", "nf4"] = "none"

    @field_validator("target_modules", mode="before")
    @classmethod
    def _are_maps_of_blocks(cls, targets: Any) -> Any:
        if isinstance(targets, str) and targets != "all-linear":
            refuse(f"write all-linear or a list of names, as in [q_proj, v_proj], not '{targets}'")
        for name in targets if isinstance(targets, list) else ():
            if str(name).rsplit(".", 1)[-1] in NO_TARGETS:
                refuse(f"'{name}' is an embedding or the output head, which are never adapted; leave it out")
        return targets


class OptimisationConfig(Strict):
    """AdamW with linear warm-up, shared by SFT and preference training.

    The 8-bit optimisers are those of bitsandbytes, which keep their state in a quarter of the memory.

    With an `adapter` only it is trained, and merged into plain weights at the end. The `batch_size` of a step is shared
    by `num_processes`, one a GPU, each with a copy of the weights (DDP) or, by `accelerate`, a config file of that
    library, with a part of them (FSDP, DeepSpeed).
    """

    num_train_epochs: Epochs = 1.0
    max_steps: Count | None = None
    batch_size: Count = 32
    micro_batch_size: Count | None = None
    learning_rate: Positive = 1e-6
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_ratio: Share = 0.1
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    precision: Dtype = "float32"
    gradient_checkpointing: bool = False
    log_every: Count = 1
    checkpoint_every: CountOrZero = 100
    adapter: AdapterConfig | None = None
    num_processes: Count = 1
    accelerate: Path | None = None

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> "OptimisationConfig":
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            refuse(f"must divide batch_size ({self.batch_size}), not {self.micro_batch_size}", "micro_batch_size")
        return self

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> "OptimisationConfig":
        if self.batch_size % self.num_processes:
            refuse(f"must divide batch_size ({self.batch_size}), not {self.num_processes}", "num_processes")
        if self.accelerate is not None:
            refuse_all(
                (sentence, ("accelerate",)) for sentence in accelerate_mistakes(self.accelerate, self.num_processes)
            )
            refuse_all(self._unsuited(read_accelerate(self.accelerate)))
        return self

    def _unsuited(self, spread: dict[str, Any]) -> Iterator[Mistake]:
        """What cannot be had with this accelerate config."""
        if self.adapter is not None and spread["distributed_type"] != "MULTI_GPU":
            kind = spread["distributed_type"]
            yield f"an adapter shares its frozen weights, which {kind} takes apart: leave accelerate out", ("adapter",)


class SftConfig(OptimisationConfig):
    """Supervised fine-tuning on the task's corpus; `max_tokens` cuts a document."""

    learning_rate: Positive = 1e-5
    max_tokens: Count = 512
    seed: Seed = 0


class PreferenceConfig(OptimisationConfig):
    """Preference training. The mask heads have a learning rate and a weight decay of their own.

    Responses are cut at `max_response_tokens`; a pair whose prompt is longer than `max_prompt_tokens` is dropped.
    Every `frontier_every` steps, and at the end, test prompts are sampled for a point of the frontier; 0 is never.
    Every `validate_every` steps, before the first and after the last one the loss of the validation pairs is computed;
    0 is never. `checkpoint_selection`: the weights of the last step, or those of lowest validation loss.

    How it is computed changes time and memory, not the result. `layout`: each prompt once, shared by its two responses,
    without padding (`shared`), or what comes next for the architecture. `gradients` of the output head: in the forward
    pass where the logits of a pair fit into memory, else recomputed. A step's batch is cut into micro-batches of
    `micro_batch_size` pairs, or of `micro_batch_tokens` positions at most. `log_kl`: log the KL to the reference also
    for methods whose loss does not look at it. `reference`: what a method needs of it is computed once for all runs
    where that can be stored, or by each run anew (`online`), which takes no disk space. `compile`: the blocks of policy
    and reference, by torch.compile, which takes a minute or two at the start of a run and pays on a GPU only.

    With an `adapter` the mask heads are trained too, and policy and reference share the frozen weights.

    Of methods that train in `rounds`, `num_train_epochs` and `max_steps` are those of one round. Methods that train on
    samples of their own policy look at `on_policy`, and not at what is about pairs: validation, `compile`,
    `checkpoint_selection`, the layout and gradients of batches, `log_kl`, `reference` and the limits of responses.
    """

    frontier_every: CountOrZero = 0
    validate_every: CountOrZero = 0
    checkpoint_selection: Literal["last", "best"] = "last"
    micro_batch_tokens: Count | None = None
    layout: Literal["auto", "shared", "packed", "pairs", "padded"] = "auto"
    gradients: Literal["auto", "forward", "recompute"] = "auto"
    log_kl: bool = True
    reference: Literal["cached", "online"] = "cached"
    compile: bool = False

    mask_learning_rate: Positive = 1e-3
    mask_weight_decay: NotNegative = 0.01
    max_prompt_tokens: Count = 512
    max_response_tokens: Count = 512
    rounds: RoundsConfig = RoundsConfig()
    on_policy: OnPolicyConfig = OnPolicyConfig()

    def changed(self, given: Mapping[str, Any]) -> "PreferenceConfig":
        """With other values, as a grid gives them: numbers are floats there."""
        return PreferenceConfig(**self.model_dump() | given)

    @model_validator(mode="after")
    def _one_way_to_cut_a_batch(self) -> "PreferenceConfig":
        if self.micro_batch_size is not None and self.micro_batch_tokens is not None:
            refuse("give either micro_batch_size (pairs) or micro_batch_tokens, not both", "micro_batch_tokens")
        return self

    @model_validator(mode="after")
    def _the_best_is_looked_for(self) -> "PreferenceConfig":
        if self.checkpoint_selection == "best" and not self.validate_every:
            refuse("'best' is by the loss of validation pairs: give validate_every (steps) too", "checkpoint_selection")
        return self

    def _unsuited(self, spread: dict[str, Any]) -> Iterator[Mistake]:
        yield from super()._unsuited(spread)
        if is_sharded(spread) and self.frontier_every:
            yield "sharded weights cannot be sampled while they train: write frontier_every: 0", ("frontier_every",)
        if is_sharded(spread) and self.compile:
            yield "compiled blocks do not gather weights that are spread over processes: write false", ("compile",)
        if is_sharded(spread) and spread["distributed_type"] == "DEEPSPEED" and self.checkpoint_selection == "best":
            yield (
                "ZeRO-3 cannot go back to earlier weights: write checkpoint_selection: last",
                ("checkpoint_selection",),
            )

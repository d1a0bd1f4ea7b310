"""The sections `sft`, `training` and `adapter`: how a model is fine-tuned and trained on preferences."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sparsepo.config.accelerate import accelerate_errors, is_sharded, read_accelerate
from sparsepo.config.base import (
    Bool,
    Count,
    CountOrZero,
    Dtype,
    Epochs,
    Fraction,
    LocatedError,
    NonNegative,
    Positive,
    Section,
    Seed,
    Text,
    raise_error,
)
from sparsepo.config.online import OnPolicyConfig, RoundsConfig
from sparsepo.runtime.errors import format_value

NOT_ADAPTED = {"lm_head", "embed_out", "embed_in", "embed_tokens", "wte", "wpe"}
"""Common names of output heads and embeddings; `add_adapter` refuses them by what they are, whatever their name."""


class AdapterConfig(Section):
    """LoRA: W + (alpha / rank) B A in place of W; W is frozen, B (out, rank) and A (rank, in) are trained."""

    rank: Count = 16
    """Rank of B A (`r` of peft): more train more weights."""
    alpha: Positive = 32.0
    """B A is multiplied by alpha / rank (`lora_alpha` of peft)."""
    dropout: Fraction = 0.0
    """Dropout on the input of A, in training steps only (`lora_dropout` of peft)."""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Every linear map of every block, or those of these names, as in [q_proj, v_proj]; embeddings and output head
    are never adapted, see `modules_to_save`."""
    modules_to_save: list[Text] = []
    """Embedding and output head, as in [embed_tokens, lm_head], to train all weights of beside the adapter, and to
    save with it: for new tokens."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` keeps the frozen weights of policy and reference in 4 bits (QLoRA); needs bitsandbytes."""
    merge: Bool = False
    """false saves the adapter alone, which later jobs load with its base; true saves it merged into plain weights, as
    large as the whole model."""

    @field_validator("target_modules", mode="before")
    @classmethod
    def _check_target_modules(cls, names: Any) -> Any:
        if names == "all-linear":
            return names
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise_error(f"write all-linear or a list of names, as in [q_proj, v_proj], not {format_value(names)}")
        for name in names:
            if name.rsplit(".", 1)[-1] in NOT_ADAPTED:
                raise_error(
                    f"'{name}' is an embedding or the output head, which are never adapted; see modules_to_save"
                )
        return names

    def _errors(self) -> Iterator[LocatedError]:
        if self.modules_to_save and self.quantization != "none" and not self.merge:
            yield "trained embeddings on 4-bit weights cannot be loaded as an adapter: write merge: true", ("merge",)


class OptimisationConfig(Section):
    """AdamW with linear warm-up, in SFT and preference training."""

    num_train_epochs: Epochs = 1.0
    """How often the training data are gone through; a fraction is allowed."""
    max_steps: Count | None = None
    """Optimizer steps, in place of `num_train_epochs`; null follows the epochs."""
    batch_size: Count = 32
    """Pairs (of SFT: documents) of an optimizer step, over all processes and micro-batches together. transformers'
    `per_device_train_batch_size` is `micro_batch_size` here."""
    micro_batch_size: Count | None = None
    """Pairs (documents) that a process computes at once; must divide `batch_size`. The result stays the same but for
    rounding. null takes what the free memory holds, and half of it in the attempt after memory ran out; `run.json`
    says what was taken."""
    learning_rate: Positive = 1e-6
    """The highest learning rate, reached after the warm-up."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradients of a larger norm are scaled down to it."""
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_ratio: Fraction = 0.1
    """The part of all steps in which the learning rate rises from 0."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """The 8-bit optimizers are those of bitsandbytes, which keep their state in a quarter of the memory."""
    precision: Dtype = "float32"
    """Type of the computation; the trained weights stay in float32."""
    gradient_checkpointing: Bool = False
    """true computes activations again in the backward pass: less memory and more time."""
    log_every: Count = 1
    """Steps between two lines of the training log."""
    checkpoint_every: CountOrZero = 100
    """Steps between two checkpoints, from which a run resumes that was stopped; 0 writes none."""
    adapter: AdapterConfig | None = None
    """Train a LoRA adapter only; null trains all weights."""
    num_processes: Count = 1
    """Processes that share the batch of a step, one a GPU, on all machines together; must divide `batch_size`."""
    num_machines: Count = 1
    """Machines that the processes of a run are spread over, equally many on each; several are nodes of a Slurm job."""
    accelerate: Path | None = None
    """A config file of accelerate for several processes, as in configs/accelerate/; null gives each process a copy of
    all weights (DDP)."""

    def _errors(self) -> Iterator[LocatedError]:
        for key in ("micro_batch_size", "num_processes"):
            if self.batch_size % (getattr(self, key) or 1):
                yield f"must divide batch_size ({self.batch_size}), not {getattr(self, key)}", (key,)
        if self.num_processes % self.num_machines:
            yield f"must divide num_processes ({self.num_processes}), not {self.num_machines}", ("num_machines",)
        if self.accelerate is not None:
            messages = list(accelerate_errors(self.accelerate, self.num_processes, self.num_machines))
            yield from ((message, ("accelerate",)) for message in messages)
            if not messages:
                yield from self._errors_with(read_accelerate(self.accelerate))

    def _errors_with(self, accelerate: dict[str, Any]) -> Iterator[LocatedError]:
        """Which keys of this section cannot be used with this accelerate config."""
        kind = accelerate["distributed_type"]
        if self.adapter is not None and kind != "MULTI_GPU":
            yield (
                f"an adapter cannot be trained with {kind}, which shards its frozen weights: leave accelerate out",
                ("adapter",),
            )


class SftConfig(OptimisationConfig):
    """Supervised fine-tuning on the SFT corpus of the task."""

    learning_rate: Positive = 1e-5
    """The highest learning rate, reached after the warm-up."""
    max_tokens: Count = 512
    """Documents are cut after so many tokens."""
    seed: Seed = 0
    """Seed of the order of the documents."""


class PreferenceConfig(OptimisationConfig):
    """Preference training of every run of the task.

    Methods that train on samples of their own policy (`on_policy`) do not read what is about pairs: validation,
    `checkpoint_selection`, `compile`, `layout`, `gradients`, `log_kl`, `reference`, `max_response_tokens`.
    """

    frontier_every: CountOrZero = 0
    """Steps between two points of the reward-KL frontier, for which test prompts are sampled; the last step gives one
    too. 0 measures none during training."""
    validate_every: CountOrZero = 0
    """Steps between two computations of the loss on the validation pairs; before the first and after the last step
    there is one too. 0 computes none."""
    checkpoint_selection: Literal["last", "best"] = "last"
    """The weights that a run ends with: of the last step, or of the lowest validation loss."""
    micro_batch_tokens: Count | None = None
    """In place of `micro_batch_size`: positions, padding included, that a process computes at once."""
    layout: Literal["auto", "shared", "pairs", "padded"] = "auto"
    """How pairs lie in a batch, which changes time and memory only. `shared`: each prompt once, for both of its
    responses, without padding. `auto` takes it, or what else the architecture computes correctly."""
    gradients: Literal["auto", "forward", "recompute"] = "auto"
    """Gradients of the output head, which changes time and memory only: in the forward pass, or with the logits
    computed again in the backward pass. `auto` decides by the memory."""
    log_kl: Bool = True
    """Log the KL to the reference also for methods whose loss does not read it; false saves time and disk space."""
    reference: Literal["cached", "online"] = "cached"
    """`cached` computes once for all runs what can be stored of the reference; `online` lets each run compute it,
    which takes no disk space."""
    compile: Bool = False
    """torch.compile of the blocks of policy and reference: a minute or two at the start, faster steps on a GPU only."""
    together: Count = 1
    """Runs of one seed that a job of `snakemake together` trains at once where they run the reference, as learned masks
    do: one pass of it for all. Each takes memory for its policy and optimizer; the frozen weights are there once."""

    mask_learning_rate: Positive = 1e-3
    """Learning rate of learned masks."""
    mask_weight_decay: NonNegative = 0.01
    """Weight decay of learned masks."""
    max_prompt_tokens: Count = 512
    """Pairs with a longer prompt are dropped (TRL's `max_prompt_length` cuts the prompt instead)."""
    max_response_tokens: Count = 512
    """Responses are cut after so many tokens."""
    rounds: RoundsConfig = RoundsConfig()
    """Sampling and judging of methods that train in rounds (inpo)."""
    on_policy: OnPolicyConfig = OnPolicyConfig()
    """Sampling of methods that train on samples of their own policy (fdpg, fdpg_feature)."""

    def changed(self, values: Mapping[str, Any]) -> "PreferenceConfig":
        """This section with other values of some keys."""
        return PreferenceConfig(**self.model_dump() | values)

    @field_validator("layout", mode="before")
    @classmethod
    def _check_layout(cls, layout: Any) -> Any:
        if layout == "packed":
            raise_error("the layout 'packed' was removed: write shared, which has each prompt only once, or auto")
        return layout

    def _errors(self) -> Iterator[LocatedError]:
        yield from super()._errors()
        if self.micro_batch_size is not None and self.micro_batch_tokens is not None:
            yield "give either micro_batch_size (pairs) or micro_batch_tokens, not both", ("micro_batch_tokens",)
        for key, instead in (("num_processes", 1), ("compile", False)):
            if self.together > 1 and getattr(self, key) != instead:
                yield f"cannot be used with {key}: write together: 1, or {key}: {str(instead).lower()}", ("together",)
        if self.checkpoint_selection == "best" and not self.validate_every:
            yield (
                "'best' is by the loss of validation pairs: give validate_every (steps) too",
                ("checkpoint_selection",),
            )

    def _errors_with(self, accelerate: dict[str, Any]) -> Iterator[LocatedError]:
        yield from super()._errors_with(accelerate)
        if not is_sharded(accelerate):
            return
        if self.frontier_every:
            yield "sharded weights cannot be sampled during training: write frontier_every: 0", ("frontier_every",)
        if self.compile:
            yield "compiled blocks cannot be sharded over processes: write compile: false", ("compile",)
        if accelerate["distributed_type"] == "DEEPSPEED" and self.checkpoint_selection == "best":
            message = "ZeRO-3 cannot restore earlier weights: write checkpoint_selection: last"
            yield message, ("checkpoint_selection",)

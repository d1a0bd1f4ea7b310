"""The config as pydantic models: the one place where a default is written, and where a mistake gets its sentence."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from sparsepo.folders import check_model_folder
from sparsepo.grids import Mistake, as_texts, grid_mistakes

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*$", max_length=64)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Dtype = Literal["float32", "bfloat16", "float16"]
NO_TARGETS = {"lm_head", "embed_out", "embed_in", "embed_tokens", "wte", "wpe"}
"""Common names of output heads and embeddings; `adapters.add` refuses them by what they are, whatever their name."""


class Strict(BaseModel):
    """Refuses unknown keys; frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def refuse(sentence: str, *place: str | int) -> None:
    """Raise what pydantic collects as one error; `place` is the path below the section being checked."""
    refuse_all([(sentence, place)])


def refuse_all(mistakes: Iterable[Mistake]) -> None:
    """Raise what pydantic collects as one error a mistake; nothing for none."""
    errors = [
        InitErrorDetails(
            type=PydanticCustomError("sentence", "{sentence}", {"sentence": sentence, "place": place}), input=None
        )
        for sentence, place in mistakes
    ]
    if errors:
        raise ValidationError.from_exception_data("mistakes", errors)


# --- models


class TokenizerConfig(Strict):
    """A tokenizer trained on the task's corpus: `word` splits at white space, `bpe` is byte-level BPE."""

    kind: Literal["word", "bpe"] = "word"
    vocabulary: Count = 4096


class ScratchModel(Strict):
    """A model with random weights: `config` is a transformers config, `model_type` included, without vocab_size."""

    source: Literal["scratch"]
    config: dict[str, Any]
    tokenizer: TokenizerConfig = TokenizerConfig()
    seed: int = 0
    dtype: Dtype = "float32"

    @field_validator("config")
    @classmethod
    def _has_type(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(config.get("model_type"), str):
            refuse("a transformers config needs 'model_type', for example gpt2, llama or gpt_neox")
        return config


class HubModel(Strict):
    """A model of the Hugging Face hub; safetensors only, no remote code."""

    source: Literal["hub"]
    id: str
    revision: str = "main"
    dtype: Dtype = "float32"


class FolderModel(Strict):
    """A Hugging Face model folder on this machine."""

    source: Literal["folder"]
    path: Path
    dtype: Dtype = "float32"

    @field_validator("path")
    @classmethod
    def _is_model(cls, path: Path) -> Path:
        problem = check_model_folder(path)
        return refuse(problem) if problem else path


class GgufModel(Strict):
    """A GGUF file inside an installed Python package, de-quantised to `dtype`."""

    source: Literal["gguf"]
    package: str
    file: str = "*.gguf"
    dtype: Dtype = "float32"


ModelConfig = Annotated[ScratchModel | HubModel | FolderModel | GgufModel, Field(discriminator="source")]


# --- data


class Splits(Strict):
    """How many prompts each split gets; `train: null` takes all that the others leave."""

    train: Count | None = None
    validation: Count
    test: Count


class PlantedData(Strict):
    """Reviews from a grammar with known polar words; `texts` of them are the SFT corpus."""

    source: Literal["planted"]
    texts: Count = 4000
    prompts: Splits
    seed: int = 0

    @model_validator(mode="after")
    def _train_is_given(self) -> "PlantedData":
        if self.prompts.train is None:
            refuse("a generator has no end, so 'train' needs a number here", "prompts", "train")
        return self


class HubTexts(Strict):
    """A data set of the hub: its id, the split, and the field that holds the text."""

    id: str
    split: str = "train"
    field: str = "text"


class TextData(Strict):
    """Documents: the first words of some are prompts, the others are the SFT corpus, disjoint.

    Either `path`, a JSONL file with a field `text`, or `hub`.
    `opening` is the least and the largest number of tokens of a prompt (words, for a model from scratch).
    """

    source: Literal["texts"]
    path: Path | None = None
    hub: HubTexts | None = None
    texts: Count | None = None
    opening: tuple[Count, Count] = (5, 8)
    prompts: Splits
    seed: int = 0

    @model_validator(mode="after")
    def _one_place(self) -> "TextData":
        if (self.path is None) == (self.hub is None):
            refuse("give either 'path' (a JSONL file) or 'hub' (a datasets id), not both and not neither")
        if self.path is not None:
            exists(self.path, "path")
        if self.opening[0] > self.opening[1]:
            refuse(f"the first number must not exceed the second, as in [5, 8]; given {list(self.opening)}", "opening")
        return self


class PreferenceData(Strict):
    """Prompts are those of the preference file; the SFT corpus, if SFT is asked for, are its chosen responses."""

    source: Literal["preferences"]
    prompts: Splits
    seed: int = 0


DataConfig = Annotated[PlantedData | TextData | PreferenceData, Field(discriminator="source")]


def exists(path: Path, *place: str) -> None:
    """Refuse a path that is not a file."""
    if not path.is_file():
        refuse(f"no such file: {path} (paths are relative to the working directory)", *place)


# --- training


class OptimisationConfig(Strict):
    """AdamW with linear warm-up, shared by SFT and preference training.

    The 8-bit optimisers are those of bitsandbytes, which keep their state in a quarter of the memory.
    """

    epochs: Positive = 1.0
    max_steps: Count | None = None
    batch_size: Count = 32
    micro_batch_size: Count | None = None
    learning_rate: Positive = 1e-6
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup: Share = 0.1
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    precision: Dtype = "float32"
    gradient_checkpointing: bool = False
    log_every: Count = 1
    checkpoint_every: Annotated[int, Field(ge=0)] = 100

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> "OptimisationConfig":
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            refuse(f"must divide batch_size ({self.batch_size}), not {self.micro_batch_size}", "micro_batch_size")
        return self


class SftConfig(OptimisationConfig):
    """Supervised fine-tuning on the task's corpus; `max_tokens` cuts a document."""

    learning_rate: Positive = 1e-5
    max_tokens: Count = 512
    seed: int = 0


class AdapterConfig(Strict):
    """LoRA: W + (alpha / rank) B A in place of W, where W is frozen and B (out, rank), A (rank, in) are trained.

    `targets`: every linear map of every block, or those of these names, as in [q_proj, v_proj] or [attn.c_proj]; the
    embeddings and the output head never. `quantise`: nf4 keeps the frozen maps of the blocks in 4 bits (QLoRA), policy
    and reference alike.
    """

    rank: Count = 16
    alpha: Positive = 32.0
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    quantise: Literal["none", "nf4"] = "none"

    @field_validator("targets", mode="before")
    @classmethod
    def _are_maps_of_blocks(cls, targets: Any) -> Any:
        if isinstance(targets, str) and targets != "all-linear":
            refuse(f"write all-linear or a list of names, as in [q_proj, v_proj], not '{targets}'")
        for name in targets if isinstance(targets, list) else ():
            if str(name).rsplit(".", 1)[-1] in NO_TARGETS:
                refuse(f"'{name}' is an embedding or the output head, which are never adapted; leave it out")
        return targets


class PreferenceConfig(OptimisationConfig):
    """Preference training. The mask heads have a learning rate and a weight decay of their own.

    Responses are cut at `max_response_tokens`; a pair whose prompt is longer than `max_prompt_tokens` is dropped.
    Every `frontier_every` steps, and at the end, test prompts are sampled for a point of the frontier; 0 is never.

    How it is computed changes time and memory, not the result. `layout`: each prompt once, shared by its two responses,
    without padding (`shared`), or what comes next for the architecture. `gradients` of the output head: in the forward
    pass where the logits of a pair fit into memory, else recomputed. A step's batch is cut into micro-batches of
    `micro_batch_size` pairs, or of `micro_batch_tokens` positions at most. `log_kl`: log the KL to the reference also
    for methods whose loss does not look at it. `reference`: what a method needs of it is computed once for all runs
    where that can be stored, or by each run anew (`online`), which takes no disk space.

    With an `adapter` only it and the mask heads are trained, and policy and reference share the frozen weights.
    """

    frontier_every: Annotated[int, Field(ge=0)] = 0
    micro_batch_tokens: Count | None = None
    layout: Literal["auto", "shared", "packed", "pairs", "padded"] = "auto"
    gradients: Literal["auto", "forward", "recompute"] = "auto"
    log_kl: bool = True
    reference: Literal["cached", "online"] = "cached"

    adapter: AdapterConfig | None = None
    mask_learning_rate: Positive = 1e-3
    mask_weight_decay: NotNegative = 0.01
    max_prompt_tokens: Count = 512
    max_response_tokens: Count = 512

    @model_validator(mode="after")
    def _one_way_to_cut_a_batch(self) -> "PreferenceConfig":
        if self.micro_batch_size is not None and self.micro_batch_tokens is not None:
            refuse("give either micro_batch_size (pairs) or micro_batch_tokens, not both", "micro_batch_tokens")
        return self


# --- preferences, sampling, evaluation


class VaderScorer(Strict):
    """VADER's compound score of prompt + response, mapped to [0, 1]."""

    kind: Literal["vader"]


class ClassifierScorer(Strict):
    """Probability that a text classifier (hub id or folder) gives to `label`."""

    kind: Literal["classifier"]
    model: str
    label: str = "POSITIVE"
    batch_size: Count = 32


class RewardModelScorer(Strict):
    """The scalar of a reward model (hub id or folder)."""

    kind: Literal["reward_model"]
    model: str
    batch_size: Count = 32


ScorerConfig = Annotated[VaderScorer | ClassifierScorer | RewardModelScorer, Field(discriminator="kind")]


class SamplingConfig(Strict):
    """Ancestral sampling by default: the KL estimate over samples is unbiased at temperature 1 and top_p 1 only.

    `batch_size` responses are sampled together: more are faster and take more memory. Texts change by rounding only.
    """

    samples: Count = 1
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Count = 64
    batch_size: Count = 64
    seed: int = 0


class GeneratedPreferences(Strict):
    """`samples` responses a prompt from the SFT model, scored; best against worst. Ties are dropped and counted."""

    source: Literal["generated"]
    scorer: ScorerConfig
    sampling: SamplingConfig = SamplingConfig(samples=2)

    @model_validator(mode="after")
    def _two_samples(self) -> "GeneratedPreferences":
        if self.sampling.samples < 2:
            refuse("a pair needs at least 2 samples of each prompt", "sampling", "samples")
        return self


class FilePreferences(Strict):
    """A JSONL file: `pairs` have prompt, chosen, rejected; `scored` have prompt, text, reward (best against worst)."""

    source: Literal["pairs", "scored"]
    path: Path

    @field_validator("path")
    @classmethod
    def _is_there(cls, path: Path) -> Path:
        exists(path)
        return path


class EvaluationConfig(Strict):
    """`scorer` rewards sampled responses; `token_pairs` validation pairs are looked into token by token."""

    scorer: ScorerConfig
    token_pairs: Count = 64
    batch_size: Count = 16
    frontier_prompts: Count = 64


class ResourceConfig(Strict):
    """What each training or sampling job of a task asks of a scheduler: memory, and minutes of its first attempt."""

    mem_mb: Count = 4000
    runtime: Count = 120


# --- the whole


class TaskConfig(Strict):
    """One comparison: a model, its data, its preferences, and the methods with their grids."""

    model: ModelConfig
    data: DataConfig
    sft: SftConfig | None = None
    preferences: Annotated[GeneratedPreferences | FilePreferences, Field(discriminator="source")]
    methods: dict[str, dict[str, Any]]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    training: PreferenceConfig = PreferenceConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig
    resources: ResourceConfig = ResourceConfig()

    @field_validator("methods")
    @classmethod
    def _grids(cls, methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[str]]]:
        if not methods:
            refuse("at least one method is needed")
        refuse_all(mistake for name, given in methods.items() for mistake in grid_mistakes(name, given))
        return {name: {key: as_texts(values) for key, values in given.items()} for name, given in methods.items()}

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            refuse(f"seeds must be distinct, not {seeds}")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self) -> "TaskConfig":
        refuse_all(self._misfits())
        return self

    def _misfits(self) -> Iterator[Mistake]:
        prompts, source = self.data.prompts, self.preferences.source
        from_file = source in ("pairs", "scored")
        if from_file != (self.data.source == "preferences"):
            wanted = "preferences" if from_file else "planted or texts"
            sentence = f"preferences.source '{source}' needs data.source {wanted}, not '{self.data.source}'"
            yield sentence, ("data", "source")
        if self.model.source == "scratch" and self.sft is None:
            yield "a model from scratch knows nothing: it needs an 'sft' section", ("sft",)
        if prompts.train is not None and prompts.train < self.training.batch_size:
            sentence = (
                f"{prompts.train} prompts give at most {prompts.train} pairs, fewer than one batch of "
                f"{self.training.batch_size} (training.batch_size)"
            )
            yield sentence, ("data", "prompts", "train")
        if self.evaluation.frontier_prompts > prompts.test and self.training.frontier_every:
            sentence = (
                f"at most the {prompts.test} test prompts (data.prompts.test) can be sampled, "
                f"not {self.evaluation.frontier_prompts}"
            )
            yield sentence, ("evaluation", "frontier_prompts")


class Config(Strict):
    """A config file. `name` marks its results, so that another config cannot overwrite them by mistake."""

    name: Name
    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1)]

    @field_validator("tasks")
    @classmethod
    def _not_a_results_folder(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        for name in {"tables", "figures", "report"} & set(tasks):
            refuse(f"a task cannot be named '{name}', which is a folder of results/", name)
        return tasks

"""What a job asks a scheduler for: `mem_mb` and `runtime` of each stage, estimated from the config alone.

Every text is taken to be as long as the config lets it be. A job that needs more is sent again and asks for more.
docs/scale.md says where the constants come from and what was measured.
"""

from math import ceil
from typing import NamedTuple

from sparsepo.config import TaskConfig
from sparsepo.config.online import judge_of_rounds, sampling_of_rounds
from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import AdapterConfig, OptimisationConfig
from sparsepo.training.memory import (
    ACTIVATIONS,
    FLOAT,
    HEAD_ROWS,
    LOGIT,
    kept_a_token,
    state_bytes,
)
from sparsepo.workflow.model_size import ModelSize, model_size, typical_size
from sparsepo.workflow.registry import STAGES

MARGIN = 1.25  # what is asked for over what is estimated: allocators, libraries
START, DAY = 10, 24 * 60  # minutes of any job, and the most of a first attempt: a longer one goes on from a checkpoint
UNKNOWN_SIZE = typical_size(1e9)  # stands for a model whose size nobody knows
UNKNOWN_SIZE_WARNING = (
    "its number of parameters is not known, so its jobs ask for the memory and time of a model of 1 billion; "
    "give resources.parameters, as in 7.74e8, or resources.mem_mb and resources.runtime"
)
UNKNOWN_ROWS, BYTES_A_PAIR = 100_000, 200  # of a data set that is not at hand; of a pair in a file, at least
GPU_FROM = 5e8  # parameters above which a model is taken to run on a GPU, unless resources.device says otherwise
NF4 = 0.52  # bytes of a parameter in 4 bits, with its part of the scales
NOT_GIVEN_BACK = 4e9  # bytes of small tensors in float32, which were quantised, that malloc keeps
KEYS_AND_VALUES = 8  # bytes a token, layer and unit of width for sampling
JUDGE = 2e9  # bytes of a classifier, reward model or judge of half a billion parameters, a batch included
QUESTIONS, ANSWERS, QUESTION_TOKENS = 25_000, 4, 1_000  # of a benchmark without a limit


class Device(NamedTuple):
    """FLOPs and bytes a second, seconds of a layer in any pass, and bytes in memory before a model is loaded."""

    flops: float
    half_precision_flops: float
    bandwidth: float
    layer: float
    base: float


CPU, GPU = Device(3e10, 3e10, 5e9, 2e-4, 0.8e9), Device(8e12, 8e13, 1e12, 5e-4, 4e9)
"""One core of a laptop; of an NVIDIA A100 a quarter of its peak in half precision, two fifths in float32."""


class Need(NamedTuple):
    """Seconds of a job, and bytes of memory beside one copy of its model."""

    seconds: float = 0.0
    memory: float = 0.0

    def __add__(self, other: "Need") -> "Need":
        return Need(self.seconds + other.seconds, self.memory + other.memory)


class TaskNeeds:
    """What a job of each stage of a task needs, by the name of the stage; `size`: of the largest of its models."""

    def __init__(self, task: TaskConfig):
        self.task, self.training, self.own, self.prompts = task, task.training, task.evaluation, task.data.prompts
        preferences, resources = task.preferences, task.resources
        sizes = [size or UNKNOWN_SIZE for size in model_sizes(task).values()]
        self.size = size = max(sizes, key=lambda size: size.parameters)
        self.device = GPU if (resources.device or ("gpu" if size.parameters > GPU_FROM else "cpu")) == "gpu" else CPU
        generated, path = getattr(preferences, "sampling", None), getattr(preferences, "path", None)
        self.prompt = min(getattr(task.data, "prompt_tokens", (0, self.training.max_prompt_tokens))[1], size.context)
        response = generated.max_new_tokens if generated else self.training.max_response_tokens
        self.response = min(response, size.context)
        self.pair = min(self.prompt + 2 * self.response, 2 * size.context)  # tokens; the prompt is there once
        in_file = max(1, path.stat().st_size // BYTES_A_PAIR) if path and path.is_file() else UNKNOWN_ROWS
        sampled = (getattr(preferences, "sample", None) or 0) * (1 + len(getattr(preferences, "mixture", ())))
        self.pairs = self.prompts.train or sampled or in_file

    def need(
        self, tokens: float, passes: float, half: bool, kept: float, unit: float, head: float, state: float = 0.0
    ) -> Need:
        """The formula of time and that of memory, of so many tokens in so many passes through the model.

        Time: 2 FLOPs a parameter and token; each pass reads all parameters and takes its time in each layer.
        Memory: `unit` bytes for each of the `kept` tokens, layer and unit of width; `head` rows of logits with softmax
        and gradient; `state` bytes of further copies of the parameters, gradients and optimizer.
        """
        size, device = self.size, self.device
        a_pass = FLOAT * size.parameters / device.bandwidth + size.layers * device.layer
        seconds = 2 * size.parameters * tokens / (device.half_precision_flops if half else device.flops)
        memory = kept * unit * size.layers * size.width + LOGIT * head * size.vocab_size
        return Need(seconds + passes * a_pass, memory + state)

    # --- the weights in the memory of the host

    def weights(self, stage: str) -> float:
        """Bytes of the weights of one model, as the stage loads them. 4-bit weights are quantised tensor by tensor,
        and embeddings and output head stay in float32."""
        task, size = self.task, self.size
        adapter = self._optimisation(stage).adapter if self._optimisation(stage) else None
        if adapter is not None and adapter.quantization != "none" and (stage.startswith("train_") or not adapter.merge):
            in_float32 = 2 * FLOAT * size.vocab_size * size.width + min(FLOAT * size.parameters, NOT_GIVEN_BACK)
            return NF4 * size.parameters + in_float32
        is_fetched = stage in ("train_sft", "train_oracle_sft", "load_policy")
        return (FLOAT if not is_fetched or task.model.dtype == "float32" else FLOAT / 2) * size.parameters

    def saved(self, stage: str) -> float:
        """Bytes of the trained weights in checkpoints, of the best of them, and of a copy to merge an adapter into."""
        settings = self._optimisation(stage)
        if settings is None or not stage.startswith("train_"):
            return 0.0
        keeps_best = getattr(settings, "checkpoint_selection", "last") == "best"
        merged = settings.adapter is not None and settings.adapter.merge
        return FLOAT * ((1 + keeps_best) * self.trained(settings) + merged * self.size.parameters)

    def kept(self, settings: OptimisationConfig | None) -> float:
        """Parameters in the folder of a model that was trained so: those of an adapter, unless it was merged."""
        adapter = settings.adapter if settings else None
        return self.size.parameters if adapter is None or adapter.merge else self.trained(settings)

    def _optimisation(self, stage: str) -> OptimisationConfig | None:
        """The section that says how the models of a stage are trained, or were."""
        if stage in ("train_sft", "train_oracle_sft", "load_policy"):
            return self.task.sft if stage != "load_policy" else None
        return self.training

    # --- what stages do

    def trained(self, settings: OptimisationConfig) -> float:
        size, adapter = self.size, settings.adapter
        if adapter is None:
            return size.parameters
        return 18 * adapter.rank * size.width * size.layers + self.module_weights(adapter)

    def module_weights(self, adapter: AdapterConfig | None) -> float:
        """Weights of the embedding and output head that are trained beside an adapter, apart from those of the base."""
        return len(adapter.modules_to_save) * self.size.vocab_size * self.size.width if adapter else 0

    def _train(self, settings: OptimisationConfig, rows: float, length: float, head: float, reads: int = 0) -> Need:
        """A training on rows of `length` tokens, read `reads` times by a reference; `head`: rows of logits at once."""
        half, checkpointing = settings.precision != "float32", settings.gradient_checkpointing
        micro = (settings.micro_batch_size or settings.batch_size) * length
        micro = max(length, min(getattr(settings, "micro_batch_tokens", None) or micro, settings.batch_size * length))
        tokens = (3 + checkpointing + reads) * rows * length  # a backward pass is two of forward
        unit = kept_a_token(self.size.layers, half, checkpointing)
        parameters, has_own_reference = self.size.parameters, settings.adapter is None or self.task.policy is not None
        state = state_bytes(self.trained(settings), parameters, half, settings.optimizer)
        state += FLOAT * ((reads > 0 and has_own_reference) * parameters + self.module_weights(settings.adapter))
        return self.need(tokens, tokens / micro, half, micro, unit, min(head, 2 * micro), state)

    def _sample(self, responses: float, sampling: SamplingConfig, times: int = 1, half: bool = True) -> Need:
        """A job of its own runs in half precision on a GPU; a training that samples so many `times` does not."""
        length, rows = min(self.prompt + sampling.max_new_tokens, self.size.context), sampling.batch_size
        passes, rows = sampling.max_new_tokens * ceil(responses / rows), min(responses, rows) * bool(times)
        return self.need(times * responses * length, times * passes, half, rows * length, KEYS_AND_VALUES, rows)

    def _frontier(self, steps: int) -> Need:
        every = self.training.frontier_every
        times = ceil(steps / every) + 1 if every else 0
        return self._sample(self.own.frontier_prompts, self.task.sampling, times, half=False)

    def _read(self, rows: float, length: float, batch_size: float, models: int = 1, half: bool = False) -> Need:
        """Log-probs of texts, in batches whose states are kept of one layer."""
        passes, other = models * rows / batch_size, (models - 1) * FLOAT * self.size.parameters
        unit, head = 8 * FLOAT / self.size.layers, models * HEAD_ROWS
        return self.need(models * rows * length, passes, half, batch_size * length, unit, head, other)

    def _responses(self) -> int:
        return (self.prompts.validation + self.prompts.test) * self.task.sampling.samples

    def _generations(self) -> int:
        settings = self.own.generation
        counts = [min(count, settings.prompts or count) for count in (self.prompts.validation, self.prompts.test)]
        return sum(counts) * settings.samples * len(settings.temperatures)

    def _programs(self) -> int:
        settings = self.own.code
        suites = (self.prompts.test, 164 * ("humaneval" in settings.suites))
        problems = sum(min(settings.problems or count, count) for count in suites)
        return problems * settings.sampling.samples + self.prompts.validation * settings.validation_samples

    # --- stages

    def train_sft(self) -> Need:
        settings, data = self.task.sft, self.task.data
        if settings is None:
            return Need()
        documents = getattr(data, "texts", None) or (UNKNOWN_ROWS if data.source == "texts" else self.pairs)
        length, rows = min(settings.max_tokens, self.size.context), steps_of(settings, documents) * settings.batch_size
        return self._train(settings, rows, length, head=settings.batch_size * length)

    train_oracle_sft = train_sft

    def load_policy(self) -> Need:
        return Need(memory=FLOAT * self.size.parameters)

    def build_preferences(self) -> Need:
        sampling = getattr(self.task.preferences, "sampling", None)
        responses = (self.pairs + self.prompts.validation) * sampling.samples if sampling else 0
        return self._sample(responses, sampling) if sampling else Need(memory=1e9)

    def cache_reference(self, models: int = 1, rows: float = 0) -> Need:
        half = self.training.precision != "float32"
        return self._read(self.pairs + rows, self.pair, self.training.batch_size, models, half)

    def score_tokens(self) -> Need:
        """Two models read, or one is read forwards and backwards, which is a training without an optimizer."""
        need = self.cache_reference(models=2, rows=self.prompts.validation)
        if next(iter(self.task.oracles.values())).objective != "gradient":
            return need
        kept = self.training.batch_size * self.pair
        return need + self.need(0, 0, self.training.precision != "float32", kept, ACTIVATIONS, head=0)

    def train_policy(self) -> Need:
        """As if the reference were not cached."""
        training = self.training
        steps = steps_of(training, self.pairs)
        checks = ceil(steps / training.validate_every) + 1 if training.validate_every else 0
        rows = steps * training.batch_size + checks * self.prompts.validation
        trained = self._train(training, rows, self.pair, head=2 * (HEAD_ROWS + 2 * self.response), reads=1)
        return trained + self._frontier(steps)

    train_oracle = train_swapped_oracle = train_policy

    def train_together(self) -> Need:
        """The activations of one run and one reference; policy, gradients and optimizer of each; what is sampled.

        A run alone reads its batches with three passes of the policy and one of the reference.
        """
        one, training = self.train_policy(), self.training
        size, half = self.size.parameters, training.precision != "float32"
        others = training.together - 1
        state = state_bytes(self.trained(training), size, half, training.optimizer) + FLOAT * self.trained(training)
        return one + Need(others * 0.75 * one.seconds, others * state)

    def train_round(self) -> Need:
        return self.train_policy() + self._sample(self.own.frontier_prompts, self.task.sampling, half=False)

    def train_on_policy(self) -> Need:
        """Responses are sampled, read by policy and reference, and learnt; a target may be fitted to others before."""
        training, own, sampling = self.training, self.training.on_policy, self.task.sampling
        steps = steps_of(training, self.pairs * own.samples)
        rows, length = steps * training.batch_size, min(self.prompt + sampling.max_new_tokens, self.size.context)
        sampled = self._sample(training.batch_size, sampling, steps, half=False)
        sampled += self._sample(own.fit_samples, sampling, own.fit_prompts, half=False)
        return self._train(training, rows, length, head=2 * HEAD_ROWS, reads=2) + sampled + self._frontier(steps)

    def build_round_pairs(self) -> Need:
        """Sampled, read by the policy, and judged: a second for each pair of responses to a prompt."""
        sampling, judge = sampling_of_rounds(self.task), judge_of_rounds(self.task)
        judged = self.pairs * sampling.samples * (sampling.samples - 1) / 2 * (judge.kind != "scorer")
        has_model = hasattr(getattr(judge, "scorer", judge), "model")
        sampled = self._sample(self.pairs * sampling.samples, sampling)
        return sampled + self.cache_reference() + Need(judged, JUDGE * has_model)

    def sample_responses(self) -> Need:
        return self._sample(self._responses(), self.task.sampling)

    def evaluate_run(self) -> Need:
        """Policy and reference read every response and some pairs; then scorers read them."""
        length = min(max(self.prompt + self.task.sampling.max_new_tokens, self.pair), 2 * self.size.context)
        read = self._read(self._responses() + self.own.token_pairs, length, self.own.batch_size, models=2)
        return read + Need(memory=JUDGE * any(hasattr(scorer, "model") for _, scorer in self.own.scorers))

    def sample_generations(self) -> Need:
        return self._sample(self._generations(), self.own.generation)

    def measure_summaries(self) -> Need:
        """A second for each response, by whatever model or endpoint reads it."""
        return Need(self._generations(), JUDGE)

    def measure_win_rate(self) -> Need:
        one = self.measure_summaries()
        return Need(one.seconds * len(self.own.judges) * len(self.own.win_rate_against), one.memory)

    def measure_benchmarks(self) -> Need:
        """lm-eval keeps the logits of all positions."""
        settings, length = self.own.benchmarks, min(QUESTION_TOKENS, self.size.context)
        rows = (settings.limit or QUESTIONS) * (len(settings.tasks) + len(settings.local)) * ANSWERS
        tokens = settings.batch_size * length
        kept = self.need(0, 0, False, tokens, KEYS_AND_VALUES, head=tokens)
        return self._read(rows, length, settings.batch_size) + kept

    def sample_programs(self) -> Need:
        return self._sample(self._programs(), self.own.code.sampling)

    def measure_pass_at_k(self) -> Need:
        """Three programs in ten are taken to run until they are stopped."""
        execution = self.task.execution
        return Need(0.3 * execution.timeout * self._programs() / execution.workers, 1e6 * execution.memory_mb)


def steps_of(settings: OptimisationConfig, rows: float) -> int:
    return settings.max_steps or ceil(rows * settings.num_train_epochs / settings.batch_size)


def job_resources(task: TaskConfig, stage: str) -> dict[str, int]:
    """`mem_mb` and `runtime` (minutes) of a job of this stage; those that the config gives win.

    On a CPU all memory is the host's. Beside a GPU the host holds the parameters once to load them, and of a training
    the trained ones once more to write checkpoints, and once more to keep the best. Each of several processes that
    share a job needs as much as one; memory is that of one machine.
    """
    needs, row = TaskNeeds(task), STAGES[stage]
    processes = row.num_processes(task)
    seconds, memory = getattr(needs, stage)()
    if needs.device == GPU:
        memory = needs.saved(stage)
    memory += needs.device.base + needs.weights(stage)
    per_machine = processes // row.num_machines(task)
    mem_mb = task.resources.mem_mb or ceil(MARGIN * per_machine * memory / 1e8) * 100
    runtime = task.resources.runtime or min(DAY, START + ceil(MARGIN * seconds / processes / 60))
    return {"mem_mb": mem_mb, "runtime": runtime}


def model_sizes(task: TaskConfig) -> dict[str, ModelSize | None]:
    """Key of the task -> the size of its model, None where nobody knows it."""
    models = {"model": task.model} | ({} if task.policy is None else {"policy": task.policy})
    return {key: model_size(model, task.resources.parameters) for key, model in models.items()}


def unknown_sizes(task: TaskConfig) -> list[str]:
    """The keys of models for which the jobs of a task ask for what one of `UNKNOWN_SIZE` needs."""
    asks = task.resources.mem_mb is None or task.resources.runtime is None
    return [key for key, size in model_sizes(task).items() if asks and size is None]

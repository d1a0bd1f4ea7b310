"""What a job asks a scheduler for: `mem_mb` and `runtime` of each stage, estimated from the config alone.

Every text is taken to be as long as the config lets it be. A job that needs more is sent again and asks for more.
docs/scale.md says where the constants come from and what was measured.
"""

from math import ceil
from typing import NamedTuple

from sparsepo.config import TaskConfig
from sparsepo.config.online import judge_of_rounds, sampling_of_rounds
from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import OptimisationConfig
from sparsepo.workflow.model_size import model_size, typical_size
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
FLOAT = 4  # bytes of a parameter: models are kept in float32 and multiplied in the precision of the config
OPTIMIZER_STATE = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}  # bytes of two moments of a parameter
ACTIVATIONS = 68  # bytes a token, layer and unit of width for a backward pass in float32; half of it in half precision
KEYS_AND_VALUES = 8  # bytes a token, layer and unit of width for sampling
HEAD_ROWS = 512  # rows of the output head whose logits are in memory at once, at least
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
    """What a job of each stage of a task needs, by the name of the stage."""

    def __init__(self, task: TaskConfig):
        self.task, self.prompts = task, task.data.prompts
        data, preferences, resources = task.data, task.preferences, task.resources
        self.size = size = model_size(task.model, resources.parameters) or UNKNOWN_SIZE
        self.device = GPU if (resources.device or ("gpu" if size.parameters > GPU_FROM else "cpu")) == "gpu" else CPU
        generated, path = getattr(preferences, "sampling", None), getattr(preferences, "path", None)
        self.prompt = min(getattr(data, "prompt_tokens", (0, task.training.max_prompt_tokens))[1], size.context)
        self.response = min(generated.max_new_tokens if generated else task.training.max_response_tokens, size.context)
        self.pair = min(self.prompt + 2 * self.response, 2 * size.context)  # tokens; the prompt is there once
        in_file = max(1, path.stat().st_size // BYTES_A_PAIR) if path and path.is_file() else UNKNOWN_ROWS
        self.pairs = self.prompts.train or getattr(preferences, "sample", None) or in_file

    # --- the two formulas

    def seconds(self, tokens: float, passes: float, precision: str = "float32") -> float:
        """2 FLOPs a parameter and token; each pass reads all parameters and takes its time in each layer."""
        size, device = self.size, self.device
        flops = device.flops if precision == "float32" else device.half_precision_flops
        a_pass = FLOAT * size.parameters / device.bandwidth + size.layers * device.layer
        return 2 * size.parameters * tokens / flops + passes * a_pass

    def memory(self, tokens: float, unit: float, rows: float, copies: float = 0.0, state: float = 0.0) -> float:
        """`unit` bytes a token, layer and unit of width; logits of so many rows, with softmax and gradient; more copies
        of the parameters; `state` bytes of gradients and optimizer."""
        size = self.size
        kept = tokens * unit * size.layers * size.width + 3 * FLOAT * rows * size.vocab_size
        return kept + copies * FLOAT * size.parameters + state

    # --- what stages do

    def _train(self, settings: OptimisationConfig, rows: float, length: float, head: float, reads: int = 0) -> Need:
        """A training on rows of `length` tokens, read `reads` times by a reference; `head`: rows of logits at once."""
        size, adapter, half = self.size, settings.adapter, settings.precision != "float32"
        micro = (settings.micro_batch_size or settings.batch_size) * length
        micro = min(getattr(settings, "micro_batch_tokens", None) or micro, settings.batch_size * length)
        micro = max(micro, length)
        tokens = (3 + settings.gradient_checkpointing + reads) * rows * length  # a backward pass is two of forward
        trained = size.parameters if adapter is None else 18 * adapter.rank * size.width * size.layers
        unit = ACTIVATIONS / (1 + half)
        unit = FLOAT + unit / size.layers if settings.gradient_checkpointing else unit
        copies = half / 2 + (reads > 0 and adapter is None)
        state = trained * (FLOAT + OPTIMIZER_STATE[settings.optimizer])
        memory = self.memory(micro, unit, min(head, 2 * micro), copies, state)
        return Need(self.seconds(tokens, tokens / micro, settings.precision), memory)

    def _sample(self, responses: float, sampling: SamplingConfig, alone: bool = True) -> Need:
        """A job of sampling `alone` runs in half precision on a GPU."""
        length = min(self.prompt + sampling.max_new_tokens, self.size.context)
        rows, passes = (
            min(responses, sampling.batch_size),
            sampling.max_new_tokens * ceil(responses / sampling.batch_size),
        )
        seconds = self.seconds(responses * length, passes, "bfloat16" if alone else "float32")
        return Need(seconds, self.memory(rows * length, KEYS_AND_VALUES, rows))

    def _sample_often(self, times: int, responses: int) -> Need:
        """During a training."""
        once = self._sample(responses, self.task.sampling, alone=False)
        return Need(times * once.seconds, once.memory if times else 0.0)

    def _frontier(self, steps: int) -> Need:
        every, prompts = self.task.training.frontier_every, self.task.evaluation.frontier_prompts
        return self._sample_often(ceil(steps / every) + 1 if every else 0, prompts)

    def _read(self, rows: float, length: float, batch_size: float, models: int = 1, precision: str = "float32") -> Need:
        """Log-probs of texts, in batches whose states are kept of one layer."""
        memory = self.memory(batch_size * length, 8 * FLOAT / self.size.layers, models * HEAD_ROWS, models - 1)
        return Need(self.seconds(models * rows * length, models * rows / batch_size, precision), memory)

    def _responses(self) -> int:
        return (self.prompts.validation + self.prompts.test) * self.task.sampling.samples

    def _generations(self) -> int:
        settings = self.task.evaluation.generation
        counts = [min(count, settings.prompts or count) for count in (self.prompts.validation, self.prompts.test)]
        return sum(counts) * settings.samples * len(settings.temperatures)

    def _programs(self) -> int:
        settings = self.task.evaluation.code
        suites = (self.prompts.test, 164 * ("humaneval" in settings.suites))
        problems = sum(min(settings.problems or count, count) for count in suites)
        return problems * settings.sampling.samples + self.prompts.validation * settings.validation_samples

    # --- stages

    def train_sft(self) -> Need:
        settings, data = self.task.sft, self.task.data
        if settings is None:
            return Need(memory=FLOAT * self.size.parameters)
        documents = getattr(data, "texts", None) or (UNKNOWN_ROWS if data.source == "texts" else self.pairs)
        length, rows = min(settings.max_tokens, self.size.context), steps_of(settings, documents) * settings.batch_size
        return self._train(settings, rows, length, head=settings.batch_size * length)

    train_oracle_sft = train_sft

    def build_preferences(self) -> Need:
        sampling = getattr(self.task.preferences, "sampling", None)
        if sampling is None:
            return Need(memory=1e9)
        return self._sample((self.pairs + self.prompts.validation) * sampling.samples, sampling)

    def cache_reference(self) -> Need:
        training = self.task.training
        return self._read(self.pairs, self.pair, training.batch_size, precision=training.precision)

    def score_tokens(self) -> Need:
        training, rows = self.task.training, self.pairs + self.prompts.validation
        return self._read(rows, self.pair, training.batch_size, models=2, precision=training.precision)

    def train_policy(self) -> Need:
        """As if the reference were not cached."""
        training = self.task.training
        steps = steps_of(training, self.pairs)
        checks = ceil(steps / training.validate_every) + 1 if training.validate_every else 0
        rows = steps * training.batch_size + checks * self.prompts.validation
        trained = self._train(training, rows, self.pair, head=2 * (HEAD_ROWS + 2 * self.response), reads=1)
        return trained + self._frontier(steps)

    train_oracle = train_policy

    def train_round(self) -> Need:
        return self.train_policy() + self._sample_often(1, self.task.evaluation.frontier_prompts)

    def train_on_policy(self) -> Need:
        """Responses are sampled, read by policy and reference, and learnt; a target may be fitted to others before."""
        training, own, sampling = self.task.training, self.task.training.on_policy, self.task.sampling
        steps = steps_of(training, self.pairs * own.samples)
        rows, length = steps * training.batch_size, min(self.prompt + sampling.max_new_tokens, self.size.context)
        sampled = self._sample_often(steps, training.batch_size) + self._sample_often(own.fit_prompts, own.fit_samples)
        return self._train(training, rows, length, head=2 * HEAD_ROWS, reads=2) + sampled + self._frontier(steps)

    def build_round_pairs(self) -> Need:
        """Sampled, read by the policy, and judged: a second for each pair of responses to a prompt."""
        sampling, judge = sampling_of_rounds(self.task), judge_of_rounds(self.task)
        judged = self.pairs * sampling.samples * (sampling.samples - 1) / 2 * (judge.kind != "scorer")
        sampled = self._sample(self.pairs * sampling.samples, sampling)
        has_model = hasattr(getattr(judge, "scorer", judge), "model")
        return sampled + self.cache_reference() + Need(judged, JUDGE * has_model)

    def sample_responses(self) -> Need:
        return self._sample(self._responses(), self.task.sampling)

    def evaluate_run(self) -> Need:
        """Policy and reference read every response and some pairs; then scorers read them."""
        sampling, evaluation = self.task.sampling, self.task.evaluation
        length = min(max(self.prompt + sampling.max_new_tokens, self.pair), 2 * self.size.context)
        read = self._read(self._responses() + evaluation.token_pairs, length, evaluation.batch_size, models=2)
        return read + Need(memory=JUDGE * any(hasattr(scorer, "model") for _, scorer in evaluation.scorers))

    def sample_generations(self) -> Need:
        return self._sample(self._generations(), self.task.evaluation.generation)

    def measure_summaries(self) -> Need:
        """A second for each response, by whatever model or endpoint reads it."""
        return Need(self._generations(), JUDGE)

    measure_win_rate = measure_summaries

    def measure_benchmarks(self) -> Need:
        """lm-eval keeps the logits of all positions."""
        settings, length = self.task.evaluation.benchmarks, min(QUESTION_TOKENS, self.size.context)
        rows = (settings.limit or QUESTIONS) * (len(settings.tasks) + len(settings.local)) * ANSWERS
        tokens = settings.batch_size * length
        kept = Need(memory=self.memory(tokens, KEYS_AND_VALUES, rows=tokens))
        return self._read(rows, length, settings.batch_size) + kept

    def sample_programs(self) -> Need:
        return self._sample(self._programs(), self.task.evaluation.code.sampling)

    def measure_pass_at_k(self) -> Need:
        """Three programs in ten are taken to run until they are stopped."""
        execution = self.task.execution
        return Need(0.3 * execution.timeout * self._programs() / execution.workers, 1e6 * execution.memory_mb)


def steps_of(settings: OptimisationConfig, rows: float) -> int:
    """The steps of a training on so many rows."""
    return settings.max_steps or ceil(rows * settings.num_train_epochs / settings.batch_size)


def job_resources(task: TaskConfig, stage: str) -> dict[str, int]:
    """`mem_mb` and `runtime` (minutes) of a job of this stage; those that the config gives win.

    On a CPU all memory is the host's. Beside a GPU the host holds the parameters once to load them, once more to write
    checkpoints, and once more to keep the best. Each of several processes that share a job needs as much as one.
    """
    needs, row = TaskNeeds(task), STAGES[stage]
    processes = row.num_processes(task)
    seconds, memory = getattr(needs, stage)()
    if needs.device == GPU:
        trains = stage.startswith("train_")
        keeps_best = trains and row.trains != "sft" and task.training.checkpoint_selection == "best"
        memory = (trains + keeps_best) * FLOAT * needs.size.parameters
    memory += needs.device.base + FLOAT * needs.size.parameters
    mem_mb = task.resources.mem_mb or ceil(MARGIN * processes * memory / 1e8) * 100
    runtime = task.resources.runtime or min(DAY, START + ceil(MARGIN * seconds / processes / 60))
    return {"mem_mb": mem_mb, "runtime": runtime}


def has_unknown_size(task: TaskConfig) -> bool:
    """Whether the jobs of a task ask for what a model of `UNKNOWN_SIZE` needs."""
    asks = task.resources.mem_mb is None or task.resources.runtime is None
    return asks and model_size(task.model, task.resources.parameters) is None

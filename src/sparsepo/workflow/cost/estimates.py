"""What one job of each stage of a task needs, at most: FLOPs, seconds, memory; and what it asks a scheduler for."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from sparsepo.config import TaskConfig
from sparsepo.config.online import judge_of_rounds, sampling_of_rounds
from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import OptimisationConfig
from sparsepo.workflow.cost import formulas as cost
from sparsepo.workflow.cost.formulas import SINGLE, Work
from sparsepo.workflow.cost.sizes import Sizes

JUDGE = 2e9
"""Bytes of a classifier, reward model or judge of half a billion weights, a batch included."""
QUESTION = (25_000, 4, 1_000)
"""Questions of a benchmark without a limit (the Open LLM Leaderboard 2 has 22,000), answers to each, tokens of each."""
MARGIN = 1.25
"""What is asked for over what is estimated: allocators, libraries."""
START, DAY = 10, 24 * 60
"""Minutes of any job, and the most that a first attempt asks for: what takes longer goes on from its checkpoint."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Estimate:
    """Of one job: floating-point operations, seconds, and bytes where the model is."""

    flops: float
    seconds: float
    memory: float

    @classmethod
    def of(cls, sizes: Sizes, memory: float, *parts: tuple[Work, str]) -> "Estimate":
        """From work and the precision that each part of it is done in."""
        seconds = sum(work.seconds(sizes.shape, sizes.device, precision) for work, precision in parts)
        return cls(sum(work.flops for work, _ in parts), seconds, memory)


def steps_of(settings: OptimisationConfig, examples: int) -> int:
    return settings.max_steps or ceil(examples * settings.num_train_epochs / settings.batch_size)


def _sft(sizes: Sizes) -> Estimate:
    settings, shape = sizes.task.sft, sizes.shape
    stored = BYTES[sizes.task.model.dtype]
    if settings is None:
        return Estimate(0.0, 0.0, 2 * shape.parameters * stored)
    length, micro = min(settings.max_tokens, shape.context), settings.micro_batch_size or settings.batch_size
    documents = steps_of(settings, sizes.documents) * settings.batch_size
    tokens = {"tokens": micro * length, "logits": micro * length * shape.vocabulary}
    memory = cost.training_bytes(shape, settings, **tokens, reference=False, stored=stored)
    work = Work(documents * cost.text_flops(shape, length, settings), 3 * documents / micro)
    return Estimate.of(sizes, memory, (work, settings.precision))


def _micro_tokens(sizes: Sizes) -> float:
    training = sizes.task.training
    asked = training.micro_batch_tokens or (training.micro_batch_size or training.batch_size) * sizes.pair
    return max(sizes.pair, min(asked, training.batch_size * sizes.pair))


def _reference(sizes: Sizes) -> Estimate:
    training, shape = sizes.task.training, sizes.shape
    flops = sizes.pairs * cost.forward_flops(shape, sizes.pair, sizes.prompt + sizes.response)
    memory = cost.scoring_bytes(shape, _micro_tokens(sizes)) - shape.parameters * SINGLE
    work = Work(flops, sizes.pairs * sizes.pair / _micro_tokens(sizes))
    return Estimate.of(sizes, memory, (work, training.precision))


def _score_tokens(sizes: Sizes) -> Estimate:
    """Two models read the pairs of both splits."""
    once = _reference(sizes)
    share = 2 * (sizes.pairs + sizes.task.data.prompts.validation) / sizes.pairs
    memory = once.memory + sizes.shape.parameters * SINGLE
    return Estimate(share * once.flops, share * once.seconds, memory)


def _train(sizes: Sizes) -> Estimate:
    """Steps, the reference among them as if it were not cached, points of the frontier, and validation."""
    task, training, shape = sizes.task, sizes.task.training, sizes.shape
    steps = steps_of(training, sizes.pairs)
    rows = min(cost.ROWS + 2 * sizes.response, _micro_tokens(sizes))
    memory = cost.training_bytes(
        shape, training, tokens=_micro_tokens(sizes), logits=2 * rows * shape.vocabulary, reference=True
    )
    pair = cost.pair_flops(shape, sizes.prompt, sizes.response, training, reference=True)
    looks = ceil(steps / training.validate_every) + 1 if training.validate_every else 0
    checked = looks * task.data.prompts.validation
    pairs = steps * training.batch_size + checked / 2  # two passes instead of four
    work = Work(pairs * pair, 4 * pairs * sizes.pair / _micro_tokens(sizes))
    points = _points(sizes, steps)
    drawn = _drawn(sizes, points, task.sampling, SINGLE)
    memory += _beside(sizes, min(points, task.evaluation.frontier_prompts))
    return Estimate.of(sizes, memory, (work, training.precision), (drawn, "float32"))


def _points(sizes: Sizes, steps: int) -> int:
    """Responses that points of the frontier are measured on during training."""
    every = sizes.task.training.frontier_every
    return (ceil(steps / every) + 1) * sizes.task.evaluation.frontier_prompts if every else 0


def _beside(sizes: Sizes, responses: int) -> float:
    """Bytes of sampling besides the weights."""
    return _held(sizes, responses, sizes.task.sampling, SINGLE) - sizes.shape.parameters * SINGLE


def _train_on_policy(sizes: Sizes) -> Estimate:
    """Responses are drawn, read by policy and reference, and learnt; a target may be fitted to others before."""
    task, training, own = sizes.task, sizes.task.training, sizes.task.training.on_policy
    shape, length = sizes.shape, min(sizes.prompt + task.sampling.max_new_tokens, sizes.shape.context)
    steps = steps_of(training, sizes.pairs * own.samples)
    responses, micro = steps * training.batch_size, training.micro_batch_size or training.batch_size
    logits = 2 * min(cost.ROWS, micro * length) * shape.vocabulary
    memory = cost.training_bytes(shape, training, tokens=micro * length, logits=logits, reference=True)
    one = cost.text_flops(shape, length, training) + 2 * cost.forward_flops(shape, length, length)
    work = Work(responses * (one + cost.head_flops(shape, length, 2)), 5 * responses / micro)
    memory += _beside(sizes, training.batch_size)
    every = responses + own.fit_prompts * own.fit_samples + _points(sizes, steps)
    drawn = _drawn(sizes, every, task.sampling, SINGLE)
    return Estimate.of(sizes, memory, (work, training.precision), (drawn, "float32"))


def _train_round(sizes: Sizes) -> Estimate:
    """A training, and where none was asked for a point of the frontier at its end."""
    trained, evaluation = _train(sizes), sizes.task.evaluation
    if sizes.task.training.frontier_every or evaluation.scorer is None:
        return trained
    sampling = sizes.task.sampling
    work = _drawn(sizes, evaluation.frontier_prompts, sampling, SINGLE)
    seconds = trained.seconds + work.seconds(sizes.shape, sizes.device, "float32")
    held = _held(sizes, evaluation.frontier_prompts, sampling, SINGLE) - sizes.shape.parameters * SINGLE
    return Estimate(trained.flops + work.flops, seconds, trained.memory + held)


def _drawn(sizes: Sizes, responses: int, sampling: SamplingConfig, stored: float) -> Work:
    return cost.sampling(
        sizes.shape, sizes.prompt, responses, sampling.max_new_tokens, sampling.batch_size, stored=stored
    )


def _held(sizes: Sizes, responses: int, sampling: SamplingConfig, stored: float) -> float:
    length = min(sizes.prompt + sampling.max_new_tokens, sizes.shape.context)
    return cost.sampling_bytes(sizes.shape, min(responses, sampling.batch_size), length, stored)


def _sampled(sizes: Sizes, responses: int, sampling: SamplingConfig) -> Estimate:
    stored = BYTES[sizes.sampled_in]
    work = _drawn(sizes, responses, sampling, stored)
    return Estimate.of(sizes, _held(sizes, responses, sampling, stored), (work, sizes.sampled_in))


def _preferences(sizes: Sizes) -> Estimate:
    section, prompts = sizes.task.preferences, sizes.task.data.prompts
    if not hasattr(section, "sampling"):
        return Estimate(0.0, 0.0, 1e9)
    return _sampled(sizes, (sizes.pairs + prompts.validation) * section.sampling.samples, section.sampling)


def _sample_round(sizes: Sizes) -> Estimate:
    """Sampled, read by the policy once more, and by a judge: a second for each pair of responses to a prompt."""
    sampling, judge = sampling_of_rounds(sizes.task), judge_of_rounds(sizes.task)
    drawn, read = _sampled(sizes, sizes.pairs * sampling.samples, sampling), _reference(sizes)
    pairs = sizes.pairs * sampling.samples * (sampling.samples - 1) / 2
    judged = pairs if judge.kind != "scorer" else 0.0
    memory = max(drawn.memory, read.memory) + JUDGE * hasattr(getattr(judge, "scorer", judge), "model")
    return Estimate(drawn.flops + read.flops, drawn.seconds + read.seconds + judged, memory)


def _sample(sizes: Sizes) -> Estimate:
    return _sampled(sizes, _prompts(sizes) * sizes.task.sampling.samples, sizes.task.sampling)


def _prompts(sizes: Sizes) -> int:
    prompts = sizes.task.data.prompts
    return prompts.validation + prompts.test


def _generate(sizes: Sizes) -> Estimate:
    asked = sizes.task.evaluation.generation
    return _sampled(sizes, _generated(sizes), asked)


def _generated(sizes: Sizes) -> int:
    asked, prompts = sizes.task.evaluation.generation, sizes.task.data.prompts
    each = [min(count, asked.prompts or count) for count in (prompts.validation, prompts.test)]
    return sum(each) * asked.samples * len(asked.temperatures)


def _programs(sizes: Sizes) -> Estimate:
    return _sampled(sizes, _written(sizes), sizes.task.evaluation.code.sampling)


def _written(sizes: Sizes) -> int:
    code, prompts = sizes.task.evaluation.code, sizes.task.data.prompts
    problems = sum(min(code.problems or count, count) for count in (prompts.test, 164 * ("humaneval" in code.suites)))
    return problems * code.sampling.samples + prompts.validation * code.validation_samples


def _evaluate(sizes: Sizes) -> Estimate:
    """Policy and reference read every response and some pairs; then the scorers read them."""
    task, shape = sizes.task, sizes.shape
    new, batch = task.sampling.max_new_tokens, task.evaluation.batch_size
    length = min(sizes.prompt + new, shape.context)
    responses, pairs = _prompts(sizes) * task.sampling.samples, task.evaluation.token_pairs
    one = cost.forward_flops(shape, length, length) + cost.head_flops(shape, new, 1)
    flops = 2 * responses * one + pairs * cost.pair_flops(
        shape, sizes.prompt, sizes.response, task.training, reference=True
    )
    scorers = JUDGE * any(hasattr(scorer, "model") for _, scorer in task.evaluation.scorers)
    memory = cost.scoring_bytes(shape, batch * max(length, sizes.pair)) + scorers
    return Estimate.of(sizes, memory, (Work(flops, 2 * (responses + pairs) / batch), "float32"))


def _judged(sizes: Sizes) -> Estimate:
    """A second for each response by whatever model or endpoint reads it."""
    return Estimate(0.0, _generated(sizes), JUDGE)


def _benchmarks(sizes: Sizes) -> Estimate:
    asked, shape = sizes.task.evaluation.benchmarks, sizes.shape
    questions, answers, tokens = QUESTION
    count = (asked.limit or questions) * (len(asked.tasks) + len(asked.local)) * answers
    length = min(tokens, shape.context)
    flops = count * (cost.forward_flops(shape, length, length) + cost.head_flops(shape, length, 1))
    held = cost.sampling_bytes(shape, asked.batch_size, length, SINGLE)
    held += 2 * SINGLE * asked.batch_size * length * shape.vocabulary  # lm-eval keeps the logits of all positions
    return Estimate.of(sizes, held, (Work(flops, count / asked.batch_size), "float32"))


def _code(sizes: Sizes) -> Estimate:
    """Three programs in ten taken to run until they are stopped."""
    execution = sizes.task.execution
    return Estimate(0.0, 0.3 * execution.timeout * _written(sizes) / execution.workers, 1e6 * execution.memory_mb)


ESTIMATES: dict[str, Callable[[Sizes], Estimate]] = {
    "sft": _sft,
    "preferences": _preferences,
    "reference": _reference,
    "score_tokens": _score_tokens,
    "train": _train,
    "sample_round": _sample_round,
    "train_round": _train_round,
    "train_on_policy": _train_on_policy,
    "sample": _sample,
    "evaluate": _evaluate,
    "generate": _generate,
    "summaries": _judged,
    "wins": _judged,
    "benchmarks": _benchmarks,
    "programs": _programs,
    "code": _code,
}
"""Stage -> what one job of it needs."""


def host_bytes(sizes: Sizes, stage: str, memory: float) -> float:
    """Memory of the machine: all of it on a CPU; beside a GPU what loading, saving and keeping weights takes."""
    if not sizes.on_gpu:
        return sizes.device.base + memory
    saved = stage in ("sft", "train", "train_round", "train_on_policy")
    copies = 1 + saved + (stage == "train" and sizes.task.training.checkpoint_selection == "best")
    return sizes.device.base + copies * cost.weights_bytes(sizes.shape)


def asked(task: TaskConfig, stage: str) -> dict[str, int]:
    """`mem_mb` and `runtime` (minutes) that a job of this stage asks a scheduler for; the config's own win.

    Of several processes that share a job each holds all that one would hold.
    """
    given = {name: value for name in ("mem_mb", "runtime") if (value := getattr(task.resources, name)) is not None}
    if len(given) == 2:
        return given
    sizes = Sizes.of(task)
    found = ESTIMATES[stage](sizes)
    share = task.num_processes(stage)
    memory = ceil(MARGIN * share * host_bytes(sizes, stage, found.memory) / 1e8) * 100
    minutes = min(DAY, START + ceil(MARGIN * found.seconds / share / 60))
    return {"mem_mb": memory, "runtime": minutes} | given

"""A task in numbers, as far as its config and the files it names say them before any job starts.

Every text is taken to be as long as the config lets it be. How many pairs or documents a data set holds is often known
only when it is there; then a number below stands for it.
"""

from dataclasses import dataclass

from sparsepo.config import TaskConfig
from sparsepo.workflow.cost.formulas import DEVICES, Device
from sparsepo.workflow.cost.shapes import Shape, shape_of

UNKNOWN = 100_000
"""Pairs or documents of a data set that is not at hand."""
BYTES_A_PAIR = 200
"""Of a preference file, at least."""
LARGE = 5e8
"""Weights above which a model is taken to run on a GPU, unless `resources.device` says otherwise."""


@dataclass(frozen=True)
class Sizes:
    """A task in numbers: its model and machine, tokens of a prompt and of a response, pairs and documents."""

    task: TaskConfig
    shape: Shape
    device: Device
    prompt: float
    response: float
    pairs: int
    documents: int

    @classmethod
    def of(cls, task: TaskConfig) -> "Sizes":
        """Raises UserError where the size of the model cannot be told."""
        shape = shape_of(task.model, task.resources.parameters)
        device = DEVICES[task.resources.device or ("gpu" if shape.parameters > LARGE else "cpu")]
        made = getattr(task.preferences, "sampling", None)
        prompt = min(getattr(task.data, "prompt_tokens", (0, task.training.max_prompt_tokens))[1], shape.context)
        response = min(made.max_new_tokens if made else task.training.max_response_tokens, shape.context)
        pairs = pairs_of(task)
        texts = getattr(task.data, "texts", None)
        documents = texts or (UNKNOWN if task.data.source == "texts" else pairs)
        return cls(task, shape, device, prompt, response, pairs, documents)

    @property
    def on_gpu(self) -> bool:
        return self.device == DEVICES["gpu"]

    @property
    def sampled_in(self) -> str:
        return "bfloat16" if self.on_gpu else "float32"

    @property
    def pair(self) -> float:
        """Tokens of a pair whose prompt is there once, within the context of the model."""
        return min(self.prompt + 2 * self.response, 2 * self.shape.context)


def pairs_of(task: TaskConfig) -> int:
    """Training pairs at most: as given, or by the size of a file, or `UNKNOWN`."""
    given = task.data.prompts.train or getattr(task.preferences, "sample", None)
    path = getattr(task.preferences, "path", None)
    return given or (max(1, path.stat().st_size // BYTES_A_PAIR) if path and path.is_file() else UNKNOWN)

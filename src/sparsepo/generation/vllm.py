"""vLLM in place of transformers, where it is installed and there is a CUDA device.

Written from the documentation of vLLM's `LLM` and `SamplingParams` and tested with a stand-in for them: no test runs
vLLM itself.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoConfig, GenerationConfig

from sparsepo.config.preferences import SamplingConfig
from sparsepo.runtime.errors import UserError


def vllm_usable() -> bool:
    """Whether there is a CUDA device and the package."""
    return torch.cuda.is_available() and find_spec("vllm") is not None


class VllmEngine:
    """The policy of a folder in vLLM, which batches by itself; samples of one prompt share its keys and values.

    Each request has a seed of its own, but not the random numbers of our loop: texts differ from those of transformers,
    and between runs where rounding depends on the batch. Temperatures below 0.01 become 0.01. Raises UserError when
    vLLM cannot serve the model.
    """

    def __init__(self, folder: str | Path, dtype: str):
        from vllm import LLM

        self.config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        has_own = (Path(folder) / "generation_config.json").is_file()
        self.generation_config = GenerationConfig.from_pretrained(folder) if has_own else GenerationConfig()
        try:
            self._llm = LLM(
                model=str(folder),
                dtype=dtype,
                generation_config="vllm",  # not the model's own, which may penalise repetition
                enable_prefix_caching=True,
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"{folder}: vLLM cannot serve this model ({str(error).strip().partition(chr(10))[0][:200]}); "
                "without the package vllm it is sampled with transformers"
            ) from None

    def continue_prompts(
        self,
        prompt_ids: Sequence[list[int]],
        seeds: Sequence[int],
        end_ids: list[int],
        config: SamplingConfig,
        stops: Sequence[str],
    ) -> list[list[int]]:
        """The tokens that continue each prompt, up to and with one of `end_ids` or the one that completes a stop."""
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                n=1,
                temperature=config.temperature,
                top_p=config.top_p,
                top_k=-1,
                seed=seed,
                max_tokens=config.max_new_tokens,
                stop=list(stops),
                stop_token_ids=end_ids,
            )
            for seed in seeds
        ]
        answers = self._llm.generate([{"prompt_token_ids": row} for row in prompt_ids], parameters)
        return [list(answer.outputs[0].token_ids) for answer in answers]

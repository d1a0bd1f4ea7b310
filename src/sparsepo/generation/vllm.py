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
from sparsepo.models.adapter_folder import read_adapter_config, read_base
from sparsepo.runtime.atomic_folder import is_adapter_folder
from sparsepo.runtime.errors import UserError

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM reserves memory for."""


def vllm_usable(folder: str | Path) -> bool:
    """Whether there is a CUDA device and the package, and the folder holds no adapter that vLLM cannot serve.

    That is one on 4-bit weights or on another adapter, with trained embeddings, or of a rank above 512.
    """
    if not torch.cuda.is_available() or find_spec("vllm") is None:
        return False
    folder = Path(folder)
    if not is_adapter_folder(folder):
        return True
    config = read_adapter_config(folder)
    base, special = read_base(folder), config.get("modules_to_save") or config.get("use_dora")
    is_plain = config.get("peft_type") == "LORA" and not special and config["r"] <= LORA_RANKS[-1]
    return is_plain and base.quantization == "none" and not is_adapter_folder(Path(base.name))


class VllmEngine:
    """The policy of a folder in vLLM, which batches by itself; samples of one prompt share its keys and values.

    Each request has a seed of its own, but not the random numbers of our loop: texts differ from those of transformers,
    and between runs where rounding depends on the batch. Temperatures below 0.01 become 0.01. Raises UserError when
    vLLM cannot serve the model.
    """

    def __init__(self, folder: str | Path, dtype: str):
        from vllm import LLM

        folder, self._adapter, served = Path(folder), {}, {"model": str(folder)}
        if is_adapter_folder(folder):
            from vllm.lora.request import LoRARequest

            base, rank = read_base(folder), read_adapter_config(folder)["r"]
            served = {"model": base.name, "tokenizer": str(folder), "enable_lora": True}
            served |= {"revision": base.revision} if base.revision else {}
            served["max_lora_rank"] = next(most for most in LORA_RANKS if rank <= most)
            self._adapter = {"lora_request": LoRARequest("policy", 1, str(folder))}
        where, at = served["model"], {"revision": served.get("revision", "main")}
        self.config = AutoConfig.from_pretrained(where, trust_remote_code=False, **at)
        try:
            self.generation_config = GenerationConfig.from_pretrained(where, **at)
        except OSError:  # it has none
            self.generation_config = GenerationConfig()
        try:
            self._llm = LLM(
                **served,
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
        answers = self._llm.generate([{"prompt_token_ids": row} for row in prompt_ids], parameters, **self._adapter)
        return [list(answer.outputs[0].token_ids) for answer in answers]

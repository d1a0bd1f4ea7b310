"""Do learned masks find the positions that matter, whatever the seed? Two worlds, two starts: `make study ARGS=masks`.

In each world it is known which tokens decide the preference. A run trains a 2-layer GPT-2 on texts of the world, then
SparsePO from it on pairs, and ranks the tokens of pairs by the learned weight m_u: 1.0 is the AUC of a mask that weighs
every position that matters above all others. Writes docs/results/masks/README.md.
"""

import argparse
import contextlib
import copy
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/results/masks/README.md"
NUM_TEXTS = {"triggers": 1500, "planted": 4000}
"""Enough for the reference to know which words follow which verb: a mask cannot tell what its reference does not."""
NUM_PAIRS, NUM_RANKED = 400, 150
TRAINING = {
    "num_train_epochs": 3,
    "batch_size": 16,
    "learning_rate": 2e-4,
    "mask_learning_rate": 1e-2,
    "checkpoint_every": 0,
}
METHODS = ("sparsepo_common", "sparsepo_independent")
FORMS = ("paper", "released")
STARTS = ("ones", "authors")
FOUND, DEAD = 0.95, 0.99
"""The least AUC of a mask that found its positions, and the share of zeros above which a mask is dead."""

Span = tuple[int, int]


class World(NamedTuple):
    """texts: seed -> a corpus; pairs: seed -> preference pairs; matters: (prompt, response) -> spans that matter."""

    texts: Callable[[int], list[str]]
    pairs: Callable[[int], list[dict[str, str]]]
    matters: Callable[[str, str], list[Span]]


# --- world 1: a word behind "is", "was" or "seems" matters, a word behind "in", "by" or "on" does not

FILLERS, VERBS, PLACES = [f"filler{number}" for number in range(8)], ["is", "was", "seems"], ["in", "by", "on"]
GOOD, BAD, OTHER = ([f"{kind}{number}" for number in range(5)] for kind in ("good", "bad", "other"))


def _clauses(rng: random.Random) -> list[str]:
    words = []
    for _ in range(4):
        verb, choices = (VERBS, GOOD + BAD) if rng.random() < 0.5 else (PLACES, OTHER + OTHER)
        words += [rng.choice(FILLERS), rng.choice(verb), rng.choice(choices)]
    return words


def trigger_texts(seed: int) -> list[str]:
    rng = random.Random(f"texts {seed}")
    return [" ".join([*rng.choices(FILLERS, k=2), *_clauses(rng)]) for _ in range(NUM_TEXTS["triggers"])]


def trigger_pairs(seed: int) -> list[dict[str, str]]:
    """The chosen response has more good and fewer bad words."""

    def score(words: Sequence[str]) -> int:
        return sum((word in GOOD) - (word in BAD) for word in words)

    rng, pairs = random.Random(f"pairs {seed}"), []
    while len(pairs) < NUM_PAIRS:
        prompt, *responses = " ".join(rng.choices(FILLERS, k=2)), _clauses(rng), _clauses(rng)
        worst, best = sorted(responses, key=score)
        if score(best) > score(worst):
            pairs.append({"prompt": prompt, "chosen": " " + " ".join(best), "rejected": " " + " ".join(worst)})
    return pairs


def trigger_matters(prompt: str, response: str) -> list[Span]:
    return [span for word, span in _words(response) if word in GOOD or word in BAD]


def _words(text: str) -> Iterator[tuple[str, Span]]:
    end = 0
    for word in text.split():
        start = text.index(word, end)
        end = start + len(word)
        yield word, (start, end)


# --- world 2: the embedded task


def planted_texts(seed: int) -> list[str]:
    from sparsepo.data.planted import reviews

    return reviews(NUM_TEXTS["planted"], seed)


def planted_pairs(seed: int) -> list[dict[str, str]]:
    """Two reviews of the grammar; VADER prefers the chosen one."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    from sparsepo.data.planted import reviews

    score, texts, pairs = SentimentIntensityAnalyzer().polarity_scores, iter(reviews(4 * NUM_PAIRS, seed + 1000)), []
    while len(pairs) < NUM_PAIRS:
        worst, best = sorted((next(texts), next(texts)), key=lambda text: score(text)["compound"])
        if score(best)["compound"] > score(worst)["compound"]:
            pairs.append({"prompt": ".", "chosen": f" {best}", "rejected": f" {worst}"})
    return pairs


def planted_matters(prompt: str, response: str) -> list[Span]:
    from sparsepo.data.planted import planted_spans

    return planted_spans(response, "slots", prompt)


WORLDS = {
    "triggers": World(trigger_texts, trigger_pairs, trigger_matters),
    "planted": World(planted_texts, planted_pairs, planted_matters),
}


# --- runs


def runs_of_seed(world: str, seed: int, hyper: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each method, form and start: AUC of m_u, its share of zeros, its mean."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    import torch

    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        reference, tokenizer = _reference(world, seed, folder)
        pairs = WORLDS[world].pairs(seed)
        for method in METHODS:
            for form in FORMS:
                for start in STARTS:
                    settings = {"beta": 0.1, "form": form, "init": start, **hyper}
                    numbers = _train_and_rank(world, seed, reference, tokenizer, pairs, method, settings)
                    rows.append(
                        {"world": world, "seed": seed, "method": method, "form": form, "start": start} | numbers
                    )
    return rows


def _reference(world: str, seed: int, folder: str) -> tuple[Any, Any]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from sparsepo.config.training import SftConfig
    from sparsepo.data.records import Text
    from sparsepo.models.loading import train_tokenizer
    from sparsepo.training.sft_trainer import SFTTrainer

    texts = WORLDS[world].texts(seed)
    tokenizer = train_tokenizer(texts, "word", 1000)
    torch.manual_seed(seed)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer), "n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **ids))
    config = SftConfig(num_train_epochs=3, batch_size=32, learning_rate=3e-3, checkpoint_every=0)
    SFTTrainer(model, tokenizer, [Text(text) for text in texts], config=config, folder=folder, seed=seed).train()
    return model, tokenizer


def _train_and_rank(
    world: str, seed: int, reference: Any, tokenizer: Any, pairs: list[dict], method: str, hyper: dict[str, Any]
) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    from sparsepo.config.training import PreferenceConfig
    from sparsepo.data.token_spans import mark_overlaps, split_tokens
    from sparsepo.training.inspection import inspect_pairs
    from sparsepo.training.preference_trainer import PreferenceTrainer

    with tempfile.TemporaryDirectory() as folder:
        trainer = PreferenceTrainer(
            copy.deepcopy(reference), reference, tokenizer, pairs,
            method=method, hyper=hyper, config=PreferenceConfig(**TRAINING), folder=folder, seed=seed,
        )  # fmt: skip
        trainer.train()
    ranked = pairs[:NUM_RANKED]
    records = inspect_pairs(
        trainer.policy.eval(), reference, ranked, method, hyper, trainer.masks, tokenizer=tokenizer, batch_size=50
    )
    labels, weights = [], []
    for record, pair in zip(records, ranked, strict=True):
        for side in ("chosen", "rejected"):
            ids = tokenizer(pair[side], add_special_tokens=False)["input_ids"]
            _, spans = split_tokens(tokenizer, pair[side], ids)
            labels += mark_overlaps(spans, WORLDS[world].matters(pair["prompt"], pair[side]))
            weights += record[side]["m_u"][: len(ids)]
    zeros = fmean(weight == 0 for weight in weights)
    return {"auc": float(roc_auc_score(labels, weights)), "zeros": zeros, "mean": fmean(weights)}


# --- the page


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each world, start, method and form."""
    lines = [
        f"| world | start | method | form | found (AUC >= {FOUND}) | dead | AUC of each seed | zeros | mean m_u |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("world", "start", "method", "form")), []).append(row)
    order = list(WORLDS)
    for (world, start, method, form), runs in sorted(
        groups.items(), key=lambda item: (order.index(item[0][0]), STARTS.index(item[0][1]), item[0][2:])
    ):
        runs = sorted(runs, key=lambda run: run["seed"])
        found = sum(run["auc"] >= FOUND for run in runs)
        dead = sum(run["zeros"] > DEAD for run in runs)
        aucs = " ".join(f"{run['auc']:.2f}" for run in runs)
        zeros, mean = (fmean(run[name] for run in runs) for name in ("zeros", "mean"))
        lines.append(
            f"| {world} | `{start}` | {method} | {form} | {found} of {len(runs)} | {dead} | {aucs} | {zeros:.2f} "
            f"| {mean:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page is written")
    options = parser.parse_args()
    started, template = time.time(), (Path(__file__).parent / "study_masks.md").read_text(encoding="utf-8")
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        tasks = [
            pool.submit(runs_of_seed, world, seed, {"beta": options.beta})
            for world in options.worlds
            for seed in options.seeds
        ]
        rows = [row for task in tasks for row in task.result()]
    print(text := table(rows))
    import torch

    machine = f"{platform.machine()}, {options.workers} processes of one thread, torch {torch.__version__}"
    page = template.format(
        table=text, machine=machine, minutes=f"{(time.time() - started) / 60:.0f}", beta=options.beta, found=FOUND
    )
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

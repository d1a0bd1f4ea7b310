"""How often intervals cover the truth and tests call equal methods different, on simulated scores: docs/statistics.md.

    python benchmarks/coverage.py [--draws 2000] [--table NAME]

Each cell is a share of the draws, in percent. Scores are those of `trainings` x `prompts`: a part of the prompt
(standard deviation 1, normal or exponential), of the training (0, 0.15, 0.5), and of the sample (0.5). Several minutes;
tables whose draws are slow take a part of them.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import combinations, product

import numpy as np

from sparsepo.evaluation.significance import LEVEL, holm, pairwise_differences
from sparsepo.evaluation.statistics import SeedSample, difference_estimate, mean_estimate, sample_interval
from sparsepo.report.frontier_score import frontier_scores
from sparsepo.report.tables.systems import build_systems

NOISE = 0.5
DEVIATIONS = (0.0, 0.15, 0.5)
SEEDS, PROMPTS = (1, 3, 5, 10), (30, 100, 500)
Draw = np.random.Generator


def sample(table: np.ndarray) -> SeedSample:
    """One value of each prompt under each seed."""
    return SeedSample(tuple(range(table.shape[1])), table, np.ones(table.shape))


def prompt_part(draw: Draw, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Mean 0 and standard deviation 1."""
    return draw.normal(size=shape) if kind == "normal" else draw.exponential(size=shape) - 1


def scores(draw: Draw, kind: str, seeds: int, prompts: int, deviation: float) -> np.ndarray:
    """(seeds, prompts) scores of true mean 0, or 0 and 1 of true mean 0.3 ("share").

    Of one seed the training is given, so it has no part.
    """
    training = deviation * draw.normal(size=(seeds, 1)) * (seeds > 1)
    if kind == "share":
        return (draw.random((seeds, prompts)) < share_chances(draw, training, prompts)).astype(float)
    return training + prompt_part(draw, kind, (1, prompts)) + NOISE * draw.normal(size=(seeds, prompts))


def share_chances(draw: Draw, training: np.ndarray, prompts: int) -> np.ndarray:
    """Chances of a 1 of mean 0.3 over prompts and trainings: of a prompt 0.1 or 0.5, moved by 0.1 x the training."""
    return np.clip(draw.choice([0.1, 0.5], (1, prompts)) + 0.1 * training, 0.0, 1.0)


def covered(draw: Draw, kind: str, seeds: int, prompts: int, deviation: float) -> bool:
    """Whether the 95% interval has the true mean inside."""
    own = sample(scores(draw, kind, seeds, prompts, deviation))
    if kind == "share":
        found = sample_interval(own, share=True)
        return found.low <= 0.3 <= found.high
    return mean_estimate(own).p_value() >= 0.05  # the same as 0 inside the interval, and faster


def share_of(draws: int, event: Callable[[Draw], bool]) -> str:
    """In percent."""
    draw = np.random.default_rng(0)
    return f"{100 * np.mean([event(draw) for _ in range(draws)]):.1f}"


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    print(" | ".join(["", *heads, ""]).strip())
    print("|" + " --: |" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def over_cells(draws: int, event: Callable[[Draw, str, int, int, float], bool], share_draws: int) -> None:
    """A row for each kind of scores, number of seeds and deviation, a column for each number of prompts."""
    rows = []
    for kind, seeds, deviation in product(("normal", "skewed", "share"), SEEDS, DEVIATIONS):
        if seeds == 1 and deviation:
            continue  # one training is given
        count = share_draws if kind == "share" else draws
        cells = [share_of(count, partial(cell, event, kind, seeds, prompts, deviation)) for prompts in PROMPTS]
        rows.append([kind, str(seeds), f"{deviation:g}", *cells])
    print_table(["scores", "seeds", "sd of trainings", *(f"{count} prompts" for count in PROMPTS)], rows)


def cell(event: Callable, kind: str, seeds: int, prompts: int, deviation: float, draw: Draw) -> bool:
    return event(draw, kind, seeds, prompts, deviation)


def means(draws: int) -> None:
    """Coverage of the 95% interval of a mean."""
    over_cells(draws, covered, draws // 4)


def called_different(draw: Draw, kind: str, seeds: int, prompts: int, deviation: float) -> bool:
    """Whether two equal methods differ at 5%: they share how hard prompts are, and have trainings of their own."""
    if kind == "share":
        chances = draw.choice([0.1, 0.5], (1, prompts))
        moved = [np.clip(chances + 0.1 * deviation * draw.normal(size=(seeds, 1)) * (seeds > 1), 0, 1) for _ in "ab"]
        tables = [(draw.random((seeds, prompts)) < own).astype(float) for own in moved]
    else:
        hard = prompt_part(draw, kind, (1, prompts))
        tables = [
            hard
            + deviation * draw.normal(size=(seeds, 1)) * (seeds > 1)
            + NOISE * (prompt_part(draw, kind, (1, prompts)) + prompt_part(draw, kind, (seeds, prompts)))
            for _ in "ab"
        ]
    return difference_estimate(*map(sample, tables)).p_value() < 0.05


def differences(draws: int) -> None:
    """How often two equal methods are called different."""
    over_cells(draws, called_different, draws)


def any_of_column(draws: int) -> None:
    """How often any of the pairs of equal methods is `real`, after Holm's correction."""

    def event(methods: int, seeds: int, deviation: float, draw: Draw) -> bool:
        hard = draw.normal(size=100)
        tables = [
            hard + deviation * draw.normal(size=(seeds, 1)) * (seeds > 1) + NOISE * draw.normal(size=(seeds, 100))
            for _ in range(methods)
        ]
        pairs = combinations(map(sample, tables), 2)
        return min(holm([difference_estimate(a, b).p_value() for a, b in pairs])) < LEVEL  # as pairwise_differences

    rows = []
    for methods in (2, 5, 10):
        cases = [(1, 0.0), (3, 0.0), (3, 0.5), (5, 0.5)]
        events = [partial(event, methods, *case) for case in cases]
        rows.append([str(methods), *(share_of(draws // 4, own) for own in events)])
    print_table(["methods", "1 seed", "3 seeds, sd 0", "3 seeds, sd 0.5", "5 seeds, sd 0.5"], rows)


def run(method: str, setting: int, seed: int | None, rewards: np.ndarray, kl: float) -> dict:
    """A file of scores."""
    head = {"method": method, "label": method, "params": {} if seed is None else {"beta": str(setting)}, "seed": seed}
    prompts = list(range(len(rewards)))
    return head | {"prompt_ids": prompts, "reward": rewards.tolist(), "kl_exact": [kl] * len(prompts)}


def equal_runs(draw: Draw, method: str, settings: int, seeds: int, deviation: float) -> list[dict]:
    """Runs on 60 prompts that have SFT's rewards but for noise of the setting, the training and the sample."""
    runs = []
    for setting in range(settings):
        own = NOISE * draw.normal(size=60)
        for seed in range(seeds):
            rewards = own + deviation * draw.normal() * (seeds > 1) + NOISE * draw.normal(size=60)
            runs.append(run(method, setting, seed, rewards, 1.0 + setting))
    return runs


def frontier(draws: int) -> None:
    """How often the frontier score of a method without gain is above 0, below 0, or unlike one of 3 settings."""
    rows = []
    for seeds, deviation in ((1, 0.0), (3, 0.0), (3, 0.3), (5, 0.3)):
        for settings in (1, 2, 5, 15):
            draw, found = np.random.default_rng(0), []
            for _ in range(draws // 4):
                sft = run("sft", 0, None, 0.7 * draw.normal(size=60), 0.0)
                both = [("a", settings), ("b", 3)]
                runs = [one for name, count in both for one in equal_runs(draw, name, count, seeds, deviation)]
                result = frontier_scores([sft, *runs])
                score = next(row for row in result.methods if row.method == "a")
                gap = result.difference("a", "b")
                found.append([score.low > 0, score.high < 0, gap.low > 0 or gap.high < 0])
            shares = [f"{100 * share:.1f}" for share in np.mean(found, axis=0)]
            rows.append([str(seeds), f"{deviation:g}", str(settings), *shares])
    print_table(["seeds", "sd of trainings", "settings", "above 0 (2.5)", "below 0 (2.5)", "differs (5)"], rows)


def choice(draws: int) -> None:
    """The chosen of equal settings: coverage of its interval, and how often it differs from a method of one setting."""

    def files(draw: Draw, method: str, settings: int, seeds: int, deviation: float, hard: np.ndarray) -> list[dict]:
        result = []
        for setting in range(settings):
            for seed in range(seeds):
                level = deviation * draw.normal()
                parts = {
                    split: {"": {"reward": {"values": (level + hard[at] + NOISE * draw.normal(size=60)).tolist(),
                                            "groups": list(range(60))}}}
                    for at, split in enumerate(("validation", "test"))
                }  # fmt: skip
                head = {"run": f"{method}/{setting}/{seed}", "method": method, "label": method, "seed": seed}
                result.append(head | {"params": {"beta": str(setting)}, "splits": parts, "notes": []})
        return result

    rows = []
    for seeds, deviation in ((3, 0.0), (3, 0.5), (5, 0.5), (10, 0.5)):
        for settings in (1, 5, 15):
            draw, found = np.random.default_rng(0), []
            for _ in range(draws // 5):
                hard = draw.normal(size=(2, 60))
                both = [("a", settings), ("b", 1)]
                made = [file for name, count in both for file in files(draw, name, count, seeds, deviation, hard)]
                systems = build_systems(made, "reward", "methods")
                estimates = [system.estimates["", "reward"] for system in systems]
                (pair,) = pairwise_differences({name: at.sample for name, at in zip("ab", estimates, strict=True)})
                interval = estimates[0].interval
                found.append([interval.low <= 0 <= interval.high, pair.is_significant])
            shares = [f"{100 * share:.1f}" for share in np.mean(found, axis=0)]
            rows.append([str(seeds), f"{deviation:g}", str(settings), *shares])
    print_table(["seeds", "sd of trainings", "settings", "covered (95)", "differs (5)"], rows)


TABLES = {table.__name__: table for table in (means, differences, any_of_column, frontier, choice)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--table", choices=TABLES, help="one table; all without it")
    options = parser.parse_args()
    for name in [options.table] if options.table else TABLES:
        print(f"{TABLES[name].__doc__}\n")
        TABLES[name](options.draws)


if __name__ == "__main__":
    main()

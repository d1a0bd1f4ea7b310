"""A results folder made by hand, in the shape that the workflow writes, and the page of it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparsepo.report.html.build import write_page
from sparsepo.report.html.task_results import TaskResults

PAIRS = 6


@dataclass(frozen=True)
class Made:
    """What `make_task` writes; every text of it can be looked for in the page."""

    make_scores: object
    make_dynamics: object
    make_training_points: object
    make_examples: object

    def write(self, folder, name="planted", methods=("dpo", "mapo", "sparsepo_independent"), betas=("0.1", "0.5"),
              seeds=(0,), steps=40, labels=None, prompts=None):  # fmt: skip
        """results/ and logs/ of a task below `folder`, as TaskResults."""
        labels = {method: labels[method] for method in methods}
        task = folder / "results" / name
        scores = self.make_scores(labels, betas, seeds)
        dynamics = self.make_dynamics(labels, betas, seeds, steps)
        points = self.make_training_points(scores)
        prompts = prompts or [f"prompt number {place}" for place in range(24)]
        write_rows(task / "prompts/test.jsonl", [{"prompt": p, "id": "", "reference": f"good {p}"} for p in prompts])
        for score in scores:
            run, measured = score["run"], {"values": score["reward"], "groups": score["prompt_ids"]}
            split = {"": {"reward": measured, "kl": {**measured, "values": score["kl_exact"]}}}
            score |= {"measure": "scores", "notes": [], "splits": {"validation": split, "test": split}}
            write(task / f"scores/{run}.json", json.dumps(score))
            masked = score["method"] in ("mapo", "sparsepo_common", "sparsepo_independent")
            write_rows(task / f"tokens/{run}.jsonl", [_looked_into(row, masked) for row in self.make_examples(PAIRS)])
            write_rows(task / f"samples/{run}.jsonl", [_sample(run, prompts, place) for place in score["prompt_ids"]])
            place = task / ("sft" if run == "sft" else f"runs/{run}")
            write(place / "run.json", json.dumps(record(run)))
            if run != "sft":
                write_rows(place / "dynamics.jsonl", dynamics[run])
                write_rows(place / "frontier.jsonl", points[run])
                write(folder / f"logs/{name}/train_policy/{run}.log", f"the last words of {run}\n")
        compare = {
            "select": "reward",
            "selected_on_test": False,
            "rows": "methods",
            "baseline": None,
            "published": None,
            "published_figures": None,
        }
        compare |= {"provenance": "made here"}
        config = {
            "model": {"source": "scratch", "config": {"model_type": "gpt2"}},
            "data": {"source": "planted"},
            "evaluation": {"scorer": {"kind": "vader"}},
            "seeds": list(seeds),
            "training": {"num_train_epochs": 3},
        }
        runs = [score["run"] for score in scores[1:]]
        return TaskResults(name, folder / "results", folder / "logs", runs, [], config, compare)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_rows(path, rows):
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def _looked_into(example, masked):
    """The same pairs for every run; only some have masks."""
    if not masked:
        for side in ("chosen", "rejected"):
            del example[side]["m_u"], example[side]["m_d"]
    return example


def _sample(run, prompts, place):
    """An answer that says which run and prompt it is of."""
    text = f" answer of {run} to {place}"
    return {"prompt": prompts[place], "text": text, "tokens": [1, 2], "ended": True, "id": "", "split": "test",
            "temperature": 1.0}  # fmt: skip


def record(run):
    return {
        "config": {"the": "config of the task"},
        "settings": {"run": run},
        "seeds": {"training": 0},
        "code": "abc",
        "inputs": {"pairs.jsonl": "0123"},
        "git": {"commit": "c0ffee", "dirty": False},
        "environment": {"packages": {"torch": "9.9"}},
        "hardware": {"cpu": "a processor"},
        "seconds": 75.0,
        "peak_memory_mb": 1234,
        "peak_gpu_memory_mb": [],
        "pairs": {"trained": 20, "dropped": 0},
    }


@pytest.fixture(name="make_task")
def _make_task(make_scores, make_dynamics, make_training_points, make_examples, labels):
    """(folder, **what to make) -> TaskResults."""
    made = Made(make_scores, make_dynamics, make_training_points, make_examples)
    return lambda folder, **options: made.write(folder, labels=labels, **options)


@pytest.fixture(name="page")
def _page(make_task, tmp_path):
    """A page of two tasks, as a file."""
    tasks = [make_task(tmp_path), make_task(tmp_path, name="second", methods=("dpo", "simpo"), seeds=(0, 1))]
    out = tmp_path / "results/report/index.html"
    write_page("a config", "1.2.3", tasks, out)
    return Path(out)

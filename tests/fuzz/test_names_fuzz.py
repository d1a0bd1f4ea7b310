"""2,000 hostile names wherever a config takes one: no path made of them leaves results/ and logs/."""

import re
from itertools import product
from pathlib import Path

import yaml
from pydantic import ValidationError

from sparsepo.config import Config
from sparsepo.monitor.plan_file import NAME
from sparsepo.workflow.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
TREE = yaml.safe_load((ROOT / "config.yaml").read_text())
PIECES = [
    *(
        "..",
        ".",
        "/",
        "\\",
        "\x00",
        " ",
        "\n",
        "-",
        "--",
        "_",
        "__",
        "~",
        "+",
        "{",
        "}",
        "{task}",
        "{run}",
        "*",
        "?",
        "[a]",
    ),
    *("$", "`", ";", "'", '"', "|", "&", "%", ":", "#", "=", "a", "B", "0", "0.1", "1e-05", "sft", "tables", "figures"),
    *(
        "report",
        "plan.json",
        "_grid",
        "_differences",
        "a" * 63,
        "a" * 300,
        "\u0430",
        "\uff0e\uff0e",
        "\u2215",
        "\u0661",
        "\u202e",
        "\ud800",
    ),
    *("dpo", "mapo", "beta", "mlp", "paper", "nan", "inf", "con", ".csv", "results", "seed~0"),
]
VALUES = {"task": "{task}", "run": "{run}", "kind": "svg", "split": "train", "method": "{method}"}
VALUES |= {"oracle": "main", "iteration": "1", "name": "frontier", "measure": "scores"}
PATH = re.compile(r"(results|logs)(/[A-Za-z0-9~][A-Za-z0-9_.~+-]*)+")


def hostile(rng):
    return "".join(rng.choice(PIECES) for _ in range(rng.choice([1, 1, 2, 3, 5])))


def patterns():
    """Every path that stands in the rules or beside them, with its wildcards."""
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    found = re.findall(r'"((?:results|logs)/[^"\s]*)"', text)
    found.append(f"results/{NAME}")
    found = [pattern.replace("{{", "{").replace("}}", "}") for pattern in found]
    endings = [".csv", ".md", ".tex", "_differences.csv", "_grid.csv"]
    more = [pattern.replace("{kind}", end) for pattern in found if "{task}{kind}" in pattern for end in endings]
    return sorted({pattern for pattern in [*found, *more] if "{task}{kind}" not in pattern})


def paths_of(stages, task):
    section = stages.config.tasks[task]
    names = VALUES | {"task": task}
    for pattern, run, method in product(patterns(), stages.runs(task), section.methods):
        owner = task if "{task}" in pattern else "all tasks"
        yield owner, pattern.format(**names | {"run": run, "method": method})


def given_names(rng):
    """A config in which some names, of those that a user chooses, are hostile."""
    task = TREE["tasks"]["planted"] | {
        "methods": {"dpo": {"beta": ["0.1"]}, "mapo": {"beta": ["1"], "activation_sites": ["mlp"]}}
    }
    task["evaluation"] = task["evaluation"] | {"extra_scorers": {"vader": {"kind": "vader"}}}
    name, second = "planted", "other"
    for place in rng.sample(["name", "task", "second", "method", "parameter", "value", "kinds", "extra_scorers"], 2):
        bad = hostile(rng)
        name = bad if place == "task" else name
        second = bad if place == "second" else second
        if place == "second" and rng.random() < 0.3:
            second = name + rng.choice(["_grid", "_differences", ".csv", "_"])
        if place == "method":
            task["methods"] = {bad: {"beta": ["0.1"]}}
        if place == "parameter":
            task["methods"] = {"dpo": {"beta": ["0.1"], bad: ["0.1"]}}
        if place == "value":
            task["methods"] = {"simpo": {"beta": ["0.1", bad], "gamma": bad}}
        if place == "kinds":
            task["methods"] = {"mapo": {"beta": ["0.1"], "activation_sites": [bad, ["mlp", bad]]}}
        if place == "extra_scorers":
            task["evaluation"] = task["evaluation"] | {"extra_scorers": {bad: {"kind": "vader"}}}
    return {"name": rng.choice(["x", hostile(rng)]), "tasks": {name: task, second: task}}


def test_no_name_leads_out_of_the_results_or_into_those_of_another_task(fuzz):
    assert len(patterns()) > 30
    shared = tuple(f"{pattern}/" for pattern in patterns() if "{task}" not in pattern)
    assert "results/plan.json/" in shared

    def attempt(rng):
        try:
            stages = Stages(Config.model_validate(given_names(rng)).scaled())
        except ValidationError:
            return False
        seen = {}
        for task in stages.tasks:
            for owner, path in paths_of(stages, task):
                assert PATH.fullmatch(path), path
                assert ".." not in path.split("/") and max(len(part) for part in path.split("/")) < 255, path
                assert seen.setdefault(path, owner) == owner, f"{path} is of {owner} and of {seen[path]}"
                assert not path.startswith(shared), f"{path} lies in a file of all tasks"
        return True

    fuzz.survive("names", attempt)

"""A stage has one name: its rule, its script, its settings, its logs and its resources share it."""

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sparsepo.config.loading import load_config
from sparsepo.monitor.plan_file import WATCHED, log_path, output_path
from sparsepo.report.run_names import RUN_STAGES
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.registry import STAGES
from sparsepo.workflow.resources import TaskNeeds
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import StageSettings
from sparsepo.workflow.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {path.stem for path in (ROOT / "workflow_scripts").glob("*.py")}
RULES = dict(
    re.findall(
        r"^use rule (?:\w+ as )?(\w+) with:\n((?:    .*\n|\n)*)",
        "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk")),
        re.MULTILINE,
    )
)
PLANS = ("paper/tldr", "paper/mbpp", "paper/hh", "imdb")
ITEMS = ("run", "kind", "oracle", "method")

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_its_rule_script_settings_logs_and_resources_under_its_name(stage):
    row, rule = STAGES[stage], RULES[stage]
    logs = [path for path in re.findall(r'"(logs/[^"]*)"', rule)]
    assert logs and all(re.match(rf"logs/(\{{task\}}|report)/{stage}[./]", path) for path in logs)
    assert f'stage_params("{stage}"' in re.sub(r"\(\n\s*", "(", rule)
    assert (row.like or stage) in SCRIPTS
    own = stage.replace("_", " ").title().replace(" ", "") + "Settings"
    assert row.settings is StageSettings or row.settings.__name__ == own or row.settings is STAGES[row.like].settings
    assert hasattr(TaskNeeds, stage) or None not in (row.mem_mb, row.runtime)


def test_a_stage_like_another_inherits_its_rule():
    text = "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert all(f"use rule {row.like} as {stage} with:" in text for stage, row in STAGES.items() if row.like)


def test_every_rule_with_a_script_and_every_script_belong_to_a_stage():
    assert set(RULES) - {"gpu_measure"} == set(STAGES)
    assert {row.like or stage for stage, row in STAGES.items()} == SCRIPTS
    assert set(WATCHED) | set(RUN_STAGES) <= set(STAGES)


def test_what_makes_tables_figures_and_the_page_imports_no_torch():
    scripts = sorted(SCRIPTS & {stage for stage in STAGES if stage.startswith(("make_", "plot_", "compare_"))})
    code = f"import sys, {', '.join([*scripts, 'build_report', 'fit_scorer'])}; sys.exit('torch' in sys.modules)"
    assert len(scripts) > 10
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "workflow_scripts")


@pytest.fixture(scope="module")
def planned(snakemake, tiny, tmp_path_factory):
    """(folder, jobs) of a dry run of configs that together have every stage; a job: lines of what is printed of it."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "configs").symlink_to(ROOT / "configs")
    config = yaml.safe_load(tiny)
    task = config["tasks"]["small"]
    own = {"model": task["model"] | {"config": task["model"]["config"] | {"n_layer": 1}}}
    methods = {"sepo": {"beta": "1", "oracle": ["main", "own"]}, "inpo": {"beta": "0.1"}, "fdpg": {"beta": "0.1"}}
    task |= {"oracles": {"main": {"contrast": True}, "own": own}, "methods": methods}
    task["training"]["batch_size"] = 12
    judged = {"generation": {"max_new_tokens": 10}, "win_rate": {"kind": "scorer", "scorer": {"kind": "vader"}}}
    judged |= {"win_rate_against": ["sft"]}
    task["evaluation"] |= {"frontier_prompts": 8} | judged
    other = {"policy": {"source": "hub", "id": "owner/model-125m"}}
    config["tasks"]["other_start"] = task = yaml.safe_load(tiny)["tasks"]["small"] | other
    task["methods"]["sparsepo_common"], task["training"]["together"] = {"beta": ["0.1", "0.5"]}, 2
    (folder / "every.yaml").write_text(yaml.safe_dump(config))
    configs = [*(f"configs/{name}.yaml" for name in PLANS), "every.yaml"]
    options = ("-s", ROOT / "Snakefile", "--directory", folder, "-n", "-p", "--configfile", *configs)
    done = snakemake(folder, "all", "together", *options)
    assert done.returncode == 0, done.stdout
    blocks = re.findall(r"^rule (\w+):\n((?:    .*\n)*(?:Shell command: .*\n)?)", done.stdout, re.MULTILINE)
    jobs = [
        (rule, dict(line.strip().split(": ", 1) for line in block.splitlines() if ": " in line))
        for rule, block in blocks
        if rule not in ("all", "together")
    ]
    assert {rule for rule, _ in jobs} == set(STAGES)
    return folder, jobs


def test_jobs_log_and_write_where_the_monitor_looks(planned):
    folder, jobs = planned
    assert not (folder / "results").exists()
    for rule, lines in jobs:
        wildcards = dict(pair.split("=", 1) for pair in lines.get("wildcards", "task=report").split(", "))
        item = next((wildcards[key] for key in ITEMS if key in wildcards), "")
        item += f"/iteration~{wildcards['iteration']}" if "iteration" in wildcards else ""
        log = log_path(Path(folder, "results"), rule, wildcards["task"], item)
        assert str(log.relative_to(folder)) == lines["log"]
        if rule in WATCHED:
            output = output_path(Path("results"), rule, wildcards["task"], item)
            assert str(output) in lines["output"].split(", ")


def test_every_script_takes_the_command_line_of_its_rule(planned, monkeypatch):
    """One job of each stage: its options and its settings are read, and nothing is done."""
    _, jobs = planned
    monkeypatch.chdir(planned[0])

    class Parsed(Exception):
        """Raised with the options in place of running on."""

    def parse_args(self, parse=argparse.ArgumentParser.parse_args):
        raise Parsed(parse(self))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    for stage, lines in dict(jobs).items():
        script, *words = shlex.split(lines["Shell command"].split("$SCRIPTS/")[1].split(" > ")[0])
        monkeypatch.setattr(sys, "argv", [script, *words])
        place = importlib.util.spec_from_file_location(script.removesuffix(".py"), ROOT / "workflow_scripts" / script)
        module = importlib.util.module_from_spec(place)
        place.loader.exec_module(module)
        with pytest.raises(Parsed) as caught:
            module.main()
        options = caught.value.args[0]
        assert options.settings.as_json() == words[words.index("--settings") + 1] and options.code_version, stage


def test_settings_that_are_too_long_for_one_argument_of_a_command_reach_the_script(tmp_path):
    """Linux allows 128 kB in one; a grid of 8,000 points needs more."""
    values = [str(number) for number in range(1, 8001)]
    stages = Stages(load_config(ROOT / "config.yaml", {"tasks__planted__methods": {"dpo": {"beta": values}}}))
    text, parts = stages.settings("build_report"), stages.settings_arguments("build_report")
    assert len(text) > 131_072 > max(map(len, parts)) and stages.settings_arguments("train_sft") == stages.settings(
        "train_sft"
    )
    (tmp_path / "script.py").write_text(READS_SETTINGS)
    command = [sys.executable, tmp_path / "script.py", "--settings", *parts, "--out", "x"]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout == text + "\n"


READS_SETTINGS = """
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import BuildReportSettings
print(stage_parser("", BuildReportSettings, "out").parse_args().settings.as_json())
"""


def test_an_option_of_an_earlier_version_is_answered_with_the_new_one():
    parser = stage_parser("", StageSettings, "")
    for old, new in {"--kept": "--result-cache", "--code": "--code-version", "--answers": "--judge-cache"}.items():
        with pytest.raises(UserError, match=f"^{old} is called {new} now$"):
            parser.parse_args([old, "x"])

"""docs/tutorials.md, followed in an empty folder by a user with a tiny model and few prompts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chat_models import save_instruct_model

from sparsepo.workflow.code_version import ROOT

PAGE = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
SECTIONS = {text.split("\n", 1)[0]: text for text in PAGE.split("\n## ")[1:]}
CHATS, REWARD, MASK = SECTIONS
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
WORDS = ("good", "bad", "fine", "不错", "很好", "running")
SMALL = {
    "seeds": [0],
    "training": {"num_train_epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
    "sampling": {"max_new_tokens": 8},
}


def block(section, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], flags=re.M | re.S)[0]


def commands(section):
    return block(section, "console").replace("PATH/TO/sparsepo", str(ROOT)).splitlines()


def run(command, folder):
    """A command of the page, with the programs of this Python and the package of this checkout."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    command = re.sub("^sparsepo ", "python -c 'from sparsepo.cli.main import entry; entry()' ", command)
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 0, command + done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def folder_of(path, section, name):
    """A folder with what a user has: the data, and the config as `init` writes it, made smaller."""
    save_instruct_model(path / "model")
    row = json.loads(block(section, "json"))
    rows = [row | {"prompt": f"Say {word} {number}."} for number in range(5) for word in WORDS]
    if "chosen" in row:
        rows = [
            chat | {"chosen": f"I am {word}.", "rejected": "No 坏."} for chat, word in zip(rows, WORDS * 5, strict=True)
        ]
        rows[0] = row
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)
    (path / f"{'chats' if name == 'chat' else name}.jsonl").write_text(lines, encoding="utf-8")
    first, *others = commands(section)
    run(first, path)
    config = yaml.safe_load((path / f"{name}.yaml").read_text())
    return config, others


def smaller(path, config):
    (task,) = config["tasks"].values()
    task |= SMALL | {"model": task["model"] | {"source": "folder", "path": "model"}}
    del task["model"]["id"]
    task["data"]["prompts"] = {"validation": 4, "test": 4}
    if "sampling" in task["preferences"]:
        task["preferences"]["sampling"] = {"samples": 3, "max_new_tokens": 8}
    else:
        task["evaluation"] = {"scorer": {"kind": "vader"}}
    (path / f"{config['name']}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_file_of_chats_becomes_a_table_of_three_methods(tmp_path):
    config, others = folder_of(tmp_path, CHATS, "chat")
    assert len(config["tasks"]["chat"]["seeds"]) == 3 and len(config["tasks"]["chat"]["methods"]) == 3
    smaller(tmp_path, config)
    *_, table = (run(command, tmp_path) for command in others)
    assert all(label in table for label in ("SFT", "DPO", "SimPO", "SparsePO"))
    assert (tmp_path / "results/report/index.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_reward_in_python_becomes_pairs_and_a_frontier(tmp_path):
    config, others = folder_of(tmp_path, REWARD, "prompts")
    smaller(tmp_path, config)
    *_, table = (run(command, tmp_path) for command in others)
    assert "DPO" in table and "SparsePO" in table
    text = (tmp_path / "results/prompts/preferences/train.jsonl").read_text(encoding="utf-8")
    pairs = [json.loads(line) for line in text.splitlines()]
    assert pairs and all(len(pair["chosen"].split()) < len(pair["rejected"].split()) for pair in pairs)
    (figure,) = re.findall(r"results/figures/prompts/\w+\.png", PAGE)
    assert (tmp_path / figure).exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_mask_and_a_loss_beside_the_config_are_compared(tmp_path):
    config, _ = folder_of(tmp_path, CHATS, "chat")
    own = yaml.safe_load(block(MASK, "yaml"))
    config["plugins"] = own["plugins"]
    config["tasks"]["chat"]["methods"] = own["tasks"]["chat"]["methods"]
    smaller(tmp_path, config)
    (text,) = re.findall(r"`my_mask.py`:\n\n```python\n(.*?)^```$", EXTENDING, flags=re.M | re.S)
    (tmp_path / "my_mask.py").write_text(text)
    *_, table = (run(command, tmp_path) for command in commands(MASK))
    assert "early" in table and "exponential" in table

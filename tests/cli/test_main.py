"""The command `sparsepo`: its help, what `init` writes, and what it imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo.cli.main import main
from sparsepo.cli.templates import TEMPLATES
from sparsepo.config.loading import load_config
from sparsepo.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DATA = {
    "chat": ("chats.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"}),
    "texts": ("texts.jsonl", {"text": "a", "label": 1}),
    "prompts": ("prompts.jsonl", {"prompt": "a"}),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_is_a_good_config_once_its_data_are_there(template, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["init", template])
    said = capsys.readouterr().out
    assert f"wrote {template}.yaml" in said
    assert f"snakemake -s {ROOT}/Snakefile --cores 2 --configfile {template}.yaml" in said
    if template in DATA:
        file, row = DATA[template]
        Path(file).write_text(json.dumps(row) + "\n")
    (task,) = load_config(f"{template}.yaml").tasks.values()
    assert set(task.methods) >= {"dpo", "sparsepo_independent"} and len(task.seeds) == 3


def test_the_reward_beside_the_template_scores_each_response(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["init", "prompts"])
    names = {}
    exec(Path("my_reward.py").read_text(), names)
    assert names["score"](["q", "q"], ["one two", "one"]) == [-2.0, -1.0]


@pytest.mark.parametrize("existing", ["prompts.yaml", "my_reward.py"])
def test_init_overwrites_no_file_and_then_writes_none(existing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(existing).write_text("mine")
    with pytest.raises(UserError, match=f"{existing}: exists already"):
        main(["init", "prompts"])
    assert [path.name for path in tmp_path.iterdir()] == [existing] and Path(existing).read_text() == "mine"


def test_init_list_names_every_template(capsys):
    main(["init", "--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TEMPLATES)


@pytest.mark.parametrize("arguments", [[], ["init"], ["init", "songs"], ["init", "chat", "--list"], ["check"], ["fly"]])
def test_a_wrong_command_line_ends_with_exit_code_2(arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


@pytest.mark.parametrize("arguments", [["init", "--list"], ["watch", "nowhere"]])
def test_init_and_watch_do_not_import_torch(arguments):
    code = (
        "import sys; from sparsepo.cli.main import entry\n"
        "try: entry()\n"
        "except SystemExit: pass\n"
        "finally: assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr

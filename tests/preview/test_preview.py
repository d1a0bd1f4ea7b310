"""`sparsepo show` and `sparsepo check`: the ids of training before training, as JSON and as colours."""

import json
from pathlib import Path

import pytest
from chat_models import make_tokenizer, save_instruct_model
from scipy.stats import norm, t

from sparsepo.cli.main import main
from sparsepo.config.loading import load_config
from sparsepo.data.encoding import Encoder
from sparsepo.preview.cli import tokens_text
from sparsepo.preview.preview import power_sentence
from sparsepo.runtime.errors import UserError

CONFIG = """\
name: preview
tasks:
  chat:
    model: {{source: folder, path: {folder}/model{model}}}
    data: {{source: preferences, prompts: {{validation: 1, test: 1}}}}
    preferences: {{source: pairs, path: {folder}/pairs.jsonl}}
    methods: {{dpo: {{beta: "0.1"}}}}
    training: {{batch_size: 1}}
    sampling: {{max_new_tokens: 12}}
    evaluation: {{scorer: {{kind: vader}}, frontier_prompts: 1}}
"""


def chats(count=4):
    return [
        {
            "prompt": [{"role": "user", "content": f"Hello {number}"}],
            "chosen": [{"role": "assistant", "content": "I am fine."}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for number in range(count)
    ]


@pytest.fixture
def config(tmp_path):
    """(rows, what the model section has more) -> the config file, with a model folder and a file of pairs beside it."""
    tokenizer = save_instruct_model(tmp_path / "model")

    def write(rows, model=""):
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path, model=model))
        return str(tmp_path / "config.yaml"), tokenizer

    return write


def shown(capsys, *arguments):
    main(["show", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_ids_of_all_pairs_are_those_that_the_template_gives(config, capsys):
    rows = chats()
    path, tokenizer = config(rows)
    found = shown(capsys, path, "--all")
    assert len(found["pairs"]) == len(rows) and found["dropped"] == {}
    for pair, row in zip(found["pairs"], rows, strict=True):
        for side in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(row["prompt"] + row[side])["input_ids"]
            line_break = tokenizer("\n")["input_ids"]
            assert pair["prompt_ids"] + pair[f"{side}_ids"] + line_break == list(whole)
        assert (pair["chosen"], pair["rejected"]) == ("I am fine.", "no")


def test_without_all_the_first_pairs_are_shown_and_what_is_dropped_is_counted(config, capsys):
    long = chats(1)[0] | {"prompt": [{"role": "user", "content": "Hello " * 300}]}
    equal = chats(1)[0] | {"chosen": chats(1)[0]["rejected"]}
    path, _ = config([long, *chats(), equal])
    found = shown(capsys, path)
    assert len(found["pairs"]) == 3
    assert found["dropped"] == {"prompt is longer than 244 tokens": 1, "chosen and rejected are equal": 1}
    assert shown(capsys, path, "--count", "1")["pairs"] == found["pairs"][:1]


def test_an_instruct_model_without_its_template_is_warned_about_with_what_the_template_would_make(config, capsys):
    plain = [{"prompt": f"Hello {number}", "chosen": " fine", "rejected": " no"} for number in range(4)]
    path, _ = config(plain)
    (warning,) = shown(capsys, path)["warnings"]
    assert (
        "is trained on plain prompts; model.wrap_prompts: true would make" in warning and "<|im_start|>user" in warning
    )
    path, _ = config(plain, ", wrap_prompts: true")
    assert shown(capsys, path)["warnings"] == []
    path, _ = config(chats(), ", chat_template: hh")
    found = shown(capsys, path)
    assert found["pairs"][0]["prompt"] == "\n\nHuman: Hello 0\n\nAssistant:"
    assert any(
        "trained on chat_template hh; model.chat_template: auto would make" in each for each in found["warnings"]
    )


def test_tokens_that_the_model_has_no_row_for_are_warned_about(config, capsys, tmp_path):
    path, tokenizer = config(chats())
    tokenizer.add_tokens(["fine."])
    tokenizer.save_pretrained(tmp_path / "model")
    (warning,) = shown(capsys, path)["warnings"]
    assert warning.startswith(f"4 of 4 pairs have token ids above {len(tokenizer) - 2}, which the model has no row for")


def test_the_terminal_shows_the_boundary_the_end_and_the_lengths(config, capsys):
    path, _ = config(chats())
    main(["show", path, "--count", "1"])
    out = capsys.readouterr().out
    assert "assistant⏎│I am fine.<|im_end|>" in out.replace("\n", "")
    assert "lengths" in out and "chat: 4 pairs" in out
    main(["check", path])
    assert capsys.readouterr().out.startswith("chat: 4 pairs\nchat: ")


def test_check_says_which_difference_the_prompts_and_seeds_of_a_config_can_show():
    """Of one seed: the quantiles of t at 0.05 over the number of pairs, and of 80%, by the error of a difference."""
    task = load_config([Path("config.yaml")]).tasks["planted"]
    prompts, rows = task.data.prompts.test, 1 + len(task.methods)
    pairs = rows * (rows - 1) // 2
    size = (t.ppf(1 - 0.025 / pairs, prompts - 1) + norm.ppf(0.8)) * (2 / prompts) ** 0.5
    found = power_sentence(task)
    assert f"{prompts} test prompts, 1 seed, {pairs} pairs of systems" in found and "one seed says nothing" in found
    assert f"from {size:.2f} (of a share near 50%: {50 * size:.0f} points)" in found
    several = power_sentence(task.model_copy(update={"seeds": [0, 1, 2]}))
    assert "3 seeds" in several and "where trainings vary by 0.15" in several


def test_a_task_that_samples_its_pairs_shows_prompts(capsys):
    found = shown(capsys, "config.yaml")
    assert found["pairs"] == [] and found["prompts"][0]["prompt_ids"]


def test_several_tasks_are_an_object_by_task(config, capsys):
    path, _ = config(chats())
    assert set(shown(capsys, path, "config.yaml")) == {"chat", "planted"}
    with pytest.raises(UserError, match="no task 'x'; the config has chat"):
        main(["show", path, "--task", "x"])


def test_a_character_of_several_tokens_is_shown_whole():
    encoder = Encoder(make_tokenizer("byte-level BPE"))
    ids = encoder.tokenizer("I 坏 🙂 ok", add_special_tokens=False)["input_ids"]
    assert len(ids) > 10 and tokens_text(encoder, ids, "dim").plain == "I 坏 🙂 ok"
    cut = tokens_text(encoder, ids[:4], "dim").plain
    assert cut.startswith("I ") and cut.endswith("\ufffd")

"""lm-eval on a tiny model: its answers against a loop over float64 log-probabilities."""

import importlib.metadata
import json
import logging
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'sparsepo[eval]')")

from chat_models import CHATML, GEMMA, make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from sparsepo.config.evaluation import BenchmarkConfig
from sparsepo.config.models import ChatOptions
from sparsepo.evaluation.lm_eval.run import _measurements, run_tasks
from sparsepo.models.loading import train_tokenizer
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache

WORDS = "red green blue one two three four five A B C D A. B. C. D. (A) (B) Answer: Question: " + " ".join(
    f"w{number}" for number in range(10)
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` makes of a local file stays in the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([WORDS], "word", 100)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "initializer_range": 0.5}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ends)).eval()


def section(**keys) -> BenchmarkConfig:
    return BenchmarkConfig(batch_size=keys.pop("batch_size", 2), **keys)


def question(number: int) -> dict:
    colours = ["red", "green blue", "one two three", "four"]
    choices = colours[number % 4 :] + colours[: number % 4]
    return {"question": f"w{number % 10} w{number // 10}", "choices": choices, "answer": number % 3}


def task_file(folder: Path, name: str = "colours", questions: int = 14, **changed) -> dict:
    rows = "".join(json.dumps(question(number)) + "\n" for number in range(questions))
    (folder / f"{name}.jsonl").write_text(rows)
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": metric, "aggregation": "mean"} for metric in ("acc", "acc_norm")],
    }
    (folder / f"{name}.yaml").write_text(json.dumps(config | changed))
    return {"path": str(folder / f"{name}.yaml"), "package": None, "kind": None}


def log_probability(model, tokenizer, prompt: str, choice: str) -> float:
    """Token by token in float64, each from a forward pass of its own."""
    double = GPT2LMHeadModel(model.config).double().eval()
    double.load_state_dict(model.state_dict())
    seen, total = tokenizer(prompt)["input_ids"], 0.0
    for token in tokenizer(choice)["input_ids"]:
        with torch.no_grad():
            total += double(torch.tensor([seen])).logits[0, -1].log_softmax(-1)[token].item()
        seen = [*seen, token]
    return total


def expected(model, tokenizer, rows: list[dict], by_length: bool) -> list[float]:
    right = []
    for row in rows:
        scores = [log_probability(model, tokenizer, row["question"], choice) for choice in row["choices"]]
        if by_length:
            scores = [score / len(choice) for score, choice in zip(scores, row["choices"], strict=True)]
        right.append(float(scores.index(max(scores)) == row["answer"]))
    return right


@pytest.mark.parametrize("metrics, by_length", [(("acc",), False), (("acc", "acc_norm"), True)])
def test_a_question_is_right_where_the_likeliest_choice_is(model, tokenizer, tmp_path, metrics, by_length):
    listed = [{"metric": metric, "aggregation": "mean"} for metric in metrics]
    place = task_file(tmp_path, metric_list=listed)
    found = run_tasks(model, tokenizer, section(local=[place]), tmp_path / "work")
    wanted = expected(model, tokenizer, [question(number) for number in range(14)], by_length)
    groups = [f"colours/{number}" for number in range(14)]
    named = {"metric": metrics[-1], "higher_is_better": True}
    assert found["measurements"] == {"colours": {"values": wanted, "groups": groups} | named}
    assert 0 < sum(wanted) < 14
    assert found["results"]["colours"][f"{metrics[-1]},none"] == pytest.approx(sum(wanted) / 14)


def test_answers_do_not_depend_on_the_batch_size(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsepo.evaluation.lm_eval.run.BLOCK_BATCHES", 1)  # many blocks
    place = task_file(tmp_path)
    runs = [run_tasks(model, tokenizer, section(local=[place], batch_size=size), tmp_path) for size in (1, 3, 64)]
    assert runs[0] == runs[1] == runs[2]


def test_answers_that_were_kept_are_not_asked_for_again_and_give_the_same_results(
    model, tokenizer, tmp_path, monkeypatch
):
    """The second model would answer otherwise; of the first one's three blocks the last is lost."""
    monkeypatch.setattr("sparsepo.evaluation.lm_eval.run.BLOCK_BATCHES", 10)
    place, path = task_file(tmp_path), tmp_path / "kept.jsonl"
    found = run_tasks(model, tokenizer, section(local=[place]), tmp_path, ResultCache(path, "mine"))
    torch.manual_seed(1)
    other = GPT2LMHeadModel(model.config).eval()
    assert run_tasks(other, tokenizer, section(local=[place]), tmp_path, ResultCache(path, "mine")) == found
    assert run_tasks(other, tokenizer, section(local=[place]), tmp_path)["results"] != found["results"]
    blocks = path.read_text().splitlines(keepends=True)
    assert len(blocks) == 3
    path.write_text("".join(blocks[:2]))
    assert run_tasks(model, tokenizer, section(local=[place]), tmp_path, ResultCache(path, "mine")) == found


def test_a_limit_keeps_the_same_questions_for_every_model_and_not_the_first(model, tokenizer, tmp_path):
    place = task_file(tmp_path, questions=40)
    found = run_tasks(model, tokenizer, section(local=[place], limit=6), tmp_path)["measurements"]["colours"]
    kept = [int(group.split("/")[1]) for group in found["groups"]]
    assert kept == sorted(set(kept)) and len(kept) == 6 and kept[-1] > 10
    assert found["values"] == expected(model, tokenizer, [question(number) for number in kept], True)
    other = GPT2LMHeadModel(model.config).eval()
    again = run_tasks(other, tokenizer, section(local=[place], limit=6), tmp_path)["measurements"]["colours"]
    assert again["groups"] == found["groups"]


def test_a_limit_above_the_size_keeps_all(model, tokenizer, tmp_path):
    found = run_tasks(model, tokenizer, section(local=[task_file(tmp_path)], limit=99), tmp_path)
    assert len(found["measurements"]["colours"]["values"]) == 14


def test_a_group_pools_the_questions_of_its_tasks_unless_lm_eval_weighs_them_otherwise():
    rows = [{"doc_id": number, "filter": "none", "metrics": ["acc"], "acc": number % 2} for number in range(3)]
    samples = {"p": rows, "q": rows[:1]}
    rest = {"samples": samples, "higher_is_better": {"both": {"acc": True}}}
    named = {"metric": "acc", "higher_is_better": True}
    pooled = {"results": {"both": {"acc,none": 0.25, "acc_stderr,none": 0.1}}} | rest
    groups = ["p/0", "p/1", "p/2", "q/0"]
    assert _measurements(pooled, {"both": ["p", "q"]}) == {"both": {"values": [0, 1, 0, 0], "groups": groups} | named}
    mean_of_means = {"results": {"both": {"acc,none": 1 / 6, "acc_stderr,none": 0.1}}} | rest
    alone = {"values": [1 / 6], "groups": [0], "stderr": 0.1} | named
    assert _measurements(mean_of_means, {"both": ["p", "q"]}) == {"both": alone}


def test_a_tag_gives_each_of_its_tasks():
    rows = [{"doc_id": number, "filter": "none", "metrics": ["acc"], "acc": number % 2} for number in range(2)]
    found = {
        "results": {name: {"acc,none": 0.5} for name in "pq"},
        "samples": {"p": rows, "q": rows},
        "higher_is_better": {},
    }
    made = _measurements(found, {"tag": ["p", "q"]})
    assert list(made) == ["p", "q"] and made["p"]["higher_is_better"] is None


def test_a_task_that_is_called_like_a_metric_of_ours_gets_a_name_of_its_own():
    rows = [{"doc_id": 0, "filter": "none", "metrics": ["acc"], "acc": 1}]
    found = {"results": {"length": {"acc,none": 1.0}}, "samples": {"length": rows}, "higher_is_better": {}}
    assert list(_measurements(found, {"length": ["length"]})) == ["lm_eval_length"]


def test_a_number_that_is_no_mean_over_questions_comes_alone_with_its_standard_error(model, tokenizer, tmp_path):
    text = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}
    metric = {"metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity"}]}
    place = task_file(tmp_path, questions=3, **text, **metric)
    found = run_tasks(model, tokenizer, section(local=[place]), tmp_path)["measurements"]["colours"]
    assert (found["metric"], found["higher_is_better"]) == ("word_perplexity", False)
    end = tokenizer.eos_token
    nats = [log_probability(model, tokenizer, end, question(number)["question"]) for number in range(3)]
    assert found["values"] == [pytest.approx(torch.tensor(-sum(nats) / 6).exp().item(), rel=1e-4)]  # two words each
    assert found["groups"] == [0] and found["stderr"] is None


def test_fewshot_examples_come_before_the_question(model, tokenizer, tmp_path):
    (tmp_path / "shots.jsonl").write_text(json.dumps(question(33)) + "\n")
    place = task_file(tmp_path, fewshot_split="shots", fewshot_config={"sampler": "first_n"})
    config = json.loads(Path(place["path"]).read_text())
    config["dataset_kwargs"]["data_files"]["shots"] = str(tmp_path / "shots.jsonl")
    Path(place["path"]).write_text(json.dumps(config))
    found = run_tasks(model, tokenizer, section(local=[place], num_fewshot=1), tmp_path)["measurements"]["colours"][
        "values"
    ]
    shot = question(33)
    rows = [question(number) for number in range(14)]
    for row in rows:
        row["question"] = f"{shot['question']} {shot['choices'][shot['answer']]} {row['question']}"
    assert found == expected(model, tokenizer, rows, True)


def test_prompts_cut_to_the_models_length_are_told_in_a_note(model, tokenizer, tmp_path):
    place = task_file(tmp_path, questions=2, doc_to_text="{{(question ~ ' ') * 60}}")
    notes = run_tasks(model, tokenizer, section(local=[place]), tmp_path)["notes"]
    # of the four choices two are one word long: nothing of theirs is part of a prompt, so the two prompts are one
    assert notes[-1] == "prompts longer than the model's 64 tokens lost their beginning, 6 times"
    assert notes[0] == f"lm-eval {importlib.metadata.version('lm-eval')}"


def test_a_run_leaves_lm_evals_logger_as_it_was_and_says_nothing_but_progress(model, tokenizer, tmp_path, capfd):
    logger = logging.getLogger("lm_eval")
    before = (logger.propagate, list(logger.handlers))
    run_tasks(model, tokenizer, section(local=[task_file(tmp_path)]), tmp_path)
    assert (logger.propagate, list(logger.handlers)) == before
    assert capfd.readouterr().out == "prompts of lm-eval: 56 of 56 in 0 s\n"


# --- policies that were trained on rendered chats


def chat_policy(template: str):
    """(model, tokenizer), which puts <s> in front of texts; ChatML has none."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer("byte-level BPE", template, adds_bos=True)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 200, "initializer_range": 0.5}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ends)).eval(), tokenizer


def rendered_answer(model, tokenizer, messages: list[dict], choices: list[str]) -> int:
    """The likeliest choice behind the messages as the template renders them, each scored in one pass in float64."""
    double, sums = GPT2LMHeadModel(model.config).double().eval(), []
    double.load_state_dict(model.state_dict())
    start = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    length = len(tokenizer(start, add_special_tokens=False)["input_ids"])
    for choice in choices:
        ids = tokenizer(start + choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logps = double(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
        sums.append(sum(logps[place - 1, ids[place]].item() for place in range(length, len(ids))))
    return sums.index(max(sums))


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_policy_trained_on_rendered_chats_is_asked_in_its_chat_template(tmp_path, system):
    """With the system message of the config, and without a second start token."""
    model, tokenizer = chat_policy(CHATML)
    place = task_file(tmp_path, metric_list=[{"metric": "acc", "aggregation": "mean"}])
    options, starts = ChatOptions(wrap_prompts=system is not None, system_message=system), set()
    model.register_forward_pre_hook(lambda _, given: starts.update(given[0][:, 0].tolist()))
    found = run_tasks(model, tokenizer, section(local=[place]), tmp_path / "work", chat=options)
    turns = [{"role": "system", "content": system}] if system else []
    rows = [question(number) for number in range(14)]
    wanted = [
        float(
            rendered_answer(model, tokenizer, [*turns, {"role": "user", "content": row["question"]}], row["choices"])
            == row["answer"]
        )
        for row in rows
    ]
    assert starts == {tokenizer.convert_tokens_to_ids("<|im_start|>")}
    assert found["measurements"]["colours"]["values"] == wanted and 0 < sum(wanted) < 14
    note = "questions are asked in the policy's chat template"
    assert found["notes"][1:] == [f"{note}, with the system message of the config" if system else note]
    plain = run_tasks(model, tokenizer, section(local=[place]), tmp_path / "work")
    assert plain["measurements"] != found["measurements"] and plain["notes"] == found["notes"][:1]


def test_a_template_without_system_messages_is_said_and_one_that_refuses_questions_is_an_error(tmp_path):
    options = ChatOptions(wrap_prompts=True, system_message="Be brief.")
    place = task_file(tmp_path)
    found = run_tasks(*chat_policy(GEMMA), section(local=[place]), tmp_path / "work", chat=options)
    assert found["notes"][-1].startswith("the chat template takes no system message: ")
    refusing = chat_policy("{{- raise_exception('no questions') -}}")
    with pytest.raises(UserError, match="chat template does not take a question of lm-eval: no questions"):
        run_tasks(*refusing, section(local=[place]), tmp_path / "work", chat=ChatOptions())

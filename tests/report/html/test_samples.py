"""The browser of samples, from files in the shape that the stages write."""

import pytest

from sparsepo.data.records import Completion, Prompt, write_json, write_records
from sparsepo.report.html import samples
from sparsepo.report.html.samples import find_answers
from sparsepo.report.html.task_results import TaskResults

DPO = "dpo/beta~0.1/seed~0"


def _task(folder, runs=(DPO,), parts=()):
    return TaskResults("t", folder / "results", folder / "logs", list(runs), list(parts), {}, {})


def _write_rows(task, kind, run, rows):
    write_records(task.folder / kind / f"{run}.jsonl", rows)


def _write_measures(task, part, run, test, validation=None):
    """Variant -> metric -> (values, groups), as the stages leave them beside what else they know of a run."""
    splits = {"test": test} | ({"validation": validation} if validation else {})
    made = {
        split: {
            variant: {name: {"values": values, "groups": groups} for name, (values, groups) in metrics.items()}
            for variant, metrics in found.items()
        }
        for split, found in splits.items()
    }
    write_json(task.folder / part / f"{run}.json", {"run": run, "measure": part, "splits": made, "notes": []})


def _drawn(prompts, count, prefix="", **rest):
    """`count` responses to each prompt, in the order in which policies are sampled."""
    return [
        Completion(prompt, f"{prefix}{prompt}-{at}", [1, 2], True, **rest) for prompt in prompts for at in range(count)
    ]


def _groups(prompts, count):
    return [place for place in range(prompts) for _ in range(count)]


def _texts(answers, run):
    return [[text for text, _, _ in found] for found in answers.runs[run]]


def _numbers(answers, run):
    """Prompt -> answer -> metric -> number."""
    return [
        [dict(zip(answers.columns, numbers, strict=True)) for _, _, numbers in found] for found in answers.runs[run]
    ]


@pytest.fixture(name="scored")
def _scored(tmp_path):
    """Three prompts, two responses each; response i of run r has reward 10 r + i."""
    task = _task(tmp_path)
    for place, run in enumerate(("sft", DPO)):
        _write_rows(task, "samples", run, _drawn(["a", "b", "c"], 2, prefix=f"{place}:"))
        rewards = [10.0 * place + at for at in range(6)]
        _write_measures(
            task, "scores", run, {"": {"reward": (rewards, _groups(3, 2)), "kl": ([0.5] * 6, _groups(3, 2))}}
        )
    return task


# --- samples and their scores


def test_each_answer_has_its_own_reward(scored):
    found = find_answers(scored, "samples")
    assert (found.columns, found.total) == (["reward", "KL"], 3)
    assert _texts(found, "sft") == [["0:a-0", "0:a-1"], ["0:b-0", "0:b-1"], ["0:c-0", "0:c-1"]]
    assert _numbers(found, DPO) == [
        [{"reward": 10.0 + 2 * place + at, "KL": 0.5} for at in (0, 1)] for place in range(3)
    ]
    assert found.runs["sft"][1] == [["0:b-0", 1.0, [2.0, 0.5]], ["0:b-1", 1.0, [3.0, 0.5]]]


def test_the_prompt_of_a_chat_is_shown_as_plain_text_and_not_as_the_policy_reads_it(tmp_path):
    task, chat = _task(tmp_path, runs=[]), [{"role": "user", "content": "Hello"}]
    _write_rows(task, "samples", "sft", _drawn(["<|im_start|>Hello"], 2, messages=chat, rendered=True))
    _write_rows(task, "prompts", "test", [Prompt("<|im_start|>Hello", reference="Hi", messages=chat, rendered=True)])
    _write_measures(task, "scores", "sft", {"": {"reward": ([1.0, 2.0], [0, 0])}})
    assert find_answers(task, "samples").prompts == [{"prompt": "User: Hello", "reference": "Hi"}]


def test_a_prompt_that_was_drawn_in_two_places_keeps_its_answers_together(tmp_path):
    task = _task(tmp_path, runs=[])
    _write_rows(task, "samples", "sft", _drawn(["a", "b", "a"], 1))
    _write_measures(task, "scores", "sft", {"": {"reward": ([1.0, 2.0, 3.0], [0, 1, 0])}})
    found = find_answers(task, "samples")
    assert [prompt["prompt"] for prompt in found.prompts] == ["a", "b"]
    assert _numbers(found, "sft") == [[{"reward": 1.0}, {"reward": 3.0}], [{"reward": 2.0}]]


@pytest.mark.parametrize("count", [1, 2])
def test_a_number_of_the_whole_run_belongs_to_no_answer(tmp_path, count):
    """It stands as if it were of the first prompt."""
    task = _task(tmp_path, runs=[])
    _write_rows(task, "samples", "sft", _drawn(["a", "b", "c"], count))
    rewards = ([0.5] * 3 * count, _groups(3, count))
    _write_measures(task, "scores", "sft", {"": {"reward": rewards, "zeros_m_u": ([0.9], [0])}})
    assert find_answers(task, "samples").columns == ["reward"]


def test_a_metric_that_only_one_run_has_is_missing_from_the_others(scored):
    _write_measures(
        scored, "scores", DPO, {"": {"reward": ([1.0] * 6, _groups(3, 2)), "extra": ([2.0] * 6, _groups(3, 2))}}
    )
    found = find_answers(scored, "samples")
    assert found.columns == ["reward", "KL", "extra"]
    assert found.runs["sft"][0][0][2] == [0.0, 0.5, None] and found.runs[DPO][0][0][2] == [1.0, None, 2.0]


def test_rows_and_values_of_validation_are_left_out(scored):
    for run in ("sft", DPO):
        validation = _drawn(["c", "v"], 2, prefix="validation:", split="validation")
        _write_rows(scored, "samples", run, validation + _drawn(["a", "b", "c"], 2))
        values = {"": {"reward": ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], _groups(3, 2))}}
        _write_measures(scored, "scores", run, values, {"": {"reward": ([9.0] * 4, _groups(2, 2))}})
    found = find_answers(scored, "samples")
    assert [prompt["prompt"] for prompt in found.prompts] == ["a", "b", "c"] and found.total == 3
    assert _texts(found, DPO)[2] == ["c-0", "c-1"]
    assert _numbers(found, DPO)[2] == [{"reward": 5.0}, {"reward": 6.0}]


def test_the_first_seed_of_each_setting_is_shown(tmp_path):
    runs = [f"dpo/beta~{beta}/seed~{seed}" for beta in ("0.1", "0.5") for seed in (3, 0)]
    task = _task(tmp_path, runs=runs)
    for run in ("sft", *runs):
        _write_rows(task, "samples", run, _drawn(["a"], 1))
        _write_measures(task, "scores", run, {"": {}})
    assert list(find_answers(task, "samples").runs) == ["sft", "dpo/beta~0.1/seed~3", "dpo/beta~0.5/seed~3"]


def test_what_was_not_sampled_has_no_answers(scored):
    assert find_answers(scored, "generations") is None and find_answers(scored, "programs") is None


def test_references_stand_beside_their_prompts_and_may_be_missing(scored):
    rows = [
        Prompt("b", reference="good b"),
        Prompt("a", reference="good a"),
        Prompt("other", reference="none of these"),
    ]
    write_records(scored.folder / "prompts/test.jsonl", rows)
    assert find_answers(scored, "samples").prompts == [
        {"prompt": "a", "reference": "good a"},
        {"prompt": "b", "reference": "good b"},
        {"prompt": "c", "reference": ""},
    ]


# --- generations at several temperatures


@pytest.fixture(name="judged")
def _judged(tmp_path):
    """Two prompts, two responses each, at temperatures 0.25 and 1; wins stand by the text of the prompt."""
    task = _task(tmp_path, runs=[], parts=["summaries", "win_rate"])
    rows = [
        row for temperature in (0.25, 1.0) for row in _drawn(["a", "b"], 2, f"{temperature}:", temperature=temperature)
    ]
    _write_rows(task, "generations", "sft", rows)
    lengths = {"0.25": ([1.0, 2.0, 3.0, 4.0], _groups(2, 2)), "1": ([5.0, 6.0, 7.0, 8.0], _groups(2, 2))}
    alike = {"0.25": ([40.0, 50.0], [0, 1]), "1": ([10.0, 20.0], [0, 1])}
    _write_measures(
        task, "summaries", "sft", {key: {"length": lengths[key], "self_bleu": alike[key]} for key in lengths}
    )
    return task


def _wins(task, **temperatures):
    """t025=(values, prompts), t1=(values, prompts)."""
    found = {
        name: {"win_rate": temperatures[key]} for key, name in (("t025", "0.25"), ("t1", "1")) if key in temperatures
    }
    _write_measures(task, "win_rate", "sft", found)
    return _numbers(find_answers(task, "generations"), "sft")


def test_a_generation_has_the_win_and_the_length_of_its_temperature(judged):
    prompts = ["a", "a", "b", "b"]
    first, second = _wins(judged, t025=([0.0, 1.0, 0.5, 0.0], prompts), t1=([1.0, 1.0, 0.0, 0.5], prompts))
    assert [answer["win rate %"] for answer in first] == [0.0, 100.0, 100.0, 100.0]
    assert [answer["win rate %"] for answer in second] == [50.0, 0.0, 0.0, 50.0]
    assert [answer["length"] for answer in first + second] == [1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0]
    answers = find_answers(judged, "generations").runs["sft"][1]
    assert [answer[:2] for answer in answers] == [
        ["0.25:b-0", 0.25],
        ["0.25:b-1", 0.25],
        ["1.0:b-0", 1.0],
        ["1.0:b-1", 1.0],
    ]


def test_a_number_of_a_prompt_is_that_of_all_answers_to_it(judged):
    first, second = _wins(judged, t1=([1.0] * 4, ["a", "a", "b", "b"]))
    assert [answer["self-BLEU"] for answer in first] == [40.0, 40.0, 10.0, 10.0]
    assert [answer["self-BLEU"] for answer in second] == [50.0, 50.0, 20.0, 20.0]


def test_a_prompt_with_a_missing_verdict_has_none(judged):
    """Which of the answers it was is not in the file; the same prompt at another temperature keeps its own."""
    prompts = ["a", "a", "b", "b"]
    first, second = _wins(judged, t025=([1.0, 0.5, 0.0], ["a", "b", "b"]), t1=([0.0, 1.0, 0.5, 0.5], prompts))
    assert [answer["win rate %"] for answer in first] == [None, None, 0.0, 100.0]
    assert [answer["win rate %"] for answer in second] == [50.0, 0.0, 50.0, 50.0]


def test_one_verdict_left_of_every_prompt_is_nobodys(judged):
    first, second = _wins(judged, t025=([1.0, 0.5], ["a", "b"]), t1=([1.0] * 4, ["a", "a", "b", "b"]))
    assert [answer["win rate %"] for answer in first + second] == [None, None, 100.0, 100.0] * 2


def test_without_a_judge_generations_have_what_else_was_measured(judged):
    found = find_answers(_task(judged.results.parent, runs=[], parts=["summaries"]), "generations")
    assert found.columns == ["length", "self-BLEU"]


def test_an_empty_prompt_shares_nothing_with_the_others(tmp_path):
    """No prompt of this task has an id, which is as empty as this prompt."""
    task = _task(tmp_path, runs=[], parts=["win_rate"])
    _write_rows(task, "generations", "sft", _drawn(["b", ""], 1))
    _write_measures(task, "win_rate", "sft", {"1": {"win_rate": ([0.0, 1.0], ["b", ""])}})
    assert _numbers(find_answers(task, "generations"), "sft") == [[{"win rate %": 0.0}], [{"win rate %": 100.0}]]


# --- programs


def test_pass_at_k_is_that_of_the_problem_by_its_id(tmp_path):
    """Suites stand one after the other; a problem has one number for all its programs."""
    task = _task(tmp_path, runs=[], parts=["pass_at_k"])
    ids = ["mbpp/7", "mbpp/3", "HumanEval/0", "HumanEval/1"]
    rows = [Completion(f"text of {id}", f"{id}-{at}", [1], True, id=id) for id in ids for at in range(2)]
    _write_rows(task, "programs", "sft", rows)
    suites = {"mbpp": {"pass@1": ([0.5, 1.0], ["mbpp/7", "mbpp/3"]), "pass@2": ([1.0, 0.0], ["mbpp/7", "mbpp/3"])}}
    suites |= {"humaneval": {"pass@1": ([0.0, 0.25], ["HumanEval/0", "HumanEval/1"])}}
    _write_measures(task, "pass_at_k", "sft", suites)
    found = find_answers(task, "programs")
    assert found.columns == ["pass@1 %", "pass@2 %"]
    assert [[numbers for _, _, numbers in answers] for answers in found.runs["sft"]] == [
        [[50.0, 100.0]] * 2, [[100.0, 0.0]] * 2, [[0.0, None]] * 2, [[25.0, None]] * 2
    ]  # fmt: skip


# --- what a page can hold


def test_long_texts_are_cut(tmp_path):
    task = _task(tmp_path, runs=[])
    long, exact = "x" * 1501, "y" * 1500
    rows = [Completion(long, long, [1], True), Completion(exact, exact, [1], True)]
    _write_rows(task, "samples", "sft", rows)
    _write_measures(task, "scores", "sft", {"": {"reward": ([1.0, 2.0], [0, 1])}})
    write_records(task.folder / "prompts/test.jsonl", [Prompt(long, reference=long), Prompt(exact, reference=exact)])
    found = find_answers(task, "samples")
    cut = "x" * 1500 + "…"
    assert found.prompts == [{"prompt": cut, "reference": cut}, {"prompt": exact, "reference": exact}]
    assert found.runs["sft"] == [[[cut, 1.0, [1.0]]], [[exact, 1.0, [2.0]]]]


@pytest.mark.parametrize(
    ("length", "runs", "shown"),
    [
        (10, 1, 60),  # never more
        (100, 8, 50),  # 100 prompts are 80,000 letters and half of them the 40,000 that are held here
        (100, 16, 25),
        (5000, 2, 13),  # of which 1,500 letters are shown
        (400, 40, 4),  # never fewer
    ],
)
def test_the_more_letters_there_are_the_fewer_prompts_a_page_holds(tmp_path, monkeypatch, length, runs, shown):
    monkeypatch.setattr(samples, "MAX_LETTERS", 40_000)
    names = [f"dpo/beta~{run}/seed~0" for run in range(runs - 1)]
    task = _task(tmp_path, runs=names)
    rows = [Completion(f"prompt {place}", "z" * length, [1], True) for place in range(100)]
    for run in ("sft", *names):
        _write_rows(task, "samples", run, rows)
        _write_measures(task, "scores", run, {"": {"length": ([float(at) for at in range(100)], list(range(100)))}})
    found = find_answers(task, "samples")
    assert [prompt["prompt"] for prompt in found.prompts] == [f"prompt {place}" for place in range(shown)]
    assert found.total == 100
    assert {len(answers) for answers in found.runs.values()} == {shown}
    assert _numbers(found, "sft")[-1] == [{"length": shown - 1.0}]

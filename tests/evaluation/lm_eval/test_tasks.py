"""Loading lm-eval's tasks: the leaderboard on made-up questions, and every refusal."""

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'sparsepo[eval]')")

from transformers import GPT2Config, GPT2LMHeadModel

from sparsepo.config.evaluation import BenchmarkConfig
from sparsepo.evaluation.lm_eval import tasks as benchmark_tasks
from sparsepo.evaluation.lm_eval.leaderboard import LEADERBOARD, normalised
from sparsepo.evaluation.lm_eval.run import run_tasks
from sparsepo.models.loading import train_tokenizer
from sparsepo.runtime.errors import UserError

WORDS = "red blue one two three four A B C D (A) (B) Answer: w0 w1 w2 w3 w4 w5"


def section(**keys) -> BenchmarkConfig:
    return BenchmarkConfig(batch_size=keys.pop("batch_size", 2), **keys)


@pytest.fixture
def policy():
    """(model, tokenizer); the model writes the first word of its prompt and stops."""
    tokenizer = train_tokenizer([WORDS], "word", 100)
    torch.manual_seed(0)
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 1400, "initializer_range": 0.5}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ends)).eval()
    model.generate = lambda input_ids, **_: torch.cat([input_ids, input_ids[:, :1]], 1)
    return model, tokenizer


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A few rows in the form of each data set of the leaderboard; in files, whose shuffles `datasets` remembers."""
    from datasets import Dataset, load_from_disk

    wrong = {f"Incorrect Answer {number}": word for number, word in enumerate(("two", "three", "four"), start=1)}
    rows = {
        "SaylorTwift/bbh": lambda n: {"input": f"w{n}", "target": ("(A)", "(B)")[n % 2]},
        "Idavidrein/gpqa": lambda n: {"Question": f"w{n}", "Correct Answer": "one", **wrong},
        "TAUR-Lab/MuSR": lambda n: {"narrative": f"w{n}", "question": "", "choices": "['a']", "answer_choice": "a"},
        "TIGER-Lab/MMLU-Pro": lambda n: {"question": f"w{n}", "options": ["red"] * 10, "answer": "ABC"[n % 3]},
        "DigitalLearningGmbH/MATH-lighteval": lambda n: {
            "problem": "w",
            "solution": r"$\boxed{2}$",
            "level": "Level 5",
        },
    }
    following = {"instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"]}
    limits = [{"num_words": None, "relation": None}, {"num_words": 9, "relation": "at least"}]
    rows["wis-k/instruction-following-eval"] = lambda n: {"key": n, "prompt": "w1", "kwargs": limits, **following}
    splits = "test train validation murder_mysteries object_placements team_allocation".split()
    places = iter(range(1000))

    def load(path: str, name: str | None = None) -> dict:
        place = tmp_path / f"data{next(places)}"
        Dataset.from_list([rows[path](number) for number in range(6)]).save_to_disk(place)
        return {split: load_from_disk(place) for split in splits}

    monkeypatch.setattr("datasets.load_dataset", load)


def test_every_column_is_made_of_what_lm_eval_reports(made_up, policy, tmp_path):
    """IFEval aside, which needs a sentence model."""
    names = [name for name in LEADERBOARD if "ifeval" not in name]
    found = run_tasks(*policy, section(tasks=sorted({LEADERBOARD[name].group for name in names}), limit=3), tmp_path)
    measured, results = found["measurements"], found["results"]
    assert set(measured) == set(names)
    assert results["leaderboard_gpqa"]["sample_len"] == 9
    assert measured["gpqa"]["values"] == [pytest.approx(normalised(results["leaderboard_gpqa"]["acc_norm,none"], 4))]
    each = [
        normalised(results[f"leaderboard_{name}"]["acc_norm,none"], choices)
        for name, choices in LEADERBOARD["bbh"].choices.items()
    ]
    assert measured["bbh"]["values"] == [pytest.approx(sum(each) / 24)] and 0 < sum(each) / 24 < 100
    assert measured["math"]["values"] == measured["math_verify"]["values"] == [0.0]


def test_ifeval_gives_instructions_and_prompts_apart(made_up, policy, tmp_path):
    nltk = pytest.importorskip("nltk")
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        pytest.skip("NLTK's punkt_tab is not here (python -m nltk.downloader punkt_tab)")
    found = run_tasks(*policy, section(tasks=["leaderboard_instruction_following"]), tmp_path)["measurements"]
    assert found["ifeval_inst"]["values"] == [50.0]  # no comma, but fewer than nine words
    assert found["ifeval_prompt"]["values"] == [0.0]


def test_gpqa_is_shuffled_alike_whatever_is_loaded_before_and_whenever_it_is_read(made_up, tmp_path):
    alone = benchmark_tasks.load_tasks(section(tasks=["leaderboard_gpqa"]), tmp_path)
    after = benchmark_tasks.load_tasks(section(tasks=["leaderboard_mmlu_pro", "leaderboard_gpqa"]), tmp_path)
    tasks = [loaded["leaderboard_gpqa"]["tasks"]["leaderboard_gpqa_main"] for loaded in (alone, after)]
    order = [[row["answer"] for row in task.eval_docs] for task in (*tasks, *tasks)]
    assert order[0] == order[1] == order[2] == order[3]
    assert len(set(order[0])) > 1


def test_the_leaderboard_keeps_its_own_number_of_examples(made_up, tmp_path):
    loaded = benchmark_tasks.load_tasks(section(tasks=["leaderboard_mmlu_pro", "leaderboard_musr"]), tmp_path)
    tasks = {name: task for each in loaded.values() for name, task in each["tasks"].items()}
    benchmark_tasks.set_examples(tasks, 2)
    assert tasks["leaderboard_mmlu_pro"].config.num_fewshot == 5
    assert tasks["leaderboard_musr_team_allocation"].config.num_fewshot == 0


# --- refusals


def refusal(**changed) -> str:
    with pytest.raises(UserError) as refused:
        run_tasks(None, None, section(**changed), Path("unused"))
    return str(refused.value)


def test_an_unknown_task_is_refused_with_the_nearest_name():
    assert "no task 'leaderboard_musrr'; the nearest name is 'leaderboard_musr'" in refusal(tasks=["leaderboard_musrr"])


@pytest.mark.parametrize("text", ["colour: red", "group: g\ntask: [p, q]", "task: [", "task: t\nno_such_key: 1"])
def test_a_task_file_that_holds_no_single_task_is_refused(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(f"{text}\n")
    sentence = refusal(local=[{"path": str(path), "package": None, "kind": None}])
    assert f"cannot load the task '{path}' (" in sentence and "a file holds one task" in sentence


@pytest.mark.parametrize(
    "error, remedy",
    [
        (ConnectionError("Couldn't reach 'x' on the Hub (OfflineModeIsEnabled)"), "unset HF_HUB_OFFLINE"),
        (FileNotFoundError("Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub."), "set HF_TOKEN"),
        (ConnectionError("Couldn't reach 'x' on the Hub"), "the first run needs the network"),
        (ModuleNotFoundError("`math-verify` is required"), r"pip install 'sparsepo\[eval\]'"),
    ],
)
def test_data_or_packages_that_cannot_be_had_become_a_sentence_with_the_remedy(monkeypatch, error, remedy):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(UserError, match=f"task 'leaderboard_gpqa' .*; .*{remedy}"):
        run_tasks(None, None, section(tasks=["leaderboard_gpqa"]), Path("unused"))


def test_offline_the_hubs_own_error_is_understood(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refusal(tasks=["leaderboard_musr"])


def test_a_full_disk_is_not_mistaken_for_missing_data(monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(OSError, match="No space left"):
        run_tasks(None, None, section(tasks=["leaderboard_musr"]), Path("unused"))


@pytest.mark.parametrize("task", ["leaderboard", "leaderboard_ifeval", "leaderboard_instruction_following"])
def test_ifeval_is_refused_before_it_runs_when_its_sentence_model_is_missing(monkeypatch, task):
    monkeypatch.setattr("nltk.data.path", [])
    assert "punkt_tab, which is not installed; run python -m nltk.downloader punkt_tab" in refusal(tasks=[task])


def test_math_is_refused_with_an_antlr_that_would_score_it_wrong(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "4.13.2" if name.startswith("antlr4") else real(name)
    )
    assert "MATH needs antlr4-python3-runtime 4.11, not 4.13.2" in refusal(tasks=["leaderboard_math_hard"])


def test_answers_longer_than_the_models_context_are_refused_before_it_writes_any(made_up, policy, tmp_path):
    model, tokenizer = policy
    model.config.n_positions = 1024
    with pytest.raises(UserError, match="asks for answers of up to 1,024 tokens; the model's context is 1,024"):
        run_tasks(model, tokenizer, section(tasks=["leaderboard_math_hard"]), tmp_path)


def test_without_lm_eval_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert refusal(tasks=["piqa"]).endswith("pip install 'sparsepo[eval]'")


def test_a_task_that_runs_what_the_model_writes_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "w0"}\n')
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    asked = {"output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "", "test_split": "test"}
    data["dataset_kwargs"]["cache_dir"] = str(tmp_path)
    (tmp_path / "t.yaml").write_text(json.dumps({"task": "programs", "unsafe_code": True, **data, **asked}))
    place = {"path": str(tmp_path / "t.yaml"), "package": None, "kind": None}
    assert "'programs' runs what the model writes" in refusal(local=[place])

"""Scripts that score: which prompt a scorer gets, where cut texts are said, how a policy is asked by lm-eval."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsepo.config.evaluation import CodeConfig
from sparsepo.config.models import ChatOptions
from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.mbpp_humaneval import STOPS
from sparsepo.data.records import Completion, Prompt, write_records
from sparsepo.evaluation.judges import ScoreJudge, prefer_greater
from sparsepo.workflow.settings import MeasurePassAtKSettings

ROOT = Path(__file__).parents[2]
CHAT = [{"role": "user", "content": "Hello"}]
ROWS = [
    Completion("<|im_start|>Hello", text, [1], True, messages=CHAT, rendered=True) for text in ("a", "longer", "most")
]
NOTE = "3 of 3 texts were cut"


class CuttingScorer:
    """Scores by length, and says that it cut all texts; it takes only what a scorer should be given."""

    def __call__(self, prompts, texts):
        assert prompts == [CHAT] * len(texts)
        return [float(len(text)) for text in texts]

    def take_notes(self):
        return [NOTE]


def script(name: str):
    place = importlib.util.spec_from_file_location(name, ROOT / "workflow_scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def run(module, monkeypatch, **options):
    parser = SimpleNamespace(parse_args=lambda: SimpleNamespace(**options))
    monkeypatch.setattr(module, "stage_parser", lambda *_: parser)
    module.main()


def test_pairs_of_scored_chats_say_how_many_texts_were_cut(monkeypatch, capsys):
    module = script("build_preferences")
    monkeypatch.setattr(module, "sampler", lambda *_: lambda prompts, path: ROWS)
    monkeypatch.setattr(module, "build_scorer", lambda *_: CuttingScorer())
    settings = SimpleNamespace(preferences=SimpleNamespace(scorer=None))
    pairs_of = module.pairs_by_score(SimpleNamespace(settings=settings, fitted_scorer=None), None)
    builder = pairs_of([], Path("train.jsonl"))
    assert [(pair.chosen, pair.rejected, pair.messages) for pair in builder.pairs] == [("longer", "a", CHAT)]
    assert builder.summary == {"pairs": 1, "dropped": [], "notes": [NOTE]}
    assert NOTE in capsys.readouterr().out


def test_pairs_of_a_round_say_how_many_texts_were_cut(monkeypatch):
    module = script("build_round_pairs")
    monkeypatch.setattr(module, "build_judge", lambda *_: ScoreJudge(CuttingScorer(), prefer_greater))
    options = SimpleNamespace(settings=SimpleNamespace(judge=None), judge_cache=None, fitted_scorer=None, prompts="p")
    builder, tournament = module.ranked_pairs(options, ROWS)
    assert tournament.wins == [0.0, 1.0, 0.5] and builder.summary["notes"] == [NOTE]


def test_a_win_rate_says_how_many_texts_were_cut(tmp_path, monkeypatch):
    module = script("measure_win_rate")
    monkeypatch.setattr(module, "build_judge", lambda *_: ScoreJudge(CuttingScorer(), prefer_greater))
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("generations", "validation", "test")}
    write_records(paths["generations"], ROWS)
    prompt = Prompt("<|im_start|>Hello", reference="four", messages=CHAT, rendered=True)
    write_records(paths["validation"], [])
    write_records(paths["test"], [prompt])
    settings = SimpleNamespace(splits=["test"], judges={"win_rate": None}, chosen=True, opponents={}, header={})
    others = {"judge_cache": tmp_path, "fitted_scorer": None, "opponents": [], "out": tmp_path / "out.json"}
    run(module, monkeypatch, settings=settings, **paths, **others)
    made = json.loads((tmp_path / "out.json").read_text())
    assert made["splits"]["test"]["1"]["win_rate"]["values"] == [0.0, 1.0, 0.5]
    assert NOTE in made["notes"][-1] and made["notes"][-1].startswith("test, temperature 1: ")


def test_several_judges_compare_with_several_opponents_each_in_a_column_of_its_own(tmp_path, monkeypatch):
    def build(section, folder, fitted_scorer):
        longer = lambda prompts, a, b: [float(len(one) > len(two)) for one, two in zip(a, b, strict=True)]  # noqa: E731
        return {"longer": longer, "first": lambda prompts, a, b: [1.0 for _ in a]}[section]

    module = script("measure_win_rate")
    monkeypatch.setattr(module, "build_judge", build)
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("generations", "validation", "test", "opponent")}
    write_records(paths["generations"], [replace(row, text="12345") for row in ROWS])
    write_records(
        paths["opponent"], [replace(row, text=text) for row, text in zip(ROWS, ("", "1" * 9, "1"), strict=True)]
    )
    write_records(paths["validation"], [])
    write_records(paths["test"], [Prompt("<|im_start|>Hello", reference="four", messages=CHAT, rendered=True)])
    settings = {"judges": {"win_rate": "longer", "win_rate_b": "first"}, "chosen": True, "opponents": {"sft": "sft"}}
    settings = SimpleNamespace(splits=["test"], header={}, **settings)
    others = {"judge_cache": tmp_path, "fitted_scorer": None, "out": tmp_path / "out.json"}
    run(module, monkeypatch, settings=settings, opponents=[paths.pop("opponent")], **paths, **others)
    made = json.loads((tmp_path / "out.json").read_text())["splits"]["test"]["1"]
    plain = {name: measured["values"] for name, measured in made.items() if not name.endswith("_lc")}
    assert plain == {
        "win_rate": [1.0] * 3,
        "win_rate_vs_sft": [1.0, 0.0, 1.0],
        "win_rate_b": [1.0] * 3,
        "win_rate_b_vs_sft": [1.0] * 3,
    }
    assert set(made) - set(plain) == {"win_rate_b_vs_sft_lc"}  # the first judge looks at nothing but length


def test_scores_of_a_run_say_how_many_texts_were_cut(tmp_path, monkeypatch):
    module = script("evaluate_run")
    for name in ("load_model", "load_tokenizer", "load_masks", "token_records"):
        monkeypatch.setattr(module, name, lambda *_, **__: [])
    nothing = ("sample_scores", "mask_sparsity", "sample_measurements", "pair_accuracy", "mask_measurements")
    parts = {name: lambda *_: {} for name in (*nothing, "accuracy_by_length")} | {"mean_weight": lambda *_: None}
    monkeypatch.setattr(module, "token_analysis", SimpleNamespace(**parts))
    monkeypatch.setattr(module, "score_samples", lambda policy, reference, tokenizer, rows, scorers, size: None)
    monkeypatch.setattr(module, "build_scorer", lambda *_: CuttingScorer())
    for name in ("samples", "pairs"):
        write_records(tmp_path / name, [])
    settings = {"header": {"method": "sft"}, "scorer": "a section", "extra_scorers": {}, "batch_size": 1}
    settings |= {"method": "dpo", "hyper": {}, "planted": False, "reference_loading": {}, "policy_loading": {}}
    places = {name: tmp_path / name for name in ("policy", "reference", "samples", "pairs", "scores", "tokens")}
    run(module, monkeypatch, settings=SimpleNamespace(**settings), fitted_scorer=None, **places)
    assert json.loads((tmp_path / "scores").read_text())["notes"] == [f"validation: {NOTE}", f"test: {NOTE}"]


@pytest.mark.parametrize("rendered", [True, False])
def test_lm_eval_asks_in_the_chat_template_where_prompts_are_rendered(tmp_path, monkeypatch, rendered):
    """Not where the tokenizer has a template that the policy was not trained with."""
    module, seen = script("measure_benchmarks"), []
    result = {"measurements": {}, "notes": [], "results": {}}
    monkeypatch.setattr(module, "run_tasks", lambda *given: seen.append(given[-1]) or result)
    monkeypatch.setattr(module, "load_model", lambda *_, **__: None)
    monkeypatch.setattr(module, "load_tokenizer", lambda *_: SimpleNamespace(chat_template="a template"))
    monkeypatch.setattr(module, "open_cache", lambda *_: SimpleNamespace(delete=lambda: None))
    monkeypatch.setattr(module, "job_identity", lambda *_: "")
    write_records(tmp_path / "test.jsonl", [Prompt("Hello", messages=CHAT, rendered=rendered)])
    chat = ChatOptions(wrap_prompts=True, system_message="Be brief.")
    settings = SimpleNamespace(chat=chat, loading={}, benchmarks=None, header={}, as_dict=dict)
    places = {"policy": tmp_path, "prompts": tmp_path / "test.jsonl", "questions": tmp_path, "result_cache": tmp_path}
    run(module, monkeypatch, settings=settings, code_version="", out=tmp_path / "out.json", **places)
    assert seen == [chat if rendered else None]


@pytest.mark.parametrize("suite", ["mbpp", "humaneval"])
def test_programs_that_choose_are_of_the_validation_suite_and_no_more_than_it_asks_for(tmp_path, monkeypatch, suite):
    module = script("sample_programs")
    problem = SimpleNamespace(prompt="def f():", id="HumanEval/0")
    monkeypatch.setattr(module, "human_eval_problems", lambda: [problem] * 3)
    for split in ("validation", "test"):
        write_records(tmp_path / f"{split}.jsonl", [Prompt(f"{split} prompt", "mbpp/1")])
    code = CodeConfig(sampling=SamplingConfig(samples=20), validation_samples=10, validation_suite=suite)
    settings = SimpleNamespace(code=code, splits=["validation", "test"])
    made = list(module.requests(settings, tmp_path / "validation.jsonl", tmp_path / "test.jsonl"))
    chosen_on = ["def f():"] * 3 if suite == "humaneval" else ["validation prompt"]
    assert [(each.split, each.sampling.samples) for each in made] == [("validation", 10), ("test", 20), ("test", 20)]
    assert [prompt.prompt for prompt in made[0].prompts] == chosen_on and made[0].stops == STOPS[suite]
    assert [prompt.prompt for prompt in made[1].prompts + made[2].prompts] == ["test prompt", *["def f():"] * 3]


def test_programs_are_run_against_the_tests_of_evalplus_too(tmp_path, monkeypatch):
    problem = {"task_id": 11, "text": "Double it.", "code": "def ...", "test_list": ["assert double(2) == 4"]}
    harder = {"task_id": 11, "test": "import numpy as np\nassert double(np.ones(1))[0] == 2"}
    for name, row in (("mbpp", problem), ("plus", harder)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    texts = ["def double(x):\n    return 4", "def double(x):\n    return x + x"]
    programs = [Completion("p", text, [], True, id="mbpp/11", split="test") for text in texts]
    write_records(tmp_path / "programs.jsonl", programs)
    settings = {
        "header": {},
        "data": {"source": "problems", "path": str(tmp_path / "mbpp.jsonl"), "prompts": {"validation": 1, "test": 1}},
        "execution": {"packages": ["numpy"], "workers": 1},
        "k": [1],
        "validation_samples": 0,
        "plus": {"mbpp": str(tmp_path / "plus.jsonl")},
    }
    names = {"programs": "programs.jsonl", "result_cache": "kept", "out": "out.json"}
    module = script("measure_pass_at_k")
    settings = MeasurePassAtKSettings(**settings)
    places = {name: tmp_path / place for name, place in names.items()}
    run(module, monkeypatch, settings=settings, code_version="", **places)
    measured = json.loads((tmp_path / "out.json").read_text())["splits"]["test"]
    assert {suite: own["pass@1"]["values"] for suite, own in measured.items()} == {"mbpp": [1.0], "mbpp_plus": [0.5]}
    assert measured["mbpp_plus"]["pass@1"]["groups"] == ["mbpp/11+"]

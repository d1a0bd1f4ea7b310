"""A former name of a key is answered with the present one, at the line where it stands."""

import pytest

from sparsepo.config.error_lines import RENAMED
from sparsepo.config.loading import load_config
from sparsepo.runtime.errors import UserError

TEXT = """\
name: small
tasks:
  reviews:
    model: {source: scratch, config: {model_type: gpt2}, tokenizer: {}}
    data: {source: texts, hub: {id: imdb}, prompts: {train: 40, validation: 8, test: 8}}
    sft: {}
    preferences: {source: generated, scorer: {kind: vader}}
    methods: {mapo: {beta: 1}, sparsepo_common: {beta: 1}, fdpg: {beta: 1}, fdpg_feature: {target_mean: 1}}
    oracles: {main: {}}
    training: {adapter: {}}
    evaluation:
      generation: {}
      win_rate: {kind: endpoint, url: "http://localhost", model: m, asks: summary}
      benchmarks: {tasks: [a]}
"""
PLACES = [
    "sft.epochs",
    "oracles.main.epochs",
    "training.epochs",
    "training.keep",
    "training.processes",
    "training.schedule",
    "training.warmup",
    "training.adapter.quantise",
    "training.adapter.targets",
    "data.opening",
    "model.tokenizer.vocabulary",
    "size",
    "evaluation.also",
    "evaluation.wins",
    "evaluation.benchmarks.fewshot",
    "evaluation.win_rate.key_variable",
    "evaluation.win_rate.parallel",
    "methods.fdpg.epochs",
    "methods.fdpg_feature.mean",
    "methods.mapo.kinds",
]


def test_every_former_name_is_tried_here():
    assert {place.rpartition(".")[2] for place in PLACES} == set(RENAMED)


@pytest.mark.parametrize("key", ["initial_zeros", "init_sparsity"])
def test_the_former_start_of_a_mask_is_answered_with_those_that_there_are(tmp_path, key):
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)
    later = tmp_path / "later.yaml"
    later.write_text(f"tasks: {{reviews: {{methods: {{sparsepo_common: {{{key}: 0.25}}}}}}}}")
    with pytest.raises(UserError, match=f"{key}: was removed: .*init: ones.*init: authors"):
        load_config([path, later])


@pytest.mark.parametrize("place", PLACES)
def test_a_former_name_is_answered_with_the_present_one_and_its_line(tmp_path, place):
    section, _, key = place.rpartition(".")
    path, later = tmp_path / "config.yaml", tmp_path / "later.yaml"
    path.write_text(TEXT)
    text = "tasks:\n  reviews:\n"
    for depth, part in enumerate(section.split(".") if section else [], start=2):
        text += f"{'  ' * depth}{part}:\n"
    text += f"{'  ' * (2 + section.count('.') + bool(section))}{key}: 1\n"
    later.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config([path, later])
    new = RENAMED[key]
    assert str(caught.value) == (
        f"{later}:{text.count(chr(10))}: tasks.reviews.{place}: '{key}' is now called '{new}': write {new} instead"
    )


def test_a_former_name_on_the_command_line_is_answered_too(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)
    with pytest.raises(UserError, match="^--config: tasks.reviews.size: 'size' is now called 'scale': write scale"):
        load_config(path, {"tasks__reviews__size__prompts": "10"})


def test_a_key_that_keeps_its_name_elsewhere_is_none_of_them(tmp_path):
    """`keep` was a key of the training section and never one of sft."""
    path = tmp_path / "config.yaml"
    path.write_text(TEXT.replace("sft: {}", "sft: {keep: best}"))
    with pytest.raises(UserError, match="tasks.reviews.sft.keep: unknown key; allowed: "):
        load_config(path)


@pytest.mark.parametrize("key", ["text", "label"])
def test_a_column_of_hub_or_package_is_answered_with_columns(tmp_path, key):
    for section in (f"hub: {{id: imdb, {key}: x}}", f"package: {{name: imdb, {key}: x}}"):
        (tmp_path / "config.yaml").write_text(TEXT.replace("hub: {id: imdb}", section))
        place = f"tasks.reviews.data.{section.partition(':')[0]}.{key}"
        with pytest.raises(UserError, match=f"{place}: write columns: {{{key}: ...}} beside this section instead"):
            load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("source", ["pairs", "comparisons"])
def test_the_removed_filter_by_length_is_answered_with_the_one_by_difference(tmp_path, source):
    text = TEXT.replace("texts, hub: {id: imdb}", "preferences")
    pairs = f"{{source: {source}, hub: {{id: a/b}}, max_words: 100}}"
    text = text.replace("{source: generated, scorer: {kind: vader}}", pairs)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="preferences.max_words: was removed: write max_length_difference, the most"):
        load_config(tmp_path / "config.yaml")

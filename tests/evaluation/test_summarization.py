"""Metrics of summaries against counts by hand, brute force, NLTK, and a BERTScore written out in float64."""

import math
import random
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from nltk.translate.bleu_score import sentence_bleu
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from sparsepo.config.evaluation import SummaryConfig
from sparsepo.evaluation.summarization import (
    UnicodeTokenizer,
    build_bertscore,
    build_summary_measures,
    left_out_notes,
    rouge,
    self_bleu,
)
from sparsepo.runtime.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "dog", "slept", "all", "day", "and", "bark", "##ed", "cat"]
POSITIONS, LAYERS = 16, 2
KNOWN = ["the dog slept", "the cat barked and slept", "the dog and the dog", "the day"]
REFERENCES = ["the dog slept all day", "the cat barked", "the dog barked", "a cat and a dog"]
CANDIDATES = ["the cat slept and barked", "the cat barked", "all day", "dog"]
NOTHING = SummaryConfig(rouge=False, self_bleu=False)
ROUGE = SummaryConfig(rouge=True, self_bleu=False)


# --- ROUGE

HAND = {"rouge_1": 8 / 11, "rouge_2": 4 / 9, "rouge_l": 8 / 11}


def test_rouge_is_the_f1_of_what_was_counted_by_hand():
    # the, cat, the, mat of 5 and 6 words; (the cat), (the mat) of 4 and 5 pairs; in order: the cat the mat
    found = rouge(["the cat sat on the mat"], ["the cat ate the mat"])
    assert found == {name: [pytest.approx(f1)] for name, f1 in HAND.items()}


def brute_f1(reference: list[str], text: list[str], n: int | None) -> float:
    """n-grams counted, or for None every subsequence of the candidate looked for in the reference."""
    if n:
        sides = [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for words in (reference, text)]
        common, totals = (sides[0] & sides[1]).total(), [side.total() for side in sides]
    else:
        every = [{c for k in range(1, len(side) + 1) for c in combinations(side, k)} for side in (reference, text)]
        common, totals = max(map(len, every[0] & every[1]), default=0), [len(reference), len(text)]
    return 2 * common / sum(totals) if common else 0.0


def test_rouge_equals_brute_force_over_random_texts():
    draw = random.Random(0)
    sides = [[draw.choices(["dog", "cat", "sun", "sea"], k=draw.randint(1, 7)) for _ in range(60)] for _ in range(2)]
    found = rouge(*[[" ".join(words) for words in side] for side in sides])
    for name, n in (("rouge_1", 1), ("rouge_2", 2), ("rouge_l", None)):
        assert found[name] == pytest.approx([brute_f1(*pair, n) for pair in zip(*sides, strict=True)])
    assert found["rouge_1"] != found["rouge_l"]


def test_rouge_compares_stems_and_ignores_case_and_punctuation():
    assert rouge(["Dogs barked loudly!"], ["dog barking loudly"])["rouge_2"] == [1.0]


def test_rouge_of_a_blank_summary_is_zero():
    assert rouge(["the dog", "the dog"], ["", " \n"]) == {
        name: [0.0, 0.0] for name in ("rouge_1", "rouge_2", "rouge_l")
    }


# --- BERTScore


def saved(model, folder: Path) -> str:
    core = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = BertPreTokenizer()
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    return str(folder)


def bert(kind=BertModel, **labels):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        **labels,
    )
    model = kind(config).eval()
    with torch.no_grad():  # vectors in one half of the space, as those of trained encoders: no cosine below 0
        for layer in model.base_model.encoder.layer:
            layer.output.LayerNorm.bias.fill_(1.0)
    return model


def tokens(text: str) -> list[int]:
    words = text.replace("barked", "bark ##ed").split()
    return [2, *(WORDS.index(word) if word in WORDS else 1 for word in words), 3]


def unit_vectors(model, ids: list[int], layers: int) -> np.ndarray:
    """One text alone, after so many layers, without padding."""
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[layers][0]
    vectors = hidden.double().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def idf(token: int) -> float:
    having = sum(token in tokens(text) for text in KNOWN)
    return math.log((len(KNOWN) + 1) / (having + 1))


def bertscore_f1(model, reference: list[int], candidate: list[int], layers: int) -> float:
    cosines = unit_vectors(model, candidate, layers) @ unit_vectors(model, reference, layers).T
    precision = np.average(cosines.max(1), weights=[idf(token) for token in candidate])
    recall = np.average(cosines.max(0), weights=[idf(token) for token in reference])
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("layers", [1, 2])
def test_bertscore_is_the_matching_of_tokens_weighted_by_the_idf_of_the_training_texts(tmp_path, layers):
    model = bert()
    score = build_bertscore(model=saved(model, tmp_path), layers=layers, idf_texts=KNOWN)
    expected = [
        bertscore_f1(model, tokens(reference), tokens(text), layers)
        for reference, text in zip(REFERENCES, CANDIDATES, strict=True)
    ]
    assert score(REFERENCES, CANDIDATES) == pytest.approx(expected, abs=1e-5)
    assert expected[1] == pytest.approx(1) and max(expected[0], *expected[2:]) < 0.99


def test_bertscore_of_many_pairs_is_that_of_each_alone(tmp_path):
    score = build_bertscore(model=saved(bert(), tmp_path), layers=LAYERS, idf_texts=KNOWN)
    draw = random.Random(0)
    sides = [[" ".join(draw.choices(WORDS[4:11], k=draw.randint(1, 8))) for _ in range(50)] for _ in range(2)]
    alone = [score([reference], [text])[0] for reference, text in zip(*sides, strict=True)]
    assert score(*sides) == pytest.approx(alone, abs=1e-5)


def test_a_text_longer_than_the_model_is_cut_though_the_tokenizer_states_no_limit(tmp_path):
    model = bert()
    score = build_bertscore(model=saved(model, tmp_path), layers=LAYERS, idf_texts=[*KNOWN[:3], "the day " * 40])
    long = "dog slept all " * 40
    cut = [*tokens(long)[: POSITIONS - 2 - 1], 3]
    assert score(["the dog slept all day"], [long]) == [
        pytest.approx(bertscore_f1(model, tokens("the dog slept all day"), cut, LAYERS), abs=1e-5)
    ]


def test_bertscore_of_a_blank_text_is_zero_and_does_not_touch_the_others(tmp_path):
    score = build_bertscore(model=saved(bert(), tmp_path), layers=LAYERS, idf_texts=[*KNOWN, "", " "])
    assert score(["the dog", "the dog", ""], ["", "\n", "dog"]) == [0.0] * 3
    mixed = score(["the dog", "the dog slept"], ["", "the cat slept"])
    assert mixed == [0.0, *score(["the dog slept"], ["the cat slept"])] and mixed[1] != 0


def test_bertscore_without_training_references_is_refused(tmp_path):
    with pytest.raises(UserError, match="training references, and there are none"):
        build_bertscore(model=str(tmp_path), layers=1, idf_texts=["", " "])


def test_a_bertscore_model_that_is_absent_or_too_shallow_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=f"BERTScore model '{tmp_path}' with 1 layers cannot be used: .+"):
        build_bertscore(model=str(tmp_path), layers=1, idf_texts=KNOWN)
    folder = saved(bert(), tmp_path / "bert")
    with pytest.raises(UserError, match="with 3 layers cannot be used: .*between 0 and 2"):
        build_bertscore(model=folder, layers=3, idf_texts=KNOWN)


# --- self-BLEU


def test_self_bleu_is_the_geometric_mean_of_precisions_counted_by_hand():
    # 4 of 5 words, 3 of 4, 2 of 3 and 1 of 2 longer n-grams in common, equal lengths
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert self_bleu([["one two three four five", "one two three four six"]]) == [pytest.approx(expected)]


def test_self_bleu_of_equal_samples_is_a_hundred_however_short():
    assert self_bleu([["the dog barked"] * 3, ["dog"] * 2]) == [pytest.approx(100), pytest.approx(100)]


def test_self_bleu_equals_nltk_with_all_other_samples_as_references():
    start = "the dog slept all day".split()
    samples = [[*start, *rest.split()] for rest in ("long and well", "and the cat", "in the garden behind the house")]
    each = [sentence_bleu(samples[:i] + samples[i + 1 :], sample) for i, sample in enumerate(samples)]
    assert self_bleu([[" ".join(sample) for sample in samples]]) == [pytest.approx(100 * sum(each) / 3)]
    assert max(each) - min(each) > 0.1


def test_a_blank_sample_is_not_the_most_diverse_but_left_out_and_counted():
    samples = [["", ""], [" ", "the dog"], ["a dog slept", "\n", "a dog slept"]]
    assert self_bleu(samples) == [None, None, pytest.approx(100)]
    made = build_summary_measures(SummaryConfig(rouge=False), [])(["d"] * 3, [""] * 3, samples)
    assert made["self_bleu"] == {"values": [pytest.approx(100)], "groups": [2]}
    assert left_out_notes(SummaryConfig(rouge=False), [""] * 3, samples) == [
        "4 of 7 samples are blank",
        "2 of 3 prompts have fewer than 2 samples with text, and no self-BLEU",
    ]


SCRIPTS = {
    "Chinese": ("猫坐在垫子上。", "猫睡在床上。", 2 * 4 / (6 + 5)),  # 猫 在 上 and one of 6 and 5 letters
    "Japanese": ("猫が好き", "犬が好き", 3 / 4),
    "Thai": ("แมวนอน", "แมวนอน", 1.0),
    "Russian": ("Кошка сидит дома", "кошка спит дома!", 2 / 3),
    "Arabic": ("القطة تنام في البيت", "القطة في البيت", 6 / 7),
    "Greek, with English": ("Η γάτα loves naps", "η γάτα loved nap", 1.0),
    "accents": ("le café noir", "le cafe noir", 2 / 3),
}


@pytest.mark.parametrize("case", SCRIPTS, ids=SCRIPTS)
def test_rouge_reads_words_of_any_script(case):
    reference, text, expected = SCRIPTS[case]
    if case == "Chinese":
        shared = (Counter(reference[:-1]) & Counter(text[:-1])).total()
        expected = 2 * shared / (len(reference) + len(text) - 2)
    assert rouge([reference], [text])["rouge_1"] == [pytest.approx(expected)]
    assert rouge([reference], [reference])["rouge_l"] == [1.0]


@pytest.mark.parametrize("text", ["Dogs' running 12.5 times; it isn't_so", "THE re-run of A.B. tests", "", "?!"])
def test_words_of_ascii_are_those_of_rouge_score(text):
    from rouge_score.tokenizers import DefaultTokenizer

    assert UnicodeTokenizer().tokenize(text) == DefaultTokenizer(use_stemmer=True).tokenize(text)


def test_a_reference_without_a_word_has_no_rouge_and_is_counted():
    made = build_summary_measures(ROUGE, [])(["d", "e"], ["👍", "a dog"], [["👍"], ["a dog"]])
    assert made["rouge_1"] == {"values": [1.0], "groups": [1]}
    assert left_out_notes(ROUGE, ["👍", "a dog"], [["👍"], ["a dog"]]) == [
        "1 of 2 references have no word, and no ROUGE"
    ]


def test_self_bleu_of_chinese_compares_characters():
    ours, theirs = "今天天气很好我们去公园", "今天天气很好我们去学校"
    expected = sentence_bleu([list(theirs)], list(ours))
    assert self_bleu([[ours, theirs]]) == [pytest.approx(100 * expected, abs=1e-6)]
    made = build_summary_measures(NOTHING, [])(["d"], [""], [[ours]])
    assert made["length"]["values"] == [11.0]


def test_self_bleu_of_one_sample_is_refused_with_its_prompt():
    with pytest.raises(UserError, match="at least 2; prompt 1 has 1"):
        self_bleu([["a", "b"], ["a"]])


# --- all of them


def test_a_measure_of_samples_names_their_prompts_and_one_of_prompts_has_one_value_each(tmp_path):
    labels = dict(enumerate(["entailment", "other"]))
    nli = bert(BertForSequenceClassification, id2label=labels, label2id={name: i for i, name in labels.items()})
    models = {
        "bertscore": {"model": saved(bert(), tmp_path / "bert"), "layers": LAYERS},
        "entailment": {"model": saved(nli, tmp_path / "nli"), "conv": None, "batch_size": 4},
    }
    samples = [["the dog", "the dog slept", "all day"], ["a cat", "the cat barked"]]
    measure = build_summary_measures(SummaryConfig(**models), KNOWN)
    found = measure(["the dog slept all day", "the cat barked"], ["the dog slept", "a cat"], samples)
    assert {name: one["groups"] for name, one in found.items()} == {
        **dict.fromkeys(("length", "rouge_1", "rouge_2", "rouge_l", "bertscore", "entailment"), [0, 0, 0, 1, 1]),
        **dict.fromkeys(("self_bleu", "edna"), [0, 1]),
    }
    assert all(len(one["values"]) == len(one["groups"]) for one in found.values())
    assert found["length"]["values"] == [2, 3, 2, 2, 3]
    assert [found[name]["values"][i] for name in ("rouge_1", "bertscore") for i in (1, 3)] == pytest.approx([1] * 4)
    assert found["self_bleu"]["values"] == self_bleu(samples)


def test_only_what_is_asked_for_is_measured():
    found = build_summary_measures(NOTHING, [])(["d"], [""], [["the dog"]])
    assert found == {"length": {"values": [2.0], "groups": [0]}}
    assert list(build_summary_measures(ROUGE, [])(["d"], ["dog"], [["the dog"]])) == [
        "length",
        "rouge_1",
        "rouge_2",
        "rouge_l",
    ]


def test_a_prompt_without_a_reference_is_refused_where_one_is_needed():
    measure = build_summary_measures(ROUGE, [])
    with pytest.raises(UserError, match="none for prompt 1, which begins 'My cat is old"):
        measure(["My dog", "My cat is old" + " and fat" * 50], ["A dog.", " "], [["dog"], ["cat"]])

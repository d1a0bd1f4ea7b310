"""Entailment against bare forward passes of a tiny BERT; SummaC and EDNA against loops and numbers made by hand."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedTokenizerFast

from sparsepo.evaluation.nli import (
    EDGES,
    Convolution,
    Entailment,
    build_summac,
    edna,
    max_pair_tokens,
    read_convolution,
    split_sentences,
    summac,
    zero_shot,
)
from sparsepo.evaluation.scorers import cut_notes
from sparsepo.runtime.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "dog", "slept", "all", "day", "and", "bark", "##ed", "cat", "."]
LABELS = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
PREMISES = ["the dog slept all day .", "the cat", "the dog barked and barked and slept"]
HYPOTHESES = ["the dog slept", "the dog barked all day and the cat slept .", "all day"]
POSITIONS = 24


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = BertPreTokenizer()
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def bert(labels: list[str] = LABELS, kind=BertForSequenceClassification):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        initializer_range=0.5,  # so that outputs differ visibly
    )
    return kind(config).eval()


def saved(model, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def tokens(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.replace("barked", "bark ##ed").split()]


def alone(model, premise: list[int], hypothesis: list[int], label: int = 2) -> float:
    """One pair, written out as ids: no padding, no batch, no tokenizer."""
    first, second = [2, *premise, 3], [*hypothesis, 3]
    types = [0] * len(first) + [1] * len(second)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([first + second]), token_type_ids=torch.tensor([types])).logits[0]
    return logits.softmax(-1)[label].item()


# --- pairs


@pytest.mark.parametrize("labels", [LABELS, ["entailment", "neutral", "contradiction"], ["not_entailment", "Entail"]])
def test_a_score_is_the_probability_of_the_label_of_entailment_of_each_pair_alone(tmp_path, labels):
    model = bert(labels)
    label = next(i for i, name in enumerate(labels) if name.lower().startswith("entail"))
    found = Entailment(saved(model, tmp_path), batch_size=2).scores(PREMISES, HYPOTHESES)
    expected = [alone(model, tokens(p), tokens(h), label) for p, h in zip(PREMISES, HYPOTHESES, strict=True)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert max(expected) - min(expected) > 0.01


def test_only_the_premise_of_a_long_pair_is_cut(tmp_path):
    model = bert()
    long, hypothesis = "the dog slept and " * 50, "all day the cat barked"
    room = POSITIONS - 2 - 3 - len(tokens(hypothesis))
    entailment = Entailment(saved(model, tmp_path), batch_size=2)
    found, _ = entailment.scores([long, "the cat"], [hypothesis] * 2)
    assert found == pytest.approx(alone(model, tokens(long)[:room], tokens(hypothesis)), abs=1e-6)
    (note,) = cut_notes(entailment)
    assert f"1 of 2 pairs of texts had more than {POSITIONS - 2} tokens" in note and cut_notes(entailment) == []


def test_a_hypothesis_longer_than_the_model_is_cut_to_half_of_it(tmp_path):
    model = bert()
    long = "the dog slept and " * 50
    (found,) = Entailment(saved(model, tmp_path), batch_size=2).scores([long], [long])
    room = POSITIONS - 2 - 3
    halves = tokens(long)[: -(-room // 2)], tokens(long)[: room // 2]
    assert found in [pytest.approx(alone(model, *sides), abs=1e-6) for sides in (halves, halves[::-1])]


@pytest.mark.parametrize(
    ("stated", "positions", "tokens"), [(10**30, 514, 512), (512, 514, 512), (512, 512, 512), (10**30, None, 512)]
)
def test_a_tokenizer_without_a_limit_is_held_to_the_models_positions(stated, positions, tokens):
    config = SimpleNamespace(max_position_embeddings=positions)
    assert max_pair_tokens(SimpleNamespace(model_max_length=stated), config) == tokens


def test_a_blank_text_follows_from_nothing_and_nothing_from_it(tmp_path):
    nli = Entailment(saved(bert(), tmp_path), batch_size=2)
    assert nli.scores(["", "the dog", " \n", ""], ["the dog", "", "the dog", ""]) == [0.0] * 4
    assert nli.scores([], []) == []
    mixed = nli.scores(["", PREMISES[0]], [HYPOTHESES[0]] * 2)
    assert mixed == [0.0, *nli.scores(PREMISES[:1], HYPOTHESES[:1])] and mixed[1] > 0


def test_equal_pairs_are_asked_once_and_batches_hold_pairs_of_like_length(tmp_path):
    nli = Entailment(saved(bert(), tmp_path), batch_size=2)
    shapes, forward = [], nli.model.forward
    nli.model.forward = lambda **inputs: shapes.append(tuple(inputs["input_ids"].shape)) or forward(**inputs)
    premises = ["the dog", "the dog slept all day", "the cat", "the dog", "the cat slept all day"]
    found = nli.scores(premises, ["day"] * 5)
    assert shapes == [(2, 6), (2, 9)]
    assert found[0] == found[3] != found[2]


@pytest.mark.parametrize("labels", [["yes", "no"], ["entailment", "entailed"], ["entailment"]])
def test_a_model_without_one_label_of_entailment_among_others_is_refused(tmp_path, labels):
    folder = saved(bert(labels), tmp_path)
    with pytest.raises(
        UserError, match=f"exactly one of its labels to begin with 'entail'; it has {', '.join(labels)}"
    ):
        Entailment(folder, batch_size=2)


def test_weights_without_a_classification_head_are_refused(tmp_path):
    folder = saved(bert(kind=BertForMaskedLM), tmp_path)
    with pytest.raises(UserError, match="no trained classifier: it lacks .*classifier.bias"):
        Entailment(folder, batch_size=2)


def test_a_folder_that_is_no_model_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=f"NLI model '{tmp_path}' cannot be loaded: .+"):
        Entailment(str(tmp_path), batch_size=2)


def test_a_model_whose_weights_are_nan_is_refused(tmp_path):
    model = bert()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        Entailment(saved(model, tmp_path), batch_size=2).scores(["the dog"], ["the cat"])


# --- SummaC


def convolution(seed: int = 0) -> Convolution:
    rng = np.random.default_rng(seed)
    return Convolution(rng.normal(size=23) / 10, 0.3, rng.normal(size=(2, 3)), rng.normal(size=2))


def by_loops(image, conv: Convolution) -> float:
    """A bin holds its lower edge, and the last one its upper edge as well."""
    columns = []
    for j in range(min(len(image[0]), 10)):
        total = conv.bias
        for row in image:
            place = next((k for k in range(23) if EDGES[k] <= row[j] < EDGES[k + 1]), 22)
            total += conv.weight[place]
        columns.append(total)
    mean = sum(columns) / len(columns)
    logits = [sum(v * mean for v in conv.final[k]) + conv.final_bias[k] for k in range(2)]
    return math.exp(logits[1]) / (math.exp(logits[0]) + math.exp(logits[1]))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (40, 14)])
def test_summac_conv_is_its_equation(shape):
    image = np.random.default_rng(1).beta(0.2, 0.2, size=shape)
    image.flat[0], image.flat[-1] = 1.0, 0.9  # two edges
    assert convolution()(image) == pytest.approx(by_loops(image.tolist(), convolution()), abs=1e-12)


def test_summac_conv_looks_at_ten_sentences_of_a_summary():
    image = np.random.default_rng(1).random((4, 12))
    other = image.copy()
    other[:, 10:] = 0.0
    assert convolution()(image) == convolution()(other)


def test_summac_zs_is_the_best_support_of_a_sentence_averaged():
    assert zero_shot(np.array([[0.1, 0.5], [0.9, 0.2], [0.3, 0.4]])) == pytest.approx((0.9 + 0.5) / 2)


def test_the_file_of_the_weights_is_read_as_its_authors_saved_it(tmp_path):
    torch.manual_seed(0)
    layers = {"mlp": torch.nn.Linear(23, 1), "layer_final": torch.nn.Linear(3, 2)}
    torch.save(torch.nn.ModuleDict(layers).state_dict(), tmp_path / "conv.bin")
    image = np.random.default_rng(2).random((6, 4))
    counts = np.array([[((EDGES[:-1] <= x) & (x < EDGES[1:])) for x in column] for column in image.T]).sum(1)
    with torch.no_grad():
        mean = layers["mlp"](torch.tensor(counts, dtype=torch.float32)).mean()
        expected = layers["layer_final"](mean.expand(3)).softmax(-1)[1].item()
    assert read_convolution(tmp_path / "conv.bin")(image) == pytest.approx(expected, abs=1e-6)


def test_a_file_that_is_no_such_weights_is_refused(tmp_path):
    (tmp_path / "text.bin").write_text("no weights")
    torch.save({"mlp.weight": torch.zeros(1, 23)}, tmp_path / "part.bin")
    torch.save([1, 2], tmp_path / "list.bin")
    torch.save(
        {
            "mlp.weight": torch.zeros(1, 50),
            "mlp.bias": torch.zeros(1),
            "layer_final.weight": torch.zeros(2, 3),
            "layer_final.bias": torch.zeros(2),
        },
        tmp_path / "wide.bin",
    )
    for name in ("text.bin", "part.bin", "list.bin", "wide.bin", ""):
        with pytest.raises(UserError, match="not weights of SummaC-Conv"):
            read_convolution(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_convolution(tmp_path / "absent.bin")


def test_sentences_are_split_and_fragments_dropped_unless_there_is_nothing_else():
    text = "Mr. Smith bought a dog. Ouch! It barked all day.\n\nHe was sad."
    assert split_sentences(text) == ["Mr. Smith bought a dog.", "It barked all day.", "He was sad."]
    assert split_sentences(" Dump him. Now. ") == ["Dump him. Now."]
    assert split_sentences(" \n") == []


def shared_words(premises, hypotheses):
    """A stand-in for a model: the part of a hypothesis' words that the premise has."""
    return [
        len({*p.strip(".").split()} & {*h.strip(".").split()}) / len(h.split())
        for p, h in zip(premises, hypotheses, strict=True)
    ]


def test_summac_pools_the_image_of_all_sentences_in_their_order():
    images = []
    document, summary = "One two three four. Five six seven eight.", "One two five six. Seven eight nine ten."
    scores = summac(
        [document, "", document], [summary, summary, " "], shared_words, lambda image: images.append(image) or 0.7
    )
    assert scores == [0.7, 0.0, 0.0]
    assert [image.tolist() for image in images] == [[[0.5, 0.0], [0.25, 0.25]]]


def test_summac_looks_at_the_first_hundred_sentences_of_a_document():
    document = " ".join(f"Sentence number {i} ends." for i in range(130))
    shapes = []
    summac([document], ["Sentence number 7 ends."], shared_words, lambda image: shapes.append(image.shape) or 0.0)
    assert shapes == [(100, 1)]


@pytest.mark.parametrize("learnt", [False, True])
def test_a_model_and_a_file_of_weights_make_summac(tmp_path, learnt):
    model = bert()
    layers = torch.nn.ModuleDict({"mlp": torch.nn.Linear(23, 1), "layer_final": torch.nn.Linear(3, 2)})
    torch.save(layers.state_dict(), tmp_path / "conv.bin")
    weights = str(tmp_path / "conv.bin") if learnt else None
    score = build_summac(model=saved(model, tmp_path), batch_size=4, conv=weights)
    document, summary = ["the dog slept all day .", "the cat barked ."], ["the cat slept .", "all dog barked ."]
    image = np.array([[alone(model, tokens(p), tokens(h)) for h in summary] for p in document])
    expected = by_loops(image.tolist(), read_convolution(weights)) if learnt else image.max(0).mean()
    assert score([" ".join(document)], [" ".join(summary)]) == [pytest.approx(expected, abs=1e-5)]


# --- EDNA


def table(**scores):
    """A consistency that looks its pairs up: `ab=0.5` is E("a", "b")."""
    return lambda first, second: [scores[a + b] for a, b in zip(first, second, strict=True)]


def test_edna_is_the_harmonic_mean_of_faithfulness_and_diversity():
    known = table(da=0.9, db=0.5, dc=0.7, ab=0.1, ac=0.2, ba=0.3, bc=0.4, ca=0.5, cb=0.6)
    (found,) = edna(["d"], [["a", "b", "c"]], known)
    faithful, self_entailment = 2.1 / 3, 2.1 / 6
    assert found.entailment == [0.9, 0.5, 0.7]
    assert found.self_entailment == pytest.approx(self_entailment)
    assert found.value == pytest.approx(2 / (1 / faithful + 1 / (1 - self_entailment)))


def test_edna_of_one_and_the_same_summary_is_zero_and_so_is_that_of_unfaithful_ones():
    assert edna(["d"], [["a", "a"]], table(da=1.0, aa=1.0))[0].value == 0.0
    assert edna(["d"], [["a", "b"]], table(da=0.0, db=0.0, ab=0.0, ba=0.0))[0].value == 0.0
    assert edna(["d"], [["a", "b"]], table(da=0.0, db=0.0, ab=1.0, ba=1.0))[0].value == 0.0


def test_prompts_of_unequal_samples_keep_their_own_scores():
    known = {"da": 0.2, "db": 0.4, "ab": 0.6, "ba": 0.8, "ec": 0.1, "ee": 0.3, "ef": 0.5}
    pairs = {"ce": 0.0, "cf": 0.0, "fc": 0.9, "fe": 0.9}
    first, second = edna(["d", "e"], [["a", "b"], ["c", "e", "f"]], table(**known, **pairs))
    assert first.entailment == [0.2, 0.4] and first.self_entailment == pytest.approx(0.7)
    assert second.entailment == [0.1, 0.3, 0.5]
    assert second.self_entailment == pytest.approx((0.0 + 0.0 + 0.1 + 0.5 + 0.9 + 0.9) / 6)


def test_edna_of_one_sample_is_refused_with_its_prompt():
    with pytest.raises(UserError, match="at least 2; prompt 1 has 1"):
        edna(["d", "e"], [["a", "b"], ["a"]], table())

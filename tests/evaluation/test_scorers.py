"""Scorers against VADER itself and against the bare forward pass of tiny models."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from sparsepo.config.scorers import ClassifierScorer, RewardModelScorer, VaderScorer
from sparsepo.evaluation.scorers import FiniteScorer, build_scorer, cut_notes
from sparsepo.runtime.errors import UserError

WORDS = ["[PAD]", "[UNK]", "</s>", "the", "film", "was", "good", "dull", "not", "."]
PROMPTS = ["the film", "the film was", "the"]
TEXTS = [" was good .", " not good . the film was dull .", ""]


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )


def distilbert(labels: list[str], kind=DistilBertForSequenceClassification):
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(WORDS),
        dim=16,
        hidden_dim=32,
        n_layers=1,
        n_heads=2,
        max_position_embeddings=12,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        initializer_range=0.5,  # so that outputs differ visibly
    )
    return kind(config).eval()


def saved(model, folder: Path, **special: str) -> str:
    model.save_pretrained(folder)
    tokenizer(**special or {"pad_token": "[PAD]"}).save_pretrained(folder)
    return str(folder)


def logits(model, text: str, limit: int) -> torch.Tensor:
    """One text alone, without padding: no batch, no pipeline."""
    ids = [WORDS.index(word) for word in text.split()][-limit:]
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def classifier(model: str, label: str = "POSITIVE") -> ClassifierScorer:
    return ClassifierScorer(kind="classifier", model=model, label=label, batch_size=2)


def reward_model(model: str) -> RewardModelScorer:
    return RewardModelScorer(kind="reward_model", model=model, batch_size=2)


def test_vader_scores_prompt_and_text_together_between_zero_and_one():
    scorer = build_scorer(VaderScorer(kind="vader"))
    analyzer = SentimentIntensityAnalyzer()
    scores = scorer(["the plot was not", "the plot was", "the plot"], [" good", " good", " ran"])
    compound = [analyzer.polarity_scores(text)["compound"] for text in ("the plot was not good", "the plot was good")]
    assert scores == [pytest.approx((c + 1) / 2) for c in compound] + [0.5]
    assert scores[0] < 0.5 < scores[1]


def test_vader_needs_no_torch():
    code = (
        "import sys; from sparsepo.config.scorers import VaderScorer; "
        "from sparsepo.evaluation.scorers import build_scorer; "
        "build_scorer(VaderScorer(kind='vader'))(['a'], [' b']); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("label", ["POSITIVE", "NEGATIVE"])
def test_a_classifiers_score_is_the_probability_of_the_label(tmp_path, label):
    labels = ["NEGATIVE", "POSITIVE"]
    model = distilbert(labels)
    scorer = build_scorer(classifier(saved(model, tmp_path), label=label))
    expected = [
        logits(model, prompt + text, 10).softmax(-1)[labels.index(label)].item()
        for prompt, text in zip(PROMPTS, TEXTS, strict=True)
    ]
    assert scorer(PROMPTS, TEXTS) == pytest.approx(expected, abs=1e-6)
    assert max(expected) - min(expected) > 0.01


def test_a_reward_models_score_is_its_one_output_untouched(tmp_path):
    model = distilbert(["LABEL_0"])
    with torch.no_grad():
        model.classifier.bias.fill_(7.0)  # no probability
    scorer = build_scorer(reward_model(saved(model, tmp_path)))
    expected = [logits(model, prompt + text, 10).item() for prompt, text in zip(PROMPTS, TEXTS, strict=True)]
    assert scorer(PROMPTS, TEXTS) == pytest.approx(expected, abs=1e-5)
    assert min(expected) > 1


def test_a_reward_model_without_a_pad_token_scores_a_batch_as_single_texts(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=32, n_embd=16, n_layer=1, n_head=2, num_labels=1)
    model = GPT2ForSequenceClassification(config).eval()
    folder = saved(model, tmp_path, eos_token="</s>")
    scorer = build_scorer(reward_model(folder))
    expected = [logits(model, prompt + text, 32).item() for prompt, text in zip(PROMPTS, TEXTS, strict=True)]
    assert scorer(PROMPTS, TEXTS) == pytest.approx(expected, abs=1e-5)


def test_a_text_longer_than_the_model_loses_its_beginning_and_is_counted(tmp_path):
    scorer = build_scorer(classifier(saved(distilbert(["NEGATIVE", "POSITIVE"]), tmp_path)))
    end = " not good . the film was dull ."
    short, long, longer = scorer(
        ["was good", "the film", "the film"], [end, " was good" + end, " was good" * 600 + end]
    )
    assert [long, longer] == pytest.approx([short, short])
    (note,) = cut_notes(scorer)
    assert "2 of 3 texts had more than 10 tokens" in note


def test_no_texts_get_no_scores(tmp_path):
    folder = saved(distilbert(["NEGATIVE", "POSITIVE"]), tmp_path)
    for section in (VaderScorer(kind="vader"), classifier(folder)):
        assert build_scorer(section)([], []) == []


def test_a_label_the_model_lacks_is_refused_with_the_labels_it_has(tmp_path):
    folder = saved(distilbert(["bad", "fine"]), tmp_path)
    with pytest.raises(UserError, match="no label 'POSITIVE'; its labels are bad, fine"):
        build_scorer(classifier(folder))


def test_a_reward_model_of_two_outputs_is_refused(tmp_path):
    folder = saved(distilbert(["bad", "fine"]), tmp_path)
    with pytest.raises(UserError, match="has 2 outputs; a reward model has one"):
        build_scorer(reward_model(folder))


def test_weights_without_a_classification_head_are_refused(tmp_path):
    folder = saved(distilbert(["NEGATIVE", "POSITIVE"], DistilBertForMaskedLM), tmp_path)
    with pytest.raises(UserError, match="no trained classifier: it lacks classifier.bias"):
        build_scorer(classifier(folder))


def test_a_folder_that_is_no_model_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=f"scorer model '{tmp_path}' cannot be loaded: .+"):
        build_scorer(classifier(str(tmp_path)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_refused_with_its_place(value):
    scorer = FiniteScorer("mine", lambda prompts, texts: [0.5, value])
    with pytest.raises(UserError) as refused:
        scorer(["the film", "the plot"], [" was good", " was dull" + " and dull" * 50])
    message = str(refused.value)
    assert f"scorer 'mine' returned {value} for text 1" in message
    assert "'the plot was dull and dull" in message and len(message) < 200


def test_a_model_whose_weights_are_nan_is_refused(tmp_path):
    model = distilbert(["NEGATIVE", "POSITIVE"])
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    scorer = build_scorer(classifier(saved(model, tmp_path)))
    with pytest.raises(UserError, match="scorer 'classifier' returned nan for text 0"):
        scorer(PROMPTS, TEXTS)


def test_too_few_scores_are_refused():
    scorer = FiniteScorer("mine", lambda prompts, texts: [0.5])
    with pytest.raises(UserError, match="scorer 'mine' returned 1 scores for 2 texts"):
        scorer(["a", "b"], ["", ""])

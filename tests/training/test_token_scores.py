"""Scores of tokens by an oracle: what they are, which pairs get them, and who may give them."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from tokenizers.normalizers import Replace

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.encoding import Encoder, TokenPair, encode_pairs
from sparsepo.data.pairing import swap_responses
from sparsepo.data.records import Preference
from sparsepo.methods.registry import METHODS
from sparsepo.models.loading import folder_context_length, save_model, train_tokenizer
from sparsepo.runtime.errors import UserError
from sparsepo.training.checks import check_pair_data
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.reference_cache import ReferenceCache, content_hash, write_cache
from sparsepo.training.token_scores import (
    add_token_scores,
    check_context_length,
    check_same_tokenizer,
    gradient_scores,
    log_ratio_scores,
)

SIDES = ("chosen", "rejected")
CONFIG = PreferenceConfig(max_prompt_tokens=5, max_response_tokens=6)


def log_probs(model, tokenizer, prompt, response, ended=True):
    """Of each token of a response, in float64, one response at a time, from the logits."""
    ids = tokenizer(prompt)["input_ids"]
    own = tokenizer(response)["input_ids"] + [tokenizer.eos_token_id] * ended
    with torch.no_grad():
        logits = copy.deepcopy(model).double().eval()(torch.tensor([ids + own])).logits[0]
    rows = torch.log_softmax(logits, -1)[len(ids) - 1 : -1]
    return [row[token].item() for row, token in zip(rows, own, strict=True)]


@pytest.fixture(scope="module")
def models(toy):
    return toy.model(seed=1), toy.model(seed=2)


def score(toy, models, records, config=CONFIG):
    def log_ratios(_, pairs):
        return log_ratio_scores(*models, pairs, config)

    return add_token_scores(models[0], toy.tokenizer, records, config, log_ratios)


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_a_score_is_the_log_ratio_of_oracle_and_base(toy, models, layout):
    bare = {"chosen_values": None, "rejected_values": None}
    records = [replace(pair, chosen_ended=False, **bare) for pair in toy.pairs(5)]
    records += [replace(pair, **bare) for pair in toy.pairs(6, seed=1)]
    found = score(toy, models, records, PreferenceConfig(layout=layout))
    for before, after in zip(records, found, strict=True):
        for side in SIDES:
            what = toy.tokenizer, before.prompt, getattr(before, side), getattr(before, f"{side}_ended")
            own, base = (log_probs(model, *what) for model in models)
            wanted = [a - b for a, b in zip(own, base, strict=True)]
            assert getattr(after, f"{side}_values") == pytest.approx(wanted, abs=2e-5)
        assert replace(after, chosen_values=None, rejected_values=None) == before


def test_a_token_beyond_the_limit_scores_nothing(toy, models):
    long = Preference("w01 w02", " ".join(f"w{number:02}" for number in range(10, 20)), "w03 w04")
    (found,) = score(toy, models, [long])
    assert len(found.chosen_values) == 11 and len(found.rejected_values) == 3
    assert all(found.chosen_values[:6]) and found.chosen_values[6:] == [0.0] * 5
    cut = replace(long, chosen=" ".join(long.chosen.split()[:6]), chosen_ended=False)
    assert found.chosen_values[:6] == pytest.approx(score(toy, models, [cut])[0].chosen_values, abs=1e-5)


def test_a_pair_that_cannot_train_gets_no_scores_and_the_others_keep_their_places(toy, models):
    good = toy.pairs(2)
    too_long = replace(good[0], prompt=" ".join(["w01"] * 6), chosen_values=[1.0], rejected_values=[1.0])
    found = score(toy, models, [good[0], too_long, good[1]])
    assert (found[1].chosen_values, found[1].rejected_values) == (None, None)
    assert [found[0], found[2]] == score(toy, models, good)


def test_no_usable_pair_is_no_scores(toy, models):
    empty = Preference("w01", " ", "w02")
    assert score(toy, models, [empty]) == [empty]


def test_an_oracle_that_is_its_base_says_nothing(toy, models):
    found = score(toy, (models[0], copy.deepcopy(models[0])), toy.pairs(3))
    assert not any(number for pair in found for number in pair.chosen_values + pair.rejected_values)


@pytest.mark.parametrize("method, hyper", [("dpo", {"beta": 0.5}), ("rho", {"mask": "uniform"})])
def test_a_contrast_prefers_every_response_that_it_was_trained_to_prefer(toy, tmp_path, method, hyper):
    """Two models from one start, the second trained on the swapped pairs: their scores add up to a right margin."""
    pairs, settings = toy.pairs(8), {"num_train_epochs": 10, "learning_rate": 3e-3}
    both = []
    for name, data in (("policy", pairs), ("swapped", [swap_responses(pair) for pair in pairs])):
        run = toy.trainer(tmp_path / name, method, hyper=hyper, data=data, **settings)
        run.train()
        both.append(run.policy)
    for pair in score(toy, both, pairs, PreferenceConfig()):
        assert sum(pair.chosen_values) > 0 > sum(pair.rejected_values)


# --- sizes of gradients


def sizes_one_by_one(model, prompt, response):
    """In float64, one token at a time, by central differences of the largest logit that predicts the last token."""
    model, step = copy.deepcopy(model).double().eval(), 1e-5
    embeddings = model.get_input_embeddings()(torch.tensor([prompt + response])).detach()

    def target(changed):
        with torch.no_grad():
            return model(inputs_embeds=changed).logits[0, -2].max().item()

    sizes = []
    for place in range(len(prompt), len(prompt) + len(response)):
        total = 0.0
        for unit in step * torch.eye(embeddings.shape[-1], dtype=torch.float64):
            up, down = embeddings.clone(), embeddings.clone()
            up[0, place] += unit
            down[0, place] -= unit
            total += abs(target(up) - target(down)) / (2 * step)
        sizes.append(total)
    return sizes


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_a_gradient_score_is_what_differences_of_the_largest_logit_say(toy, layout):
    model = toy.model(seed=1)
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(3), 512, 512, 48).pairs
    found = gradient_scores(copy.deepcopy(model), pairs, PreferenceConfig(layout=layout, micro_batch_size=2))
    for pair, scores in zip(pairs, found, strict=True):
        for response, own in zip((pair.chosen, pair.rejected), scores, strict=True):
            assert own == pytest.approx(sizes_one_by_one(model, pair.prompt, response), abs=2e-4, rel=2e-3)
            assert own[-1] == 0 and all(own[:-1])


# --- weights of one loss


@pytest.mark.parametrize("method", ["dpo", "sparsepo_common"])
def test_every_source_of_token_weights_weighs_one_loss(toy, models, method):
    """The loss of each pair again from the weights and token terms that are shown."""
    scored = score(toy, models, toy.pairs(6))
    sizes = [
        replace(pair, chosen_values=[*map(abs, pair.chosen_values)], rejected_values=[*map(abs, pair.rejected_values)])
        for pair in scored
    ]
    for mask in METHODS[method].mask_choices:
        pairs = sizes if mask == "attribution" else scored
        for found in inspect_pairs(*models, pairs, method, {"beta": 0.3, "mask": mask}, tokenizer=toy.tokenizer):
            rewards = []
            for side in (found["chosen"], found["rejected"]):
                ones = [1.0] * len(side["logps"])
                terms = zip(side.get("m_u", ones), side["logps"], side["ref_logps"], strict=True)
                reward = sum(weight * (own - ref) for weight, own, ref in terms)
                if method == "sparsepo_common":
                    reward -= sum(weight * kl for weight, kl in zip(side["m_d"], side["reverse_kl"], strict=True))
                rewards.append(0.3 * reward)
            assert found["loss"] == pytest.approx(math.log1p(math.exp(rewards[1] - rewards[0])), rel=1e-4), mask


def test_attribution_refuses_numbers_below_zero():
    pairs = [TokenPair([1], [2, 3], [4], ([0.5, 0.0], [0.25])), TokenPair([1], [2], [4], ([0.5], [-0.25]))]
    check_pair_data("ti_dpo", {}, pairs[:1])
    with pytest.raises(
        UserError, match="'attribution' of 'ti_dpo' needs sizes of gradients, .*; usable pair 2 has -0.25"
    ):
        check_pair_data("ti_dpo", {}, pairs)
    check_pair_data("tis_dpo", {}, pairs)


# --- runs on scored pairs


def test_a_run_on_scored_pairs_reads_the_cache_of_the_bare_ones(toy, models, tmp_path):
    bare, config = toy.pairs(20), PreferenceConfig(batch_size=8, log_kl=False, checkpoint_every=0)
    save_model(toy.model(), toy.tokenizer, tmp_path / "sft")
    scored = score(toy, models, bare, config)
    encoded = encode_pairs(Encoder(toy.tokenizer), bare, 512, 512, 48).pairs
    write_cache(toy.model(), encoded, "logps", config, tmp_path / "logps", content_hash(tmp_path / "sft", bare, config))
    cache = [ReferenceCache.open(tmp_path / "logps", content_hash(tmp_path / "sft", scored, config))]
    given = {"hyper": {"mask": "selected", "k_chosen": 0.5}, "data": scored, "log_kl": False}
    runs = [
        toy.trainer(tmp_path / "online", **given),
        toy.trainer(tmp_path / "cached", **given, policy=toy.model(), caches=cache),
    ]
    for run in runs:
        run.train()
    for name, value in toy.weights(runs[0].policy).items():
        torch.testing.assert_close(value, toy.weights(runs[1].policy)[name])


def test_an_oracle_of_objective_sft_minimises_the_mean_log_loss_of_chosen_responses(toy, tmp_path):
    """The gradient of its first step against transformers' own loss, one pair at a time."""
    pairs, reference = toy.pairs(8), toy.model()
    own = copy.deepcopy(reference).eval()
    run = toy.trainer(tmp_path, "rho", hyper={"mask": "uniform"}, data=pairs, reference=reference)
    maker = run.data_collator.maker
    run.model(maker.collate(range(8))).total.backward()
    for pair in maker.pairs:
        ids = torch.tensor([pair.prompt + pair.chosen])
        labels = ids.clone()
        labels[0, : len(pair.prompt)] = -100
        own(input_ids=ids, labels=labels).loss.backward()
    for found, wanted in zip(run.policy.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=1e-5, rtol=1e-4)


# --- refusals


def test_the_same_tokenizer_is_taken(toy):
    check_same_tokenizer(copy.deepcopy(toy.tokenizer), toy.tokenizer, toy.pairs(3), "oracle 'small'")


def test_a_tokenizer_of_another_vocabulary_is_refused(toy):
    other = train_tokenizer(["w01 w02 w03"], "word", 100)
    with pytest.raises(UserError, match=r"^oracle 'small': its tokenizer differs .* \(6 and 63 tokens\)"):
        check_same_tokenizer(other, toy.tokenizer, toy.pairs(3), "oracle 'small'")


def test_a_tokenizer_of_one_vocabulary_that_encodes_otherwise_is_refused(toy):
    other = copy.deepcopy(toy.tokenizer)
    other.backend_tokenizer.normalizer = Replace("w01", "w02")
    with pytest.raises(UserError, match=r'^oracle \'small\': its tokenizer encodes "w03 w01" differently'):
        check_same_tokenizer(other, toy.tokenizer, [Preference("w03 w01", "w04", "w05")], "oracle 'small'")


def test_another_end_token_is_refused(toy):
    other = copy.deepcopy(toy.tokenizer)
    other.eos_token = "<pad>"
    with pytest.raises(UserError, match=r"its end token is '<pad>', that of the task's model '<end>'"):
        check_same_tokenizer(other, toy.tokenizer, [], "oracle 'small'")


def test_a_model_that_sees_less_than_a_pair_may_have_is_refused():
    check_context_length(48, 64, (20, 28), "oracle 'small'")
    check_context_length(48, 48, (512, 512), "oracle 'small'")
    with pytest.raises(
        UserError, match=r"^oracle 'small': the context of its model is 48 tokens, and a pair may have 49 "
    ):
        check_context_length(48, 64, (20, 29), "oracle 'small'")


def test_the_context_is_read_off_a_folder_without_its_weights(toy, tmp_path):
    save_model(toy.model(n_positions=37), toy.tokenizer, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert folder_context_length(tmp_path) == 37
    (tmp_path / "config.json").write_text('{"model_type": "of_its_own", "max_position_embeddings": 12}')
    assert folder_context_length(tmp_path) == 12

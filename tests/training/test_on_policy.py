"""f-DPG on toy models: what a step learns from and remembers, and that a killed run ends as an uninterrupted one."""

import copy
import math
from statistics import fmean

import pytest
import torch

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import AdapterConfig, PreferenceConfig
from sparsepo.data.records import Prompt
from sparsepo.fdpg.running_estimates import BASELINE_WINDOW, RunningEstimates
from sparsepo.fdpg.target import Target, contains_word, fit_target
from sparsepo.fdpg.trainer import OnPolicyTrainer, PromptBatch
from sparsepo.objective.f_divergence import DIVERGENCES
from sparsepo.runtime.errors import UserError

SETTINGS = {"batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 2, "num_train_epochs": 3}
DRAWS = SamplingConfig(samples=4, max_new_tokens=6, batch_size=64)


def low_words(prompts, texts):
    """The share of words w00 to w19 in each response."""
    return [fmean([float(word < "w20") for word in text.split()] or [0.0]) for text in texts]


REWARD = Target("reward", low_words, 4.0)


@pytest.fixture
def start(toy, tmp_path):
    """(folder, killed_at, more settings) -> a trainer on four prompts, two a step: six steps."""

    def of(folder="run", killed_at=None, *, divergence="kl", target=REWARD, reference=None, prompts=4, **given):
        reference = reference or toy.model()
        made = OnPolicyTrainer(
            copy.deepcopy(reference),
            reference,
            toy.tokenizer,
            [Prompt(pair.prompt) for pair in toy.pairs(prompts)] if isinstance(prompts, int) else prompts,
            target=target,
            divergence=divergence,
            sampling=given.pop("sampling", DRAWS),
            config=PreferenceConfig(**SETTINGS | given),
            folder=tmp_path / folder,
            identity="mine",
        )
        if killed_at is not None:
            made.add_callback(toy.kill(killed_at))
        return made

    return of


def output(toy, trainer):
    estimates = {name: value.clone() for name, value in vars(trainer.estimates).items()}
    return toy.weights(trainer.model) | estimates, toy.rows(trainer.folder)


# --- killed and resumed


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_killed_run_ends_as_an_uninterrupted_one(toy, start, step):
    """To the last bit: weights, log Z, baseline and log."""
    whole = start("whole")
    whole.train()
    toy.run_killed(start("killed", step))
    again = start("killed")
    again.train()
    (weights, rows), (others, other_rows) = output(toy, whole), output(toy, again)
    assert rows == other_rows and [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert weights.keys() == others.keys()
    assert [name for name, value in weights.items() if not torch.equal(value, others[name])] == []


def test_steps_draw_responses_of_their_own_and_seeds_too(start):
    trainer = start()
    first = [row.tokens for row in trainer._sample_responses([0, 1])]
    again = [row.tokens for row in trainer._sample_responses([0, 1])]
    trainer.state.global_step = 1
    later = [row.tokens for row in trainer._sample_responses([0, 1])]
    trainer.state.global_step, trainer.args.seed = 0, 5
    other = [row.tokens for row in trainer._sample_responses([0, 1])]
    assert first == again and len({str(drawn) for drawn in (first, later, other)}) == 3


# --- a step


def plain_logp(model, tokenizer, completion):
    """log-prob of a response by the model's own logits, token by token."""
    prompt = tokenizer(completion.prompt)["input_ids"]
    logps = model(torch.tensor([prompt + completion.tokens])).logits[0].double().log_softmax(-1)
    return sum(logps[len(prompt) + at - 1, token] for at, token in enumerate(completion.tokens))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("micro", [None, 2])
def test_the_gradient_of_a_first_step_is_that_of_the_formula(toy, start, divergence, micro):
    """Z of each prompt is the mean of P / pi over its four responses, and the baseline is 0; float64 of the logits."""
    reference = toy.model(dtype=torch.float64)
    trainer = start(divergence=divergence, reference=reference, micro_batch_size=micro)
    policy = copy.deepcopy(toy.model(seed=1, dtype=torch.float64)).eval()
    trainer.model.load_state_dict(policy.state_dict())
    drawn = trainer._sample_responses([1, 3])
    logp = torch.stack([plain_logp(policy, toy.tokenizer, row) for row in drawn])
    with torch.no_grad():
        log_a = torch.stack([plain_logp(reference, toy.tokenizer, row) for row in drawn])
    energy = 4.0 * torch.tensor(low_words(None, [row.text for row in drawn]), dtype=torch.float64)
    weight = (log_a + energy - logp.detach()).exp().unflatten(0, (2, 4))
    t = (weight.mean(1, keepdim=True) / weight).flatten()
    reward = {
        "kl": 1 / t,
        "reverse_kl": -(t.log() + 1),
        "js": (1 + 1 / t).log() - math.log(2),
        "tv": -(t.log().sign()) / 2,
    }[divergence]
    expected = torch.autograd.grad(-(reward * logp).mean(), list(policy.parameters()))
    trainer.training_step(trainer.model, {"micro_batches": [PromptBatch(num_tokens=0, prompts=[1, 3])]})
    for value, wanted in zip(trainer.model.parameters(), expected, strict=True):
        torch.testing.assert_close(value.grad, wanted, rtol=1e-4, atol=1e-6)


def test_what_is_logged_of_a_first_step_is_computed_from_its_responses(toy, start):
    """Policy and reference are one model then: w = exp(energy) / Z, KL to the reference 0, log t without the models."""
    trainer = start(prompts=2, max_steps=1)
    drawn = trainer._sample_responses([0, 1])
    reward = low_words(None, [row.text for row in drawn])
    with torch.no_grad():
        entropy = -fmean(float(plain_logp(trainer.reference, toy.tokenizer, row)) for row in drawn)
    energies = [[4 * value for value in reward[at : at + 4]] for at in (0, 4)]
    z = [fmean(map(math.exp, each)) for each in energies]
    w = [math.exp(energy) / z[at] for at in (0, 1) for energy in energies[at]]
    trainer.train()
    (row,) = toy.rows(trainer.folder)
    assert row["reward"] == pytest.approx(fmean(reward)) and row["entropy"] == pytest.approx(entropy, rel=1e-5)
    assert row["log_z"] == pytest.approx(fmean(map(math.log, z))) and abs(row["kl_to_reference"]) < 1e-5
    assert row["kl_to_target"] == pytest.approx(fmean(x * math.log(x) for x in w), abs=1e-5)
    assert row["reverse_kl_to_target"] == pytest.approx(-fmean(map(math.log, w)), abs=1e-5)
    assert row["tv_to_target"] == pytest.approx(fmean(abs(1 - x) for x in w) / 2, abs=1e-5)
    tokens = [token for one in drawn for token in one.tokens]
    assert row["distinct_1"] == pytest.approx(len(set(tokens)) / len(tokens))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_training_raises_the_reward(toy, start, divergence):
    draws = DRAWS.model_copy(update={"samples": 16})
    settings = {"batch_size": 64, "num_train_epochs": 30, "learning_rate": 3e-3, "checkpoint_every": 0}
    trainer = start(divergence=divergence, sampling=draws, target=Target("reward", low_words, 12.0), **settings)
    trainer.train()
    rewards = [row["reward"] for row in toy.rows(trainer.folder)]
    assert fmean(rewards[-10:]) > fmean(rewards[:3]) + 0.12


def test_an_adapter_is_trained_alone_and_shares_no_weight_with_what_is_saved(toy, start, tmp_path):
    trainer = start(adapter=AdapterConfig(rank=2, merge=True), max_steps=2)
    frozen = {name: value.clone() for name, value in trainer.model.named_parameters() if not value.requires_grad}
    trainer.train()
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert trained and all("lora" in name for name in trained)
    assert all(torch.equal(value, frozen[name]) for name, value in trainer.model.named_parameters() if name in frozen)
    trainer.save(tmp_path / "saved")
    assert (tmp_path / "saved/model.safetensors").exists()


# --- what is remembered


def test_log_z_is_the_log_mean_of_all_ratios_seen_of_a_prompt():
    estimates = RunningEstimates(3)
    estimates.add_ratios(torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [800.0, 802.0]], dtype=torch.float64))
    estimates.add_ratios(torch.tensor([2]), torch.tensor([[-1.0, 0.5]], dtype=torch.float64))
    assert float(estimates.log_z(torch.tensor([2]))) == pytest.approx(math.log(fmean(map(math.exp, (1, 2, -1, 0.5)))))
    assert float(estimates.log_z(torch.tensor([0]))) == pytest.approx(800 + math.log((1 + math.exp(2)) / 2))


def test_the_baseline_is_the_mean_of_the_last_pseudo_rewards():
    estimates = RunningEstimates(1)
    assert estimates.baseline == 0.0
    for value in (5.0, 1.0, 2.0):
        estimates.add_pseudo_rewards(torch.full((BASELINE_WINDOW // 2,), value, dtype=torch.float64))
    assert estimates.baseline == pytest.approx(1.5) and len(estimates.window) == BASELINE_WINDOW


def test_what_is_remembered_is_read_back_as_it_was(tmp_path):
    estimates, other = RunningEstimates(2), RunningEstimates(2)
    estimates.add_ratios(torch.tensor([1]), torch.tensor([[0.1, -3.0]], dtype=torch.float64))
    estimates.write(tmp_path / "moving")
    other.read(tmp_path / "moving")
    assert all(torch.equal(value, vars(other)[name]) for name, value in vars(estimates).items())


# --- targets and prompts


def test_a_feature_is_a_whole_word_of_the_response_whatever_its_case():
    texts = ["so GOOD.", "goodness", "", "not bad, good", "a c++ film"]
    assert contains_word(["good", "c++"])(["good"] * 5, texts) == [1.0, 0.0, 0.0, 1.0, 1.0]


def test_a_fitted_target_weighs_the_samples_of_the_reference_to_the_wanted_mean(toy, capsys):
    """By importance weights on fresh samples of the reference, computed here."""
    reference, prompts = toy.model().eval(), [Prompt(pair.prompt) for pair in toy.pairs(3)]
    feature = contains_word(["w01", "w02", "w03", "w04"])
    draws = SamplingConfig(samples=200, max_new_tokens=6, batch_size=600)
    target = fit_target(reference, toy.tokenizer, prompts, feature, 0.6, draws)
    assert target.name == "feature" and "wanted 0.6" in capsys.readouterr().out
    fresh = fit_target(reference, toy.tokenizer, prompts, feature, 0.6, draws.model_copy(update={"seed": 1}))
    assert fresh.scale == pytest.approx(target.scale, abs=0.4) and target.scale > 0
    with pytest.raises(UserError, match="the target mean 1 cannot be reached"):
        fit_target(reference, toy.tokenizer, prompts, feature, 1.0, draws)


def test_prompts_that_cannot_train_are_dropped_and_counted(start, capsys):
    prompts = [
        Prompt("w01 w02"),
        Prompt(""),
        Prompt(" ".join(["w01"] * 9)),
        Prompt(" ".join(["w01"] * 44)),
        Prompt("w03"),
    ]
    trainer = start(prompts=prompts, max_prompt_tokens=8)
    assert [prompt.prompt for prompt in trainer.prompts] == ["w01 w02", "w03"]
    assert trainer.dropped == {"prompt is empty": 1, "prompt is longer than 8 tokens": 2}
    assert "2 of 5 prompts can train" in capsys.readouterr().out
    assert start("b", prompts=prompts).dropped == {"prompt is empty": 1, "no room for 6 tokens in a context of 48": 1}


def test_a_batch_that_is_no_whole_number_of_the_prompts_there_are_is_refused(start):
    with pytest.raises(UserError, match=r"batch_size 8 is 2 prompts with 4 responses each .* of the 1 usable prompts"):
        start(prompts=1)
    with pytest.raises(UserError, match=r"batch_size 6 is 1.5 prompts with 4 responses each"):
        start(batch_size=6)

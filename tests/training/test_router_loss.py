"""The router loss of a mixture of experts, where its config asks for it, is that computed by hand, in every trainer."""

import copy
import math

import pytest
import torch

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import PreferenceConfig, SftConfig
from sparsepo.data.collation import collate_pairs
from sparsepo.data.encoding import Encoder, TokenPair, encode_pairs
from sparsepo.data.records import Prompt, Text
from sparsepo.fdpg.target import Target
from sparsepo.fdpg.trainer import OnPolicyTrainer
from sparsepo.generation.generate import sample
from sparsepo.runtime.errors import UserError
from sparsepo.training.pair_objective import PairObjective
from sparsepo.training.sft_trainer import SFTTrainer, encode_document

EXPERTS, CHOSEN, COEFFICIENT = 4, 2, 0.3
PAIRS = [TokenPair([2, 3, 4], [5, 6, 7, 8], [9, 10]), TokenPair([11, 12], [5], [13, 14, 15, 16, 17])]
SIZES = {
    "granitemoe": {"num_local_experts": EXPERTS},
    "mixtral": {"num_local_experts": EXPERTS},
    "qwen2_moe": {"num_experts": EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
}


def experts(toy, architecture="mixtral", asks=True, **changed):
    router = {"num_experts_per_tok": CHOSEN, "output_router_logits": asks, "router_aux_loss_coef": COEFFICIENT}
    return toy.model(architecture, **SIZES[architecture], **router, **changed)


def by_hand(model, sequences):
    """coefficient * E * sum_e f_e P_e, of sequences that the model reads one by one and without padding."""
    counts, probabilities, rows = torch.zeros(EXPERTS), torch.zeros(EXPERTS), 0
    for ids in sequences:
        for logits in model(torch.tensor([ids]), output_router_logits=True).router_logits:
            shares = logits.float().softmax(-1)
            for token in shares:
                for expert in token.topk(CHOSEN).indices:
                    counts[expert] += 1
            probabilities = probabilities + shares.sum(0)
            rows += len(ids)
    return COEFFICIENT * EXPERTS * (counts / rows * probabilities / rows).sum()


def sequences_of(pairs):
    return [pair.prompt + response for pair in pairs for response in (pair.chosen, pair.rejected)]


@pytest.mark.parametrize("gradients", ["forward", "recompute"])
@pytest.mark.parametrize("layout", ["padded", "pairs", "shared"])
@pytest.mark.parametrize("architecture", SIZES)
def test_a_batch_of_pairs_has_the_loss_and_the_gradient_by_hand(toy, architecture, layout, gradients):
    """With a beta of almost 0, so that the loss of the pairs has no gradient."""
    policy = experts(toy, architecture)
    expected = by_hand(policy, sequences_of(PAIRS))
    assert expected > 0.3
    (len(PAIRS) * expected).backward()
    gradient = {name: value.grad.clone() for name, value in policy.named_parameters() if value.grad is not None}
    policy.zero_grad()
    objective = PairObjective(policy, copy.deepcopy(policy), "dpo", {"beta": 1e-9}, None, gradients=gradients)
    output = objective(collate_pairs(PAIRS, 0, layout))
    torch.testing.assert_close(output.loss.detach(), torch.full((2,), math.log(2)))
    torch.testing.assert_close(output.total, 2 * math.log(2) + 2 * expected)
    output.total.backward()
    gates = [name for name in gradient if name.endswith(("gate.weight", "router.weight"))]
    assert gates and all(gradient[name].abs().max() > 1e-4 for name in gates)
    for name, value in gradient.items():
        torch.testing.assert_close(policy.get_parameter(name).grad, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_preference_training_minimises_it_too(toy, tmp_path, checkpointing):
    reference = experts(toy)
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(8), 512, 512, 48).pairs
    settings = {"gradient_checkpointing": checkpointing, "max_steps": 20, "learning_rate": 1e-2, "warmup_ratio": 0}
    trainer = toy.trainer(tmp_path, data=8, reference=reference, hyper={"beta": 1e-9}, **settings)
    start = float(by_hand(reference.train(), sequences_of(pairs)))
    trainer.train()
    first, *_, last = toy.rows(tmp_path)
    assert first["loss"] == pytest.approx(math.log(2) + start, abs=1e-5)
    assert last["loss"] < first["loss"] - 0.01


def test_micro_batches_count_by_their_pairs(toy, tmp_path):
    reference = experts(toy)
    pairs = encode_pairs(Encoder(toy.tokenizer), toy.pairs(8), 512, 512, 48).pairs
    toy.trainer(tmp_path, data=8, reference=reference, max_steps=1, micro_batch_size=2).train()
    pairs.sort(key=lambda pair: -len(pair.prompt + pair.chosen + pair.rejected))
    parts = [by_hand(reference, sequences_of(pairs[start : start + 2])).item() for start in range(0, 8, 2)]
    assert toy.rows(tmp_path)[0]["loss"] == pytest.approx(math.log(2) + sum(parts) / 4, abs=1e-5)


@pytest.mark.parametrize("asks", [True, False])
def test_fine_tuning_adds_it_to_the_mean_over_tokens(toy, tmp_path, asks):
    texts = [Text(pair.chosen, pair.prompt) for pair in toy.pairs(8)]
    documents = [encode_document(Encoder(toy.tokenizer), text, 48) for text in texts]
    model = experts(toy, asks=asks)
    with torch.no_grad():
        losses = []
        for ids, first in documents:
            log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            losses += [-log_p[at - 1, ids[at]].item() for at in range(first, len(ids))]
        expected = sum(losses) / len(losses)
        if asks:
            expected += by_hand(model, [document.ids for document in documents]).item()
    config = SftConfig(batch_size=8, max_steps=1, checkpoint_every=0)
    SFTTrainer(model, toy.tokenizer, texts, config=config, folder=tmp_path).train()
    assert toy.rows(tmp_path)[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_f_dpg_adds_it_to_the_mean_over_responses(toy, tmp_path):
    """With a target that is the policy itself, whose own loss is 0 up to rounding."""
    losses = {}
    for asks in (True, False):
        reference = experts(toy, asks=asks)
        OnPolicyTrainer(
            copy.deepcopy(reference),
            reference,
            toy.tokenizer,
            [Prompt(pair.prompt) for pair in toy.pairs(4)],
            target=Target("reward", lambda prompts, texts: [0.0] * len(texts), 1.0),
            divergence="kl",
            sampling=SamplingConfig(samples=2, max_new_tokens=4),
            config=PreferenceConfig(batch_size=8, max_steps=1, checkpoint_every=0),
            folder=tmp_path / str(asks),
        ).train()
        losses[asks] = toy.rows(tmp_path / str(asks))[0]["loss"]
    assert losses[True] - losses[False] == pytest.approx(COEFFICIENT * CHOSEN, rel=0.2)  # when the routers are balanced


@pytest.mark.parametrize("architecture", ["mixtral", "granitemoe"])
def test_a_model_that_asks_for_it_is_sampled_as_one_that_does_not(toy, architecture):
    """Its own forward pass cannot compute the loss beside cached keys."""
    texts, prompts = [], [Prompt(pair.prompt) for pair in toy.pairs(6)]
    for asks in (True, False):
        model = experts(toy, architecture, asks)
        texts.append(sample(model, toy.tokenizer, prompts, SamplingConfig(samples=2, max_new_tokens=6)))
        assert model.config.output_router_logits == asks
    assert texts[0] == texts[1]


def test_it_is_not_added_where_the_config_does_not_ask(toy):
    policy = experts(toy, asks=False)
    objective = PairObjective(policy, copy.deepcopy(policy), "dpo", {"beta": 0.1}, None)
    output = objective(collate_pairs(PAIRS, 0, "shared"))
    assert output.total.item() == output.loss.sum().item()


def test_a_config_that_asks_of_an_architecture_without_one_is_told(toy):
    policy = toy.model("llama")
    policy.config.output_router_logits = True
    objective = PairObjective(policy, copy.deepcopy(policy), "dpo", {"beta": 0.1}, None)
    with pytest.raises(
        UserError, match="LlamaForCausalLM has no router loss in transformers: set config.output_router_"
    ):
        objective(collate_pairs(PAIRS, 0, "shared"))

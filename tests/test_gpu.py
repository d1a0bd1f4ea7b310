"""What only a GPU can show: compiled passes over logits, attention of all segments at once, training in bfloat16."""

import copy
import math
import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import collate_pairs
from sparsepo.data.encoding import TokenPair
from sparsepo.data.records import Preference
from sparsepo.models import segment_attention, varlen_attention
from sparsepo.models.architecture import compile_blocks, hidden_states
from sparsepo.models.loading import train_tokenizer
from sparsepo.objective import kernels
from sparsepo.objective.fused_head import rows_per_group
from sparsepo.objective.lm_head import LMHead
from sparsepo.objective.token_terms import SummedLoss, token_terms
from sparsepo.training.method_masks import build_method_masks
from sparsepo.training.pair_objective import PairObjective
from sparsepo.training.preference_trainer import PreferenceTrainer

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here, or not shown: make test-gpu"),
    pytest.mark.filterwarnings("default"),  # compilers warn of what they found
    pytest.mark.timeout(900),
]

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
MORE = {"vocab_size": 211, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
ARCHITECTURES = {
    "gpt2": {},
    "gpt_neox": {"rotary_pct": 0.25},
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 11},
}


def drawn(count=5, seed=0):
    draw = random.Random(seed)
    words = lambda least, most: [draw.randrange(2, 211) for _ in range(draw.randint(least, most))]  # noqa: E731
    return [TokenPair(words(2, 17), words(1, 20), words(1, 20)) for _ in range(count)]


def model(architecture, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, **SIZES, **MORE, **ARCHITECTURES[architecture])
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().to("cuda", dtype)


def error(found, wanted):
    """Relative to the size of what is wanted."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).norm() / wanted.norm())


# --- the output head


def definition(hidden, weight, ref_hidden, ref_weight, labels, softcap):
    """Of float64 copies of logits that were multiplied in the dtype of the states."""

    def log_softmax(states, weight):
        z = (states @ weight.T).double()
        z = z if softcap is None else softcap * torch.tanh(z / softcap)
        return z - z.logsumexp(-1, keepdim=True)

    log_p, log_q = log_softmax(hidden, weight), log_softmax(ref_hidden, ref_weight)
    at = labels[:, None]
    reverse, forward = (log_p.exp() * (log_p - log_q)).sum(-1), (log_q.exp() * (log_q - log_p)).sum(-1)
    return log_p.gather(1, at)[:, 0], log_q.gather(1, at)[:, 0], reverse, forward


@pytest.mark.parametrize("way", ["recompute", "forward"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_terms_and_their_gradients_are_those_of_the_definition(dtype, softcap, way):
    torch.manual_seed(0)
    rows, width, vocabulary = 70, 32, 5003
    normal = lambda *shape: torch.randn(*shape, device="cuda").to(dtype)  # noqa: E731
    hidden, weight, near = normal(rows, width), normal(vocabulary, width), normal(rows, width)
    ref_hidden, labels = hidden + 0.3 * near, torch.randint(vocabulary, (rows,), device="cuda")
    factors = torch.randn(3, rows, device="cuda")
    own, theirs = ([x.clone().requires_grad_() for x in (hidden, weight)] for _ in range(2))

    wanted = definition(*theirs, ref_hidden, weight, labels, softcap)
    sum((f * w).sum() for f, w in zip(factors, (wanted[0], *wanted[2:]), strict=True)).backward()

    heads = LMHead(own[1], softcap=softcap), LMHead(weight, softcap=softcap)
    score = lambda at, terms: (  # noqa: E731
        factors[:, at] * torch.stack([terms.logps, terms.reverse_kl, terms.forward_kl])
    ).sum()
    if way == "forward":
        loss = SummedLoss(lambda at, terms, _: score(at, terms), [slice(0, 33), slice(33, 70)])
        terms = token_terms(own[0], ref_hidden, *heads, labels, loss=loss)
        total = terms.total
    else:
        terms = token_terms(own[0], ref_hidden, *heads, labels, chunk=32)
        total = score(slice(None), terms)
    total.backward()
    found = terms.logps, terms.ref_logps, terms.reverse_kl, terms.forward_kl
    half = dtype == torch.bfloat16  # a product of fewer rows may round another way; gradients of logits are rounded
    assert max(error(a, b) for a, b in zip(found, wanted, strict=True)) < (3e-3 if half else 1e-5)
    allowed = 6e-3 if half else 1e-5
    assert max(error(a.grad, b.grad) for a, b in zip(own, theirs, strict=True)) < allowed
    assert kernels._terms_of_rows.run is not kernels._terms_of_rows.function, "it was not compiled"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_and_banned_tokens_stay_finite_when_compiled(dtype):
    hidden = torch.tensor([[1e2, 0.0], [-1e2, 1.0], [0.0, 0.0]], device="cuda", dtype=dtype)
    weight = torch.zeros(700, 2, device="cuda", dtype=dtype)
    weight[:, 0] = torch.linspace(-1e2, 1e2, 700)
    own = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    bias = torch.zeros(700, device="cuda", dtype=dtype)
    bias[-1] = -math.inf
    head = LMHead(own[1], bias)
    terms = token_terms(own[0], hidden.flip(0), head, LMHead(weight, bias), torch.tensor([3, 5, 0], device="cuda"))
    assert all(value.isfinite().all() for value in (terms.logps, terms.ref_logps, terms.reverse_kl, terms.forward_kl))
    (terms.logps + terms.reverse_kl + terms.forward_kl).sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in own)


# --- attention


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("heads", [4, 2])
def test_all_segments_at_once_are_segment_after_segment(heads, window):
    torch.manual_seed(0)
    segments = collate_pairs(drawn(), 0, "shared").inputs.segments
    length = segments[-1].end
    shapes = [(1, 4, length, 32), (1, heads, length, 32), (1, heads, length, 32)]
    states = [torch.randn(shape, device="cuda") for shape in shapes]
    rounded = [x.bfloat16().requires_grad_() for x in states]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    factor = torch.randn(1, length, 4, 32, device="cuda")
    assert varlen_attention.has_flash(rounded[0], rounded[2])
    found = varlen_attention.attend_varlen(*rounded, segments, None, window)
    wanted = segment_attention._attend_by_segment(*exact, segments, None, window)
    (found * factor).sum().backward()
    (wanted * factor).sum().backward()
    assert error(found, wanted) < 5e-3
    assert max(error(a.grad, b.grad) for a, b in zip(rounded, exact, strict=True)) < 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_says_the_same_of_shared_prompts_in_bfloat16_as_of_padded_pairs(architecture):
    exact, rounded = model(architecture), model(architecture, torch.bfloat16)
    found = []
    for one, name in ((exact, "padded"), (rounded, "padded"), (rounded, "shared")):
        batch = collate_pairs(drawn(), 0, name).to("cuda")
        with torch.no_grad():
            found.append(batch.responses.select_hidden(hidden_states(one, batch.inputs)))
    wanted, padded, shared = found
    assert error(shared, wanted) < 1.5 * error(padded, wanted) + 1e-4


# --- the whole objective


def objective(policy, reference, gradients):
    torch.manual_seed(3)
    masks = build_method_masks("sparsepo_independent", reference, {})
    made = PairObjective(
        policy, reference, "sparsepo_independent", {"beta": 0.2, "form": "paper"}, masks, gradients=gradients
    )
    return made.to("cuda").to(policy.dtype)


def gradient_of(made, layout, casts):
    batch = collate_pairs(drawn(), 0, layout).to("cuda")
    with torch.autocast("cuda", torch.bfloat16, enabled=casts):
        total = made(batch).total
    total.backward()
    grads = torch.cat([weight.grad.flatten().double() for weight in made.parameters() if weight.grad is not None])
    return total.detach(), grads


@pytest.mark.parametrize("gradients", ["forward", "recompute"])
@pytest.mark.parametrize("casts", [False, True])
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_a_step_on_the_gpu_is_the_step_in_float64(architecture, casts, gradients):
    reference, policy = model(architecture), model(architecture)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    exact = objective(copy.deepcopy(policy).double(), copy.deepcopy(reference).double(), "recompute")
    wanted, wanted_grads = gradient_of(exact, "padded", False)
    found, grads = gradient_of(objective(policy, reference, gradients), "shared", casts)
    assert error(found, wanted) < (3e-2 if casts else 1e-5)
    assert error(grads, wanted_grads) < (1e-1 if casts else 1e-4)


def test_compiled_blocks_are_as_near_to_the_step_in_float64_as_plain_ones():
    reference, policy = model("gpt_neox"), model("gpt_neox")
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    exact = objective(copy.deepcopy(policy).double(), copy.deepcopy(reference).double(), "recompute")
    wanted, wanted_grads = gradient_of(exact, "padded", False)
    plain = gradient_of(objective(copy.deepcopy(policy), copy.deepcopy(reference), "forward"), "shared", True)
    for one in (policy, reference):
        compile_blocks(one)
    found = gradient_of(objective(policy, reference, "forward"), "shared", True)
    assert error(found[0], wanted) < 2 * error(plain[0], wanted) + 1e-3
    assert error(found[1], wanted_grads) < 1.5 * error(plain[1], wanted_grads)


def test_more_rows_than_fit_a_chunk_go_in_parts():
    weight = torch.zeros(2**20, 2, device="cuda")
    assert rows_per_group(weight) == 2**7


# --- training


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"adapter": {"rank": 4}}])
def test_a_training_in_bfloat16_follows_the_one_in_float32(tmp_path, changes):
    tokenizer = train_tokenizer([" ".join(f"w{number:02}" for number in range(60))], "word", 100)
    draw = random.Random(0)
    words = lambda least, most: " ".join(f"w{draw.randrange(60):02}" for _ in range(draw.randint(least, most)))  # noqa: E731
    pairs = [Preference(words(2, 5), words(3, 9), words(3, 9)) for _ in range(32)]
    losses = {}
    for precision in ("float32", "bfloat16"):
        policy = model("llama")
        config = PreferenceConfig(
            batch_size=8,
            micro_batch_size=4,
            max_steps=8,
            learning_rate=1e-3,
            checkpoint_every=3,
            precision=precision,
            **changes,
        )
        if config.adapter is not None:
            from sparsepo.models.adapters import clone_sharing_weights

            reference = clone_sharing_weights(policy)
        else:
            reference = copy.deepcopy(policy)
        trainer = PreferenceTrainer(
            policy, reference, tokenizer, pairs, method="sparsepo_common", config=config, folder=tmp_path / precision
        )
        trainer.train()
        assert next(trainer.policy.parameters()).is_cuda
        losses[precision] = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses["bfloat16"][0] == pytest.approx(losses["float32"][0], abs=2e-2)
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.1)
    assert losses["float32"][-1] < losses["float32"][0]

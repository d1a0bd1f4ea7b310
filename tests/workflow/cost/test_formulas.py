"""The formulas against what torch counts and what lies on disk: steps of a small model, with and without savings."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo.config.models import ScratchModel, TokenizerConfig
from sparsepo.config.training import PreferenceConfig, SftConfig
from sparsepo.data.collation import TokenPair, collate
from sparsepo.models import adapters
from sparsepo.training.pair_objective import PairObjective, masks_for
from sparsepo.workflow.cost import formulas
from sparsepo.workflow.cost.shapes import shape_of

GIVEN = {"model_type": "gpt2", "n_layer": 3, "n_embd": 128, "n_head": 4, "n_positions": 64}
VOCABULARY, PROMPT, RESPONSE, PAIRS = 600, 12, 8, 6
SHAPE = shape_of(ScratchModel(source="scratch", config=GIVEN, tokenizer=TokenizerConfig(vocab_size=VOCABULARY)))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model():
    torch.manual_seed(0)
    config = AutoConfig.for_model(**GIVEN, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=1)
    return AutoModelForCausalLM.from_config(config)


def counted(work):
    """FLOPs by torch; plain attention is what it can count, masked half included."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


SETTINGS = {
    "plain": PreferenceConfig(),
    "checkpointing": PreferenceConfig(gradient_checkpointing=True),
    "adapter": PreferenceConfig(adapter={"rank": 2}),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_flops_of_a_step_are_within_a_tenth_of_those_that_torch_counts(settings):
    policy, reference = model(), model().eval().requires_grad_(False)
    if settings.adapter:
        adapters.add(policy, settings.adapter)
    if settings.gradient_checkpointing:
        policy.activation_checkpointing_enable()
    masks = masks_for("sparsepo_common", reference, {})
    objective = PairObjective(
        policy.train(), reference, "sparsepo_common", {"beta": 0.1, "form": "paper"}, masks, gradients="forward"
    )
    draw = torch.Generator().manual_seed(0)
    pairs = [
        TokenPair(*(torch.randint(2, VOCABULARY, (n,), generator=draw).tolist() for n in (PROMPT, RESPONSE, RESPONSE)))
        for _ in range(PAIRS)
    ]
    batch = collate(pairs, 0, "shared")
    found = counted(lambda: objective(batch).total.backward())
    told = PAIRS * formulas.pair_flops(SHAPE, PROMPT, RESPONSE, settings, reference=True)
    assert told == pytest.approx(found, rel=0.1)


def test_the_flops_of_sft_are_within_a_tenth_of_those_that_torch_counts():
    policy = model().train()
    ids = torch.randint(2, VOCABULARY, (PAIRS, 32), generator=torch.Generator().manual_seed(0))
    found = counted(lambda: policy(input_ids=ids, labels=ids).loss.backward())
    assert PAIRS * formulas.text_flops(SHAPE, 32, SftConfig()) == pytest.approx(found, rel=0.1)


def test_a_model_on_disk_takes_what_its_weights_say(tmp_path):
    policy = model()
    policy.save_pretrained(tmp_path)
    assert formulas.weights_bytes(SHAPE) == pytest.approx((tmp_path / "model.safetensors").stat().st_size, rel=0.02)


def test_the_parameters_of_an_adapter_are_those_that_peft_adds():
    policy = model()
    settings = PreferenceConfig(adapter={"rank": 4}).adapter
    adapters.add(policy, settings)
    added = sum(value.numel() for value in adapters.trained(policy).values())
    assert formulas.trained_parameters(SHAPE, settings) == pytest.approx(added, rel=0.15)


def test_a_checkpoint_holds_weights_and_both_moments():
    full = formulas.checkpoint_bytes(SHAPE, PreferenceConfig(), keeps_best=False)
    assert full == formulas.KEPT_CHECKPOINTS * 12 * SHAPE.parameters
    assert formulas.checkpoint_bytes(SHAPE, PreferenceConfig(checkpoint_every=0), keeps_best=False) == 0
    eight = formulas.checkpoint_bytes(SHAPE, PreferenceConfig(optimizer="adamw_8bit"), keeps_best=False)
    assert eight == full / 2


def test_training_in_float32_takes_twenty_bytes_a_weight_and_its_activations():
    """Policy, reference, gradient, two moments: 4 bytes each."""
    none = {"tokens": 0, "logits": 0, "reference": True}
    assert formulas.training_bytes(SHAPE, PreferenceConfig(), **none) == 20 * SHAPE.parameters
    assert formulas.training_bytes(SHAPE, PreferenceConfig(precision="bfloat16"), **none) == 22 * SHAPE.parameters


def test_decoding_is_as_slow_as_what_it_reads():
    few = formulas.sampling(SHAPE, 8, responses=1, tokens=32, batch=1, stored=4)
    many = formulas.sampling(SHAPE, 8, responses=64, tokens=32, batch=64, stored=4)
    assert many.passes == few.passes and many.flops == 64 * few.flops and many.read < 64 * few.read

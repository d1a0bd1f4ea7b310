"""Models and tokenizers as users of the library have them: each is trained right, or refused with one plain error."""

import copy

import pytest
import torch
from transformers import AutoTokenizer, ProcessorMixin

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import PreferenceConfig, SftConfig
from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.data.records import Preference, Prompt, Text
from sparsepo.fdpg.target import Target
from sparsepo.fdpg.trainer import OnPolicyTrainer
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.sft_trainer import SFTTrainer


def sft(toy, folder, model, tokenizer=None, **changed):
    texts = [Text(pair.chosen, pair.prompt) for pair in toy.pairs(8)]
    config = SftConfig(**{"batch_size": 8, "learning_rate": 1e-3, "max_steps": 2, "checkpoint_every": 0} | changed)
    return SFTTrainer(model, tokenizer or toy.tokenizer, texts, config=config, folder=folder)


def f_dpg(toy, folder, policy, reference):
    return OnPolicyTrainer(
        policy,
        reference,
        toy.tokenizer,
        [Prompt(pair.prompt) for pair in toy.pairs(4)],
        target=Target("reward", lambda prompts, texts: [float(len(text)) for text in texts], 1.0),
        divergence="kl",
        sampling=SamplingConfig(samples=2, max_new_tokens=4),
        config=PreferenceConfig(batch_size=8, learning_rate=1e-3, max_steps=2, checkpoint_every=0),
        folder=folder,
    )


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# --- frozen


@pytest.mark.parametrize("method", ["dpo", "sparsepo_independent"])
def test_a_copy_of_a_used_reference_is_trained_like_a_fresh_copy(toy, tmp_path, method):
    reference, weights = toy.model(), []
    for run in ("fresh", "frozen"):
        trainer = toy.trainer(tmp_path / run, method, reference=reference, max_steps=2)
        trainer.train()
        weights.append(toy.weights(trainer.policy))
        assert not any(value.requires_grad for value in reference.parameters())
    assert same(*weights) and not same(weights[1], toy.weights(reference))


def test_a_frozen_model_is_fine_tuned_and_trained_on_samples_too(toy, tmp_path):
    before, frozen = toy.weights(toy.model()), toy.model().requires_grad_(False)
    for name, start in (
        ("sft", lambda model: sft(toy, tmp_path / "sft", model)),
        ("f-dpg", lambda model: f_dpg(toy, tmp_path / "f-dpg", model, toy.model())),
    ):
        trainer = start(copy.deepcopy(frozen))
        trainer.train()
        assert not same(before, toy.weights(trainer.model)), name


def test_a_model_that_is_frozen_in_part_stays_so(toy, tmp_path):
    policy = toy.model()
    policy.transformer.wte.requires_grad_(False)
    before = toy.weights(policy)
    toy.trainer(tmp_path, policy=policy, reference=copy.deepcopy(policy), max_steps=2).train()
    moved = {name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not moved & {"transformer.wte.weight", "lm_head.weight"}


# --- half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_trained_with_a_warning_that_gives_the_remedy(toy, tmp_path, dtype):
    message = (
        f"the trained weights are {str(dtype)[6:]}, .*: load the model with dtype=torch.float32, and write precision"
    )
    with pytest.warns(UserWarning, match=message):
        toy.trainer(tmp_path / "pairs", reference=toy.model(dtype=dtype))
    with pytest.warns(UserWarning, match=message):
        sft(toy, tmp_path / "sft", toy.model(dtype=dtype))


def test_float16_weights_under_scaled_gradients_are_refused(toy, tmp_path):
    with pytest.raises(UserError, match="the trained weights are float16, .*load the model with dtype=torch.float32"):
        toy.trainer(tmp_path, reference=toy.model(dtype=torch.float16), precision="float16")


def test_float32_weights_move_at_a_small_learning_rate_and_those_in_bfloat16_hardly(toy, tmp_path):
    """Why there is a warning."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        policy = toy.model("llama", dtype=dtype)
        before, name = toy.weights(policy), str(dtype)
        settings = {"precision": "bfloat16", "learning_rate": 1e-6, "warmup_ratio": 0, "max_steps": 3}
        with pytest.warns(UserWarning) if dtype == torch.bfloat16 else pytest.MonkeyPatch.context():
            trainer = toy.trainer(tmp_path / name, policy=policy, reference=copy.deepcopy(policy), **settings)
        trainer.train()
        changed = [(value != before[key]).double().mean().item() for key, value in policy.state_dict().items()]
        moved[dtype] = sum(changed) / len(changed)
    assert moved[torch.float32] > 0.5 > 0.05 > moved[torch.bfloat16]


def test_quantised_weights_without_an_adapter_are_refused(toy, tmp_path):
    policy = toy.model()
    policy.quantization_method = "bitsandbytes"
    with pytest.raises(UserError, match="weights are quantised, and cannot be trained: give the config an `adapter`"):
        toy.trainer(tmp_path, policy=policy, reference=toy.model())


# --- adapters of the user


@pytest.mark.parametrize("saved", [None, ["lm_head"]])
def test_a_peft_model_is_refused_before_anything_is_trained(toy, tmp_path, saved):
    from peft import LoraConfig, get_peft_model

    def adapted():
        settings = LoraConfig(target_modules=["q_proj"], modules_to_save=saved, init_lora_weights=False)
        return get_peft_model(toy.model("llama"), settings)

    for build in (
        lambda: toy.trainer(tmp_path, policy=adapted(), reference=toy.model("llama")),
        lambda: toy.trainer(tmp_path, policy=toy.model("llama"), reference=adapted()),
        lambda: toy.trainer(tmp_path, policy=adapted().get_base_model(), reference=toy.model("llama")),
        lambda: sft(toy, tmp_path, adapted()),
        lambda: f_dpg(toy, tmp_path, adapted(), toy.model("llama")),
        lambda: inspect_pairs(adapted(), toy.model("llama"), [{"prompt": [2], "chosen": [3], "rejected": [4]}], "dpo"),
    ):
        with pytest.raises(UserError, match=r"model\.merge_and_unload\(\)"):
            build()
    merged = adapted().merge_and_unload()
    trainer = toy.trainer(tmp_path, policy=merged, reference=copy.deepcopy(merged), max_steps=1)
    trainer.train()
    assert toy.rows(tmp_path)[0]["loss"] == pytest.approx(0.6931, abs=1e-4)


# --- vocabularies and tokenizers


def test_a_vocabulary_that_is_larger_than_the_tokenizer_is_trained_and_saved(toy, tmp_path):
    model = toy.model("llama")
    model.resize_token_embeddings(128, mean_resizing=False)
    trainer = toy.trainer(tmp_path / "work", "tdpo1", reference=model, max_steps=2)
    trainer.train()
    trainer.save(tmp_path / "out")
    loaded = type(model).from_pretrained(tmp_path / "out")
    assert loaded.get_input_embeddings().num_embeddings == loaded.config.vocab_size == 128
    assert same(toy.weights(loaded), toy.weights(trainer.policy))


def test_added_tokens_are_trained_where_both_models_have_rows_for_them(toy, tmp_path):
    tokenizer = copy.deepcopy(toy.tokenizer)
    tokenizer.add_tokens(["<mine>"])
    (new,) = tokenizer.convert_tokens_to_ids(["<mine>"])
    model = toy.model("llama")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    pairs = [Preference(pair.prompt, f"<mine> {pair.chosen}", pair.rejected) for pair in toy.pairs(8)]
    given = {"reference": model, "data": pairs, "max_steps": 2, "tokenizer": tokenizer}
    trainer = toy.trainer(tmp_path / "rows", **given)
    before = trainer.policy.get_input_embeddings().weight[new].clone()
    trainer.train()
    assert not torch.equal(trainer.policy.get_input_embeddings().weight[new], before)
    with pytest.raises(UserError, match=f"token id {new} is outside of the vocabulary of LlamaForCausalLM, ids 0 to"):
        toy.trainer(tmp_path / "none", **given | {"reference": toy.model("llama")})


def test_a_resized_policy_and_a_reference_that_is_not_are_refused(toy, tmp_path):
    policy = toy.model("llama")
    policy.resize_token_embeddings(128, mean_resizing=False)
    with pytest.raises(
        UserError, match="policy and reference have vocabularies of 128 and 63 rows: call resize_token_"
    ):
        toy.trainer(tmp_path, policy=policy, reference=toy.model("llama"))


def test_a_pad_token_that_the_model_has_no_row_for_is_no_hindrance_as_padding_is_masked(toy, tmp_path):
    tokenizer, losses = copy.deepcopy(toy.tokenizer), []
    for name, pad in (("own", "<pad>"), ("added", "[PAD]"), ("none", None)):
        tokenizer.add_special_tokens({"pad_token": pad} if pad else {})
        if pad is None:
            tokenizer.pad_token = None
        trainer = sft(toy, tmp_path / name, toy.model(), tokenizer)
        trainer.train()
        losses.append(toy.rows(trainer.folder)[0]["loss"])
    assert losses[0] == losses[1] == losses[2]


def test_documents_with_tokens_that_the_model_cannot_read_are_refused(toy, tmp_path):
    small = toy.model("llama")
    small.resize_token_embeddings(30)
    with pytest.raises(
        UserError, match="is outside of the vocabulary of LlamaForCausalLM, ids 0 to 29: use the model's"
    ):
        sft(toy, tmp_path, small)


class Processor(ProcessorMixin):
    """Of texts alone, as those of models for images and texts are beside their images."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


def test_a_processor_is_taken_for_its_tokenizer(toy, tmp_path):
    processor, reference = Processor(toy.tokenizer), toy.model()
    trainer = toy.trainer(tmp_path / "work", reference=reference, max_steps=1, tokenizer=processor)
    trainer.train()
    trainer.save(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == toy.tokenizer.get_vocab()
    sft(toy, tmp_path / "sft", toy.model(), processor).train()


def test_a_reference_with_a_shorter_context_is_refused(toy, tmp_path):
    with pytest.raises(UserError, match="a sequence has .* tokens, and GPT2LMHeadModel can read 6$"):
        toy.trainer(tmp_path, policy=toy.model(), reference=toy.model(n_positions=6))


def test_prompts_of_tokens_that_a_model_cannot_read_are_refused_before_they_are_sampled(toy, tmp_path):
    policy, reference = (toy.model("llama") for _ in range(2))
    for model in (policy, reference):
        model.resize_token_embeddings(10)
    with pytest.raises(
        UserError, match="is outside of the vocabulary of LlamaForCausalLM, ids 0 to 9: use the model's"
    ):
        f_dpg(toy, tmp_path, policy, reference)


# --- pairs of texts


def test_pairs_of_texts_are_inspected_with_a_tokenizer_as_their_tokens_are(toy):
    policy, reference, pairs = toy.model(seed=1).eval(), toy.model().eval(), toy.pairs(4)
    expected = inspect_pairs(policy, reference, encode_pairs(Encoder(toy.tokenizer), pairs, 512, 512, 48).pairs, "sepo")
    assert inspect_pairs(policy, reference, pairs, "sepo", tokenizer=toy.tokenizer) == expected
    mappings = [vars(pair) for pair in pairs]
    assert inspect_pairs(policy, reference, mappings, "sepo", tokenizer=Processor(toy.tokenizer)) == expected


@pytest.mark.parametrize("prompt", ["w01 w02", "12"])
def test_pairs_of_texts_without_a_tokenizer_are_told_not_read_as_numbers(toy, prompt):
    for pair in ({"prompt": prompt, "chosen": "3", "rejected": "4"}, Preference(prompt, "3", "4")):
        with pytest.raises(UserError, match="the pairs are texts: give inspect_pairs a `tokenizer`, too"):
            inspect_pairs(toy.model(), toy.model(seed=1), [pair], "dpo")


def test_a_pair_that_cannot_be_inspected_is_told_not_left_out(toy):
    pairs = [*toy.pairs(2), Preference("w01", "w02", "")]
    with pytest.raises(
        UserError, match="pairs that cannot be inspected: .*'responses are equal|'rejected is empty': 1"
    ):
        inspect_pairs(toy.model(), toy.model(seed=1), pairs, "dpo", tokenizer=toy.tokenizer)


@pytest.mark.parametrize(
    "ids, message", [([2] * 49, "has 50 tokens, and .* can read 48"), ([63], "token id 63"), ([-1], "token id -1")]
)
def test_tokens_that_a_model_cannot_read_are_told_by_inspect_pairs(toy, ids, message):
    with pytest.raises(UserError, match=message):
        inspect_pairs(toy.model(), toy.model(seed=1), [{"prompt": [2], "chosen": ids, "rejected": [3]}], "dpo")

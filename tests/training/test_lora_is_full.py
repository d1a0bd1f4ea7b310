"""LoRA whose rank spans the layers, B alone trained, is full training of these layers: when, and to the last digits."""

import copy

import pytest
import torch

from sparsepo.models import adapters

METHODS = ["dpo", "tdpo1", "mapo", "sparsepo_independent"]
RUN = {"warmup_ratio": 0, "learning_rate": 1e-2, "max_steps": 5}
WIDEST = 64  # inputs of a map of the toy model


def lora(toy, folder, method, a, **changed):
    """A trainer of B alone: alpha = rank, and each A is the first columns of the orthonormal `a`."""
    policy = toy.model(dtype=torch.float64)
    settings = {"rank": WIDEST, "alpha": WIDEST, "target_modules": "all-linear"}
    reference = adapters.clone_sharing_weights(policy)
    trainer = toy.trainer(folder, method, policy=policy, reference=reference, adapter=settings, **RUN | changed)
    for name, value in adapters.adapter_parameters(policy).items():
        if "lora_A" in name:
            value.requires_grad_(False).copy_(a[:, : value.shape[1]])
    return trainer


def full(toy, folder, method, **changed):
    """A trainer of the matrices of the blocks; biases, norms and embeddings are as frozen as with an adapter."""
    reference = toy.model(dtype=torch.float64)
    policy = copy.deepcopy(reference)
    for name, value in policy.named_parameters():
        value.requires_grad_(".h." in name and ("attn" in name or "mlp" in name) and name.endswith("weight"))
    return toy.trainer(folder, method, policy=policy, reference=reference, **RUN | changed)


def assert_one_course(toy, adapted, plain):
    adapted.train()
    plain.train()
    mine, theirs = (toy.rows(trainer.folder) for trainer in (adapted, plain))
    assert len(mine) == len(theirs) == 5
    assert abs(mine[-1]["loss"] - mine[0]["loss"]) > 1e-3
    for one, two in zip(mine, theirs, strict=True):
        assert one == pytest.approx(two, rel=1e-9, abs=1e-9)
    merged = adapters.merge_adapter(adapted.policy).state_dict()
    for name, value in plain.policy.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_lora_is_full_training_under_adam_when_a_is_the_identity(toy, tmp_path, method):
    """dW = B, so that Adam sees the very gradients of W, element by element; W must not decay, as B would not."""
    identity = torch.eye(WIDEST, dtype=torch.float64)
    assert_one_course(toy, lora(toy, tmp_path / "lora", method, identity), full(toy, tmp_path / "full", method))


def descending(trainer):
    """The trainer with plain gradient descent, mask heads included."""
    trainer.optimizer = torch.optim.SGD([p for p in trainer.model.parameters() if p.requires_grad], lr=0.3)
    return trainer


def orthonormal(size):
    made = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return torch.linalg.qr(made).Q


@pytest.mark.parametrize("method", METHODS)
def test_lora_is_full_training_under_gradient_descent_when_a_is_orthonormal(toy, tmp_path, method):
    """A step of B is -lr G A^T, which moves W by -lr G A^T A = -lr G; clipping agrees, as |G A^T| = |G|."""
    adapted = lora(toy, tmp_path / "lora", method, orthonormal(WIDEST), max_grad_norm=0.5)
    plain = full(toy, tmp_path / "full", method, max_grad_norm=0.5)
    assert_one_course(toy, descending(adapted), descending(plain))


def test_lora_of_a_low_rank_is_not_full_training(toy, tmp_path):
    adapted = lora(toy, tmp_path / "lora", "dpo", orthonormal(WIDEST))
    for name, value in adapters.adapter_parameters(adapted.policy).items():
        if "lora_A" in name:
            value[4:] = 0
    plain = full(toy, tmp_path / "full", "dpo")
    with pytest.raises(AssertionError):
        assert_one_course(toy, descending(adapted), descending(plain))

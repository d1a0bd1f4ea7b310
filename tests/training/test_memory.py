"""The micro-batch that fits into memory: the formula by hand, what is chosen, and what happens when memory runs out."""

import json

import pytest
import torch
from pydantic import ValidationError

from sparsepo.config.training import SftConfig
from sparsepo.data.records import Text
from sparsepo.runtime.errors import UserError, is_out_of_memory
from sparsepo.training import base_trainer
from sparsepo.training.memory import (
    DecoderShape,
    kept_a_token,
    largest_size,
    micro_batch_bytes,
    next_smaller,
    state_bytes,
)
from sparsepo.training.sft_trainer import SFTTrainer

ENOUGH, NONE = 10**12, 0


def test_the_formula_by_hand():
    """A decoder of 2 layers of width 10 with 100 tokens in its vocabulary."""
    model = DecoderShape(2, 10, 100)
    # 7 tokens * 68 bytes * 2 layers * 10, and 3 rows * 100 logits * 12 bytes
    assert micro_batch_bytes(model, 7, 3, half=False, checkpointing=False) == 9520 + 3600
    assert micro_batch_bytes(model, 7, 0, half=True, checkpointing=False) == 4760
    # with checkpointing 4 bytes a layer, and 68 of one layer
    assert kept_a_token(2, half=False, checkpointing=True) == 4 + 34
    assert micro_batch_bytes(model, 7, 0, half=False, checkpointing=True) == 7 * (2 * 4 + 68) * 10
    # gradients 4, moments 8 (2 in 8 bits), and 2 bytes of each of 1,000 weights for the copy in half precision
    assert state_bytes(50, 1000, half=False, optimizer="adamw") == 600
    assert state_bytes(50, 1000, half=True, optimizer="adamw_8bit") == 300 + 2000


def test_the_sizes_are_divisors_of_the_batch():
    assert [largest_size(12, lambda size, most=most: size <= most) for most in (12, 11, 5, 3, 0)] == [12, 6, 4, 3, 1]
    assert [next_smaller(12, size) for size in (12, 6, 4, 3, 2, 1)] == [6, 3, 2, 1, 1, None]


def test_a_decoder_is_read_off_its_model(toy):
    assert DecoderShape.of(toy.model("gpt2")) == (2, 16, len(toy.tokenizer)) == DecoderShape.of(toy.model("llama"))


@pytest.fixture
def free(monkeypatch):
    """Sets the free memory."""

    def set_bytes(number):
        monkeypatch.setattr(base_trainer, "free_bytes", lambda device: number)

    return set_bytes


def sizes_of(trainer):
    return [len(batch.pair_indices) for batch in trainer.data_collator(range(8))["micro_batches"]]


@pytest.mark.parametrize("bytes_free, size", [(ENOUGH, 8), (NONE, 1)])
def test_the_whole_batch_is_computed_at_once_where_it_fits_and_else_less(toy, tmp_path, free, bytes_free, size):
    free(bytes_free)
    trainer = toy.trainer(tmp_path, max_steps=1)
    assert trainer.settings.micro_batch_size == size and sizes_of(trainer) == [size] * (8 // size)


def test_between_the_two_the_formula_decides(toy, tmp_path, free, capsys):
    """0.8 of the memory, less 12 bytes a weight, holds 2 of the longest pairs and not 4."""
    free(ENOUGH)
    trainer = toy.trainer(tmp_path / "all", max_steps=1)
    model, pairs = trainer.policy, trainer.data_collator.maker.pairs
    length = max(len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)
    rows = max(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    a_pair = length * 68 * 2 * 16 + rows * 12 * len(toy.tokenizer)
    state = 12 * sum(value.numel() for value in model.parameters())
    for held, size in ((2.1, 2), (3.9, 2), (4.1, 4), (0.5, 1)):
        free((held * a_pair + state) / 0.8)
        assert toy.trainer(tmp_path / str(held), layout="shared").settings.micro_batch_size == size
    assert "micro_batch_size: 2 of 8 by the free memory" in capsys.readouterr().out


def test_what_the_config_gives_is_taken(toy, tmp_path, free):
    free(NONE)
    assert toy.trainer(tmp_path / "1", micro_batch_size=4).settings.micro_batch_size == 4
    trainer = toy.trainer(tmp_path / "2", micro_batch_tokens=10_000)
    assert trainer.settings.micro_batch_size is None and sizes_of(trainer) == [8]


def test_several_processes_choose_a_divisor_of_their_share(toy, tmp_path, free):
    free(ENOUGH)
    assert toy.trainer(tmp_path, num_processes=2).settings.micro_batch_size == 4


def test_a_resumed_run_keeps_the_size_that_it_began_with(toy, tmp_path, free):
    given = {"num_train_epochs": 2, "checkpoint_every": 2, "identity": "mine"}
    free(ENOUGH)
    straight = toy.trainer(tmp_path / "straight", **given)
    straight.train()
    toy.run_killed(toy.trainer(tmp_path / "killed", killed_at=3, **given))
    free(NONE)
    resumed = toy.trainer(tmp_path / "killed", **given)
    resumed.train()
    assert resumed.settings.micro_batch_size == 8 and toy.rows(resumed.folder) == toy.rows(straight.folder)


# --- when it runs out


def run_out(trainer, error, most):
    """Training runs out of memory where a micro-batch has more than `most` pairs."""
    compute = trainer.compute_loss

    def limited(model, inputs, *args, **kwargs):
        if len(inputs.pair_indices) > most:
            raise error
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = limited
    return trainer


ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "python", "cpu"])
def test_the_next_attempt_takes_half_and_the_one_after_that_a_quarter(toy, tmp_path, free, error):
    free(ENOUGH)
    for taken, next_size in ((8, 4), (4, 2)):
        trainer = run_out(toy.trainer(tmp_path, max_steps=2, identity="mine"), error, most=2)
        assert trainer.settings.micro_batch_size == taken
        with pytest.raises(UserError) as told:
            trainer.train()
        assert str(told.value) == (
            f"out of memory: write training.micro_batch_size: {next_size} (it was {taken}); "
            "another attempt takes that by itself"
        )
    run_out(toy.trainer(tmp_path, max_steps=2, identity="mine"), error, most=2).train()


def test_a_size_of_the_config_is_never_changed_but_the_one_to_write_is_told(toy, tmp_path):
    for _ in range(2):
        trainer = run_out(toy.trainer(tmp_path, max_steps=2, micro_batch_size=4, identity="mine"), MemoryError(), 1)
        with pytest.raises(UserError, match=r"^out of memory: write training.micro_batch_size: 2 \(it was 4\)$"):
            trainer.train()


def test_one_pair_that_does_not_fit_and_positions_are_told(toy, tmp_path):
    trainer = run_out(toy.trainer(tmp_path / "1", micro_batch_size=1), MemoryError(), 0)
    with pytest.raises(UserError, match="with training.micro_batch_size: 1: write training.gradient_checkpointing"):
        trainer.train()
    trainer = run_out(toy.trainer(tmp_path / "2", micro_batch_tokens=900), MemoryError(), 0)
    with pytest.raises(UserError, match=r"write training.micro_batch_tokens: 450 \(it was 900\)"):
        trainer.train()


def test_other_errors_stay_what_they_are(toy, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_out(toy.trainer(tmp_path), ZeroDivisionError(), 0).train()
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_fine_tuning_fits_and_names_its_own_section(toy, tmp_path, free, monkeypatch):
    documents = [Text(pair.chosen, pair.prompt) for pair in toy.pairs(8)]
    config = SftConfig(batch_size=8, max_steps=1, checkpoint_every=0)
    for number, size in ((NONE, 1), (ENOUGH, 8)):
        free(number)
        trainer = SFTTrainer(toy.model(), toy.tokenizer, documents, config=config, folder=tmp_path / str(size))
        assert trainer.data_collator.maker.size == trainer.settings.micro_batch_size == size

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(trainer, "compute_loss", fail)
    with pytest.raises(UserError, match="write sft.micro_batch_size: 4 "):
        trainer.train()
    assert json.loads((trainer.folder / "micro_batch_size.json").read_text()) == 4


def test_merge_belongs_to_an_adapter():
    with pytest.raises(ValidationError, match="merge"):
        SftConfig(merge=True)

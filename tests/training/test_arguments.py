"""Settings as transformers' Trainer takes them."""

from transformers import TrainingArguments

from sparsepo.config.training import PreferenceConfig
from sparsepo.training.base_trainer import training_arguments


def test_a_process_that_sees_several_gpus_trains_a_batch_of_the_size_that_was_asked_for(tmp_path, monkeypatch):
    made = TrainingArguments.__post_init__

    def seeing_four(arguments):
        made(arguments)
        arguments._n_gpu = 4

    monkeypatch.setattr(TrainingArguments, "__post_init__", seeing_four)
    arguments = training_arguments(PreferenceConfig(batch_size=8), tmp_path, 0)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 8)

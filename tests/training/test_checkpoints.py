"""Checkpoints as folders: which is complete, which is the latest, and where a log is cut."""

import pytest

from sparsepo.training.checkpoints import cut_logs, is_complete, latest_checkpoint, mark_complete


def test_a_checkpoint_is_complete_only_with_its_mark_its_identity_and_every_byte(tmp_path):
    (tmp_path / "weights").write_bytes(b"12345")
    assert not is_complete(tmp_path, "mine")
    mark_complete(tmp_path, "mine")
    assert is_complete(tmp_path, "mine") and not is_complete(tmp_path, "other")
    for damaged in (b"1234", b"\0\0\0\0\0", b"12346"):
        (tmp_path / "weights").write_bytes(damaged)
        assert not is_complete(tmp_path, "mine")
    (tmp_path / "weights").unlink()
    assert not is_complete(tmp_path, "mine")


def test_the_latest_checkpoint_is_the_complete_one_of_the_highest_step(tmp_path, capsys):
    """9 comes before 10; one that is not complete, or not of this run, is deleted with a line, newer or older."""
    for step, identity in ((9, "mine"), (10, "mine"), (8, "other"), (11, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"12345")
        if identity:
            mark_complete(folder, identity)
    (tmp_path / "dynamics.jsonl").touch()
    assert latest_checkpoint(tmp_path, "mine") == tmp_path / "checkpoint-10"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10", "dynamics.jsonl"}
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [f"{tmp_path}/checkpoint-{step}" for step in (8, 11)]
    assert latest_checkpoint(tmp_path / "nowhere", "mine") is None


def test_a_large_file_with_a_page_of_zeros_is_noticed(tmp_path):
    """Also where this process has computed the hash of the file before: from 1 MB on it keeps hashes."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 8192)
    mark_complete(tmp_path, "mine")
    assert is_complete(tmp_path, "mine")
    with open(path, "r+b") as file:
        file.seek(1_000_000)
        file.write(bytes(4096))
    assert not is_complete(tmp_path, "mine")


def checkpoint_with_log(folder, text):
    (folder / "checkpoint-3").mkdir()
    (folder / "dynamics.jsonl").write_text(text)
    mark_complete(folder / "checkpoint-3", "mine")
    return folder / "checkpoint-3"


def test_logs_are_cut_to_what_they_were_at_a_checkpoint(tmp_path):
    """Other files of the folder stay; without a checkpoint the logs go."""
    checkpoint, log = checkpoint_with_log(tmp_path, '{"step": 1}\n{"step": 3}\n'), tmp_path / "dynamics.jsonl"
    with log.open("a") as file:
        file.write('{"step": 4}\n{"st')
    for name in ("frontier.jsonl", "pairs.jsonl"):
        (tmp_path / name).write_text('{"step": 4}\n')
    assert is_complete(checkpoint, "mine")
    cut_logs(tmp_path, checkpoint)
    assert log.read_text() == '{"step": 1}\n{"step": 3}\n'
    assert (tmp_path / "pairs.jsonl").exists() and not (tmp_path / "frontier.jsonl").exists()
    cut_logs(tmp_path, None)
    assert (tmp_path / "pairs.jsonl").exists() and not log.exists()


@pytest.mark.parametrize("damaged", ['{"step": 1}\n', "\0" * 24, None])
def test_a_checkpoint_whose_log_lost_rows_is_not_complete(tmp_path, damaged):
    checkpoint, log = checkpoint_with_log(tmp_path, '{"step": 1}\n{"step": 3}\n'), tmp_path / "dynamics.jsonl"
    log.unlink() if damaged is None else log.write_text(damaged)
    assert not is_complete(checkpoint, "mine")

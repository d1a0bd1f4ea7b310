"""Checkpoints as folders: which is complete, which is the latest, and where a log is cut."""

from sparsepo.training.checkpoints import is_complete, latest_checkpoint, mark_complete
from sparsepo.training.logging import truncate_log


def test_a_checkpoint_is_complete_only_with_its_mark_its_identity_and_every_byte(tmp_path):
    (tmp_path / "weights").write_bytes(b"12345")
    assert not is_complete(tmp_path, "mine")
    mark_complete(tmp_path, "mine")
    assert is_complete(tmp_path, "mine") and not is_complete(tmp_path, "other")
    (tmp_path / "weights").write_bytes(b"1234")
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


def test_a_log_is_cut_after_a_step_and_at_a_half_written_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 3}\n{"step": 5}\n')
    truncate_log(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    truncate_log(tmp_path / "none.jsonl", 3)
    assert not (tmp_path / "none.jsonl").exists()

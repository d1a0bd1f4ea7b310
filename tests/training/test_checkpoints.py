"""Checkpoints as folders: which is whole, which is the latest, and where a log is cut."""

from sparsepo.training.checkpoints import is_complete, latest, mark_complete
from sparsepo.training.logging import keep_until


def test_a_checkpoint_is_whole_only_with_its_mark_its_identity_and_every_byte(tmp_path):
    (tmp_path / "weights").write_bytes(b"12345")
    assert not is_complete(tmp_path, "mine")
    mark_complete(tmp_path, "mine")
    assert is_complete(tmp_path, "mine") and not is_complete(tmp_path, "other")
    (tmp_path / "weights").write_bytes(b"1234")
    assert not is_complete(tmp_path, "mine")
    (tmp_path / "weights").unlink()
    assert not is_complete(tmp_path, "mine")


def test_the_latest_checkpoint_is_the_whole_one_of_the_highest_step(tmp_path, capsys):
    """9 comes before 10; what is not whole, or not of this run, is deleted and said, newer or older."""
    for step, identity in ((9, "mine"), (10, "mine"), (8, "other"), (11, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"12345")
        if identity:
            mark_complete(folder, identity)
    (tmp_path / "dynamics.jsonl").touch()
    assert latest(tmp_path, "mine") == tmp_path / "checkpoint-10"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10", "dynamics.jsonl"}
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [f"{tmp_path}/checkpoint-{step}" for step in (8, 11)]
    assert latest(tmp_path / "nowhere", "mine") is None


def test_a_log_is_cut_after_a_step_and_at_a_half_written_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 3}\n{"step": 5}\n')
    keep_until(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    keep_until(tmp_path / "none.jsonl", 3)
    assert not (tmp_path / "none.jsonl").exists()

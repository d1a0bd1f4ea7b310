"""What the profiles say to Snakemake, and what stops a start in one line."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from sparsepo.runtime.errors import UserError
from sparsepo.workflow import stages
from sparsepo.workflow.stages import check_folder

ROOT = Path(__file__).resolve().parents[2]
BIG = """
rule all:
    input: "score"
rule train:
    output: "weights"
    shell: "head -c 3000000 /dev/zero > {output}"
rule score:
    input: "weights"
    output: "score"
    shell: "cp {input} {output}"
"""


def test_touching_weights_above_a_megabyte_plans_nothing_with_the_profile(snakemake, tmp_path):
    (tmp_path / "Snakefile").write_text(BIG)
    profile = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text(encoding="utf-8"))
    limit = ("--max-checksum-file-size", profile["max-checksum-file-size"])
    done = snakemake(tmp_path, "--cores", 1, *limit)
    assert done.returncode == 0, done.stdout
    later = os.stat(tmp_path / "score").st_mtime + 100
    os.utime(tmp_path / "weights", (later, later))
    assert "Nothing to be done" in snakemake(tmp_path, "-n", *limit).stdout
    assert "rule score" in snakemake(tmp_path, "-n").stdout  # what Snakemake does by itself
    (tmp_path / "weights").write_bytes(b"1" * 3_000_000)
    os.utime(tmp_path / "weights", (later, later))
    assert "rule score" in snakemake(tmp_path, "-n", *limit).stdout


def test_every_profile_compares_weights_of_any_size():
    for path in ROOT.glob("profiles/*/config.yaml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["max-checksum-file-size"] >= 10**12


def test_a_checkout_below_a_folder_with_braces_is_refused_in_one_line(snakemake, tmp_path):
    folder = tmp_path / "a{b}"
    folder.mkdir()
    for name in ("Snakefile", "rules"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    done = snakemake(folder, "-n")
    assert done.returncode != 0 and "takes braces in a path for wildcards" in done.stdout
    assert "Traceback" not in done.stdout


def test_results_that_lead_nowhere_or_cannot_be_written_are_refused(tmp_path, monkeypatch):
    check_folder(tmp_path / "results")  # is not there yet
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="link is a link to .*gone, which is not there"):
        check_folder(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        check_folder(tmp_path / "file")
    monkeypatch.setattr(stages.os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UserError, match="cannot be written"):
        check_folder(tmp_path)

"""A start of the workflow whose config has `tracking`: what it sends in the background, and that it reruns nothing."""

import json
import time

import pytest

WANDB = """
import json, os

class Run:
    id = "x"
    def __init__(self, name): self.name = name
    def write(self, *what):
        with open(os.environ["SENT"], "a") as file: file.write(json.dumps([self.name, *what]) + "\\n")
    def log(self, values, step): self.write(step)
    def log_artifact(self, artifact): self.write(artifact.names)
    def finish(self): self.write("finish")

class Artifact:
    def __init__(self, name, type): self.names = []
    def add_file(self, path): self.names.append(os.path.basename(path))

def Settings(**_): pass
def init(name, **_): return Run(name)
"""

pytestmark = pytest.mark.timeout(900)


def test_tracking_reruns_nothing_and_a_start_sends_curves_and_tables(finished, snakemake, tmp_path, monkeypatch):
    (tmp_path / "packages/wandb").mkdir(parents=True)
    (tmp_path / "packages/wandb/__init__.py").write_text(WANDB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv("SENT", str(tmp_path / "sent.jsonl"))
    config = finished / "config.yaml"
    config.write_text(config.read_text() + "tracking: {report_to: wandb}\n")
    assert "Nothing to be done" in snakemake(finished, "-n").stdout

    done = snakemake(finished, "--cores", "1", "--force", "results/tables/small.csv")
    assert done.returncode == 0, done.stdout
    log, deadline = finished / "logs/tracking.log", time.monotonic() + 60
    while not (rows := read(tmp_path / "sent.jsonl")) or rows[-1] != ["results", "finish"]:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    steps = [row[1] for row in rows if row[0] == "dpo beta=0.1 seed 0"]
    assert steps[0] == 1 and steps[-1] == "finish" and steps[:-1] == sorted(steps[:-1])
    assert ["results", ["small.csv", "small.md", "index.html"]] in rows
    assert {row[0] for row in rows} == {"sft", "dpo beta=0.1 seed 0", "sparsepo_common beta=0.5 seed 0", "results"}
    assert log.read_text() == ""


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

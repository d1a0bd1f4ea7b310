"""The notebook of docs/ on the committed tables of the default run."""

import json
import shutil
from pathlib import Path

import altair

ROOT = Path(__file__).resolve().parents[2]


def test_every_cell_runs_on_the_tables_of_a_finished_run(tmp_path, monkeypatch):
    (tmp_path / "results/tables").mkdir(parents=True)
    for kind in ("grid", "differences"):
        shutil.copy(ROOT / f"docs/results/planted/{kind}.csv", tmp_path / f"results/tables/planted_{kind}.csv")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs/notebooks/results.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            *lines, shown = "".join(cell["source"]).rstrip().split("\n")
            exec("\n".join(lines), names)
            result = eval(shown, names)
            assert isinstance(result, altair.LayerChart) or len(result) > 1

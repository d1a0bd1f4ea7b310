"""What surrounds the workflow does not reach its jobs: variables of a launcher, signs in the path of the checkout."""

import os
import re
import subprocess
from pathlib import Path

PREFIX = Path(__file__).parents[2] / "rules" / "common.smk"
NAMES = "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SPARSEPO_LOG"
LAUNCHER = dict.fromkeys(NAMES, "7")


def test_variables_of_a_launcher_and_brackets_in_the_path_do_not_reach_a_job(tmp_path):
    (line,) = re.findall(r'"(set -.*?; export) ', PREFIX.read_text(encoding="utf-8"))
    for name in ("check[out]", "checko"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "script.sh").write_text(f"echo {name}; env")
    command = f"{line} SCRIPTS={str(tmp_path)!r}/'check[out]'; sh $SCRIPTS/script.sh"
    job = subprocess.run(["bash", "-c", command], env=os.environ | LAUNCHER, capture_output=True, text=True, check=True)
    first, *variables = job.stdout.splitlines()
    assert first == "check[out]" and not [one for one in variables if one.split("=")[0] in LAUNCHER]

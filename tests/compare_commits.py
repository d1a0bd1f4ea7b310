"""Check that two commits compute the same: planned jobs, tables, weights and all other results.

    python tests/compare_commits.py COMMIT_A COMMIT_B --work FOLDER [--only plans|every_stage|default]

Each commit is exported to FOLDER/<commit>/source and run on the CPU with the Python that runs this script:
    plans        `snakemake -n` of every shipped config, from an empty folder
    every_stage  tests/fixtures/every_stage.yaml, which uses every stage and takes some minutes
    default      config.yaml, the whole sweep
What is finished is not run again. With COMMIT_A alone nothing is compared. In place of a commit, the folder
FOLDER/<commit> of an earlier call can be given. The exit code is 1 if anything differs.

Tables and weights are compared byte by byte, numbers in JSON files to 12 digits (an area under a curve may be summed in
another order). Not compared: figures, the HTML report, run.json, and fields that measure time. Use the same --cores for
both commits: on one core SFT trains on one thread instead of two, which changes the last bits of its weights.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("plans", "every_stage", "default")

RENAMED_KEYS = {
    **{"also": "extra_scorers", "wins": "win_rate", "keep": "checkpoint_selection", "warmup": "warmup_ratio"},
    **{"processes": "num_processes", "quantise": "quantization", "opening": "prompt_tokens", "size": "scale"},
    **{"key_variable": "api_key_env", "parallel": "max_concurrency", "epochs": "num_train_epochs"},
    **{"fewshot": "num_fewshot", "schedule": "lr_scheduler_type", "targets": "target_modules"},
    **{"vocabulary": "vocab_size"},
}
"""Config keys, old -> new. every_stage.yaml has the new ones; a commit knows those that are in its JSON schema."""
RENAMED_PARAMETERS = {"initial_zeros": "init_sparsity", "mean": "target_mean", "kinds": "activation_sites"}
"""Parameters of methods, old -> new. A commit knows the new one if its Python files have it in quotes."""
RENAMED_IN_RESULTS = {**RENAMED_KEYS, **RENAMED_PARAMETERS, "code": "pass_at_k"}
"""Words of paths and of texts, old -> new; both sides of a comparison are renamed."""

TIMES = {"seconds", "tokens_per_second"}
NOT_COMPARED = re.compile(r"(^|/)(run|plan)\.json$|\.(svg|png|html)$|/benchmarks/questions/|\.snakemake_timestamp$")


# --- running a commit


def make_results(commit, work, parts, cores):
    """Export a commit and run `parts` of it; returns its folder."""
    if (Path(commit) / "source").is_dir():
        return Path(commit)
    sha = subprocess.check_output(["git", "-C", ROOT, "rev-parse", f"{commit}^{{commit}}"], text=True).strip()
    folder = work.resolve() / sha[:12]
    source = folder / "source"
    if not source.exists():
        source.mkdir(parents=True)
        archive = subprocess.check_output(["git", "-C", ROOT, "archive", sha])
        subprocess.run(["tar", "-x", "-C", source], input=archive, check=True)
    if "plans" in parts and not (folder / "plans.json").exists():
        paths = [path.relative_to(source) for path in [source / "config.yaml", *(source / "configs").rglob("*.yaml")]]
        plans = {str(path): planned_jobs(source, path) for path in paths if "accelerate" not in path.parts}
        (folder / "plans.json").write_text(json.dumps(plans, indent=1))
    every_stage = folder / "every_stage.yaml"
    every_stage.write_text(with_known_keys((ROOT / "tests/fixtures/every_stage.yaml").read_text(), source))
    for part, config in (("every_stage", every_stage), ("default", source / "config.yaml")):
        if part in parts:
            print(f"running {config} in {folder / part}", flush=True)
            snakemake(source, folder / part, config, "--cores", str(cores))
    return folder


def with_known_keys(text, source):
    """A config in new keys, as text, with the old key wherever the commit does not know the new one."""
    schema = (source / "schemas/config.schema.json").read_text()
    code = "".join(path.read_text() for path in (source / "src").rglob("*.py"))
    for names, known in ((RENAMED_KEYS, schema), (RENAMED_PARAMETERS, code)):
        for old, new in names.items():
            text = text if f'"{new}"' in known else re.sub(rf"\b{new}:", f"{old}:", text)
    return text


def planned_jobs(source, config):
    """The output files of each job of a dry run in an empty folder."""
    with tempfile.TemporaryDirectory() as directory:
        for task in yaml.safe_load((source / config).read_text())["tasks"].values():
            for section in (task["data"], task["preferences"]):
                if "path" in section and not section["path"].startswith("configs/"):
                    Path(directory, section["path"]).touch()  # a file that a user brings
        printed = snakemake(source, Path(directory), source / config, "-n")
    blocks = re.findall(r"^(?:local)?rule \w+:\n((?:    .*\n)*)", printed, re.MULTILINE)
    outputs = [re.search(r"^    output: (.*)$", block, re.MULTILINE) for block in blocks]
    return [match[1].split(", ") for match in outputs if match]


def snakemake(source, directory, config, *arguments):
    """Run the workflow of an export in `directory`; returns what it printed."""
    directory.mkdir(exist_ok=True)
    for name, target in (("configs", source / "configs"), ("tests", ROOT / "tests")):  # paths in configs start here
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(target)
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(source / "src")}
    command = [sys.executable, "-m", "snakemake", "-s", source / "Snakefile", "--directory", directory]
    done = subprocess.run(
        [*command, "--configfile", config, *arguments],
        cwd=source,  # Snakemake looks for profiles there
        env={**os.environ, **own, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"{done.stdout[-5000:]}\nsnakemake failed with {config} in {directory}")
    return done.stdout


# --- comparing two commits


def new_names(text):
    """A path or text with old names replaced by new ones, and the parameters of each run sorted again."""
    words = rf"\b({'|'.join(RENAMED_IN_RESULTS)})\b"
    text = re.sub(words, lambda match: RENAMED_IN_RESULTS[match[0]], text)
    text = re.sub(r"[\w.+-]+~[\w.+~-]+", lambda match: "-".join(sorted(re.split(r"-(?=\w+~)", match[0]))), text)
    return re.sub(r"\w+=[\w.+-]+(, \w+=[\w.+-]+)+", lambda match: ", ".join(sorted(match[0].split(", "))), text)


def content(path):
    """What is compared of a file, as a value for `==`."""
    if path.suffix == ".safetensors":
        weights = load_file(path).items()
        return {name: (w.dtype, w.shape, w.flatten().view(torch.uint8).numpy().tobytes()) for name, w in weights}
    if path.suffix not in (".json", ".jsonl", ".csv", ".md", ".tex"):
        return path.read_bytes()
    text = new_names(path.read_text().replace(r"\_", "_"))
    if path.suffix in (".json", ".jsonl"):
        rows = [text] if path.suffix == ".json" else text.rstrip("\n").split("\n") if text else []
        values = [json.loads(row, object_hook=without_times, parse_float=to_12_digits) for row in rows]
        return [json.dumps(value, sort_keys=True) for value in values]
    return re.sub(r"\(settings [0-9a-f]{12}\)", "", text)  # a hash of the config, whose keys may have new names


def to_12_digits(number):
    return float(f"{float(number):.12g}")


def without_times(fields):
    return {key: value for key, value in fields.items() if key not in TIMES}


def result_files(directory):
    """{path below results/, in new names: file}"""
    files = [path for path in (directory / "results").rglob("*") if path.is_file() and path.parent.name != ".checksums"]
    named = {new_names(str(path.relative_to(directory / "results"))): path for path in files}
    return {name: path for name, path in named.items() if not NOT_COMPARED.search(f"/{name}")}


def compare_plans(a, b):
    """Yield (what is checked, differences) for each shipped config."""
    plans = [json.loads((folder / "plans.json").read_text()) for folder in (a, b)]
    yield "plans: the configs of A are in B", sorted(plans[0].keys() - plans[1].keys())
    for config in sorted(plans[0].keys() & plans[1].keys()):
        jobs = [Counter(", ".join(sorted(map(new_names, job))) for job in each[config]) for each in plans]
        yield f"plans: {jobs[0].total()} jobs of {config}", only_in(*jobs) if jobs[0] else ["there are none"]


def compare_results(a, b, part):
    """Yield (what is checked, differences) for the results of a config that was run."""
    files = [result_files(folder / part) for folder in (a, b)]
    yield f"{part}: {len(files[0])} paths", only_in(*map(list, files))
    both = sorted(files[0].keys() & files[1].keys())
    tables = [path for path in both if path.startswith("tables/")]
    weights = [path for path in both if path.endswith(".safetensors")]
    others = [path for path in both if path not in {*tables, *weights}]
    for kind, paths in (("tables", tables), ("files of weights", weights), ("other files", others)):
        different = [path for path in paths if content(files[0][path]) != content(files[1][path])]
        yield f"{part}: {len(paths)} {kind}", different if paths else ["there are none"]


def only_in(a, b):
    """One text for each item that one side has and the other has not."""
    counts = {"A": Counter(a) - Counter(b), "B": Counter(b) - Counter(a)}
    return [f"only in {side}: {item}" for side, count in counts.items() for item in sorted(count.elements())]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit_a")
    parser.add_argument("commit_b", nargs="?")
    parser.add_argument("--work", type=Path, required=True, help="folder for exports and results")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    parts = [options.only] if options.only else PARTS
    commits = [commit for commit in (options.commit_a, options.commit_b) if commit]
    folders = [make_results(commit, options.work, parts, options.cores) for commit in commits]
    checks = []
    if len(folders) == 2:
        checks += compare_plans(*folders) if "plans" in parts else []
        checks += [check for part in parts if part != "plans" for check in compare_results(*folders, part)]
    for name, differences in checks:
        shown = "; ".join(text[:150] for text in differences[:3]) + "; ..." * (len(differences) > 3)
        print(f"DIFFERENT  {name}: {len(differences)}: {shown}" if differences else f"equal      {name}")
    return int(any(differences for _, differences in checks))


if __name__ == "__main__":
    sys.exit(main())

"""A run on several processes: the command that starts it, and what a config may not say of it."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from sparsepo.config import Config
from sparsepo.config.loading import load_config
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.launch import DDP_CONFIG, launch_arguments, python_command
from sparsepo.workflow.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
FSDP = yaml.safe_load((ROOT / "configs/accelerate/fsdp.yaml").read_text())
RUN = "dpo/beta~0.1/seed~0"


def config(section, **settings):
    """The default config with these settings in its section `sft` or `training`."""
    overrides = {f"tasks__planted__{section}__{name}": value for name, value in settings.items()}
    return load_config(ROOT / "config.yaml", {"tasks__planted__training__frontier_every": 0} | overrides)


def refused(section="training", **settings):
    with pytest.raises(UserError) as told:
        config(section, **settings)
    assert "\n" not in str(told.value)
    return str(told.value)


def written(folder, **changed):
    """The shipped config for FSDP, changed, in a file."""
    path = folder / "accelerate.yaml"
    path.write_text(yaml.safe_dump(FSDP | changed))
    return path


# --- the command


def command(**options):
    return Namespace(**{"processes": 2, "machines": 1, "accelerate": None, "script": []} | options)


def test_one_process_is_plain_python():
    stages = Stages(config("training"))
    assert stages.launcher("train_policy", "planted") == stages.launcher("train_sft", "planted") == "python"
    assert stages.num_processes("train_policy", "planted") == 1


def test_several_are_launched_for_the_section_that_asks_for_them(tmp_path):
    path = written(tmp_path).rename(tmp_path / "a name.yaml")
    stages = Stages(config("training", num_processes=4, accelerate=str(path)))
    assert (
        stages.launcher("train_policy", "planted")
        == f"python -m sparsepo.runtime.launch --processes 4 --accelerate '{path}'"
    )
    assert (stages.num_processes("train_policy", "planted"), stages.num_processes("train_sft", "planted")) == (4, 1)
    assert stages.launcher("train_sft", "planted") == "python"
    assert python_command(2, 1, None) == "python -m sparsepo.runtime.launch --processes 2"
    assert python_command(8, 2, None) == "python -m sparsepo.runtime.launch --processes 8 --machines 2"


def test_a_task_without_fine_tuning_makes_its_reference_on_one_process(tmp_path):
    plain = yaml.safe_load((ROOT / "config.yaml").read_text())
    task = plain["tasks"]["planted"] | {"sft": None, "model": {"source": "hub", "id": "a/b"}}
    made = Stages(Config.model_validate({"name": "x", "tasks": {"planted": task}}))
    assert (made.num_processes("train_sft", "planted"), made.launcher("train_sft", "planted")) == (1, "python")


@pytest.mark.parametrize("threads, each", [(8, "4"), (2, "1"), (1, "1")])
def test_accelerate_gets_a_free_port_of_this_machine_and_processes_share_the_threads(threads, each):
    found = launch_arguments(command(script=["train.py", "--seed", "1"]), threads)
    asked = dict(zip(found[:-3:2], found[1:-3:2], strict=True))
    assert found[-3:] == ["train.py", "--seed", "1"]
    assert (asked["--main_process_ip"], asked["--main_process_port"]) == ("127.0.0.1", "0")
    assert (asked["--num_processes"], asked["--num_cpu_threads_per_process"]) == ("2", each)
    assert asked["--config_file"] == str(DDP_CONFIG)
    assert asked["--mixed_precision"] == "no"  # precision is our own config's


def test_processes_share_the_threads_that_snakemake_gives_the_job(tmp_path):
    (tmp_path / "show.py").write_text("import os, torch; print(os.environ['RANK'], torch.get_num_threads())")
    threads = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}  # as Snakemake sets them
    launcher = [sys.executable, "-m", "sparsepo.runtime.launch", "--processes", "2", str(tmp_path / "show.py")]
    found = subprocess.run(launcher, capture_output=True, text=True, env=os.environ | threads, check=True)
    assert sorted(found.stdout.split("\n")) == ["", "0 1", "1 1"]


def test_each_machine_starts_its_share_and_all_meet_at_the_first():
    found = launch_arguments(command(processes=8, machines=2), 16, 1, "10.0.0.5", 4711)
    asked = dict(zip(found[::2], found[1::2], strict=True))
    assert (asked["--num_processes"], asked["--num_machines"], asked["--machine_rank"]) == ("8", "2", "1")
    assert (asked["--main_process_ip"], asked["--main_process_port"]) == ("10.0.0.5", "4711")
    assert asked["--num_cpu_threads_per_process"] == "4"  # 16 threads of this machine for its 4 processes


def test_a_job_on_several_machines_asks_slurm_for_one_task_and_as_many_gpus_on_each_node():
    stages = Stages(config("training", num_processes=4, num_machines=2))
    asked = {"nodes": 2, "tasks": 2, "tasks_per_gpu": 0, "gres": "gpu:2", "mpi": "srun"}
    assert stages.slurm_resources("train_policy", "planted") == asked
    assert stages.slurm_resources("train_sft", "planted") == {}
    assert (stages.num_processes("train_policy", "planted"), stages.threads("train_policy", "planted")) == (4, 2)
    assert stages.sections_on_several_machines() == ["tasks.planted.training"]


def test_several_machines_without_slurm_are_an_error_of_the_launcher():
    launcher = [sys.executable, "-m", "sparsepo.runtime.launch", "--processes", "2", "--machines", "2", "x.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    found = subprocess.run(launcher, capture_output=True, text=True, env=environment)
    told = "error: num_machines: 2 needs a job of Slurm: snakemake --workflow-profile profiles/slurm\n"
    assert (found.returncode, found.stderr) == (1, told)


def test_no_setting_of_the_users_own_accelerate_config_takes_part():
    assert yaml.safe_load(DDP_CONFIG.read_text())["distributed_type"] == "MULTI_GPU"
    assert launch_arguments(command(accelerate=Path("mine.yaml")), 2)[:2] == ["--config_file", "mine.yaml"]


# --- what is compared


def test_what_an_accelerate_config_says_is_a_setting_and_its_comments_are_not(tmp_path):
    def settings(**changed):
        stages = Stages(config("training", num_processes=2, accelerate=str(written(tmp_path, **changed))))
        return stages.settings("train_policy", "planted", RUN)

    first = settings()
    path = written(tmp_path)
    path.write_text("# a comment\n" + path.read_text())
    assert (
        Stages(config("training", num_processes=2, accelerate=str(path))).settings("train_policy", "planted", RUN)
        == first
    )
    assert settings(fsdp_config=FSDP["fsdp_config"] | {"fsdp_reshard_after_forward": False}) != first


# --- what is refused


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("section", ["sft", "training"])
def test_every_shipped_accelerate_config_is_taken(section, path):
    config(section, num_processes=2, accelerate=str(path))


def test_processes_must_divide_the_batch():
    assert refused(num_processes=3).endswith("processes: must divide batch_size (16), not 3")
    assert "sft.num_processes: must divide batch_size (32), not 5" in refused("sft", num_processes=5)


def test_machines_must_divide_the_processes():
    told = "training.num_machines: must divide num_processes (4), not 3"
    assert refused(num_processes=4, num_machines=3).endswith(told)


def test_an_accelerate_config_that_cannot_be_read_is_told(tmp_path):
    assert f"{tmp_path}/none.yaml: no such file" in refused(num_processes=2, accelerate=str(tmp_path / "none.yaml"))
    for text in ("{", "- a", "", "\0"):
        (tmp_path / "bad.yaml").write_text(text)
        assert "bad.yaml: not a mapping in YAML" in refused(num_processes=2, accelerate=str(tmp_path / "bad.yaml"))
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: not a file but a pipe" in refused(num_processes=2, accelerate=str(tmp_path / "pipe"))


@pytest.mark.parametrize(
    "processes, changed, told",
    [
        (1, {}, "is for several processes: give num_processes (how many) too"),
        (2, {"num_processes": 8}, "says num_processes: 8, and num_processes is 2"),
        (2, {"num_machines": 2}, "says num_machines: 2, and num_machines is 1: leave it out there"),
        (2, {"distributed_type": "MEGATRON_LM"}, "distributed_type must be one of MULTI_GPU, FSDP, DEEPSPEED"),
        (2, {"fsdp_config": FSDP["fsdp_config"] | {"fsdp_version": 1}}, "must say fsdp_version: 2"),
        (
            2,
            {"fsdp_config": FSDP["fsdp_config"] | {"fsdp_cpu_ram_efficient_loading": True}},
            "must say fsdp_cpu_ram_efficient_loading: false",
        ),
        (
            2,
            {"fsdp_config": FSDP["fsdp_config"] | {"fsdp_activation_checkpointing": True}},
            "write gradient_checkpointing: true in the config instead",
        ),
    ],
)
def test_an_accelerate_config_that_does_not_fit_is_told(tmp_path, processes, changed, told):
    path = written(tmp_path, **changed)
    message = refused(num_processes=processes, accelerate=str(path))
    assert told in message and f"training.accelerate: {path}" in message


@pytest.mark.parametrize("name", ["fsdp", "zero3"])
def test_what_sharded_weights_cannot_do_is_told(name):
    path = str(ROOT / f"configs/accelerate/{name}.yaml")
    assert "write frontier_every: 0" in refused(num_processes=2, accelerate=path, frontier_every=5)
    assert "an adapter cannot be trained with" in refused(num_processes=2, accelerate=path, adapter={"rank": 2})
    assert "compiled blocks cannot be sharded" in refused(num_processes=2, accelerate=path, compile=True)


def test_only_stage_3_of_deepspeed_shards_weights():
    best = {"num_processes": 2, "checkpoint_selection": "best", "validate_every": 5}
    assert "ZeRO-3 cannot restore" in refused(accelerate=str(ROOT / "configs/accelerate/zero3.yaml"), **best)
    config("training", accelerate=str(ROOT / "configs/accelerate/zero2.yaml"), frontier_every=5, **best)

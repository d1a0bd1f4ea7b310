"""The key `policy` in the workflow: which jobs it adds, and who reads the model that it names."""

import re

import pytest
import yaml

RUN = "dpo/beta~0.1/seed~0"
OTHER = {"source": "hub", "id": "owner/model-125m"}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def jobs(tiny, unfinished, snakemake):
    """(policy or None) -> the jobs of a dry run, {rule: [lines of what is printed of it]}, and all that is printed."""

    def planned(policy, *arguments):
        config = yaml.safe_load(tiny)
        own = {} if policy is None else {"policy": policy}
        config["tasks"]["small"] |= own
        config["tasks"]["plain"] = yaml.safe_load(tiny)["tasks"]["small"]
        (unfinished / "config.yaml").write_text(yaml.safe_dump(config))
        done = snakemake(unfinished, "-n", "-p", *arguments)
        found = {}
        for rule, block in re.findall(r"^rule (\w+):\n((?:    .*\n)*(?:Shell command: .*\n)?)", done.stdout, re.M):
            found.setdefault(rule, []).append(block)
        return found, done

    return planned


def test_the_start_is_loaded_once_where_the_key_is_and_read_by_the_policies_of_the_task(jobs):
    without, with_key = jobs(None)[0], jobs(OTHER)[0]
    assert {rule: len(blocks) for rule, blocks in with_key.items()} == {"load_policy": 1} | {
        rule: len(blocks) for rule, blocks in without.items()
    }
    (load,) = with_key["load_policy"]
    assert "results/small/start/run.json" in load and OTHER["id"] in load
    for block in with_key["train_policy"]:
        starts = "--policy results/small/start" in block
        assert starts == ("wildcards: task=small" in block)
    commands = {re.search("Shell command: .*", block)[0] for block in without["train_policy"]}
    assert not any("--policy" in command for command in commands)
    assert commands > {re.search("Shell command: .*", each)[0] for each in with_key["train_policy"] if "=plain" in each}
    for rule in set(without) - {"train_policy", "build_report"}:
        assert not any("results/small/start" in block for block in with_key[rule])


def test_a_start_that_the_config_does_not_name_cannot_be_asked_for(jobs):
    _, done = jobs(OTHER, "results/plain/start/run.json")
    assert done.returncode != 0 and "MissingRuleException" in done.stdout

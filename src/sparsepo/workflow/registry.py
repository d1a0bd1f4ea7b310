"""The stages of the workflow, one row each.

The name of a stage is also that of
    its rule                 in rules/
    its script               workflow_scripts/NAME.py
    its settings             NameSettings in workflow/settings.py
    its logs                 logs/TASK/NAME.log, or logs/TASK/NAME/ITEM.log where a task has several jobs of it
    its code version         `Stages.code_version`
    its memory and run time  TaskNeeds in workflow/resources.py, unless they are fixed here
    what the monitor shows   `WATCHED` in monitor/plan_file.py, if anything
A new stage is a row here, a rule and a script. A stage `like` another one is that stage on other files: its rule is
derived from the other's rule, and it runs the other's script.
"""

from dataclasses import dataclass
from typing import Literal

from sparsepo.config import TaskConfig
from sparsepo.config.training import OptimisationConfig
from sparsepo.workflow import settings


@dataclass(frozen=True)
class Stage:
    """A row of the table.

    settings: what its script reads of the config.
    like: the stage that it is another case of, whose script it runs.
    trains: the section of the config with the number of processes that share a job, each on a GPU, and of their
        machines; else it is one of each.
    threads: of the CPU, unless the config gives `resources.threads` for a stage that runs a model.
    mem_mb, runtime (minutes): of a job whose memory and run time do not depend on the model.
    """

    settings: type[settings.StageSettings]
    like: str | None = None
    trains: Literal["sft", "training"] | None = None
    threads: int = 1
    mem_mb: int | None = None
    runtime: int | None = None

    @property
    def fixed_resources(self) -> dict[str, int]:
        fixed = {"mem_mb": self.mem_mb, "runtime": self.runtime}
        return {name: value for name, value in fixed.items() if value is not None}

    def trained_section(self, task: TaskConfig) -> OptimisationConfig | None:
        """The section of a task that says how this stage trains; None where it does not."""
        return getattr(task, self.trains) if self.trains else None

    def num_processes(self, task: TaskConfig) -> int:
        return getattr(self.trained_section(task), "num_processes", 1)

    def num_machines(self, task: TaskConfig) -> int:
        return getattr(self.trained_section(task), "num_machines", 1)


_TABLE_OR_FIGURE = {"mem_mb": 2000, "runtime": 20}

STAGES: dict[str, Stage] = {
    "prepare_data": Stage(settings.PrepareDataSettings, mem_mb=4000, runtime=30),
    "fit_scorer": Stage(settings.FitScorerSettings, mem_mb=4000, runtime=30),
    "train_sft": Stage(settings.TrainSftSettings, trains="sft", threads=2),
    "load_policy": Stage(settings.LoadPolicySettings, like="train_sft", threads=2),
    "build_preferences": Stage(settings.BuildPreferencesSettings, threads=2),
    "cache_reference": Stage(settings.CacheReferenceSettings),
    "train_oracle_sft": Stage(settings.TrainSftSettings, like="train_sft", trains="sft", threads=2),
    "select_oracle_pairs": Stage(settings.SelectOraclePairsSettings, mem_mb=4000, runtime=30),
    "train_oracle": Stage(settings.TrainPolicySettings, like="train_policy", trains="training"),
    "train_swapped_oracle": Stage(settings.TrainPolicySettings, like="train_policy", trains="training"),
    "score_tokens": Stage(settings.ScoreTokensSettings),
    "train_together": Stage(settings.TrainTogetherSettings),
    "train_policy": Stage(settings.TrainPolicySettings, trains="training"),
    "build_round_pairs": Stage(settings.BuildRoundPairsSettings),
    "train_round": Stage(settings.TrainRoundSettings, like="train_policy", trains="training"),
    "finish_rounds": Stage(settings.StageSettings, mem_mb=1000, runtime=20),
    "train_on_policy": Stage(settings.TrainOnPolicySettings),
    "sample_responses": Stage(settings.SampleResponsesSettings),
    "sample_generations": Stage(settings.SampleGenerationsSettings, like="sample_responses"),
    "sample_programs": Stage(settings.SampleProgramsSettings),
    "evaluate_run": Stage(settings.EvaluateRunSettings),
    "measure_summaries": Stage(settings.MeasureSummariesSettings),
    "measure_win_rate": Stage(settings.MeasureWinRateSettings),
    "measure_benchmarks": Stage(settings.MeasureBenchmarksSettings),
    "measure_pass_at_k": Stage(settings.MeasurePassAtKSettings, threads=2, mem_mb=4000),
    "make_grid_table": Stage(settings.MakeGridTableSettings, **_TABLE_OR_FIGURE),
    "make_matched_kl_table": Stage(settings.MakeMatchedKlTableSettings, **_TABLE_OR_FIGURE),
    "make_auc_table": Stage(settings.MakeAucTableSettings, **_TABLE_OR_FIGURE),
    "compare_methods": Stage(settings.CompareMethodsSettings, **_TABLE_OR_FIGURE),
    "plot_frontier": Stage(settings.StageSettings, **_TABLE_OR_FIGURE),
    "plot_diversity": Stage(settings.StageSettings, **_TABLE_OR_FIGURE),
    "plot_temperatures": Stage(settings.StageSettings, **_TABLE_OR_FIGURE),
    "plot_dynamics": Stage(settings.StageSettings, **_TABLE_OR_FIGURE),
    "plot_tokens": Stage(settings.StageSettings, **_TABLE_OR_FIGURE),
    "plot_token_comparison": Stage(settings.StageSettings, **_TABLE_OR_FIGURE),
    "plot_selection": Stage(settings.PlotSelectionSettings, **_TABLE_OR_FIGURE),
    "plot_rounds": Stage(settings.PlotRoundsSettings, **_TABLE_OR_FIGURE),
    "build_report": Stage(settings.BuildReportSettings, mem_mb=4000, runtime=60),
}
"""By name, in the order in which they run."""

"""Write the page that shows the results of a sweep: one file of HTML."""

from sparsepo.report.html.build import write_page
from sparsepo.report.html.task_results import TaskResults
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import BuildReportSettings, ReportTask


def task_arguments(task: ReportTask) -> dict:
    """What `TaskResults` takes of a task."""
    runs = [f"{point}/seed~{seed}" for point in task.points for seed in task.config["seeds"]]
    return {"runs": runs, "parts": task.measures, "config": task.config, "compare": task.compare.as_dict()}


def main() -> None:
    options = stage_parser(__doc__, BuildReportSettings, "results out").parse_args()
    settings, logs = options.settings, options.results.parent / "logs"
    tasks = [TaskResults(name, options.results, logs, **task_arguments(task)) for name, task in settings.tasks.items()]
    write_page(settings.name, settings.version, tasks, options.out)


if __name__ == "__main__":
    run_main(main)

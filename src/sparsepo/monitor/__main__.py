"""`python -m sparsepo.monitor results/`."""

from sparsepo.monitor.cli import main
from sparsepo.runtime.entry_point import run_main

run_main(main)

"""`python -m sparsepo.monitor results/`."""

from sparsepo.monitor.cli import main
from sparsepo.runtime.errors import run

run(main)

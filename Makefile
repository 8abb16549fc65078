# make demo: install, then the main job on the corpus that ships. make test: install, lint, tests.
PYTHON ?= python3
VENV := .venv
RUN := runs/demo
# The demo's batch of 24 windows divides over these numbers of devices: all of them, or the most that fit.
RANKS = $(shell $(VENV)/bin/python -c 'from deepspeed.accelerator import get_accelerator; n = get_accelerator().device_count(); print(max(r for r in (1, 2, 3, 4, 6, 8, 12, 24) if r <= max(n, 1)))' | tail -n 1)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export TOKENIZERS_PARALLELISM ?= true

.PHONY: demo test lint install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else f"moenda needs Python 3.10 or newer; $(PYTHON) is {v[0]}.{v[1]}. Run: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Each line is a command of the README; a run that was interrupted goes on where it was.
demo: install
	python -m data_prep run data_prep/recipes/demo.json
	deepspeed --num_accelerators $(RANKS) trainer/train.py --config ds_configs/smoke_cpu.json
	python -m trainer report $(RUN)
	@test -d $(RUN)/export || python -m trainer export $(RUN)
	python -m trainer generate $(RUN)/export --prompt "Alice was" --prompt "My fellow citizens," --max-new-tokens 60
	@echo "corpus report   corpora/demo/report.html"
	@echo "loss plot       $(RUN)/loss.png"
	@echo "exported model  $(RUN)/export"

lint: install
	ruff check .
	ruff format --check .

# First what one process tests, a test per core at a time; then jobs of several processes, one after the other.
test: lint
	OMP_NUM_THREADS=1 python -m pytest tests/unit tests/test_import_rules.py -n auto --maxprocesses 8
	python -m pytest --ignore tests/unit --ignore tests/test_import_rules.py

# Keeps corpora/ and runs/: they are yours.
clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .hypothesis

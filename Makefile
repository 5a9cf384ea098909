# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
OUT ?= runs/demo
# One process a core, a thread each; a module's tests share what it trains, so they stay together.
PARALLEL = --numprocesses auto --maxprocesses 8 --dist loadfile

.PHONY: demo test test-core test-llm test-ope lint

demo: $(VENV)/.ready
	$(VENV)/bin/sepsis-gym demo --out $(OUT)

test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest $(PARALLEL)

# The environments on the newest Gymnasium, with nothing heavy installed.
test-core: $(VENV)-core/.ready
	OMP_NUM_THREADS=1 $(VENV)-core/bin/python -m pytest $(PARALLEL) tests/sepsis_gym tests/evaluation

# The LLM agent against a real vLLM server (CPU build, an environment of its own).
test-llm: $(VENV)/.ready-dev
	PYTHON=$(PYTHON) tests/with_vllm.sh $(VENV)-vllm $(VENV)/bin/python -m pytest -m llm_server

# The estimators against scope-rl, which pins old packages: it is put beside them, not among them.
test-ope: $(VENV)-scope/.ready
	PYTHONPATH=$(VENV)-scope $(VENV)/bin/python -m pytest tests/evaluation/test_scope_rl.py

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[all]"
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

$(VENV)-core/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-core
	$(VENV)-core/bin/pip install --quiet --upgrade --editable . gymnasium pytest pytest-xdist hypothesis
	touch $@

$(VENV)-scope/.ready: $(VENV)/.ready-dev
	$(VENV)/bin/pip install --quiet --no-deps --target $(VENV)-scope scope-rl==0.2.1 seaborn \
		hydra-core omegaconf antlr4-python3-runtime==4.9.3 pytorch-revgrad==0.2.0
	touch $@

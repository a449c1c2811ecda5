# `make tour` and `make test` need only Python 3.11 or newer: both make .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup tour test test-quick test-engines coverage lint bench bench-quick docs clean help

help:  ## Show what there is to make.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## Make .venv with Aljava and all that its tests need.

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Aljava needs Python 3.11 or newer; say which one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

tour: $(READY)  ## Take a table through all that Aljava does. TOUR='my.parquet --html tour.html' for your own.
	$(BIN)/aljava tour $(TOUR)

test: $(READY)  ## Run all tests.
	$(BIN)/python -m pytest -n 2 $(TEST)

test-quick: $(READY)  ## Run the tests that take seconds.
	$(BIN)/python -m pytest -n 2 -m 'not long' $(TEST)

test-engines: $(READY)  ## Install Ray and PyTorch, and run the tests that need them.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cluster,torch]'
	$(BIN)/python -m pytest -m 'ray or torch' $(TEST)
	$(BIN)/python -m pytest tests/test_docs.py -k 'engines or pytorch'

coverage: $(READY)  ## Run all tests, and say which lines none of them reaches.
	rm -f .coverage .coverage.*
	PYTHONPATH=$(CURDIR)/tests/covering $(BIN)/coverage run -m pytest -n 2 $(TEST); tests=$$?; \
		$(BIN)/python -m tests.coverage_data && $(BIN)/coverage combine --quiet && \
		$(BIN)/coverage report --show-missing --skip-covered && exit $$tests

lint: $(READY)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## Measure against the peers that are installed (50 minutes). ONLY=store/put-8kB for one scenario.
	$(BIN)/python -m bench $(if $(ONLY),--only '$(ONLY)') $(BENCH)

bench-quick: $(READY)  ## Run the benchmarks on small data, to see that they work (5 minutes).
	$(BIN)/python -m bench --quick $(if $(ONLY),--only '$(ONLY)') $(BENCH)

docs: $(READY)  ## Build the documentation into site/; warnings are errors.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:  ## Remove what the other targets made.
	rm -rf $(VENV) build dist site .coverage* .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

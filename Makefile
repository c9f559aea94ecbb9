# The two commands of the README: `make demo` and `make test`. Everything runs in .venv.
# PYTHON=… chooses the interpreter; TORCH_INDEX=… takes torch from another index (a CPU-only or an
# older CUDA build, such as https://download.pytorch.org/whl/cpu). Tests run side by side, one for
# each core and at most four; JOBS=0 runs them one after another.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
BIN := .venv/bin
JOBS ?= $(shell $(PYTHON) -c 'import os; n = min(4, os.cpu_count() or 1); print(n if n > 1 else 0)')

.DEFAULT_GOAL := env
.PHONY: env demo test check format docs bench constraints clean

env:  ## the environment, made once; says nothing when it is there
	@test -n "$(PYTHON)" || { echo "lora-tui needs CPython 3.11 or newer (with venv). Install it, or give PYTHON=/path/to/python3." >&2; exit 1; }
	@TORCH_INDEX="$(TORCH_INDEX)" $(PYTHON) scripts/environment.py

demo: env  ## a real training run on the starter, and pictures with and without its LoRA
	@$(BIN)/lora-tui demo $(ARGS)

test: env  ## every test that needs neither a GPU nor hours; ARGS="-k name" chooses
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: env  ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: env  ## what `make check` would complain of and a tool can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: env  ## the generated pages
	@$(BIN)/lora-tui recipe options --markdown > docs/recipe.md
	@$(BIN)/python -m shared.wire_page docs/wire.md

bench: env  ## the figures; ARGS="NAME…" chooses
	@$(BIN)/python -m bench.run $(ARGS)

constraints: env  ## constraints.txt from what .venv has
	@$(BIN)/python scripts/constraints.py > constraints.new && mv constraints.new constraints.txt

clean:  ## remove the environment and every cache of the tools
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

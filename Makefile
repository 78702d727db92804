# make demo: train a model from scratch for ten minutes, and draw numbers with it.    make test: all checks.
# Both install what they need into .venv. Elsewhere: make demo PYTHON=python3.12 ARGS="--minutes 3"
# make bench: speed and memory beside other libraries, in .venv-bench (6 GB).

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
WORKERS ?= 2
bin := .venv/bin
install := $(bin)/python -m pip install --disable-pip-version-check -c constraints.txt

# The pinned pyright is the one wanted: it need not look for a newer.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: demo test lint bench clean

demo: .venv/base
	$(bin)/phin demo $(ARGS)

test: lint
	$(bin)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: .venv/dev
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/pyright --pythonpath $(bin)/python

bench: .venv-bench/made
	.venv-bench/bin/python benchmarks/peers.py $(ARGS)

clean:
	rm -rf .venv .venv-bench

$(bin)/pip:
	$(if $(PYTHON),,$(error Phin needs Python 3.11 or newer; say where it is: make PYTHON=/path/to/python3.11))
	$(PYTHON) -m venv .venv

.venv/base: pyproject.toml constraints.txt | $(bin)/pip
	$(install) -e .
	touch $@

.venv/dev: pyproject.toml constraints.txt | $(bin)/pip
	$(install) -e '.[dev]'
	touch .venv/base $@

.venv-bench/made: pyproject.toml constraints-bench.txt
	$(if $(PYTHON),,$(error Phin needs Python 3.11 or newer; say where it is: make PYTHON=/path/to/python3.11))
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --disable-pip-version-check -c constraints-bench.txt -e '.[bench]'
	touch $@

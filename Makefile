# Needs Python >= 3.11 and make. Each target sets .venv up by itself; only the first call takes long.
#
#   make demo    analyses the standard library on a farm of two nodes, then renders a picture
#   make test    all tests on one Python, the important ones on every other Python >= 3.11 of this machine
#   make check   lint, format, types, layers, sizes
#   make bench   measures Farmhand against concurrent.futures
#
# PYTHON=/path/to/python3.12 chooses the interpreter, ARGS="-k window" goes to pytest or to the command.

PYTHON ?=
ifeq ($(strip $(PYTHON)),)
PYTHON := $(shell for name in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v "$$name"; break; }; done)
endif
ifeq ($(strip $(PYTHON)),)
$(error No Python >= 3.11 with venv was found; set PYTHON=/path/to/it)
endif

VENV_PYTHON := .venv/bin/python
ARGS ?=

.PHONY: demo test check bench venv clean

demo: venv
	.venv/bin/farmhand demo $(ARGS)

test: venv
	"$(PYTHON)" tools/matrix.py $(ARGS)

check: venv
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) -c 'from importlinter.cli import lint_imports_command as check; check()'
	$(VENV_PYTHON) tools/sizes.py src tests tools examples

bench: venv
	.venv/bin/farmhand bench $(ARGS)

venv:
	@"$(PYTHON)" tools/environment.py .venv

clean:
	rm -rf .venv .venv-* .test-results .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist

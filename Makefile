# Two commands: `make demo` shows the program, `make test` passes its tests.
# PIP takes extra options, e.g. PIP="--extra-index-url https://download.pytorch.org/whl/cpu"
# for a torch without CUDA on a machine that has no GPU.
PYTHON ?= python3
PIP ?=
READY := .venv/.ready

.PHONY: demo test soak lint wheel clean

demo: $(READY)
	.venv/bin/rwkv-tune demo $(ARGS)

test: $(READY)
	.venv/bin/python -m pytest $(ARGS)

# What hundreds of runs and 100,000 inputs show; outside `make test`, which is to be quick.
soak: $(READY)
	.venv/bin/python -m pytest -m soak $(ARGS)

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

wheel: $(READY)
	.venv/bin/pip wheel --no-deps --wheel-dir dist .

# Stale when what is installed may have changed; the old environment is made anew, never mended.
$(READY): pyproject.toml constraints.txt
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check $(PIP) -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Two commands: `make demo` shows the program, `make test` passes its tests.
# PIP takes extra options, e.g. PIP="--extra-index-url https://download.pytorch.org/whl/cpu"
# for a torch without CUDA on a machine that has no GPU.
PYTHON ?= python3
PIP ?=
READY := .venv/.ready

.PHONY: demo test soak gpu-check gpu-wheels messages lint wheel clean

demo: $(READY)
	.venv/bin/rwkv-tune demo $(ARGS)

test: $(READY)
	.venv/bin/python -m pytest $(ARGS)

# What hundreds of runs, 100,000 inputs and the whole demo show; outside `make test`, which is to be quick.
# Its tests are long and few: the worker that has done its half takes over some of the other's.
soak: $(READY)
	.venv/bin/python -m pytest -m soak --dist worksteal $(ARGS)

# On a machine with an NVIDIA GPU, without network: what no other machine can test, then, whatever came of
# that, the measurements that docs/performance.md lacks, as JSON in gpu-check/. It needs an environment that is
# there already, with a CUDA build of torch, this package's test extra, and for Triton gcc and Python's headers
# (python3-dev); nvcc for the CUDA operator and the packages that bench/peers.py names are used if they are
# there. GPU_PYTHON=python3 takes another one.
# Where there is network, `make gpu-wheels` collects what the environment needs (several GB, with torch's CUDA);
# there: python3 -m venv .venv && .venv/bin/pip install --no-index --find-links gpu-wheels 'rwkv-tune[test]'
GPU_PYTHON ?= .venv/bin/python
gpu-check:
	$(GPU_PYTHON) -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else f'torch {torch.__version__} finds no GPU')"
	rm -f gpu-check/failed
	mkdir -p gpu-check
	$(GPU_PYTHON) -m pytest -o addopts= -m gpu tests/ops/test_gpu.py tests/emulated tests/train/several || touch gpu-check/failed
	-$(GPU_PYTHON) -m bench.wkv --recurrence wkv7 --dtype bf16 --batch 1 8 --steps 1024 --heads 32 --peers --rounds 20 --json gpu-check/wkv7.json
	-$(GPU_PYTHON) -m bench.wkv --recurrence wkv6 --dtype bf16 --batch 1 8 --steps 1024 --heads 32 --peers --rounds 20 --json gpu-check/wkv6.json
	-$(GPU_PYTHON) -m bench.step --size 1.5B --batch 8 --grad-cp 0 1 --parts auto torch --rounds 10 --json gpu-check/step.json
	-$(GPU_PYTHON) -m bench.step --size 0.1B 0.4B 1.5B 3B 7B --version x060 x070 --quant none int8 nf4 --grad-cp 1 --json gpu-check/memory.json
	-$(GPU_PYTHON) -m bench.load --size 1.5B --json gpu-check/load.json
	test ! -e gpu-check/failed

gpu-wheels:
	$(PYTHON) -m pip wheel --quiet -c constraints.txt --wheel-dir gpu-wheels '.[test]'

# The sentences of the sources into the catalogues, and these into what gettext reads.
messages: $(READY)
	.venv/bin/python -m docs.messages

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
	rm -rf .venv dist build gpu-check gpu-wheels .mypy_cache .ruff_cache .pytest_cache .hypothesis

# make demo                     install what is missing, once, then run the main job on a simulated shop
# make demo DATA=PATH           the same job on the UCI Online Retail file
# make test                     the tests            make test-all   with the slow ones
# make lint                     ruff and mypy        make bench [ONLY=name]   the benchmarks
# make install [GPU=1]          only install; GPU=1 builds Horovod with NCCL

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
GPU    ?= 0
READY  := $(VENV)/ready-gpu$(GPU)
OUT    ?= out

.PHONY: demo test test-all lint bench install lock wheel clean
.DEFAULT_GOAL := demo

install: $(READY)

$(READY): cluster/requirements.lock cluster/horovod/build.sh cluster/horovod/cxx cluster/horovod/check.py pyproject.toml
	@cluster/check_machine.sh $(PYTHON)
	@echo "installing into $(VENV): about 6 GB, 2 to 15 minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@grep -v '^horovod==' cluster/requirements.lock > $(VENV)/requirements.lock
	@# Every rank and Spark worker is a new Python; where the machine keeps it from caching what it compiles, as container
	@# images do, each would compile torch's and the other packages' sources again.
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --compile-bytecode -r $(VENV)/requirements.lock
	@GPU=$(GPU) cluster/horovod/build.sh $(BIN)/python
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps -e .
	@$(BIN)/python cluster/horovod/check.py
	@touch $@

demo: install
	@$(BIN)/millrace demo $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

test: install
	@$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: install
	@$(BIN)/python -m pytest

lint: install
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --no-cache --check .
	@$(BIN)/mypy

bench: install
	@$(BIN)/python benchmarks/run.py $(ONLY)

wheel: install
	@$(BIN)/python -m build --wheel --outdir dist .

lock: install
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 \
	    --no-emit-index-url --no-annotate --no-header --constraint cluster/requirements.lock -o cluster/requirements.lock

clean:
	rm -rf $(OUT) build dist *.egg-info

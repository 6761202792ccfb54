# make demo                     install what is missing, once, then run the main job on a simulated shop
# make demo DATA=PATH           the same job on the UCI Online Retail file
# make demo TASK=NAME [DATA=..]  another task: `millrace tasks` lists them
# make test [ONLY=path]         the tests            make test-all   with the slow ones
# make test LINE=legacy         the tests on another line of versions (newest, current, legacy: docs/platforms.md)
# make lint                     ruff and mypy        make bench [ONLY=name]   the benchmarks
# make install [GPU=1]          only install; GPU=1 builds Horovod with NCCL, and the environment keeps it so
# make lock                     the locks of all lines, from pyproject.toml and cluster/lines/*.in

LINES           := newest current legacy
LINE            ?= newest
# The Pythons of each line; the first that is found is taken, or PYTHON=... if it is one of these.
PYTHONS-newest  := 3.13 3.12 3.11
PYTHONS-current := 3.12 3.11
PYTHONS-legacy  := 3.11
PYTHON          ?=
# What is run of the other lines where the time does not suffice for all: loader, tables, the main job, and those of the
# Spark functions that it does not ask for, one of each kind.
AWKWARD         := tests/training/test_awkward_tables.py::test_table_equals_sparks
PART            := tests/training/test_pool.py tests/training/test_reader.py '$(AWKWARD)[deleted]' '$(AWKWARD)[mapped_by_name]' \
                   tests/jobs/test_tables.py tests/test_end_to_end.py::test_the_main_job_end_to_end \
                   $(patsubst %,tests/spark_udfs/test_%.py,clicked panel rows scoring sequences texts top_k windows)

ifeq ($(filter $(LINE),$(LINES)),)
$(error LINE=$(LINE) is none of $(LINES))
endif

VENV   := .venv$(if $(filter-out newest,$(LINE)),-$(LINE))
BIN    := $(VENV)/bin
LOCK   := cluster/lines/$(LINE).lock
# An environment stays as it was installed, with NCCL or without, until it is asked for the other.
GPU    ?= $(if $(wildcard $(VENV)/ready-gpu1),1,0)
READY  := $(VENV)/ready-gpu$(GPU)
OUT    ?= out

.PHONY: demo test test-all test-part lint bench install lock wheel clean
.DEFAULT_GOAL := demo

# One at a time into an environment: the second waits, and then finds it done.
install:
	@flock -n $(LOCK:.lock=.in) true || echo "another installation is running here; waiting for its end"
	@flock $(LOCK:.lock=.in) $(MAKE) -s $(READY)
	$(if $(filter install,$(MAKECMDGOALS)),@echo "installed. To run: . $(BIN)/activate and then millrace; or $(BIN)/millrace")

# An environment whose Python has gone, as with an upgrade of the system's, is not ready, whatever its mark says.
ifneq ($(shell $(BIN)/python -c 'print("runs")' 2>/dev/null),runs)
.PHONY: $(READY)
endif

$(READY): $(LOCK) cluster/lines/torn_packages.py cluster/horovod/build.sh cluster/horovod/cxx cluster/horovod/check.py pyproject.toml
	@python="$$(PYTHON="$(PYTHON)" cluster/check_machine.sh $(VENV) $(PYTHONS-$(LINE)))" || exit 1; \
	    echo "installing the line '$(LINE)' into $(VENV) with $$("$$python" --version) ($$python): about 6 GB, 2 to 15 minutes, once"; \
	    $(BIN)/python -c '' 2>/dev/null || "$$python" -m venv --clear --without-pip $(VENV)
	@rm -f $(filter-out $(READY),$(VENV)/ready-gpu0 $(VENV)/ready-gpu1)
	@# What an installation that was interrupted left half done is done again.
	@$(BIN)/python cluster/lines/torn_packages.py
	@$(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@grep -v '^horovod==' $(LOCK) > $(VENV)/requirements.lock
	@# Every rank and Spark worker is a new Python; where the machine keeps it from caching what it compiles, as container
	@# images do, each would compile torch's and the other packages' sources again.
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --compile-bytecode -r $(VENV)/requirements.lock
	@GPU=$(GPU) cluster/horovod/build.sh $(BIN)/python
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --no-deps -e .
	@$(BIN)/python cluster/horovod/check.py
	@touch $@

demo: install
	@$(BIN)/millrace demo $(if $(TASK),--task "$(TASK)") $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

# Several files at once, and then one by one the tests that are to have the machine to themselves. Of what was asked for
# there may be none of either; pytest ends with 5 then.
define run-tests
@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "$(1)not alone" $(2) || [ $$? = 5 ]
@$(BIN)/python -m pytest -m "$(1)alone" $(2) || [ $$? = 5 ]
endef

test: install
	$(call run-tests,not slow and not gpu and ,$(ONLY))

test-all: install
	$(call run-tests,,$(ONLY))

test-part: install
	$(call run-tests,not slow and not gpu and ,$(PART))

lint: install
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --no-cache --check .
	@$(BIN)/mypy

bench: install
	@$(BIN)/python benchmarks/run.py $(ONLY)

wheel: install
	@$(BIN)/python -m build --wheel --outdir dist .

# What a lock holds already is kept where the bounds allow it; without the file, all is the newest.
lock:
	@test -x $(BIN)/uv || $(MAKE) -s install
	@for line in $(LINES); do \
	    VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip compile --quiet pyproject.toml --extra dev --extra text --extra decoder --extra images --universal --python-version 3.11 \
	        --no-emit-index-url --no-annotate --no-header --constraint cluster/lines/$$line.in -o cluster/lines/$$line.lock || exit 1; \
	done

clean:
	rm -rf $(OUT) build dist *.egg-info

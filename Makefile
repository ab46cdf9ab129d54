# make demo    installs, trains a small LFA U-Net, ends with its report (DATA=<Drosophila stack1> for real sections)
# make test    installs, runs style, types, the docs' build and tests
# make oldest  runs tests with the oldest dependencies that pyproject.toml names (an environment of its own, removed after)
# make label   runs the tests of MONAI Label in an environment of its own (100 MB beside .venv, removed after)
# make bench   measures speed; results in docs/results
# make docs    writes what is generated of docs/: results, networks, transforms
PYTHON ?= python3
RUN := .venv/bin/python
MEDSEG := .venv/bin/medseg
BUNDLE := lfa_unet_drosophila
DEMO := build/demo
EPOCHS ?= $(if $(DATA),4,8)
MINUTES ?= 10
export MLFLOW_DISABLE_TELEMETRY ?= true
export OMP_NUM_THREADS ?= $(shell nproc)

.PHONY: help demo test test-rest lint lint-style lint-types lint-docs venv docs bench oldest label clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

venv:
	@$(PYTHON) .ci/make_venv.py

demo: venv
	@rm -rf $(DEMO)
ifdef DATA
	@$(MEDSEG) data drosophila --source "$(DATA)" --output $(DEMO)/data
else
	@$(MEDSEG) data synthetic --output $(DEMO)/data
endif
	@$(MEDSEG) train $(BUNDLE) --data $(DEMO)/data --with small demo --minutes $(MINUTES) --output $(DEMO)/run max_epochs=$(EPOCHS)
	@$(MEDSEG) predict $(DEMO)/run $(DEMO)/data/images $(DEMO)/masks
	@$(MEDSEG) evaluate $(DEMO)/run
	@$(MEDSEG) report $(DEMO)/run

# rooms of tests, two parts at a time in processes of one thread each: what no part names with `rest`, which takes the
# longest and comes first, then the long ones, so that no processor waits at the end
PARTS := bundles studies networks+layers prediction engines+runs bundle node+jobs io+data
MKDOCS := NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
PYTEST := OMP_NUM_THREADS=1 .venv/bin/pytest -q -p no:cacheprovider
BESIDE := --no-print-directory --jobs=2 --output-sync=target --keep-going

test: venv lint-style
	@$(MAKE) $(BESIDE) $(addprefix test-,rest $(PARTS)) lint-types lint-docs

test-rest:
	@$(PYTEST) tests $(addprefix --ignore=tests/,$(subst +, ,$(PARTS)))

test-%:
	@$(PYTEST) $(addprefix tests/,$(subst +, ,$*))

lint: venv lint-style
	@$(MAKE) $(BESIDE) lint-types lint-docs

lint-style: venv
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

lint-types:
	@.venv/bin/mypy

lint-docs:
	@$(MKDOCS)

oldest: venv
	@$(RUN) .ci/oldest.py

label: venv
	@$(RUN) .ci/monai_label.py

clean:
	rm -rf build .venv

docs: venv
	@$(RUN) .ci/make_results.py
	@$(RUN) .ci/make_networks_doc.py
	@$(RUN) .ci/make_transforms_doc.py
	@$(MKDOCS)

bench: venv
	@for name in startup trainer sliding_window zoo_style lfa_cost; do \
	  $(RUN) -m benchmarks.$$name --json docs/results/$${name}_cpu.json || exit 1; done
	@$(RUN) -m benchmarks.trainer --allocator --channels 16 32 64 128 --batch-size 8 --json docs/results/allocator_cpu.json

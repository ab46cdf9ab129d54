# make demo    installs, trains a small LFA U-Net, prints its table (DATA=<Drosophila stack1> for real sections)
# make test    installs, runs style, types and tests
# make bench   measures speed; results in docs/results
# make docs    puts the last demo's table and picture into the README, writes docs/networks.md
PYTHON ?= python3
RUN := .venv/bin/python
BUNDLE := bundles/lfa_unet_drosophila
DEMO := build/demo
MINUTES ?= $(if $(DATA),5,3)
export MLFLOW_DISABLE_TELEMETRY ?= true
export OMP_NUM_THREADS ?= $(shell nproc)

.PHONY: help demo test lint venv docs bench clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

venv:
	@$(PYTHON) .ci/make_venv.py

demo: venv
	@rm -rf $(DEMO)
ifdef DATA
	@$(RUN) data_scripts/drosophila.py --source "$(DATA)" --output $(DEMO)/data
else
	@$(RUN) data_scripts/synthetic.py --output $(DEMO)/data
endif
	@$(RUN) -m monai.bundle run --config_file "['$(BUNDLE)/configs/train.yaml','$(BUNDLE)/configs/small.yaml','$(BUNDLE)/configs/demo.yaml']" \
	  --dataset_dir $(DEMO)/data --output_dir $(DEMO)/run --publish False --max_minutes $(MINUTES)
	@$(RUN) -m monai.bundle run --config_file "['$(BUNDLE)/configs/train.yaml','$(BUNDLE)/configs/small.yaml','$(BUNDLE)/configs/evaluate.yaml']" \
	  --dataset_dir $(DEMO)/data --ckpt $(DEMO)/run/model.pt --output_dir $(DEMO)/run/test
	@.venv/bin/medseg report $(DEMO)/run

test: venv lint
	@.venv/bin/pytest

lint: venv
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

clean:
	rm -rf build .venv

docs: venv
	@$(RUN) .ci/update_readme.py
	@$(RUN) .ci/make_networks_doc.py

bench: venv
	@for name in startup trainer sliding_window zoo_style lfa_cost; do \
	  $(RUN) -m benchmarks.$$name --json docs/results/$${name}_cpu.json || exit 1; done
	@$(RUN) -m benchmarks.trainer --allocator --channels 16 32 64 128 --batch-size 8 --json docs/results/allocator_cpu.json

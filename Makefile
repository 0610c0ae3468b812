# `make help` lists the targets. Nothing but make and Python >= 3.11 is needed beforehand.
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
SHELL := /bin/sh
.DEFAULT_GOAL := help

# Each candidate is started, not just looked up: a version manager's placeholder may be on the PATH
# without a Python behind it, and some systems ship a Python without the parts that make a venv.
PROBE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c '$(PROBE)' >/dev/null 2>&1 && { echo $$p; break; }; done)

# The stamp carries the lock's checksum: a changed lock is installed, an unchanged one is not.
STAMP := $(VENV)/.installed-$(shell cat requirements-lock.txt pyproject.toml | cksum | tr ' ' -)

.PHONY: help venv reproduce explore test test-browser soak bench bench-strength lint test-colab set-url release clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1#/p' $(MAKEFILE_LIST) | \
		while IFS='#' read -r name text; do printf '  %-13s %s\n' "$$name" "$$text"; done

venv: $(STAMP)  ## make .venv from requirements-lock.txt (PYTHON=... chooses the interpreter)

$(STAMP):
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with the venv module found." \
		"Install one, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c '$(PROBE)' || { echo "$(PYTHON) is no Python >= 3.11 with the venv module." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-lock.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@rm -f $(VENV)/.installed-*
	@touch $@

reproduce: $(STAMP)  ## run every notebook on embedded data and write results/report.html
	@status=0; $(BIN)/python -m medrobust_utils run --profile smoke --jobs $(JOBS) || status=$$?; \
		$(BIN)/python -m medrobust_utils report || status=$$?; exit $$status

explore: $(STAMP)  ## open the Grad-CAM explorer in the browser; Ctrl-C ends it
	@$(BIN)/python -m medrobust_utils explore

# One process a core, each with one thread; the tests of a file stay together.
WORKERS ?= 2
TORCH_THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
test: $(STAMP)  ## run the whole test suite, every notebook in smoke included (WORKERS=2)
	$(TORCH_THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-browser: $(STAMP)  ## try the explorer in Chromium or Chrome; fails where there is none
	$(BIN)/python -m pytest tests/test_browser.py

soak: $(STAMP)  ## run what is too long for the tests and write docs/reliability.md
	$(BIN)/python soak

# What the kit is measured against lives in an environment of its own, which sees .venv's packages.
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed-$(shell cat benchmarks/requirements.txt | cksum | tr ' ' -)
SITE := import sysconfig; print(sysconfig.get_path("purelib"))

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m venv --clear --without-pip $(BENCH)
	@kit=$$($(BIN)/python -c '$(SITE)'); \
		echo "import site; site.addsitedir('$$kit')" > "$$($(BENCH)/bin/python -c '$(SITE)')/kit.pth"
	$(BIN)/python -m pip --disable-pip-version-check --python $(BENCH)/bin/python install --no-deps \
		-r benchmarks/requirements.txt
	@touch $@

bench: $(BENCH_STAMP)  ## measure what the kit promises about speed and write results/bench.json
	$(BENCH)/bin/python -m benchmarks

# The attack that bisection over the radii replaced, from its last commit, under another name.
bench-strength: $(BENCH_STAMP)  ## judge how strong the quick attacks are, once a kind of machine
	@site=$$($(BENCH)/bin/python -c '$(SITE)'); test -d $$site/medrobust_climb || { \
		git archive 2b7f171 medrobust_utils | tar -x -C $(BENCH) && \
		mv $(BENCH)/medrobust_utils $$site/medrobust_climb; }
	$(BENCH)/bin/python -m benchmarks.strength

lint: $(STAMP)  ## check the code's form (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test-colab: $(STAMP)  ## try the notebooks against Colab's package versions (needs Python 3.13)
	$(BIN)/python tests/colab/rig.py

set-url:  ## name this project's repository everywhere: make set-url URL=https://github.com/...
	@$(PYTHON) tools/set_url.py "$(URL)"

release: $(STAMP)  ## build the package; refuses while no repository is named
	@! grep -q "github.com/-owner-/" pyproject.toml || { echo "No repository is named yet:" \
		"make set-url URL=https://github.com/..." >&2; exit 1; }
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove the environments and caches that make built; results/ stays
	rm -rf .venv .venv-colab .venv-bench .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

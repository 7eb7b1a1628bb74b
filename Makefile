# Everything runs in a virtual environment of its own, made from Python 3.11 or newer and the pinned constraints.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
PEERS  ?= .venv-peers
# Processes that share the test files; each computes with one thread.
JOBS   ?= 2

.PHONY: install demo test fuzz lint types bench oracles peers reference study clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[demo,dev,dicom,export,multimodal,text,view]"
	touch $@

demo: install
	$(BIN)/medcl demo --out runs/demo

# The bound on --help holds on a machine that does nothing else, so tests/cli comes first and alone.
test: install
	$(BIN)/python -m pytest -q tests/cli
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --ignore=tests/cli

# Fifty thousand damaged files; none may crash, hang or fill the memory of the reader that it is given to.
fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/reliability/fuzz.py --mutants 50000 --seed 0

oracles: install
	$(BIN)/python -m pytest tests/oracles -q -rs --no-header

reference: install
	$(BIN)/python -m medcl.cli.reference docs/reference

study: install
	$(BIN)/python -m pytest -q -m study

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy medcl/errors.py medcl/types.py medcl/config medcl/records medcl/objectives medcl/views

bench: install
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

peers: install
	bash benchmarks/peers.sh $(PEERS)

clean:
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache

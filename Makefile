# Two commands: `make demo` and `make test`. They, and all others here, set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
# Processes that share the tests; those with whole servers need a core or two each.
TESTERS ?= 2
PEERS := rllib-2.30 learning grpc

.PHONY: demo test slow bench peers lint format clean

demo: .venv/ready
	$(BIN)/policy-server demo

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist worksteal

slow: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,box2d,mujoco,mpe]"
	$(BIN)/python -m pytest -m slow --timeout 3600

bench: .venv/ready
	$(BIN)/policy-server bench --write docs/benchmarks

# What this project is measured against, each in a virtual environment of its own.
peers: $(PEERS:%=.venv-peers/%/ready)

.venv-peers/%/ready: tests/bench/peers/requirements/%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	touch $@

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch .venv/ready

clean:
	rm -rf .venv .venv-peers build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find policy_server sim_clients arena_sim tests -name __pycache__ -prune -exec rm -rf {} +

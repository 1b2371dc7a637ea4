PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs

.PHONY: demo test lint

# The virtual environment follows the project's own files, so it is made anew when they change.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,lint]"
	touch $@

demo: .venv/installed
	$(BIN)/python experiments/langevin_trajectory.py --model=default --out=$(RUNS)/trajectory --chains=8
	$(BIN)/python experiments/evaluate.py --model=default --out=$(RUNS)/evaluation --num=32 --hold_steps=0
	$(BIN)/python experiments/train.py --flagfile=experiments/flags/quickstart.cfg --workdir=$(RUNS)/quickstart
	@echo "From the shipped model: $(RUNS)/evaluation/sheet.png, $(RUNS)/trajectory/trajectory.png"
	@echo "From the short training: $(RUNS)/quickstart/samples, $(RUNS)/quickstart/curves.png"

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

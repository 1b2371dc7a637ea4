PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs

.DEFAULT_GOAL := demo
.PHONY: demo gallery test lint

# The virtual environment follows the project's own files, so it is made anew when they change; from nothing, because one
# that another Python made would keep that Python.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "$(PYTHON) is Python %d.%d; name a Python 3.11, 3.12 or 3.13: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,lint]"
	touch $@

demo: .venv/installed
	$(BIN)/python experiments/langevin_trajectory.py --model=default --out=$(RUNS)/trajectory --chains=8
	$(BIN)/python experiments/evaluate.py --model=default --out=$(RUNS)/evaluation --num=32 --hold_steps=0
	$(BIN)/python experiments/train.py --flagfile=experiments/flags/quickstart.cfg --workdir=$(RUNS)/quickstart
	@echo "From the shipped model: $(RUNS)/evaluation/sheet.png, $(RUNS)/trajectory/trajectory.png"
	@echo "From the short training: $(RUNS)/quickstart/samples, $(RUNS)/quickstart/curves.png"
	@echo "Next: make gallery (new bridge types, a minute). The README's other commands: source .venv/bin/activate first."

gallery: .venv/installed
	$(BIN)/python experiments/discover.py --model=default --out=$(RUNS)/discover --num=128
	@echo "Open $(RUNS)/discover/gallery.html in a browser."

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

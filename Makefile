# make demo: fuse a real photograph's stack; make test: run the tests. Both set up .venv first.
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python
DEMO = data/demo

.PHONY: demo test clean

demo: $(VENV)/.ready
	$(RUN) make_dataset.py --demo --output_path $(DEMO)
	$(RUN) predict.py --stack_path $(DEMO)/dof_stack/motorcycle --output results/demo/motorcycle.png
	$(RUN) evaluate.py --results results/demo --reference $(DEMO)/AiF --stacks $(DEMO)/dof_stack
	@echo "The fused picture: results/demo/motorcycle.png"
	@echo "Its frames: $(DEMO)/dof_stack/motorcycle, its all-in-focus answer: $(DEMO)/AiF"

test: $(VENV)/.ready
	$(RUN) -m pytest

clean:
	rm -rf $(VENV)

# The mark is set last, so that a broken set-up is made anew.
$(VENV)/.ready: requirements.txt requirements-test.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

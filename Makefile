# make demo: fuse a stack made from a real photograph; make test: linter, types and tests; make check: what needs
# a browser or optional packages; make lowest: the tests with the lowest versions; make weights PHOTOS=DIR: train the default network from a folder of
# photographs; make benchmark: every method on stacks with exact answers, without downloads. All set
# up .venv first, with the versions of constraints.txt.
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PYTHON ?= python3
RUN = $(VENV)/bin/python
PIP = $(RUN) -m pip install --quiet --no-compile --disable-pip-version-check --constraint $(CONSTRAINTS)
# A process of one thread on each core, since threads of torch would wait for one another in small
# tests. Neighbouring tests stay together as long as all have work: they share what is set up.
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
DEMO = data/demo
# Modules are compiled at their first import. Where this is set, as in many containers, every process
# would compile all that it imports once more.
unexport PYTHONDONTWRITEBYTECODE

BENCH ?= data/bench
METHODS ?= available

SCENES ?= 15000
EPOCHS ?= 20
FINAL_EPOCHS ?= 4
PYRAMID_STEPS ?= 10000
RUN_NAME ?= weights
# More options of train.py and of tools.train_pyramid, such as --device cuda.
TRAIN_OPTIONS ?=
PYRAMID_OPTIONS ?=

.PHONY: demo test pytest lint lowest javascript check weights benchmark photos-there clean

demo: $(VENV)/.ready
	$(RUN) make_dataset.py --demo --output_dir $(DEMO)
	$(RUN) predict.py --stack_path $(DEMO)/dof_stack/motorcycle --output results/demo/motorcycle.png
	$(RUN) evaluate.py --results results/demo --reference $(DEMO)/AiF --stacks $(DEMO)/dof_stack
	@echo "The fused picture: results/demo/motorcycle.png"
	@echo "Its frames: $(DEMO)/dof_stack/motorcycle, its all-in-focus answer: $(DEMO)/AiF"

test: lint pytest

pytest: $(VENV)/.ready
	$(PYTEST)

lint: $(VENV)/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The tests with the lowest versions that pyproject.toml permits. The types are checked with the
# newest alone: those of numpy differ.
lowest:
	$(MAKE) pytest VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

# The modules of the page, read by eslint and by the type checker of TypeScript (npm of Debian). The
# packages are for checks alone, axe-core of tests.check_app among them: the page needs none.
JS = tests/javascript
javascript: $(JS)/node_modules
	$(JS)/node_modules/.bin/eslint --config $(JS)/eslint.config.mjs stackmff/webapp/page
	$(JS)/node_modules/.bin/tsc --project $(JS)

$(JS)/node_modules: $(JS)/package-lock.json
	cd $(JS) && npm ci --no-audit --no-fund
	touch $@

# The tests that `make test` skips, and the page and the report in a browser (chromium and
# chromium-driver of Debian).
check: lint javascript $(VENV)/.optional
	$(PYTEST) --slow
	$(RUN) -m tests.check_docs
	$(RUN) -m tests.check_metadata
	$(RUN) -m tests.check_report
	$(RUN) -m tests.check_app
	$(RUN) -m tests.check_fuzz --minutes 20
	$(RUN) -m tests.check_kills
	$(RUN) -m tests.check_attack
	$(RUN) -m tests.check_work

# All commands resume where they were stopped, and so does this target; another RUN_NAME starts anew.
# In training a batch norm sees stacks of one number of frames at a time, in use the mean over all of
# them; so the second run freezes the statistics and trains the network as it is used. The third one
# puts a coarse level before it, and trains both on scenes at camera scale and on small ones.
FINAL = $(RUN_NAME)_final_$(EPOCHS)
PYRAMID = $(RUN_NAME)_pyramid
TRAIN = $(RUN) train.py --datapath data/$(RUN_NAME) --image_size 192 192 --resume auto \
	$(TRAIN_OPTIONS)

weights: photos-there $(VENV)/.ready
	$(RUN) make_dataset.py --image_path "$(PHOTOS)" --output_dir data/$(RUN_NAME) --size 256 \
		--num_scenes $(SCENES)
	$(TRAIN) --exp_name $(RUN_NAME) --epochs $(EPOCHS) --decay_fraction 0.4
	$(TRAIN) --exp_name $(FINAL) --init experiments/$(RUN_NAME)/best.pth --freeze_norm \
		--epochs $(FINAL_EPOCHS) --lr 1e-3 --decay_fraction 0.98
	$(RUN) -m tools.train_pyramid --exp_name $(PYRAMID) --photos "$(PHOTOS)" \
		--init experiments/$(FINAL)/best.pth --steps $(PYRAMID_STEPS) \
		$(PYRAMID_OPTIONS) $(if $(wildcard experiments/$(PYRAMID)/last.pth),--resume)
	$(RUN) -m tools.export --model_path experiments/$(PYRAMID)/best.pth
	@echo "The weights: experiments/$(PYRAMID)/best.pth, for predict.py --model_path"

# METHODS="all IFCNN:weights=FILE" takes IFCNN too, whose weights its authors give away.
benchmark: $(VENV)/.optional
	$(RUN) make_dataset.py --benchmark $(BENCH)
	$(RUN) evaluate.py --stacks $(BENCH)/aligned --reference $(BENCH)/aligned/AiF --methods $(METHODS) \
		--against StackMix --indices --output_dir results/benchmark/aligned \
		--markdown results/benchmark/aligned.md --csv results/benchmark/aligned.csv \
		--html results/benchmark/aligned.html
	@echo "The page: results/benchmark/aligned.html"

photos-there:
	@test -d "$(PHOTOS)" || { echo "PHOTOS='$(PHOTOS)' is no folder: make weights PHOTOS=DIR takes one of" \
		"photographs that are sharp everywhere" >&2; exit 2; }

clean:
	rm -rf $(VENV)

# Compiling all modules would take twice as long as unpacking them: those are compiled that commands
# import. The mark is set last, so that a set-up that failed is done again.
$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	$(RUN) -c "import app, evaluate, make_dataset, predict, predict_dataset, train"
	touch $@

$(VENV)/.optional: $(VENV)/.ready
	$(PIP) --editable '.[dev,formats,toolbox,onnx,dask]' onnxruntime safetensors
	touch $@

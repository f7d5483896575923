# make demo: fuse a real photograph's stack; make test: run the tests; make weights PHOTOS=DIR: train
# the default network anew from a folder of photographs; make benchmark: every method on stacks with
# exact answers, without a download of data. All set up .venv first.
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python
DEMO = data/demo

BENCH ?= data/bench
METHODS ?= available

SCENES ?= 15000
EPOCHS ?= 20
FINAL_EPOCHS ?= 4
RUN_NAME ?= weights

.PHONY: demo test weights benchmark photos-there clean

demo: $(VENV)/.ready
	$(RUN) make_dataset.py --demo --output_path $(DEMO)
	$(RUN) predict.py --stack_path $(DEMO)/dof_stack/motorcycle --output results/demo/motorcycle.png
	$(RUN) evaluate.py --results results/demo --reference $(DEMO)/AiF --stacks $(DEMO)/dof_stack
	@echo "The fused picture: results/demo/motorcycle.png"
	@echo "Its frames: $(DEMO)/dof_stack/motorcycle, its all-in-focus answer: $(DEMO)/AiF"

# A process of one thread on each core: torch's threads would wait for one another in small tests.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4

# All commands go on where they were stopped; so does this target. RUN_NAME= starts another one. In
# training a norm sees stacks of one number of frames at a time, in use the mean over all of them; so
# the second run keeps the statistics, and trains the network as it is used.
FINAL = $(RUN_NAME)_final_$(EPOCHS)
TRAIN = $(RUN) train.py --datapath data/$(RUN_NAME) --image_size 192 192 --resume auto

weights: photos-there $(VENV)/.ready
	$(RUN) make_dataset.py --image_path "$(PHOTOS)" --output_path data/$(RUN_NAME) --size 256 \
		--num_scenes $(SCENES)
	$(TRAIN) --exp_name $(RUN_NAME) --epochs $(EPOCHS) --decay_fraction 0.4
	$(TRAIN) --exp_name $(FINAL) --init experiments/$(RUN_NAME)/best.pth --freeze_norm \
		--epochs $(FINAL_EPOCHS) --lr 1e-3 --decay_fraction 0.98
	@echo "The weights: experiments/$(FINAL)/best.pth, for predict.py --model_path"

# METHODS="all IFCNN:weights=FILE" takes IFCNN too, whose weights its authors give away.
benchmark: $(VENV)/.toolbox
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

# The mark is set last, so that a broken set-up is made anew.
$(VENV)/.ready: requirements.txt requirements-app.txt requirements-test.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

$(VENV)/.toolbox: $(VENV)/.ready requirements-toolbox.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-toolbox.txt
	touch $@

# Everything runs in .venv, which the first target to need it makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: compare test lab notebooks exercises assignment student-edition slides book glyphs gpu-results clean

compare: .venv/ready
	$(BIN)/mamlcourse compare

# A file or notebook stays with one worker. In their own order the last ones are short; in xdist's, by the number of
# tests, the last are files of few and long tests, for which the other workers would wait.
test: .venv/classroom build/.venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder \
		--nbval-lax --nbval-cell-timeout 600

# JupyterLab in a working copy of the course, so that opening a lesson changes no committed file.
lab: .venv/ready
	$(BIN)/mamlcourse start work

# Run every notebook, keep its outputs, and write down how long it takes.
notebooks: .venv/ready
	$(BIN)/python tools/run_notebooks.py

# Make the exercises from the solutions.
exercises: .venv/classroom
	$(BIN)/python tools/make_exercises.py

# Lay out nbgrader's course folder, for teachers (exercises/TEACHERS.md).
COURSE ?= build/classroom
assignment: .venv/classroom
	$(BIN)/python tools/make_exercises.py --course "$(COURSE)"

# The wheel to give to a class that is graded: build/student-edition.
student-edition: .venv/ready
	$(BIN)/python tools/student_edition.py

# Slides for two class hours, each one file that needs no network: build/slides. Fetches reveal.js (MIT) once, with npm.
REVEAL := build/node_modules/reveal.js
slides: .venv/ready $(REVEAL)
	$(BIN)/python tools/make_slides.py $(REVEAL)

$(REVEAL):
	npm install --silent --no-save --prefix build reveal.js@6.0.2

# The course as a web site, from the outputs that the notebooks hold: build/book/index.html. With its address, as in
# `make book REPOSITORY=https://github.com/someone/mamlcourse`, the pages lead to the repository, to Colab and to Binder.
REPOSITORY ?=
book: build/.venv/ready
	MAMLCOURSE_REPOSITORY="$(REPOSITORY)" build/.venv/bin/python -m sphinx -q -b html -c book . build/book

# Everything that only a CUDA GPU can measure, into results/. Needs no .venv, only a Python with the package's
# dependencies; Omniglot's runs go on where they were when the command is given again.
gpu-results: export PYTHONPATH := .
gpu-results:
	$(PYTHON) -m pytest -m gpu $$(grep -l "mark.gpu" tests/*.py)
	$(PYTHON) benchmarks/training_step.py --device cuda
	$(PYTHON) benchmarks/peers.py --device cuda --seconds 12
	$(PYTHON) benchmarks/scaling.py --device cuda --json results/scaling-gpu.json --figure results/scaling-gpu.png
	$(PYTHON) -m mamlcourse reproduce 5w1s --device cuda --max-minutes 10
	$(PYTHON) -m mamlcourse results

# Draw the built-in characters anew (the packed file is committed).
glyphs: .venv/ready
	$(BIN)/python tools/draw_glyphs.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

.venv/classroom: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[classroom]"
	touch $@

# An environment of its own, since the book runs nothing and needs no PyTorch.
build/.venv/ready: book/requirements.txt constraints.txt
	$(PYTHON) -m venv build/.venv
	build/.venv/bin/python -m pip install --quiet --constraint constraints.txt --requirement book/requirements.txt
	touch $@

clean:
	rm -rf .venv runs build *.egg-info

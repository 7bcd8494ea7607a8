# The set-up and the two commands of the README. MPI comes from a wheel: no system package is needed.
PYTHON ?= python3
VENV   ?= .venv
INSTALL = $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow test-browser test-env clean test-slurm torture

demo: $(VENV)/demo-ready
	$(VENV)/bin/drenet demo demo

test: test-env
	$(VENV)/bin/python -m pytest -q -m "not slow and not slurm and not browser"

test-slow: test-env
	$(VENV)/bin/python -m pytest -q -m slow

test-browser: test-env  # needs chromium, chromium-driver and dicom3tools
	$(VENV)/bin/python -m pytest -q -m browser

test-slurm: test-env
	PATH="$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python -m pytest -q -m slurm

torture: test-env
	PATH="$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python tests/torture.py --faults 100

test-env: $(VENV)/test-ready

$(VENV)/demo-ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[mpi]"
	touch $@

$(VENV)/test-ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[mpi,test,lint]"
	touch $@

clean:
	rm -rf $(VENV) demo

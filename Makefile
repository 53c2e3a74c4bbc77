# make run     the three demo services and the gateway on conf/gw.ini; Ctrl-C ends them
# make test    all checks: lint, types, floors, trial, pytest; what continuous integration runs
# make bench   measured against nginx and others: CASE=small SECONDS=3 for a quick look
#              AGAINST=COMMIT: another commit beside this one, in one run (nothing is written)
#              (make passes on what is set on its command line in the environment)
# make chaos   healthy services beside everything that can go wrong, 300 s: SECONDS=60 for a quick look
# make lowest  the wheel with the lowest declared version of every dependency: does it start and work?
# make env     only the virtual environment in .venv
#
# Nothing has to be installed before: what is missing comes from Debian's packages (as root or by sudo; else it is said
# which) and from the Python packages pinned in requirements.txt.

SHELL = /bin/sh
BIN = .venv/bin

.PHONY: run test bench chaos lowest env clean
.DEFAULT_GOAL = env

env: .venv/ready

.venv/ready: requirements.txt setup.cfg packaging/set-up.sh
	@sh packaging/set-up.sh python
	@touch $@

run: env
	@exec $(BIN)/python -m examples.shop

test: env
	@sh packaging/set-up.sh programs
	@sh packaging/checks.sh

bench: env
	@exec $(BIN)/python -m bench

chaos: env
	@exec $(BIN)/python -m bench.chaos

lowest: env
	@sh packaging/lowest.sh

clean:
	rm -rf .venv build dist *.egg-info _trial_temp* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

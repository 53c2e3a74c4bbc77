#!/bin/sh
# All checks, one after another, whatever became of the one before. Fails if one of them failed; pytest's is the last word.
set -u
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export PYTHONPATH="$PWD"
failed=

check() {
    echo "== $1"
    shift
    "$@" || failed="$failed $1"
}

check "lint" ruff check --quiet --output-format=concise .
check "format" ruff format --quiet --check --output-format=concise .
check "types" mypy
check "floors" lint-imports --no-logo --no-cache --config pyproject.toml
check "trial" trial --temp-directory=_trial_temp --reporter=text tests
[ -z "$failed" ] || echo "== failed so far:$failed"
echo "== pytest"
pytest || failed="$failed pytest"
[ -z "$failed" ]

#!/bin/sh
# Install the wheel with the lowest version of each dependency that setup.cfg declares, in build/lowest, and try it.
set -eu
unset PYTHONPATH
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
folder=$PWD/build/lowest
rm -rf "$folder"
mkdir -p "$folder"

"$python" - >"$folder/constraints.txt" <<'END'
from configparser import ConfigParser

declared = ConfigParser()
declared.read("setup.cfg", encoding="utf-8")
for line in declared["options"]["install_requires"].strip().splitlines():
    if not line.startswith("#"):
        print(line.replace(" ", "").replace(">=", "=="))
END
"$python" -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip wheel --no-deps --wheel-dir "$folder" .
echo "== installing the lowest versions"
$pip install --only-binary=:all: --constraint "$folder/constraints.txt" "$folder"/apigw-*.whl
cp packaging/smoke.py "$folder"
cd "$folder"
venv/bin/python smoke.py

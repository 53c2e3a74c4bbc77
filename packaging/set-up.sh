#!/bin/sh
# Make what the checks and the demo need: `set-up.sh python` the virtual environment in .venv with the pinned packages,
# `set-up.sh programs` what tests start beside Python. What is there already is left as it is.
set -eu
cd "$(dirname "$0")/.."

# The commands that tests start, each with the Debian package that it comes from.
PROGRAMS="curl:curl openssl:openssl systemd-analyze:systemd testssl:testssl.sh chromium:chromium"

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# Install Debian packages, or say which ones are missing.
install() {
    if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
        echo "== installing: $*"
        as_root apt-get -qq update
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@" >/dev/null
    else
        echo "Missing: $*. Install them (Debian: apt install $*), then run this again." >&2
        exit 1
    fi
}

# Whether a command is a Python of 3.11 to 3.14 that can make a virtual environment.
fits() {
    $1 -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null
}

# The Python to use: $PYTHON if that is set, else Debian's own, else the first that fits. Debian builds its own with
# profile-guided and link-time optimisation, which takes a quarter off the Python time of a request; most others
# (pyenv's among them) are built without.
find_python() {
    for python in ${PYTHON:-/usr/bin/python3 python3.11 python3.12 python3.13 python3.14 python3}; do
        if fits "$python"; then
            echo "$python"
            return
        fi
    done
}

case "$1" in
python)
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        if [ -z "${PYTHON:-}" ] && ! fits /usr/bin/python3 && command -v apt-get >/dev/null; then
            (install python3 python3-venv) || echo "== looking for another Python"
        fi
        python=$(find_python)
        if [ -z "$python" ]; then
            echo "No Python 3.11 to 3.14 was found${PYTHON:+: $PYTHON is none}." >&2
            exit 1
        fi
        echo "== making .venv with $($python --version)"
        $python -m venv --clear .venv
    fi
    echo "== installing the packages of requirements.txt into .venv"
    .venv/bin/python -m pip --disable-pip-version-check --quiet install -r requirements.txt
    .venv/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation -e .
    ;;
programs)
    missing=
    for program in $PROGRAMS; do
        command -v "${program%%:*}" >/dev/null || [ -x "/usr/sbin/${program%%:*}" ] || missing="$missing ${program##*:}"
    done
    # shellcheck disable=SC2086  # one word a package
    [ -z "$missing" ] || install $missing
    ;;
*)
    echo "usage: set-up.sh python | programs" >&2
    exit 2
    ;;
esac

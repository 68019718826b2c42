#!/bin/sh
# Makes .venv from requirements-dev.txt, or says in one line why that is not possible. `make` calls it.
set -eu

fail() {
    echo "error: $*" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null
}

wanted=$(cksum < requirements-dev.txt)
stamp=.venv/.installed
if [ "$(cat $stamp 2> /dev/null)" = "$wanted" ]; then
    touch $stamp
    exit 0
fi

if ! is_new_enough .venv/bin/python; then
    for python in "${1:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if command -v "$python" > /dev/null && is_new_enough "$python"; then break; fi
        python=
    done
    [ -n "$python" ] || fail "Python 3.11 or newer is needed, found: $(python3 --version 2> /dev/null || echo none); name another: make PYTHON=/path/to/python3"
    "$python" -c 'import ensurepip, venv' 2> /dev/null || fail "$python has no venv module; on Debian and Ubuntu: apt install python3-venv"
    rm -rf .venv
    "$python" -m venv .venv || fail "could not make .venv with $python"
fi

echo "Installing the dependencies into .venv (once; it takes about a minute) …"
log=.venv/install.log
# Wheels only: a missing one is told at once, instead of a compiler's error after minutes.
if ! .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --retries 2 \
    --require-hashes --only-binary :all: -r requirements-dev.txt > $log 2>&1; then
    if grep -q 'No space left' $log; then fail "the disk is full: .venv needs 700 MB"; fi
    reason=$(grep -m 1 '^ERROR: No matching' $log || grep -m 1 '^ERROR' $log || tail -n 1 $log)
    case $reason in
        *'No matching distribution'*)
            if grep -qE 'NewConnectionError|ConnectTimeout|NameResolution|Max retries|SSLError' $log; then
                fail "the package index does not answer; see $log"
            fi
            fail "no wheel for $(uname -sm) of ${reason##* found for }; Everycent runs on Linux and macOS, x86-64 and arm64; see $log" ;;
        *) fail "$reason; see $log" ;;
    esac
fi
echo "$wanted" > $stamp

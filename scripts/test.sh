#!/usr/bin/env bash
# The whole test suite, slow tests included; arguments go to pytest (./scripts/test.sh -m "not slow" for the fast ones).
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/environment.sh test
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # two processes run the tests
exec .venv/bin/python -m pytest -m "slow or not slow" --numprocesses 2 --dist loadfile "$@"

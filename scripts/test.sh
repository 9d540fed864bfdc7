#!/usr/bin/env bash
# The whole test suite, slow tests included; arguments go to pytest (./scripts/test.sh -m "not slow" for the fast ones).
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/environment.sh test
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}  # threads that wait busily slow down tests with worker processes
exec .venv/bin/python -m pytest -m "slow or not slow" "$@"

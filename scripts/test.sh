#!/usr/bin/env bash
# The whole test suite, slow tests included; arguments go to pytest (./scripts/test.sh -m "not slow" for the fast ones).
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/environment.sh test
exec .venv/bin/python -m pytest -m "slow or not slow" "$@"

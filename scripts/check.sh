#!/usr/bin/env bash
# Lint, format, types, and the architecture's contracts on the package as it is built.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/environment.sh test,dev
PATH=$PWD/.venv/bin:$PATH

ruff check .
ruff format --check .
mypy retrieval cli

# The contracts need the package in its installed shape (cli and configs inside it), which also shows that the build is complete.
built=$(mktemp -d)
trap 'rm -rf "$built" build' EXIT
python -m pip install --quiet --disable-pip-version-check --no-deps --target "$built" .
for config in configs/*.yaml; do
    [ -f "$built/retrieval/$config" ] || { echo "error: $config is not in the built package" >&2; exit 1; }
done
cp setup.cfg "$built"  # which is looked for where the package is
cd "$built" && lint-imports --no-cache

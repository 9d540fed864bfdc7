#!/usr/bin/env bash
# The fast tests with the oldest versions that setup.cfg allows, in .venv-lower.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv-lower/bin/python ] || python3 -m venv .venv-lower
sed -n '/^install_requires/,/^\[/p' setup.cfg | grep -oE '[a-z-]+>=[0-9.]+' | sed 's/>=/==/' >.venv-lower/lowest.txt
.venv-lower/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' --constraint .venv-lower/lowest.txt
exec .venv-lower/bin/python -m pytest "$@"

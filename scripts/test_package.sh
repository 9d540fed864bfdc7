#!/usr/bin/env bash
# Builds wheel and sdist, and installs each into an empty environment, away from the checkout. Minutes: torch is installed anew.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/environment.sh test,dev
folder=$(mktemp -d)
trap 'rm -rf "$folder" build' EXIT
.venv/bin/python -m build --outdir "$folder" . >"$folder/build.log" 2>&1 || { cat "$folder/build.log" >&2; exit 1; }
.venv/bin/python -m venv "$folder/venv"
for package in "$folder"/*.whl "$folder"/*.tar.gz; do
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade --force-reinstall --no-deps "$package"
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package"
    (
        cd "$folder"
        venv/bin/retrieval --version
        venv/bin/retrieval config check photos
        venv/bin/python - <<'PYTHON'
import numpy as np
import retrieval

figures = retrieval.evaluate(np.eye(4), [0, 0, 1, 1], ks=(1,))
assert figures["queries"] == 4, figures
assert "site-packages" in retrieval.__file__, retrieval.__file__
PYTHON
    )
    echo "installed and tried: $(basename "$package")"
done

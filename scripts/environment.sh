#!/usr/bin/env bash
# Makes .venv with this project and the given extras (a comma-separated list); does nothing where that is done already.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:-}

python=""
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: no Python 3.11 or newer found; install one and run this again" >&2
    exit 1
fi

wanted="$extras $(cat setup.cfg pyproject.toml | cksum)"
if [ -x .venv/bin/retrieval ] && grep -qxF "$wanted" .venv/done 2>/dev/null; then
    exit 0
fi
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv || {
    echo "error: $python cannot make a virtual environment; on Debian or Ubuntu install the package python3-venv" >&2
    exit 1
}
echo "installing into .venv (about 6 GB with torch; minutes, the first time)" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"

if ! .venv/bin/python -c 'import torchvision; torchvision.ops.nms' 2>/dev/null; then
    echo "error: torch and torchvision in .venv do not fit together; mend it with" >&2
    echo "    .venv/bin/python -m pip install --force-reinstall torch torchvision" >&2
    exit 1
fi
echo "$wanted" >>.venv/done

#!/usr/bin/env bash
# From nothing to a trained, indexed and measured model of the embedded data set; minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/environment.sh serve
run=runs/quickstart
index=$run/index-test

step() { printf '\n\033[1m$ %s\033[0m\n' "$*" && "$@"; }
PATH=$PWD/.venv/bin:$PATH

step retrieval train --config glyphs --out $run --overwrite
step retrieval index $run --overwrite
step retrieval recall $index
query=$(python - $index <<'PYTHON'
import sys

import retrieval

index = retrieval.Index.open(sys.argv[1])
print(index.root / index.paths[0])
PYTHON
)
step retrieval search $index "$query" --k 8 --picture $run/search.png --overwrite
step retrieval report $run

cat <<END

run       $run (config.yaml, metrics.csv, results.json, last and best checkpoints)
index     $index
pictures  $run/curves.png  $run/gallery.png  $run/search.png
report    $run/report.html
next      .venv/bin/retrieval serve $index    (a page to search by, at http://127.0.0.1:8000)
END

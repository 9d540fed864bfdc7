#!/usr/bin/env bash
# The runs behind the README's results: ./scripts/readme_results.sh OMNIGLOT_DIR [OUT]; about half an hour on two cores.
set -euo pipefail
omniglot=$(cd "${1:?usage: scripts/readme_results.sh OMNIGLOT_DIR [OUT]}" && pwd)
out=${2:-runs/readme}
retrieval=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/retrieval

"$retrieval" train --config glyphs --out "$out/glyphs-std" loss.projection=std loss.weighting=linear
"$retrieval" train --config omniglot --out "$out/omniglot-softmax" data.root="$omniglot"
for projection in std norm mean none; do
    "$retrieval" train --config omniglot --out "$out/omniglot-$projection" \
        data.root="$omniglot" loss.projection=$projection loss.weighting=linear
done

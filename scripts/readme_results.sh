#!/usr/bin/env bash
# The runs behind the README's results: ./scripts/readme_results.sh OMNIGLOT_DIR [OUT]; about 20 minutes on two cores.
set -euo pipefail
omniglot=$(cd "${1:?usage: scripts/readme_results.sh OMNIGLOT_DIR [OUT]}" && pwd)
out=${2:-runs/readme}
retrieval=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/retrieval

for projection in std norm mean none; do
    "$retrieval" train --config omniglot --out "$out/omniglot-$projection" \
        data.root="$omniglot" loss.projection=$projection
done

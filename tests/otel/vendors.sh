#!/usr/bin/env bash
# Other vendors' instrumentors beside ours and instead of ours, each vendor in an environment of its own.
#
#   tests/otel/vendors.sh           makes .venv-openllmetry, .venv-openinference, ... once, and runs the tests
#   tests/otel/vendors.sh -k groq   these
set -euo pipefail
cd "$(dirname "$0")/../.."

UV=.venv/bin/uv
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink} PYTHONDONTWRITEBYTECODE=1
[ -x "$UV" ] || { echo "vendors: no $UV: run 'make setup' first" >&2; exit 1; }
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
grep -vE '^(huggingface-hub|tokenizers|websockets)=' requirements/dev.txt >"$constraints" # frameworks need older ones
for vendor in openllmetry openinference genai langfuse native; do
    venv=.venv-$vendor
    packages=$(.venv/bin/python tests/otel/pairs.py "$vendor")
    made_from=$(cat <(echo "$packages") requirements/dev.txt pyproject.toml */pyproject.toml | sha256sum)
    [ "$(cat "$venv/.ready" 2>/dev/null)" = "$made_from" ] && continue
    echo "vendors: making $venv"
    "$UV" venv --quiet --clear --python .venv/bin/python "$venv"
    # shellcheck disable=SC2086 - several requirements
    "$UV" pip install --quiet --python "$venv/bin/python" --constraint "$constraints" \
        -e . -e instrumentation -e exporter $packages
    echo "$made_from" >"$venv/.ready"
done
.venv/bin/python -m pytest -q -n 2 tests/otel/test_vendors.py tests/otel/check_pairs.py "$@"

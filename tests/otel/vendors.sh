#!/usr/bin/env bash
# Other vendors' instrumentors, each in an environment of its own with our core and nothing else of ours.
#
#   tests/otel/vendors.sh           makes .venv-openllmetry, .venv-openinference, .venv-genai once, and runs the tests
set -euo pipefail
cd "$(dirname "$0")/../.."

declare -A PACKAGES=(
    [openllmetry]=opentelemetry-instrumentation-openai
    [openinference]=openinference-instrumentation-openai
    [genai]=opentelemetry-instrumentation-genai-openai
)
UV=.venv/bin/uv
[ -x "$UV" ] || { echo "vendors: no $UV: run 'make setup' first" >&2; exit 1; }
for vendor in "${!PACKAGES[@]}"; do
    venv=.venv-$vendor
    made_from=$(cat tests/otel/vendors.sh requirements/dev.txt pyproject.toml | sha256sum)
    [ "$(cat "$venv/.ready" 2>/dev/null)" = "$made_from" ] && continue
    echo "vendors: making $venv"
    "$UV" venv --quiet --clear --python .venv/bin/python "$venv"
    "$UV" pip install --quiet --python "$venv/bin/python" --prerelease allow --constraint requirements/dev.txt \
        -e . openai "${PACKAGES[$vendor]}"
    echo "$made_from" >"$venv/.ready"
done
.venv/bin/python -m pytest -q tests/otel/test_vendors.py "$@"

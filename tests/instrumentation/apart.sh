#!/usr/bin/env bash
# The tests of clients whose newest version does not go with requirements/dev.txt, each in an environment of its own.
#
#   tests/instrumentation/apart.sh             every one of them
#   tests/instrumentation/apart.sh xai_sdk     this one
#
# Their oldest versions are oldest.sh's to test, as everybody's.
set -euo pipefail
cd "$(dirname "$0")/../.."

UV=.venv/bin/uv
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink} PYTHONDONTWRITEBYTECODE=1
declare -A NEWEST=(
    [xai_sdk]='xai-sdk<2' # packaging 25 and no newer
)
[ $# -gt 0 ] || set -- "${!NEWEST[@]}"

failed=()
for name in "$@"; do
    venv=.venv-apart-$name
    pins=${NEWEST[$name]}
    if [ "$(cat "$venv/.ready" 2>/dev/null)" != "$pins" ]; then
        echo "apart: making $venv: $pins"
        "$UV" venv --quiet --clear --python .venv/bin/python "$venv"
        "$UV" pip install --quiet --python "$venv/bin/python" "$pins" -e . -e instrumentation -e exporter pytest openai \
            opentelemetry-instrumentation-httpx opentelemetry-instrumentation-threading
        echo "$pins" >"$venv/.ready"
    fi
    echo "apart: $("$UV" pip freeze --quiet --python "$venv/bin/python" | grep "^${name//_/-}==")"
    "$venv/bin/python" -m pytest -q -p no:cacheprovider tests/instrumentation/test_contract.py \
        "tests/instrumentation/test_$name.py" -k "$name or ${name//_/-}" || failed+=("$name")
done
[ ${#failed[@]} = 0 ] || { echo "apart: failed: ${failed[*]}" >&2; exit 1; }

#!/usr/bin/env bash
# The contract suite on the oldest supported version of each client, each in an environment of its own.
#
#   tests/instrumentation/oldest.sh            every client of tests/instrumentation/clients
#   tests/instrumentation/oldest.sh groq ...   these
#
# Which version, and what else has to be pinned for it, is the integration's to say (`versions`, `oldest`).
set -euo pipefail
cd "$(dirname "$0")/../.."

UV=.venv/bin/uv
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink} PYTHONDONTWRITEBYTECODE=1
[ $# -gt 0 ] || set -- $(cd tests/instrumentation/clients && ls | sed -n 's/^\([a-z].*\)\.py$/\1/p')

# Tests of its own that a client's oldest version runs too.
declare -A OWN=([botocore]=tests/instrumentation/test_bedrock.py [litellm]=tests/instrumentation/test_litellm.py)

failed=()
for name in "$@"; do
    venv=.venv-oldest-$name
    pins=$(.venv/bin/python -m egisai_instrumentation oldest "$name")
    if [ "$(cat "$venv/.ready" 2>/dev/null)" != "$pins" ]; then
        echo "oldest: making $venv: $pins"
        "$UV" venv --quiet --clear --python .venv/bin/python "$venv"
        # shellcheck disable=SC2086 - several requirements
        "$UV" pip install --quiet --python "$venv/bin/python" $pins -e . -e instrumentation -e exporter pytest pyyaml openai \
            opentelemetry-instrumentation-httpx opentelemetry-instrumentation-threading
        echo "$pins" >"$venv/.ready"
    fi
    echo "oldest: $pins"
    flags=()
    [ "$name" != litellm ] || flags=(--assert=plain -W "ignore::UserWarning") # why: alone.sh
    "$venv/bin/python" -m pytest -q -p no:cacheprovider -W "ignore::DeprecationWarning" ${flags[@]+"${flags[@]}"} \
        tests/instrumentation/test_contract.py ${OWN[$name]:-} -k "$name or ${name//_/-} ${OWN[$name]:+or ${OWN[$name]##*/}}" ||
        failed+=("$name")
done
[ ${#failed[@]} = 0 ] || { echo "oldest: failed: ${failed[*]}" >&2; exit 1; }

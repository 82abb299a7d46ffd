#!/usr/bin/env bash
# Clients whose newest version conflicts with the lock, and versions that .venv has newer: each in an environment of its own.
#
#   tests/instrumentation/alone.sh             all of them
#   tests/instrumentation/alone.sh mcp-1       these
#
# Environments are kept (.venv-alone-litellm, ...) and made anew when what they are made from has changed. To meet a
# newer version of a client, delete its environment.
set -euo pipefail
cd "$(dirname "$0")/../.."

UV=.venv/bin/uv
[ -x "$UV" ] || { echo "alone: no $UV: run 'make setup' first" >&2; exit 1; }
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink} PYTHONDONTWRITEBYTECODE=1
declare -A PACKAGES=(
    [litellm]="litellm>=1.106,<2 mcp" # responses import mcp
    [mcp-1]="mcp>=1.9,<2 openai"
    [xai-sdk]="xai-sdk<2 openai"               # wants packaging 25
    [ibm-watsonx-ai]="ibm-watsonx-ai<2 openai" # wants pandas 2
    [voyageai]="voyageai<1 openai opentelemetry-instrumentation-requests" # brings LangChain, and with it a plugin that every pytest would load
)
declare -A TESTS=(
    [litellm]="tests/instrumentation/test_litellm.py tests/instrumentation/test_contract.py -k litellm"
    [mcp-1]="tests/instrumentation/test_mcp_1.py"
    [xai-sdk]="tests/instrumentation/test_xai_sdk.py tests/instrumentation/test_contract.py -k xai"
    [ibm-watsonx-ai]="tests/instrumentation/test_ibm_watsonx_ai.py tests/instrumentation/test_contract.py -k watsonx"
    [voyageai]="tests/instrumentation/test_voyageai.py tests/instrumentation/test_contract.py -k voyage"
)
[ $# -gt 0 ] || set -- litellm mcp-1 xai-sdk ibm-watsonx-ai voyageai

failed=()
for name in "$@"; do
    venv=.venv-alone-$name
    made_from=$(cat tests/instrumentation/alone.sh instrumentation/pyproject.toml pyproject.toml | sha256sum)
    if [ "$(cat "$venv/.ready" 2>/dev/null)" != "$made_from" ]; then
        echo "alone: making $venv: ${PACKAGES[$name]}"
        "$UV" venv --quiet --clear --python .venv/bin/python "$venv"
        # shellcheck disable=SC2086 - several requirements
        "$UV" pip install --quiet --python "$venv/bin/python" ${PACKAGES[$name]} -e . -e instrumentation -e exporter \
            pytest certifi opentelemetry-instrumentation-httpx opentelemetry-instrumentation-threading
        echo "$made_from" >"$venv/.ready"
    fi
    echo "alone: $name: $("$UV" pip freeze --quiet --python "$venv/bin/python" | grep "^${name%-1}==")"
    # LiteLLM makes pydantic warn of its own types. Plain asserts: Python 3.11 cannot always compile a rewritten module
    # while LiteLLM's garbage is collected ("AST constructor recursion depth mismatch").
    # shellcheck disable=SC2086 - several arguments
    "$venv/bin/python" -m pytest -q --assert=plain -p no:cacheprovider \
        -W "ignore::DeprecationWarning" -W "ignore::UserWarning" ${TESTS[$name]} || failed+=("$name")
done
[ ${#failed[@]} = 0 ] || { echo "alone: failed: ${failed[*]}" >&2; exit 1; }

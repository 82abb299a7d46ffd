#!/usr/bin/env bash
# The SDK's tests in other environments than .venv; `make test-pythons` and `make test-oldest`.
#
#   tests/matrix.sh pythons PY...   on each of these interpreters, with the versions of requirements/dev.txt
#   tests/matrix.sh oldest PY       with the lowest version that each pyproject.toml and integration declares
#
# Environments are kept (.venv-3.12, .venv-oldest) and made anew only when what they are made from has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

UV=.venv/bin/uv
TESTS=(tests/core tests/instrumentation tests/exporter tests/fingerprint tests/stress tests/jobs/test_processes.py)
DISTRIBUTIONS=(. instrumentation exporter)
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink} PYTHONDONTWRITEBYTECODE=1

fail() { echo "matrix: $*" >&2; exit 1; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# Run the rest of the line unless environment $1 was already made from the same things.
once() {
    local venv=$1 py=$2; shift 2
    local made_from
    made_from=$({ "$py" -VV; echo "$@"; cat tests/matrix.sh requirements/dev.txt ./pyproject.toml ./*/pyproject.toml; } | sha256sum)
    [ "$(cat "$venv/.ready" 2>/dev/null)" = "$made_from" ] && return
    echo "matrix: making $venv"
    "$UV" venv --quiet --clear --python "$py" "$venv"
    "$@"
    echo "$made_from" >"$venv/.ready"
}

install_locked() {
    "$UV" pip install --quiet --python "$1/bin/python" -r requirements/dev.txt
    "$UV" pip install --quiet --python "$1/bin/python" --no-deps -e . -e instrumentation -e exporter -e platform
}

install_oldest() {
    local python=$1/bin/python openai=$2
    "$UV" pip install --quiet --python "$python" --resolution lowest-direct "${DISTRIBUTIONS[@]/#/-e}" "openai==$openai" \
        httpx==0.27.2 # openai before 1.55 passes arguments that 0.28 removed
    "$UV" pip freeze --python "$python" --exclude-editable >"$1/lowest.txt"
    # What the tests themselves need must not move what is tested.
    "$UV" pip install --quiet --python "$python" --constraint "$1/lowest.txt" pytest pytest-xdist pyyaml anyio hypothesis fastapi flask uvicorn \
        cheroot httpx2 \
        opentelemetry-instrumentation-httpx opentelemetry-instrumentation-threading opentelemetry-instrumentation-fastapi \
        opentelemetry-instrumentation-flask opentelemetry-distro
}

run() {
    local venv=$1; shift
    echo "matrix: $venv: $("$venv/bin/python" -V), openai $("$venv/bin/python" -c 'import openai; print(openai.__version__)'), $(
        "$venv/bin/python" -c 'import opentelemetry.sdk.version as v; print("opentelemetry-sdk", v.__version__)')"
    "$venv/bin/python" -m pytest -q -p no:cacheprovider -n 2 --dist loadfile "${TESTS[@]}" "$@"
}

[ -x "$UV" ] || fail "no $UV: run 'make setup' first"
what=${1:-}
[ $# -gt 0 ] && shift
case $what in
pythons)
    ran=() failed=()
    for py in "$@"; do
        version=$(version_of "$py") || fail "$py does not run"
        [ "$version" = "$(version_of .venv/bin/python)" ] && continue # `make test` runs there
        venv=.venv-$version
        once "$venv" "$py" install_locked "$venv"
        "$venv/bin/python" -c 'import egisai_platform.app' || failed+=("$version (platform)")
        run "$venv" || failed+=("$version")
        ran+=("$version")
    done
    [ ${#failed[@]} = 0 ] || fail "failed on Python ${failed[*]}"
    if [ ${#ran[@]} = 0 ]; then
        echo "matrix: no other interpreter from Python 3.10 to 3.13 on this machine: nothing was run"
    else
        echo "matrix: passed on Python ${ran[*]}"
    fi
    ;;
oldest)
    py=${1:-.venv/bin/python}
    openai=$(.venv/bin/python -c '
import re
from egisai_instrumentation.openai import INTEGRATION
print(re.search(r">=([\d.]+)", INTEGRATION.versions)[1])')
    once .venv-oldest "$py" install_oldest .venv-oldest "$openai"
    run .venv-oldest
    ;;
*) fail "usage: tests/matrix.sh pythons PY... | oldest [PY]" ;;
esac

#!/usr/bin/env bash
# A backend that nobody here wrote, Arize Phoenix (about 600 MB), in an environment of its own, and the tests with it.
set -euo pipefail
cd "$(dirname "$0")/../.."

UV=.venv/bin/uv
[ -x "$UV" ] || { echo "backends: no $UV: run 'make setup' first" >&2; exit 1; }
made_from=$(sha256sum <tests/otel/backends.sh)
if [ "$(cat .venv-phoenix/.ready 2>/dev/null)" != "$made_from" ]; then
    echo "backends: making .venv-phoenix"
    "$UV" venv --quiet --clear --python .venv/bin/python .venv-phoenix
    "$UV" pip install --quiet --python .venv-phoenix/bin/python "arize-phoenix>=20,<21"
    echo "$made_from" >.venv-phoenix/.ready
fi
.venv/bin/python -m pytest -q tests/otel/test_backends.py "$@"

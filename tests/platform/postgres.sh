#!/usr/bin/env bash
# The metadata tests on a PostgreSQL server that is started for them and thrown away; `make test-postgres`.
#
# Needs PostgreSQL's programs (Debian: apt-get install postgresql). As root it runs the server as the user postgres.
# The driver is kept in .venv-postgres. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

DRIVER=.venv-postgres
PSYCOPG="psycopg[binary]>=3.2,<4"
TESTS=(tests/platform/test_metadata.py tests/platform/test_prompts.py tests/platform/test_parts.py)

fail() { echo "postgres: $*" >&2; exit 1; }

PATH="$PATH:$(find /usr/lib/postgresql/*/bin -maxdepth 0 2>/dev/null | sort -V | tail -n 1)"
command -v initdb >/dev/null || fail "no initdb: install PostgreSQL (Debian: apt-get install postgresql)"
[ -x .venv/bin/uv ] || fail "no .venv: run 'make setup' first"
[ -d "$DRIVER" ] || .venv/bin/uv pip install --quiet --python .venv/bin/python --target "$DRIVER" "$PSYCOPG"

as_server=()
dir=$(mktemp -d /tmp/postgres-test.XXXXXX)
if [ "$(id -u)" = 0 ]; then
    as_server=(runuser -u postgres --)
    chown postgres "$dir"
fi
finish() {
    "${as_server[@]}" pg_ctl -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap finish EXIT

# Durability is not what is tested here; no port is opened, only a socket in a directory of its own.
(cd / && "${as_server[@]}" initdb -D "$dir/data" -U test -A trust -E UTF8 --locale=C --no-sync >/dev/null
"${as_server[@]}" pg_ctl -D "$dir/data" -w -l "$dir/log" \
    -o "-c listen_addresses='' -c unix_socket_directories='$dir' -c fsync=off -c max_connections=200" start >/dev/null) \
    || { cat "$dir/log" >&2; fail "the server did not start"; }

TEST_POSTGRESQL="postgresql+psycopg://test@/postgres?host=$dir" PYTHONPATH="$DRIVER${PYTHONPATH:+:$PYTHONPATH}" \
    .venv/bin/python -m pytest -q -p no:cacheprovider "${TESTS[@]}" "$@"

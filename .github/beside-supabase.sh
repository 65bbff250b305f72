#!/usr/bin/env bash
# Starts the functions beside a running `supabase start` and prints the environment in which the tests use both.
#   eval "$(bash .github/beside-supabase.sh | sed 's/^/export /')" && make test ARGS="-m 'not embedded'"
set -euo pipefail
cd "$(dirname "$0")/.."

eval "$(node_modules/.bin/supabase status -o env 2>/dev/null)"
: "${API_URL:?Supabase is not running: supabase start}" "${DB_URL:?}" "${PUBLISHABLE_KEY:?}" "${SECRET_KEY:?}"
JWKS_URL="$API_URL/auth/v1/.well-known/jwks.json"
FUNCTIONS_PORT="${FUNCTIONS_PORT:-8080}"
FUNCTIONS_URL="http://127.0.0.1:$FUNCTIONS_PORT/functions/v1"

# The login of the functions gets its password here; hosted, once, in the SQL editor.
password="$(.venv/bin/python -c 'import secrets; print(secrets.token_urlsafe(18))')"
.venv/bin/python - "$DB_URL" "$password" <<'PYTHON'
import sys
import psycopg
from psycopg import sql

with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    connection.execute(sql.SQL("alter role strive_functions password {}").format(sql.Literal(sys.argv[2])))
PYTHON

HOST=127.0.0.1 PORT="$FUNCTIONS_PORT" SUPABASE_URL="$API_URL" SUPABASE_JWKS_URL="$JWKS_URL" \
  SUPABASE_PUBLISHABLE_KEY="$PUBLISHABLE_KEY" SUPABASE_SECRET_KEY="$SECRET_KEY" \
  SUPABASE_DB_URL="${DB_URL/postgres:postgres@/strive_functions:$password@}" \
  nohup .venv/bin/python -m functions > .functions.log 2>&1 < /dev/null &
for _ in $(seq 100); do
  if .venv/bin/python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$FUNCTIONS_PORT/readyz')" 2>/dev/null; then
    for name in API_URL DB_URL FUNCTIONS_URL PUBLISHABLE_KEY SECRET_KEY JWKS_URL; do echo "$name=${!name}"; done
    exit 0
  fi
  sleep 0.2
done
echo "The functions did not become ready:" >&2
tail -n 20 .functions.log >&2
exit 1

#!/usr/bin/env bash
# Measures a cold start over many relation files, all in the database that the first connection goes to: until PostgreSQL accepts
# it, and until it has been answered. FILES says how many (32000), ROUNDS how often it is measured (3). Another program than the
# one that was built last is measured with QUIRE=path. Prints a line for each round; takes about two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

quire=${QUIRE:-target/release/quire}
files=${FILES:-32000}
dir=$(mktemp -d /tmp/quire-bench-XXXXXX)
chmod 711 "$dir"

finish() {
    "$quire" --dir "$dir/q" down >/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

"$quire" --dir "$dir/q" up --detach >/dev/null
url=$("$quire" --dir "$dir/q" url)
sql() { psql -XqAt -v ON_ERROR_STOP=1 "$url" "$@"; }

# Four files each: a table, its index, and the same of its TOAST table.
sql -c "CREATE PROCEDURE fill(tables int) LANGUAGE plpgsql AS \$\$ BEGIN
    FOR n IN 1..tables LOOP
        EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, t text)', n);
        EXECUTE format('INSERT INTO t%s VALUES (1, ''x'')', n);
        IF n % 200 = 0 THEN COMMIT; END IF;
    END LOOP; END \$\$" -c "CALL fill($((files / 4)))"
sql -c CHECKPOINT

seconds_since() { echo "$(date +%s.%N) $1" | awk '{ printf "%.2f", $1 - $2 }'; }

for round in $(seq "${ROUNDS:-3}"); do
    "$quire" --dir "$dir/q" compute stop main >/dev/null
    begun=$(date +%s.%N)
    "$quire" --dir "$dir/q" compute start main --cold >/dev/null
    accepted=$(seconds_since "$begun")
    found=$(sql -c "SELECT count(*) FROM pg_ls_dir('base/' || (SELECT oid FROM pg_database WHERE datname = current_database()))")
    echo "round $round: $found files, accepted after $accepted s, answered after $(seconds_since "$begun") s"
done

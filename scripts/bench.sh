#!/usr/bin/env bash
# Measures Quire beside stock PostgreSQL on this machine, in a folder of its own that is gone afterwards.
# SCALE, CLIENTS, SECONDS_PER_ROUND and ROUNDS change the size; COLD_SCALE that of the table that is read cold (80 is 1 GB).
set -euo pipefail
cd "$(dirname "$0")/.."

quire=target/release/quire
reports=target/bench
dir=$(mktemp -d /tmp/quire-bench-XXXXXX)
chmod 711 "$dir"

finish() {
    "$quire" --dir "$dir/q" down >/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

"$quire" --dir "$dir/q" up --detach >/dev/null
for workload in tpcb select; do
    "$quire" --dir "$dir/q" bench "$workload" --compare --scale "${SCALE:-50}" --clients "${CLIENTS:-8}" \
        --seconds "${SECONDS_PER_ROUND:-20}" --rounds "${ROUNDS:-3}" --report "$reports"
    echo
done
for workload in seqscan coldread; do
    compare=$([ $workload = seqscan ] && echo --compare || true)
    "$quire" --dir "$dir/q" bench "$workload" $compare --scale "${COLD_SCALE:-80}" --clients "${CLIENTS:-8}" \
        --seconds "${SECONDS_PER_ROUND:-20}" --rounds "${ROUNDS:-3}" --report "$reports"
    echo
done
"${CARGO:-cargo}" bench --locked -q -p quire-shim --bench pread | tee "$reports/pread.txt"
echo
"$quire" --dir "$dir/q" status
echo "reports: $reports"

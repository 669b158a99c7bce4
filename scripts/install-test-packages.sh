#!/usr/bin/env bash
# Installs from Debian what only the tests need and is not there yet: RUM, an access method that does not log the init forks of
# its indexes, or the extension whose name is given. Takes the newest package that leaves the installed server as it
# is. Does nothing, quickly, where it is there.
set -euo pipefail

case "${1:-rum}" in
    rum) extension=rum package=postgresql-15-rum ;;
    plperl) extension=plperl package=postgresql-plperl-15 ;;
    postgis) extension=postgis package=postgresql-15-postgis-3 ;;
    *) echo "usage: $0 [rum|plperl|postgis]" >&2; exit 2 ;;
esac
[ -e "/usr/share/postgresql/15/extension/$extension.control" ] && exit 0

say() { echo "install: $*" >&2; }
fail() { say "$*"; exit 1; }

command -v apt-get >/dev/null || fail "this is no Debian; install the extension $extension for PostgreSQL 15, which the tests need"
as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "as root, install $package, which the tests need"
    as_root=sudo
fi

versions() { apt-cache madison "$package" | awk -F'|' '{ gsub(/ /, "", $2); print $2 }'; }

[ -n "$(versions)" ] || $as_root apt-get update -qq >&2
for version in $(versions); do
    # A package may ask for a newer server than the installed one.
    if ! apt-get install -s --no-install-recommends "$package=$version" 2>/dev/null | grep -q '^Inst postgresql-15 '; then
        say "installing $package $version"
        exec $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package=$version" >&2
    fi
done
fail "no version of $package goes with the installed PostgreSQL 15; the tests need one"

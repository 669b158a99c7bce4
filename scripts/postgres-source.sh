#!/usr/bin/env bash
# Fetches PostgreSQL 15's source package and the server's headers from Debian, in the version of the installed server, and
# builds the modules that the regression suite loads. Prints the folder. Quick where everything is there already; needs no
# root and installs nothing.
#
#   source/   the unpacked source package
#   dev/      the unpacked development package
#   modules/  regress.so, autoinc.so, refint.so
set -euo pipefail
cd "$(dirname "$0")/.."

pg_major=15
server=postgresql-$pg_major
headers=postgresql-server-dev-$pg_major
lib=/usr/lib/postgresql/$pg_major/lib
cache=$PWD/target/postgres-source

say() { echo "postgres-source: $*" >&2; }
fail() { say "$*"; exit 1; }

# The machine's own package sources, asked for source packages too, under private lists and caches.
configure_apt() {
    local file
    rm -rf "$cache/apt"
    mkdir -p "$cache"/apt/{sources,lists/partial,archives/partial}
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$file" ] || continue
        sed -n -E '/^deb[ \t]/ { p; s/^deb/deb-src/p }' "$file" >"$cache/apt/sources/$(basename "$file" .list).list"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        sed -E 's/^Types:.*/Types: deb deb-src/' "$file" >"$cache/apt/sources/$(basename "$file")"
    done
}

apt_options() {
    printf -- '-o\n%s\n' Dir::Etc::SourceList=/dev/null "Dir::Etc::SourceParts=$cache/apt/sources" \
        "Dir::State::Lists=$cache/apt/lists" "Dir::Cache=$cache/apt" APT::Sandbox::User=root
}

# The installed server's version first: the suite expects what that one prints. A mirror may lack it.
versions() {
    dpkg-query -W -f '${Version}\n' "$server"
    apt-cache "${apt[@]}" showsrc "$server" | sed -n 's/^Version: //p' | sort -Vr
}

fetch() {
    local version
    for version in $(versions | awk '!seen[$0]++'); do
        fetch_version "$version" && { echo "$version"; return; }
        say "version $version is not to be had"
    done
    fail "no version of $server has both its source and $headers among the package sources"
}

# apt checks what it downloads against the signed lists.
fetch_version() {
    (cd "$cache/apt" && apt-get "${apt[@]}" -qq source --download-only "$server=$1" &&
        apt-get "${apt[@]}" -qq download "$headers=$1") >&2
}

unpack() {
    rm -rf "$cache/source" "$cache/dev"
    tar -C "$cache/apt" -xf "$cache"/apt/${server}_*.orig.tar.*
    mv "$cache"/apt/postgresql-"$pg_major".*/ "$cache/source"
    dpkg-deb -x "$cache"/apt/${headers}_*.deb "$cache/dev"
}

build_modules() {
    local include=$cache/dev/usr/include/postgresql/$pg_major/server
    mkdir -p "$cache/modules"
    cc -O1 -w -fPIC -shared -I "$include" -o "$cache/modules/regress.so" "$cache/source/src/test/regress/regress.c"
    cp "$lib/autoinc.so" "$lib/refint.so" "$cache/modules/"
}

installed=$(dpkg-query -W -f '${Version}' "$server") || fail "$server is not installed as a Debian package"
if [ "$(cat "$cache/complete" 2>/dev/null)" != "$installed" ]; then
    rm -f "$cache/complete"
    configure_apt
    mapfile -t apt < <(apt_options)
    # Sources of third parties often have no source packages; what matters is whether ours is found.
    apt-get "${apt[@]}" -qq update >&2 || say "not all package sources offer source packages"
    version=$(fetch)
    say "version $version, for the installed $installed"
    unpack
    build_modules
    rm -rf "$cache/apt"
    echo "$installed" >"$cache/complete"
fi
echo "$cache"

#!/usr/bin/env bash
# Unpacks newer servers of the same protocol, Redis 8 and Valkey 8 from the next
# Debian release, below a folder, without installing them:
#   .ci/otherservers.sh FOLDER
# Then FOLDER/redis and FOLDER/valkey each hold a redis-server, redis-sentinel
# and redis-cli, to be put in front of PATH. They run on the libraries of their
# own release.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: otherservers.sh FOLDER" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
[ ! -e "$dir/valkey/redis-server" ] || exit 0
release=trixie

# An apt of its own, which believes that nothing is installed.
mkdir -p "$dir"/apt/{lists/partial,cache/archives/partial} "$dir/root"
: >"$dir/apt/status"
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Label: Debian' | sort -u | head -n1)
[ -n "$mirror" ] || { echo "otherservers: apt knows no Debian mirror: run apt-get update first" >&2; exit 1; }
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] $mirror $release main" >"$dir/apt/sources.list"
apt=(apt-get -qq -y -o "Dir::State=$dir/apt" -o "Dir::State::status=$dir/apt/status" -o "Dir::State::lists=$dir/apt/lists"
  -o "Dir::Cache=$dir/apt/cache" -o "Dir::Etc::SourceList=$dir/apt/sources.list" -o Dir::Etc::SourceParts=-
  -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Debug::NoLocking=1)
"${apt[@]}" update
"${apt[@]}" --download-only install redis-server redis-sentinel valkey-server valkey-sentinel >/dev/null
for deb in "$dir"/apt/cache/archives/*.deb; do dpkg-deb -x "$deb" "$dir/root"; done
rm -rf "$dir/apt"

# wrap FOLDER NAME BINARY: a command that runs a binary of the other release.
lib=$(echo "$dir"/root/usr/lib/*-linux-gnu)
loader=$(echo "$lib"/ld-linux*.so.*)
wrap() {
  mkdir -p "$dir/$1"
  cat >"$dir/$1/$2" <<X
#!/bin/sh
exec "$loader" --library-path "$lib" --argv0 "$2" "$dir/root/usr/bin/$3" "\$@"
X
  chmod 755 "$dir/$1/$2"
}
for name in server sentinel cli; do
  wrap redis "redis-$name" "redis-$name"
  wrap valkey "redis-$name" "valkey-$name"
done

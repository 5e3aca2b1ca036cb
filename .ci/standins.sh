#!/usr/bin/env bash
# Makes local images that stand in for the public ones named in
# docker-compose.yml and deploy/compose/Dockerfile, out of what Debian and Go
# have put on this machine. For CI machines without a registry, and for them
# only: anywhere else it would shadow the real images under their own names.
# A tag that exists is kept. Every image made here is labelled usher.standin=1.
set -euo pipefail
[ "${CI:-}" = true ] || { echo "standins: only for CI machines (CI=true): elsewhere pull the real images" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# root DIR: a small root file system of busybox, users and certificates.
root() {
  local r=$1 applet
  mkdir -p "$r"/{bin,dev,etc/ssl/certs,proc,root,run,sys,tmp,data,usr/local/bin,usr/local/etc/haproxy,var/lib/haproxy}
  chmod 1777 "$r/tmp"
  cp "$(command -v busybox)" "$r/bin/busybox"
  for applet in $("$r/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -sf busybox "$r/bin/$applet"
  done
  printf '%s\n' root:x:0:0::/root:/bin/sh redis:x:999:1000::/data:/bin/sh \
    haproxy:x:99:99::/var/lib/haproxy:/bin/sh nobody:x:65534:65534::/:/bin/sh >"$r/etc/passwd"
  printf '%s\n' root:x:0: redis:x:1000: haproxy:x:99: nobody:x:65534: >"$r/etc/group"
  echo 'hosts: files dns' >"$r/etc/nsswitch.conf"
  cp -L /etc/ssl/certs/ca-certificates.crt "$r/etc/ssl/certs/"
}

# program ROOT NAME...: copies programs and the libraries they are linked with.
program() {
  local r=$1 name file lib
  shift
  for name in "$@"; do
    file=$(readlink -f "$(command -v "$name")")
    install -D -m755 "$file" "$r/usr/local/bin/$name"
    for lib in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do
      [ -e "$r$lib" ] || install -D -m755 "$(readlink -f "$lib")" "$r$lib"
    done
  done
}

# load TAG CHANGE...: makes an image of the tar archive on standard input.
load() {
  local tag=$1 change args=()
  shift
  for change in "ENV PATH=$path" "LABEL usher.standin=1" "$@"; do args+=(-c "$change"); done
  docker import "${args[@]}" - "$tag" >/dev/null
}

image_redis() {
  local r=$work/redis
  root "$r"
  program "$r" redis-server redis-cli
  chown 999:1000 "$r/data"
  # The public image's server is built with its protected mode off.
  cat >"$r/usr/local/bin/docker-entrypoint.sh" <<'X'
#!/bin/sh
case "$1" in -*|*.conf) set -- redis-server "$@" ;; esac
case "$1" in redis-server) set -- "$@" --protected-mode no ;; esac
exec "$@"
X
  chmod 755 "$r/usr/local/bin/docker-entrypoint.sh"
  tar -C "$r" -c . | load "$1" 'WORKDIR /data' 'VOLUME /data' 'EXPOSE 6379' \
    'ENTRYPOINT ["docker-entrypoint.sh"]' 'CMD ["redis-server"]'
}

image_haproxy() {
  local r=$work/haproxy
  root "$r"
  program "$r" haproxy
  chown 99:99 "$r/var/lib/haproxy"
  cat >"$r/usr/local/bin/docker-entrypoint.sh" <<'X'
#!/bin/sh
case "$1" in -*) set -- haproxy "$@" ;; esac
if [ "$1" = haproxy ]; then shift; set -- haproxy -W -db "$@"; fi
exec "$@"
X
  chmod 755 "$r/usr/local/bin/docker-entrypoint.sh"
  tar -C "$r" -c . | load "usher-standin:$$" 'USER haproxy' 'WORKDIR /var/lib/haproxy' \
    'ENTRYPOINT ["docker-entrypoint.sh"]' 'CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]'
  # import knows no STOPSIGNAL
  printf 'FROM usher-standin:%s\nSTOPSIGNAL SIGUSR1\n' "$$" | DOCKER_BUILDKIT=0 docker build -q -t "$1" - >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
  docker rmi "usher-standin:$$" >/dev/null
}

image_busybox() {
  local r=$work/busybox
  root "$r"
  tar -C "$r" -c . | load "$1" 'CMD ["sh"]'
}

image_golang() {
  local r=$work/golang goroot
  goroot=$(go env GOROOT)
  root "$r"
  mkdir -p "$r/go/src" "$r/go/bin"
  tar -C "$r" -cf "$work/golang.tar" .
  tar --transform "s,^${goroot#/},usr/local/go," -C / --exclude="${goroot#/}"/{test,api,doc} -rf "$work/golang.tar" "${goroot#/}"
  load "$1" "ENV GOPATH=/go GOTOOLCHAIN=local PATH=/go/bin:/usr/local/go/bin:$path" 'WORKDIR /go' <"$work/golang.tar"
}

for image in redis:7-alpine haproxy:3.0-alpine busybox:1.36 golang:1.26-alpine; do
  docker image inspect "$image" >/dev/null 2>&1 || "image_${image%%:*}" "$image"
done
docker images --filter label=usher.standin=1 --format 'stand-in {{.Repository}}:{{.Tag}} {{.Size}}' | grep -v '<none>'
redis-server --version | cut -d' ' -f1-3
haproxy -v | sed -n 1p

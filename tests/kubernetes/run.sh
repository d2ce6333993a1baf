#!/usr/bin/env bash
# Brings a real Kubernetes with Knative and KubeRay up on this machine, runs the
# tests on it, and takes it down. Needs root and Debian; builds what is missing.
# Usage: run.sh            everything: some 25 minutes on a bare machine, 7 later
#        run.sh manifests  only whether the apiserver, the CRDs and Knative's
#                          webhooks take each manifest: 8 minutes, later 1
# KEEP=1 leaves it up: `rig/down.sh --wipe` takes it down.
. "$(dirname "${BASH_SOURCE[0]}")/rig/env.sh"
cd "$ROOT"

packages() {
  local each missing=()
  for each in "$@"; do dpkg -s "$each" > /dev/null 2>&1 || missing+=("$each"); done
  [ ${#missing[@]} -eq 0 ] && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" > /dev/null
}

timed() {
  local begun=$SECONDS
  "$@"
  echo "=== ${*##*/}: $((SECONDS - begun)) s"
}

[ -n "${KEEP:-}" ] || trap '"$HERE/down.sh" --wipe' EXIT
"$HERE/down.sh" --wipe

packages etcd-server iproute2 openssl perl procps
if [ "${1:-}" = manifests ]; then
  timed "$HERE/build.sh" control
  timed "$HERE/up.sh" control
  timed "$HERE/install.sh" control
  timed "$HERE/../manifests.sh"
  exit
fi
packages containerd runc containernetworking-plugins iptables conntrack ebtables ethtool socat gcc libc6-dev mmdebstrap curl
timed "$HERE/build.sh"
make -s image
timed "$HERE/up.sh"
timed "$HERE/install.sh"
timed "$HERE/../manifests.sh"
# Inside, names are the cluster's, and nothing else can be reached.
ip netns exec $NS env PATH="$ROOT/.tools:$PATH" CGO_ENABLED=0 \
  go test -tags kubernetes -count 1 -timeout 40m -v ./tests/kubernetes

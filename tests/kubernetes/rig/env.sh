# What all scripts of the rig share: a Kubernetes with Knative, Kourier and
# KubeRay on this machine, in a network namespace of its own. Sourced by them.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../../.." && pwd)

# Everything that is built or run lies here, and nothing anywhere else.
RIG=${KRIG_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/krig}
BIN=$RIG/bin
SOCK=$RIG/run/containerd.sock
export KUBECONFIG=$RIG/state/admin.kubeconfig
export PATH=$BIN:$PATH:/usr/sbin:/sbin

K8S=v1.34.1
STAGING=v0.34.1 # what k8s.io/kubernetes calls its own libraries
KNATIVE=v0.50.0
KOURIER=v0.48.0 # 0.49 and 0.50 were never tagged as modules
KUBERAY=v1.4.2
KUBERAY_MODULE=github.com/ray-project/kuberay/ray-operator
COREDNS=v1.14.6
ENVOY=1.40.0

NS=krig                # the network namespace
NODE_IP=10.200.0.1     # on a bridge without ports: nothing gets out
SERVICES=10.201.0.0/16 # the apiserver's own is the first of them
PODS=10.202.0.0/16

export GOFLAGS=-buildvcs=false CGO_ENABLED=0
mkdir -p "$BIN" "$RIG"/{build,cache,images,manifests,out}

# inside runs a command in the rig's network; k is kubectl there.
inside() { nsenter --net=/run/netns/$NS "$@"; }
k() { inside kubectl "$@"; }

# moddir MODULE VERSION prints the module's folder in the module cache.
moddir() { go mod download -C / -json "$1@$2" | sed -n 's/.*"Dir": "\(.*\)",/\1/p'; }

# owned records, finds and stops processes that we started, and no others.
owned() { python3 "$ROOT/tests/owned/owned.py" "$@"; }

# mine NAME: the process that was recorded under this name lives, and runs it.
mine() {
  local pid
  pid=$(owned alive "$RIG/run/pids/$1") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${1:0:15}" ]
}

# patiently runs a command until it succeeds, for a minute.
patiently() {
  local until=$((SECONDS + 60))
  while [ $SECONDS -lt $until ]; do
    "$@" > /dev/null 2>&1 && return 0
    sleep 0.25
  done
  "$@"
}

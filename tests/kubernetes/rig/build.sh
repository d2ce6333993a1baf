#!/usr/bin/env bash
# Builds Kubernetes, Knative, Kourier, CoreDNS and KubeRay from their Go
# modules. What is there already is left alone: after a change of a version in
# env.sh remove the program from $BIN and its folder from $RIG/build.
# Usage: build.sh [control]    control: only what it takes to check manifests
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# compile FOLDER PROGRAM=PACKAGE... builds programs inside $RIG/build/FOLDER,
# whose go.mod has been made; LDFLAGS may add to the linker's.
compile() {
  cd "$RIG/build/$1"
  shift
  {
    printf '//go:build tools\n\npackage tools\n\nimport (\n'
    printf '\t_ "%s"\n' "${@#*=}"
    echo ')'
  } > tools.go
  local each begun
  for each in "$@"; do
    [ -x "$BIN/${each%%=*}" ] && continue
    begun=$SECONDS
    go build -mod=mod -trimpath -ldflags "-s -w ${LDFLAGS:-}" -o "$BIN/${each%%=*}" "${each#*=}"
    echo "built ${each%%=*} in $((SECONDS - begun)) s"
  done
}

# wrap FOLDER MODULE VERSION makes a module that requires what MODULE does.
wrap() {
  [ -f "$RIG/build/$1/go.mod" ] && return
  local source
  source=$(moddir "$2" "$3")
  mkdir -p "$RIG/build/$1"
  sed -E "s#^module .*#module rig/$1#" "$source/go.mod" > "$RIG/build/$1/go.mod"
  printf '\nrequire %s %s\n' "$2" "$3" >> "$RIG/build/$1/go.mod"
  cp "$source/go.sum" "$RIG/build/$1/go.sum"
}

# The module k8s.io/kubernetes comes without its staging folder: each of its
# libraries is required, and replaced, at the version that was published.
wrap_kubernetes() {
  [ -f "$RIG/build/k8s/go.mod" ] && return
  local source
  source=$(moddir k8s.io/kubernetes $K8S)
  mkdir -p "$RIG/build/k8s"
  {
    printf 'module rig/k8s\n\ngo %s\n\nrequire k8s.io/kubernetes %s\n' "$(awk '$1 == "go" {print $2}' "$source/go.mod")" $K8S
    awk '/^require \(/ {p = 1} p; /^\)/ {p = 0}' "$source/go.mod" |
      sed -E "s#^(\s+k8s\.io/\S+) v0\.0\.0( //.*)?\$#\1 $STAGING\2#"
    echo 'replace ('
    awk '/^replace \(/ {p = 1; next} /^\)/ {p = 0} p' "$source/go.mod" |
      awk -v version=$STAGING '{print "\t" $1 " => " $1 " " version}'
    echo ')'
  } > "$RIG/build/k8s/go.mod"
  cp "$source/go.sum" "$RIG/build/k8s/go.sum"
}

kubernetes() {
  wrap_kubernetes
  local package each programs=()
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    LDFLAGS+=" -X $package.gitVersion=$K8S -X $package.gitMajor=1 -X $package.gitMinor=34"
  done
  for each in "$@"; do programs+=("$each=k8s.io/kubernetes/cmd/$each"); done
  compile k8s "${programs[@]}"
  LDFLAGS=
}

serving() {
  wrap serving knative.dev/serving $KNATIVE
  local each programs=()
  for each in "$@"; do programs+=("serving-$each=knative.dev/serving/cmd/$each"); done
  compile serving "${programs[@]}"
}

eventing() {
  wrap eventing knative.dev/eventing $KNATIVE
  local each programs=()
  for each in "$@"; do programs+=("eventing-${each//\//-}=knative.dev/eventing/cmd/$each"); done
  compile eventing "${programs[@]}"
}

coredns() {
  mkdir -p "$RIG/build/coredns/cmd"
  cat > "$RIG/build/coredns/cmd/main.go" <<'GO'
package main

import (
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"

	"github.com/coredns/coredns/coremain"
)

func main() { coremain.Run() }
GO
  cd "$RIG/build/coredns"
  [ -x "$BIN/coredns" ] && return
  [ -f go.mod ] || go mod init rig/coredns
  go get github.com/coredns/coredns@$COREDNS
  go build -mod=mod -trimpath -ldflags '-s -w' -o "$BIN/coredns" ./cmd
}

LDFLAGS=
case ${1:-all} in
  control)
    kubernetes kube-apiserver kubectl
    serving webhook
    eventing webhook
    ;;
  all)
    kubernetes kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl kube-proxy
    serving controller webhook autoscaler activator queue
    eventing controller webhook in_memory/channel_controller in_memory/channel_dispatcher \
      mtchannel_broker broker/filter broker/ingress
    wrap kourier knative.dev/net-kourier $KOURIER
    compile kourier kourier=knative.dev/net-kourier/cmd/kourier
    coredns
    wrap kuberay $KUBERAY_MODULE $KUBERAY
    compile kuberay kuberay-operator=$KUBERAY_MODULE
    ;;
esac

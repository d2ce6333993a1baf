#!/usr/bin/env bash
# Whether the apiserver, with the real CRDs and Knative's webhooks, takes every
# manifest as a user would apply it; and whether it refuses what is wrong, or
# this would show nothing.
. "$(dirname "${BASH_SOURCE[0]}")/rig/env.sh"
cd "$ROOT"

dry_run() { k apply --server-side --force-conflicts --validate=strict --dry-run=server "$@"; }

# taken NAME ARGUMENT...: what kubectl's arguments name is taken.
taken() {
  local name=$1 printed
  shift
  printed=$(dry_run "$@" 2>&1) || {
    echo "$printed" >&2
    exit 1
  }
  echo "taken: $name, $(grep -c 'server dry run' <<< "$printed") objects"
}

# refused WHY SED FILE: the file, changed by a sed program, is refused, and the
# complaint says why.
refused() {
  local printed
  if printed=$(sed -E "$2" "$3" | dry_run -f - 2>&1); then
    echo "taken, though it is wrong ($2): $3" >&2
    exit 1
  fi
  grep -q "$1" <<< "$printed" || {
    echo "refused for another reason ($2): $printed" >&2
    exit 1
  }
  echo "refused, as it should be: $2"
}

k create namespace swe-ai-fleet --dry-run=client -o yaml | k apply -f - > /dev/null
# Without a controller manager nobody else makes these; Knative's webhook tries
# each pod, which has one.
for namespace in default swe-ai-fleet; do
  k create serviceaccount default -n $namespace --dry-run=client -o yaml | k apply --server-side -f - > /dev/null
done
# The webhooks need a moment for their certificates.
patiently dry_run -f service.yaml
taken service.yaml -f service.yaml
for overlay in deploy/overlays/*/; do taken "$overlay" -k "$overlay"; done

refused 'imagee: field not declared in schema' 's/^( +)image: .*/&\n\1imagee: x/' service.yaml
refused 'more than one container port is set' 's/^( +)containerPort: 8080/&\n\1protocol: TCP\n            - {name: http1, containerPort: 8081}/' service.yaml
refused 'containerConcurrency' 's/containerConcurrency: 0.*/containerConcurrency: -1/' service.yaml
refused 'backoffPolicy' 's/backoffPolicy: exponential/backoffPolicy: sometimes/' deploy/base/eventing.yaml
refused 'subscribr' 's/subscriber:/subscribr:/' deploy/base/eventing.yaml
refused 'headGroupSpec' 's/headGroupSpec:/headGroupSpecs:/' deploy/base/ray.yaml

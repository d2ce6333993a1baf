#!/usr/bin/env bash
# Stops what up.sh has started, by the records that it kept, with its pods
# and its network. Usage: down.sh [--wipe]    --wipe: the cluster's state too;
# what was built stays.
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
set +e

# stop NAME asks a recorded process to end, and ends it after some seconds, with
# what is left of its session: containerd's shims are of containerd's.
stop() {
  owned stop "$RIG/run/pids/$1" 4
  rm -f "$RIG/run/pids/$1"
}

for each in serving-webhook eventing-webhook kubelet kube-scheduler kube-controller-manager kube-proxy coredns; do stop $each; done

ctr() { command ctr -a "$SOCK" -n k8s.io "$@" 2> /dev/null; }
networks=
for each in $(ctr containers ls -q); do
  networks+=" $(ctr containers info "$each" | grep -oE '/netns/cni-[0-9a-f-]+' | sort -u | sed 's#.*/##')"
done
for each in $(ctr tasks ls -q); do ctr tasks rm -f "$each" > /dev/null; done
for each in $(ctr containers ls -q); do ctr containers rm "$each" > /dev/null; done
stop containerd
stop kube-apiserver
stop etcd
grep -o " $RIG/[^ ]*" /proc/mounts | sort -r | while read -r each; do umount -l "$each"; done
for each in $(echo "$networks" | tr ' ' '\n' | sort -u); do
  [ -e "/run/netns/$each" ] && ip netns del "$each"
done
[ -e /run/netns/$NS ] && ip netns del $NS
for each in /sys/fs/cgroup/{,*/}kubepods; do
  [ -d "$each" ] && find "$each" -depth -type d -exec rmdir {} \; 2> /dev/null # the empty ones
done
rm -rf "$RIG/run" /etc/netns/$NS
[ "${1:-}" = --wipe ] && rm -rf "$RIG/state"
exit 0

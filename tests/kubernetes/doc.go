// Package kubernetes tests the project as an operator installs it: its image and
// its manifests, unedited, on a real Kubernetes with Knative Serving, Eventing,
// Kourier and KubeRay, which the scripts in rig bring up on one machine.
//
// The tests have the build tag kubernetes; `make test-kubernetes` runs them
// inside the rig's network.
package kubernetes

// Package manifests holds no code but tests: every file under deploy/ against
// the types and rules of the projects that will read it (Kubernetes, Knative,
// KubeRay, func), against each other, and against this project's settings and
// messages. It is a module of its own: what it needs stays out of the project's.
package manifests

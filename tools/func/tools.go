//go:build tools

// Package tools pins the func CLI, which runs the functions of this
// repository the way Knative's users do.
//
//	cd tools/func && go build -o ../../.tools/func knative.dev/func/cmd/func
//
// It is a module of its own because func wants several hundred modules in
// versions that the executor does not. v0.50.1, the next one, needs modules
// that the proxy does not serve. The two replace lines of go.mod are func's
// own: they do not reach who requires it.
package tools

import _ "knative.dev/func/cmd/func"

// Package rayexecutorv1 is the payloads and the service, made of the proto
// files beside it; openapi.json is the JSON API, made of the same.
package rayexecutorv1

import _ "embed" // the document

// OpenAPI describes the JSON API, as OpenAPI 3.1.
//
//go:embed openapi.json
var OpenAPI []byte

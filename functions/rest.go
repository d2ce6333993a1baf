package functions

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// rest is the JSON API. Its routes are the google.api.http options of the proto
// file, so no second list of routes can differ from the one that documents the
// API. rest_read.go makes the request of a call, rest_write.go its response.
type rest struct {
	f     *Functions
	paths []*restPath
}

// restPath is one path template of the API and the methods that it allows.
type restPath struct {
	template string
	match    *regexp.Regexp
	methods  map[string]restMethod
}

// restMethod is the operation behind one HTTP method of a path.
type restMethod struct {
	name   string // of the operation, for metrics
	input  protoreflect.MessageType
	body   bool // the body is the request; without it the query is
	answer func(http.ResponseWriter, *http.Request, proto.Message)
}

// mountREST adds the API and its description. "/" also catches every path that
// no other door has, so a wrong path is answered with the list of routes.
func (f *Functions) mountREST(mux *http.ServeMux) {
	mux.Handle("/", f.door(newREST(f)))
	mux.Handle("GET /openapi.json", f.door(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", events.JSON)
		_, _ = w.Write(pb.OpenAPI) // it fails only if the caller has disconnected
	})))
}

// newREST makes the routes of the served operations from the descriptor of the
// service.
func newREST(f *Functions) *rest {
	api := &rest{f: f}
	service := pb.File_ray_executor_v1_service_proto.Services().ByName("RayExecutorService")
	for i := range service.Methods().Len() {
		if method := service.Methods().Get(i); f.nameOf(method.Input().FullName()) != "" {
			api.add(method)
		}
	}
	// Longest first: a template that ends in a verb (…/{id}:cancel) must be tried
	// before one that ends in a variable (…/{id}), which matches it too.
	slices.SortFunc(api.paths, func(a, b *restPath) int { return len(b.template) - len(a.template) })
	return api
}

// add adds the route of one method. GET routes answer HEAD too, except streams,
// whose HEAD would never end.
func (api *rest) add(method protoreflect.MethodDescriptor) {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	verb, template := http.MethodGet, rule.GetGet()
	if template == "" {
		verb, template = http.MethodPost, rule.GetPost()
	}
	// The generated code registers every message that it describes.
	input, _ := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	taken := restMethod{name: api.f.nameOf(method.Input().FullName()), input: input, body: rule.GetBody() == "*", answer: api.answer}
	path := api.path(template)
	if method.IsStreamingServer() {
		taken.answer = api.f.stream
	} else if verb == http.MethodGet {
		path.methods[http.MethodHead] = taken
	}
	path.methods[verb] = taken
}

var variable = regexp.MustCompile(`\\\{(\w+)\\\}`)

// path returns the path of a template and adds it if it is new. A variable
// matches one segment, still percent-encoded.
func (api *rest) path(template string) *restPath {
	for _, path := range api.paths {
		if path.template == template {
			return path
		}
	}
	pattern := variable.ReplaceAllString(regexp.QuoteMeta(template), `(?P<$1>[^/]+)`)
	path := &restPath{template: template, match: regexp.MustCompile("^" + pattern + "$"), methods: make(map[string]restMethod)}
	api.paths = append(api.paths, path)
	return path
}

// ServeHTTP answers with the first path that matches. A ServeMux
// cannot do it: its variables are whole segments, and "{id}:cancel" is not one.
func (api *rest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	place := slices.IndexFunc(api.paths, func(path *restPath) bool { return path.match.MatchString(r.URL.EscapedPath()) })
	if place < 0 {
		api.f.refuse(w, r, "", api.noSuchPath(r.URL.Path))
		return
	}
	path := api.paths[place]
	method, taken := path.methods[r.Method]
	switch {
	case !taken:
		refuseMethod(w, path.allowed())
	case method.body && !saysJSON(r):
		writeProblem(w, http.StatusUnsupportedMediaType, "Unsupported media type",
			deliberation.Invalidf("content-type", "%q is not read here: send %s", deliberation.Short(r.Header.Get("Content-Type")), events.JSON))
	default:
		request := method.input.New().Interface()
		if err := path.read(r, method, request); err != nil {
			api.f.refuse(w, r, method.name, err)
			return
		}
		method.answer(w, r, request)
	}
}

// allowed returns the value of an Allow header, sorted: error texts are stable.
func (p *restPath) allowed() string {
	return strings.Join(slices.Sorted(maps.Keys(p.methods)), ", ")
}

// noSuchPath lists the routes that this instance serves, for somebody who tries
// them by hand. It repeats at most 100 bytes of the caller's path.
func (api *rest) noSuchPath(path string) error {
	routes := []string{"POST / (CloudEvents)", "GET /openapi.json"}
	for _, known := range slices.Backward(api.paths) {
		routes = append(routes, known.allowed()+" "+known.template)
	}
	return &deliberation.Error{
		Code: deliberation.NotFound, Field: "path",
		Message: fmt.Sprintf("%.100s does not exist; the paths are %s", path, strings.Join(routes, "; ")),
	}
}

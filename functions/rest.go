package functions

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
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

// rest is the JSON API: the routes are the http options of the proto file.
type rest struct {
	f     *Functions
	paths []*restPath
}

// restPath is a path of the API; what its methods take is in the proto file.
type restPath struct {
	template string
	match    *regexp.Regexp
	methods  map[string]restMethod
}

// restMethod is what a method of a path takes, and how it is answered.
type restMethod struct {
	name   string // the operation's
	input  protoreflect.MessageType
	body   bool
	answer func(http.ResponseWriter, *http.Request, proto.Message)
}

func (f *Functions) mountREST(mux *http.ServeMux) {
	mux.Handle("/", f.door(newREST(f)))
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", events.JSON)
		_, _ = w.Write(pb.OpenAPI) // a caller who went away
	})
}

// newREST reads the routes of what is served from the service's descriptor.
func newREST(f *Functions) *rest {
	api := &rest{f: f}
	service := pb.File_ray_executor_v1_service_proto.Services().ByName("RayExecutorService")
	for i := range service.Methods().Len() {
		if method := service.Methods().Get(i); f.nameOf(method.Input().FullName()) != "" {
			api.add(method)
		}
	}
	// The longest first: one that ends in a verb stands before one that ends in
	// a variable, which would match it too.
	slices.SortFunc(api.paths, func(a, b *restPath) int { return len(b.template) - len(a.template) })
	return api
}

func (api *rest) add(method protoreflect.MethodDescriptor) {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	verb, template := http.MethodGet, rule.GetGet()
	if template == "" {
		verb, template = http.MethodPost, rule.GetPost()
	}
	// What the generated code describes, it has registered.
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

// path returns the path of a template, with a new one for a new template.
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

// ServeHTTP answers by the first path that fits.
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

func (p *restPath) allowed() string {
	return strings.Join(slices.Sorted(maps.Keys(p.methods)), ", ")
}

func (api *rest) noSuchPath(path string) error {
	routes := []string{"POST / (CloudEvents)", "GET /openapi.json"}
	for _, known := range slices.Backward(api.paths) {
		routes = append(routes, known.allowed()+" "+known.template)
	}
	return &deliberation.Error{
		Code: deliberation.NotFound, Field: "path",
		Message: fmt.Sprintf("there is no %.100s; there are %s", path, strings.Join(routes, "; ")),
	}
}

// saysJSON reports whether a body is JSON by its own word; one without a word
// is taken for it.
func saysJSON(r *http.Request) bool {
	declared := r.Header.Get("Content-Type")
	media, _, err := mime.ParseMediaType(declared)
	return declared == "" || r.ContentLength == 0 || err == nil && media == events.JSON
}

// read makes the request of a method out of body, query and path.
func (p *restPath) read(r *http.Request, method restMethod, into proto.Message) error {
	if method.body {
		if err := readBody(r, into); err != nil {
			return err
		}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return deliberation.Invalidf("query", "cannot be read: percent-encode what is not a letter or digit")
	}
	if err := setAll(into.ProtoReflect(), query, method.body); err != nil {
		return err
	}
	return p.setVariables(into.ProtoReflect(), r.URL.EscapedPath())
}

func readBody(r *http.Request, into proto.Message) error {
	body, err := io.ReadAll(r.Body)
	if coded, ok := errors.AsType[*deliberation.Error](err); ok {
		return coded
	}
	if err != nil {
		return &deliberation.Error{Code: deliberation.Invalid, Field: "data", Message: "cannot be read to its end", Cause: err}
	}
	if len(body) == 0 {
		return nil
	}
	return events.UnmarshalJSON(body, into)
}

// setVariables takes the variables of the path over. A body may say the same.
func (p *restPath) setVariables(message protoreflect.Message, escaped string) error {
	values := p.match.FindStringSubmatch(escaped)
	for i, name := range p.match.SubexpNames() {
		if name == "" {
			continue
		}
		value, err := url.PathUnescape(values[i])
		field := fieldOf(message, name)
		if said := message.Get(field).String(); err != nil || said != "" && said != value {
			return deliberation.Invalidf(name, "the path and the request name two")
		}
		if err := setField(message, field, value); err != nil {
			return err
		}
	}
	return nil
}

// answer calls the operation and writes its reply.
func (api *rest) answer(w http.ResponseWriter, r *http.Request, request proto.Message) {
	origin, err := originOf(r, request)
	if err != nil {
		api.f.refuse(w, r, "submit", err)
		return
	}
	reply, err := api.f.call(r.Context(), request, origin)
	if err == nil {
		err = found(reply)
	}
	var body []byte
	if err == nil {
		body, err = events.MarshalJSON(reply)
	}
	if err != nil {
		WriteError(w, err)
		return
	}
	writeReply(w, reply, body)
}

// writeReply writes a reply: 202 for a new deliberation, with its place.
func writeReply(w http.ResponseWriter, reply proto.Message, body []byte) {
	status := http.StatusOK
	w.Header().Set("Content-Type", events.JSON)
	if receipt, ok := reply.(*pb.ExecuteDeliberationResponse); ok {
		w.Header().Set("Location", "/v1/deliberations/"+receipt.GetDeliberationId())
		if isNew(receipt) {
			status = http.StatusAccepted
		}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller who went away
}

const idempotencyKey = "Idempotency-Key"

// originOf reads what the headers say of a call.
func originOf(r *http.Request, request proto.Message) (Origin, error) {
	origin := Origin{TraceParent: r.Header.Get(events.TraceParent)}
	submit, ok := request.(*pb.ExecuteDeliberationRequest)
	if !ok || len(r.Header.Values(idempotencyKey)) == 0 {
		return origin, nil
	}
	origin.DeliberationID = keyedID(r.Header.Get(idempotencyKey))
	if id := submit.GetDeliberationId(); origin.DeliberationID == "" || id != "" && id != origin.DeliberationID {
		return origin, deliberation.Invalidf(idempotencyKey, "must not be empty, nor name another deliberation than deliberation_id: send either")
	}
	return origin, nil
}

// keyedID is the id of the deliberation that an Idempotency-Key stands for:
// itself where it can be one, otherwise one that follows from it. The header
// may be quoted, as its draft standard has it.
func keyedID(key string) string {
	if len(key) >= 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	if key == "" || deliberation.ValidID(key) {
		return key
	}
	return "key-" + deliberation.Digest(key)
}

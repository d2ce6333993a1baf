// Command protoc-gen-openapi is a plugin of protoc and buf that writes the
// OpenAPI document of a service from its http options, comments and rules.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"
)

// described is the package whose service the document describes. That of newer
// fleets has no routes.
const described = "ray_executor.v1"

func main() {
	protogen.Options{}.Run(func(plugin *protogen.Plugin) error {
		plugin.SupportedFeatures = uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL)
		for _, file := range plugin.Files {
			if !file.Generate || len(file.Services) == 0 || file.Desc.Package() != described {
				continue
			}
			out := plugin.NewGeneratedFile("ray_executor/v1/openapi.json", "")
			document, err := json.MarshalIndent(describe(plugin, file.Services[0]), "", "  ")
			if err != nil {
				return fmt.Errorf("write the document: %w", err)
			}
			out.P(string(document))
		}
		return nil
	})
}

// object is a JSON object; encoding/json writes its keys in order.
type object = map[string]any

// document collects what is described.
type document struct {
	plugin  *protogen.Plugin
	schemas object
}

func describe(plugin *protogen.Plugin, service *protogen.Service) object {
	d := &document{plugin: plugin, schemas: object{"Problem": problem()}}
	paths := object{}
	for _, method := range service.Methods {
		verb, template, body := route(method)
		item, ok := paths[template].(object)
		if !ok {
			item = object{}
			paths[template] = item
		}
		item[strings.ToLower(verb)] = d.operation(method, template, body)
	}
	return object{
		"openapi": "3.1.0",
		"info":    object{"title": "ray-executor", "version": "v1", "description": comment(service.Comments)},
		"paths":   paths,
		"components": object{"schemas": d.schemas, "responses": object{
			"Problem":    refusal("The request cannot be taken; repeating it does not help.", nil),
			"RetryLater": refusal("A limit is reached, or a dependency away: repeating it is safe.", retryAfter()),
		}},
	}
}

func route(method *protogen.Method) (verb, template string, body bool) {
	rule, _ := proto.GetExtension(method.Desc.Options(), annotations.E_Http).(*annotations.HttpRule)
	if rule.GetPost() != "" {
		return http.MethodPost, rule.GetPost(), rule.GetBody() == "*"
	}
	return http.MethodGet, rule.GetGet(), false
}

func (d *document) operation(method *protogen.Method, template string, body bool) object {
	operation := object{
		"operationId": string(method.Desc.Name()), "description": comment(method.Comments),
		"responses": d.responses(method, template, body),
	}
	parameters := d.parameters(method, template, body)
	if len(parameters) > 0 {
		operation["parameters"] = parameters
	}
	if body {
		operation["requestBody"] = object{"required": !strings.Contains(template, "{"), "content": object{
			"application/json": object{"schema": d.body(method.Input, template)},
		}}
	}
	return operation
}

var variables = regexp.MustCompile(`\{(\w+)\}`)

// parameters are the path's variables, the query's and the headers.
func (d *document) parameters(method *protogen.Method, template string, body bool) []object {
	var parameters []object
	add := func(in, name, description string, schema object) {
		parameters = append(parameters, object{
			"in": in, "name": name, "description": description, "required": in == "path", "schema": schema,
		})
	}
	inPath := named(template)
	for _, field := range method.Input.Fields {
		name := string(field.Desc.Name())
		switch {
		case inPath[name]:
			add("path", name, comment(field.Comments), d.field(field))
		case !body:
			add("query", name, comment(field.Comments), d.field(field))
		}
	}
	switch method.Desc.Name() {
	case "ExecuteDeliberation":
		add("header", "Idempotency-Key", "Stands for deliberation_id where the body names none; an id follows from one that cannot be it.", object{"type": "string"})
	case "WatchDeliberation":
		add("header", "Last-Event-ID", "The id of the last event seen; the stream continues after it.", object{"type": "string", "pattern": "^[0-9]+$"})
	}
	return parameters
}

func named(template string) map[string]bool {
	names := make(map[string]bool)
	for _, match := range variables.FindAllStringSubmatch(template, -1) {
		names[match[1]] = true
	}
	return names
}

// body is the schema of a request without the fields of the path.
func (d *document) body(message *protogen.Message, template string) object {
	inPath := named(template)
	if len(inPath) == 0 {
		return d.message(message)
	}
	properties := object{}
	for _, field := range message.Fields {
		if name := string(field.Desc.Name()); !inPath[name] {
			properties[name] = d.field(field)
		}
	}
	return object{"type": "object", "properties": properties}
}

func (d *document) responses(method *protogen.Method, template string, body bool) object {
	problem, later := object{"$ref": "#/components/responses/Problem"}, object{"$ref": "#/components/responses/RetryLater"}
	responses := object{"400": problem, "429": later, "503": later, "default": problem}
	if strings.Contains(template, "{") {
		responses["404"] = problem
	}
	if body {
		responses["413"], responses["415"] = problem, problem
	}
	switch {
	case method.Desc.IsStreamingServer():
		responses["200"] = d.events(method.Output)
		responses["204"] = object{"description": "All events were sent before; do not reconnect."}
	case method.Desc.Name() == "ExecuteDeliberation":
		responses["422"] = problem
		responses["200"] = d.reply(method, "The deliberation was accepted before.", location())
		responses["202"] = d.reply(method, "Accepted.", location())
	default:
		responses["200"] = d.reply(method, "Done.", nil)
	}
	return responses
}

func (d *document) reply(method *protogen.Method, description string, headers object) object {
	reply := object{"description": description, "content": object{"application/json": object{"schema": d.message(method.Output)}}}
	if headers != nil {
		reply["headers"] = headers
	}
	return reply
}

// events is a stream whose data are the messages of a oneof.
func (d *document) events(message *protogen.Message) object {
	var kinds []object
	for _, field := range message.Oneofs[0].Fields {
		kinds = append(kinds, d.message(field.Message))
	}
	return object{
		"description": "Server-sent events until the end: `id` is the sequence, `event` the message's name, `data` the message.",
		"content":     object{"text/event-stream": object{"schema": object{"anyOf": kinds}}},
	}
}

func refusal(description string, headers object) object {
	response := object{"description": description, "content": object{
		"application/problem+json": object{"schema": object{"$ref": "#/components/schemas/Problem"}},
	}}
	if headers != nil {
		response["headers"] = headers
	}
	return response
}

func retryAfter() object {
	return object{"Retry-After": object{"description": "Seconds.", "schema": object{"type": "integer"}}}
}

func location() object {
	return object{"Location": object{"description": "The deliberation's path.", "schema": object{"type": "string"}}}
}

// problem is what functions/http.go writes.
func problem() object {
	text := func(description string) object { return object{"type": "string", "description": description} }
	return object{
		"type": "object", "description": "An error as RFC 9457 has it.",
		"required": []string{"type", "title", "status", "detail", "code"},
		"properties": object{
			"type": text("about:blank"), "title": text("What the status means."), "detail": text("What is wrong and what to do."),
			"status":          object{"type": "integer"},
			"code":            text("invalid_argument, conflict, too_large, not_found, limit_reached, unavailable or internal."),
			"field":           text("The field or dependency at fault."),
			"deliberation_id": text("Where a deliberation is concerned."),
		},
	}
}

// comment is a comment as one text.
func comment(comments protogen.CommentSet) string {
	return strings.Join(strings.Fields(string(comments.Leading)), " ")
}

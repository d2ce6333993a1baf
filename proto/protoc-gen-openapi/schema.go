package main

import (
	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// message is a reference to a message's schema, which it describes at first
// sight. Well-known types are what proto3 JSON makes of them.
func (d *document) message(message *protogen.Message) object {
	switch message.Desc.FullName() {
	case "google.protobuf.Timestamp":
		return object{"type": "string", "format": "date-time"}
	case "google.protobuf.Duration":
		return object{"type": "string", "pattern": `^-?[0-9]+(\.[0-9]+)?s$`}
	}
	name := string(message.Desc.Name())
	if _, known := d.schemas[name]; !known {
		d.schemas[name] = nil // on its way
		d.schemas[name] = d.properties(message)
	}
	return object{"$ref": "#/components/schemas/" + name}
}

func (d *document) properties(message *protogen.Message) object {
	properties := object{}
	for _, field := range message.Fields {
		schema := d.field(field)
		if text := comment(field.Comments); text != "" {
			schema["description"] = text
		}
		properties[string(field.Desc.Name())] = schema
	}
	return object{"type": "object", "description": comment(message.Comments), "properties": properties}
}

func (d *document) field(field *protogen.Field) object {
	rules, _ := proto.GetExtension(field.Desc.Options(), validate.E_Field).(*validate.FieldRules)
	schema := d.value(field, rules)
	switch {
	case field.Desc.IsMap():
		schema := object{"type": "object", "additionalProperties": d.value(field.Message.Fields[1], rules.GetMap().GetValues())}
		set(schema, "maxProperties", rules.GetMap().GetMaxPairs())
		return schema
	case field.Desc.IsList():
		list := object{"type": "array", "items": schema}
		set(list, "minItems", rules.GetRepeated().GetMinItems())
		set(list, "maxItems", rules.GetRepeated().GetMaxItems())
		return list
	}
	return schema
}

// value is a field's schema, or that of each of its values.
func (d *document) value(field *protogen.Field, rules *validate.FieldRules) object {
	switch field.Desc.Kind() {
	case protoreflect.MessageKind:
		if field.Desc.IsMap() {
			return nil
		}
		return d.message(field.Message)
	case protoreflect.StringKind:
		return text(rules.GetString())
	case protoreflect.Int32Kind:
		schema := object{"type": "integer", "format": "int32"}
		if bounds := rules.GetInt32(); bounds != nil {
			schema["minimum"], schema["maximum"] = bounds.GetGte(), bounds.GetLte()
		}
		return schema
	case protoreflect.Int64Kind, protoreflect.Uint64Kind:
		return object{"type": "string", "format": field.Desc.Kind().String()} // as proto3 JSON writes them
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return object{"type": "number", "format": field.Desc.Kind().String()}
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	default:
		return object{}
	}
}

func text(rules *validate.StringRules) object {
	schema := object{"type": "string"}
	set(schema, "pattern", rules.GetPattern())
	set(schema, "maxLength", rules.GetMaxLen())
	if in := rules.GetIn(); len(in) > 0 {
		schema["enum"] = in
	}
	return schema
}

// set sets what is not zero.
func set[T comparable](schema object, name string, value T) {
	var zero T
	if value != zero {
		schema[name] = value
	}
}

package functions

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	"rayexecutor/deliberation"
)

// setAll sets a message's fields from query parameters. A route whose body is the
// request has no parameters. An unknown parameter is an error, and a repeated one
// whose field is no list: a misspelt filter would otherwise return every
// deliberation.
func setAll(message protoreflect.Message, query url.Values, inBody bool) error {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		field := fieldOf(message, name)
		switch {
		case inBody:
			return deliberation.Invalidf(name, "is no query parameter: this route takes its request as the body")
		case field == nil:
			return deliberation.Invalidf(name, "is no query parameter here; the parameters are %s", strings.Join(parameters(message), ", "))
		case len(query[name]) > 1 && !field.IsList():
			return deliberation.Invalidf(name, "is given %d times", len(query[name]))
		}
		for _, text := range query[name] {
			if err := setField(message, field, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// fieldOf finds a field by its name, in snake_case or lowerCamelCase.
func fieldOf(message protoreflect.Message, name string) protoreflect.FieldDescriptor {
	fields := message.Descriptor().Fields()
	if field := fields.ByName(protoreflect.Name(name)); field != nil {
		return field
	}
	return fields.ByJSONName(name)
}

// parameters lists the field names of a message, for error texts.
func parameters(message protoreflect.Message) []string {
	fields := message.Descriptor().Fields()
	names := make([]string, fields.Len())
	for i := range names {
		names[i] = string(fields.Get(i).Name())
	}
	return names
}

// setField sets a scalar field from text, or appends it to a list of scalars. The
// text must be UTF-8, as in any protobuf string.
func setField(message protoreflect.Message, field protoreflect.FieldDescriptor, text string) error {
	value, err := scalar(field.Kind(), text)
	if err != nil || !utf8.ValidString(text) {
		return deliberation.Invalidf(string(field.Name()), "%.50q is no %s", text, field.Kind())
	}
	if field.IsList() {
		message.Mutable(field).List().Append(value)
	} else {
		message.Set(field, value)
	}
	return nil
}

// scalar converts text to a value of one of the kinds that requests of GET routes
// have.
func scalar(kind protoreflect.Kind, text string) (protoreflect.Value, error) {
	switch kind {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	case protoreflect.BoolKind:
		is, err := strconv.ParseBool(text)
		return protoreflect.ValueOfBool(is), err
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), err
	case protoreflect.Uint64Kind:
		n, err := strconv.ParseUint(text, 10, 64)
		return protoreflect.ValueOfUint64(n), err
	default:
		return protoreflect.Value{}, fmt.Errorf("no parameter is a %s", kind)
	}
}

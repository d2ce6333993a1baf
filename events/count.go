package events

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"rayexecutor/deliberation"
)

const (
	// maxElements is how many messages, map entries and list items one payload
	// holds. A request has 256 agents at most; an empty one takes two bytes on
	// the wire and 120 in memory, so they are counted before they are decoded.
	maxElements = 8192
	// elementBytes is the least that an element takes, in protobuf and in JSON.
	elementBytes = 2
	// maxDepth bounds how messages nest.
	maxDepth = 100
)

// checkElements refuses a payload that would take much more memory decoded
// than it takes on the wire. count returns how many more elements the payload
// may hold, below 0 for none. A payload that is too short for too many is not
// looked at, which spares almost every request.
func checkElements(data []byte, count func([]byte) int) error {
	if len(data) <= maxElements*elementBytes || count(data) >= 0 {
		return nil
	}
	return &deliberation.Error{
		Code: deliberation.TooLarge, Field: "data",
		Message: fmt.Sprintf("holds more than %d messages, map entries and list items: send fewer agents", maxElements),
	}
}

// spareJSON counts the values that JSON holds in objects and lists. It need not
// be valid: the decoder checks that.
func spareJSON(data []byte) int {
	left, depth := maxElements, 0
	for i := 0; i < len(data) && left >= 0; i++ {
		switch data[i] {
		case '"':
			i = closingQuote(data, i)
		case '{', '[':
			left--
			if depth++; depth > maxDepth {
				return -1
			}
		case '}', ']':
			depth--
		case ',':
			left--
		}
	}
	return left
}

// closingQuote returns the place of the quote that ends a string, or the end.
func closingQuote(data []byte, opening int) int {
	for at := opening + 1; ; at++ {
		next := bytes.IndexByte(data[at:], '"')
		if next < 0 {
			return len(data)
		}
		at += next
		escapes := 0
		for data[at-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return at
		}
	}
}

// lengthOfJSONList counts the items of a JSON array.
func lengthOfJSONList(data []byte) int {
	items, depth := 1, 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = closingQuote(data, i)
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',':
			if depth == 1 {
				items++
			}
		}
	}
	return items
}

// spareProto returns the count of a message's elements for checkElements.
func spareProto(of protoreflect.MessageDescriptor) func([]byte) int {
	return func(data []byte) int { return spareIn(data, of, maxElements, 0) }
}

func spareIn(data []byte, of protoreflect.MessageDescriptor, left, depth int) int {
	if depth > maxDepth {
		return -1
	}
	for len(data) > 0 && left >= 0 {
		number, kind, size := protowire.ConsumeTag(data)
		if size < 0 {
			return left // the decoder will refuse it
		}
		length := protowire.ConsumeFieldValue(number, kind, data[size:])
		if length < 0 {
			return left
		}
		value := data[size : size+length]
		data = data[size+length:]
		field := of.Fields().ByNumber(number)
		if field == nil || !field.IsList() && field.Message() == nil {
			continue
		}
		left--
		if field.Message() != nil && kind == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(value)
			left = spareIn(inner, field.Message(), left, depth+1)
		}
	}
	return left
}

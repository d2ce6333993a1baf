// The formats of --output. JSON is that of the REST API, in one line; YAML has the
// same fields.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
)

var formats = []string{"text", "json", "yaml"}

// format is the flag --output.
type format string

var _ pflag.Value = (*format)(nil)

// addFormat adds --output to a command.
func addFormat(command *cobra.Command, output *format) {
	*output = "text"
	command.Flags().VarP(output, "output", "o", "`FORMAT` of the output: text, json or yaml")
	complete(command, "output", formats...)
}

// Set implements pflag.Value.
func (f *format) Set(value string) error {
	if !slices.Contains(formats, value) {
		return fmt.Errorf("must be %s or %s", strings.Join(formats[:len(formats)-1], ", "), formats[len(formats)-1])
	}
	*f = format(value)
	return nil
}

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (*format) Type() string { return "string" }

// printer writes replies in a format other than text: a line of JSON, or a YAML
// document, for each.
type printer struct {
	w       io.Writer
	format  format
	printed bool
}

// encode writes a message or a value for encoding/json.
func (p *printer) encode(value any) error {
	line, err := json.Marshal(value)
	if message, ok := value.(proto.Message); ok {
		line, err = events.MarshalJSON(message)
	}
	if err == nil && p.format == "yaml" {
		line, err = yamlOf(line)
		if p.printed {
			line = append([]byte("---\n"), line...)
		}
	}
	if err != nil {
		return fmt.Errorf("write the reply: %w", err)
	}
	p.printed = true
	_, err = fmt.Fprintln(p.w, strings.TrimSuffix(string(line), "\n"))
	return err
}

// yamlOf converts JSON to YAML, with the fields in the same order.
func yamlOf(line []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	node, err := readNode(decoder)
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(node)
}

// readNode reads a JSON value; nil at the end of a list or an object. The YAML
// library cannot read all of JSON itself: it refuses control characters.
func readNode(decoder *json.Decoder) (*yaml.Node, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	node := &yaml.Node{Kind: yaml.ScalarNode}
	switch token := token.(type) {
	case json.Delim:
		node.Kind = yaml.MappingNode
		switch token {
		case '}', ']':
			return nil, nil
		case '[':
			node.Kind = yaml.SequenceNode
		}
		for {
			child, err := readNode(decoder)
			if child == nil || err != nil {
				return node, err
			}
			node.Content = append(node.Content, child)
		}
	case string:
		node.SetString(token)
		if !plainText(token) {
			node.Style = yaml.DoubleQuotedStyle
		}
	case json.Number:
		node.Value = token.String()
	default: // true, false, null
		node.Value = "null"
		if token != nil {
			node.Value = fmt.Sprint(token)
		}
	}
	return node, nil
}

// oldScalar is what YAML 1.1 reads as another type or as a merge key, and the
// library, which writes YAML 1.2, does not quote. PyYAML and others read 1.1.
var oldScalar = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|<<|=|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)$`)

// plainText reports whether the library writes a text correctly without quotes,
// which add escapes. It fails for a merge key and for a text of several lines that
// begins with a space or an empty line.
func plainText(text string) bool {
	hidden := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	return !oldScalar.MatchString(text) && strings.TrimLeft(text, " \n") == text && !strings.ContainsFunc(text, hidden)
}

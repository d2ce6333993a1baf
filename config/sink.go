package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// extensionName is how CloudEvents names an attribute.
var extensionName = regexp.MustCompile(`^[a-z0-9]{1,64}$`)

// attributes are those of every event, which no extension may be.
var attributes = []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data"}

// SinkExtensions returns what K_CE_OVERRIDES sets on every event for K_SINK.
func (c *Config) SinkExtensions() map[string]string {
	extensions, _ := c.sinkExtensions() // validate has seen it
	return extensions
}

func (c *Config) sinkExtensions() (map[string]string, error) {
	if c.SinkOverrides == "" {
		return nil, nil
	}
	var overrides struct {
		Extensions map[string]string `json:"extensions"`
	}
	if err := json.Unmarshal([]byte(c.SinkOverrides), &overrides); err != nil {
		return nil, errors.New(`K_CE_OVERRIDES: must be JSON such as {"extensions": {"name": "value"}}`)
	}
	for name := range overrides.Extensions {
		if !extensionName.MatchString(name) || slices.Contains(attributes, name) {
			return nil, fmt.Errorf("K_CE_OVERRIDES: %q cannot be an extension: names are a-z 0-9, and none that every event has", name)
		}
	}
	return overrides.Extensions, nil
}

func (c *Config) checkSink() error {
	if c.Sink != "" {
		if err := isURL("K_SINK", c.Sink, "http", "https"); err != nil {
			return err
		}
	}
	if c.RelayPatience < time.Minute || c.RelayPatience >= c.JournalMaxAge {
		return fmt.Errorf("RELAY_PATIENCE=%s: must be 1m or more, and less than JOURNAL_MAX_AGE: the journal forgets what is older", c.RelayPatience)
	}
	_, err := c.sinkExtensions()
	return err
}

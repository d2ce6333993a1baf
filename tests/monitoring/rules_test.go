// Package monitoring tests deploy/monitoring with a real Prometheus: each rule by
// promtool, and each query of rules and dashboards against a run of the whole
// system.
package monitoring_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"rayexecutor/tests/system"
)

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// read returns a file of the repository.
func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(system.Root(), path))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func tool(name string) string { return filepath.Join(system.Root(), ".tools", name) }

// rules returns the alerts, and writes their groups where Prometheus reads them.
func rules(t *testing.T, path string) (all []rule) {
	t.Helper()
	var resource struct {
		Spec yaml.Node `yaml:"spec"`
	}
	var groups struct {
		Groups []struct {
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(read(t, "deploy/monitoring/rules.yaml"), &resource); err != nil {
		t.Fatal(err)
	}
	if err := resource.Spec.Decode(&groups); err != nil {
		t.Fatal(err)
	}
	spec, err := yaml.Marshal(&resource.Spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, spec, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, group := range groups.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

func TestEachRuleFiresAndIsQuiet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all := rules(t, filepath.Join(dir, "rules.yaml"))
	tests := read(t, "tests/monitoring/testdata/rules_test.yaml")
	if err := os.WriteFile(filepath.Join(dir, "rules_test.yaml"), tests, 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), tool("promtool"), "test", "rules", filepath.Join(dir, "rules_test.yaml")).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	var cases struct {
		Tests []struct {
			Alerts []struct {
				Name string           `yaml:"alertname"`
				Want []map[string]any `yaml:"exp_alerts"` //nolint:tagliatelle // promtool's name
			} `yaml:"alert_rule_test"` //nolint:tagliatelle // promtool's name
		} `yaml:"tests"`
	}
	if err := yaml.Unmarshal(tests, &cases); err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]int{}, map[string]int{}
	for _, one := range cases.Tests {
		for _, alert := range one.Alerts {
			if len(alert.Want) > 0 {
				fires[alert.Name]++
			} else {
				quiet[alert.Name]++
			}
		}
	}
	if len(all) < 16 {
		t.Errorf("only %d rules", len(all))
	}
	for _, one := range all {
		if fires[one.Alert] == 0 || quiet[one.Alert] == 0 {
			t.Errorf("%s has no test in which it fires, or none in which it is quiet", one.Alert)
		}
	}
}

// Each alert leads to its section, and each section is that of an alert.
func TestEachAlertHasARunbook(t *testing.T) {
	t.Parallel()
	sections := map[string]bool{}
	for _, title := range regexp.MustCompile(`(?m)^## (RayExecutor\w+)$`).FindAllSubmatch(read(t, "docs/runbooks.md"), -1) {
		sections[string(title[1])] = true
	}
	for _, one := range rules(t, filepath.Join(t.TempDir(), "rules.yaml")) {
		if want := "docs/runbooks.md#" + strings.ToLower(one.Alert); one.Annotations["runbook_url"] != want {
			t.Errorf("%s leads to %q, want %q", one.Alert, one.Annotations["runbook_url"], want)
		}
		if !sections[one.Alert] {
			t.Errorf("docs/runbooks.md has no section %s", one.Alert)
		}
		if one.Labels["severity"] != "critical" && one.Labels["severity"] != "warning" {
			t.Errorf("%s has the severity %q", one.Alert, one.Labels["severity"])
		}
		delete(sections, one.Alert)
	}
	for section := range sections {
		t.Errorf("docs/runbooks.md has a section of no alert: %s", section)
	}
}

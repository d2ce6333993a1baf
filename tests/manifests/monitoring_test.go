package manifests

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// monitored renders an installation with the component of deploy/monitoring.
func monitored(t *testing.T) *system {
	t.Helper()
	folder := t.TempDir()
	write(t, filepath.Join(folder, "kustomization.yaml"), "namespace: swe-ai-fleet\nresources: ["+
		between(t, folder, filepath.Join(root, "deploy/base"))+"]\ncomponents: ["+between(t, folder, filepath.Join(root, "deploy/monitoring"))+"]\n")
	s, err := load(render(t, between(t, root, folder)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMonitoring checks that each PodMonitor selects pods with the port that it names,
// that the policy admits Prometheus to those pods, and that both dashboards are there.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	s := monitored(t)
	policy, found := find[*networkingv1.NetworkPolicy](s, "ray-executor-scraped")
	if !found || policy.Spec.Ingress[0].Ports[0].Port.IntValue() != 8080 {
		t.Fatalf("the policy is %v", policy)
	}
	monitors := 0
	for _, m := range s.manifests {
		monitor, ok := m.typed.(*monitoringv1.PodMonitor)
		if !ok {
			continue
		}
		monitors++
		pods := s.selected(t, &monitor.Spec.Selector)
		if len(pods) == 0 {
			t.Errorf("%s selects no pod", m)
		}
		admitted := s.selected(t, &policy.Spec.PodSelector)
		for _, pod := range pods {
			if !slices.ContainsFunc(admitted, func(one podTemplate) bool { return one.at == pod.at }) {
				t.Errorf("the policy admits nobody to %s", m)
			}
			// Knative renames the port of a function to user-port.
			name := *monitor.Spec.PodMetricsEndpoints[0].Port
			if name != "user-port" && !slices.ContainsFunc(pod.spec.Containers[0].Ports, func(port corev1.ContainerPort) bool {
				return port.Name == name && port.ContainerPort == 8080
			}) {
				t.Errorf("%s: the pods have no port %s", m, name)
			}
		}
	}
	if monitors != 3 {
		t.Errorf("%d PodMonitors", monitors)
	}
	boards, _ := find[*corev1.ConfigMap](s, "dashboards-ray-executor")
	if boards == nil || len(boards.Data) != 2 || boards.Labels["grafana_dashboard"] != "1" {
		t.Fatalf("the dashboards are %v", boards)
	}
	for name, data := range boards.Data {
		if !json.Valid([]byte(data)) {
			t.Errorf("%s is no JSON", name)
		}
	}
	if rules, _ := find[*monitoringv1.PrometheusRule](s, "ray-executor"); rules == nil || len(rules.Spec.Groups[0].Rules) < 16 {
		t.Errorf("the rules are %v", rules)
	}
}

// selected returns the pods that a selector covers.
func (s *system) selected(t *testing.T, selector *metav1.LabelSelector) (pods []podTemplate) {
	t.Helper()
	matches, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.manifests {
		for _, pod := range m.pods() {
			if matches.Matches(labels.Set(pod.meta.Labels)) {
				pod.at = strings.Join([]string{m.String(), pod.at}, " ")
				pods = append(pods, pod)
			}
		}
	}
	return pods
}

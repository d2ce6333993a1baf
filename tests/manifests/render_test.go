package manifests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	rayv1 "github.com/ray-project/kuberay/ray-operator/apis/ray/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// kinds are the types that a manifest may have; another one is an error.
var kinds = map[string]func() metav1.Object{
	"v1/Namespace":                            func() metav1.Object { return new(corev1.Namespace) },
	"v1/Service":                              func() metav1.Object { return new(corev1.Service) },
	"v1/ConfigMap":                            func() metav1.Object { return new(corev1.ConfigMap) },
	"apps/v1/Deployment":                      func() metav1.Object { return new(appsv1.Deployment) },
	"apps/v1/StatefulSet":                     func() metav1.Object { return new(appsv1.StatefulSet) },
	"policy/v1/PodDisruptionBudget":           func() metav1.Object { return new(policyv1.PodDisruptionBudget) },
	"networking.k8s.io/v1/NetworkPolicy":      func() metav1.Object { return new(networkingv1.NetworkPolicy) },
	"serving.knative.dev/v1/Service":          func() metav1.Object { return new(servingv1.Service) },
	"eventing.knative.dev/v1/Broker":          func() metav1.Object { return new(eventingv1.Broker) },
	"eventing.knative.dev/v1/Trigger":         func() metav1.Object { return new(eventingv1.Trigger) },
	"sources.knative.dev/v1/SinkBinding":      func() metav1.Object { return new(sourcesv1.SinkBinding) },
	"ray.io/v1/RayService":                    func() metav1.Object { return new(rayv1.RayService) },
	"monitoring.coreos.com/v1/PodMonitor":     func() metav1.Object { return new(monitoringv1.PodMonitor) },
	"monitoring.coreos.com/v1/PrometheusRule": func() metav1.Object { return new(monitoringv1.PrometheusRule) },
}

// manifest is one object, as it is written and as its type reads it.
type manifest struct {
	kind  string
	raw   map[string]any
	typed metav1.Object
}

func (m manifest) String() string { return m.kind + " " + m.name() }

func (m manifest) name() string {
	metadata, _ := m.raw["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	return name
}

// render returns what `kubectl apply -k` would send.
func render(t testing.TB, folder string) []map[string]any {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, folder))
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	for _, resource := range resources.Resources() {
		object, err := resource.Map()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, object)
	}
	return all
}

// serviceFile returns what `kubectl apply -f service.yaml` would send.
func serviceFile(t testing.TB) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "service.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	for _, document := range strings.Split(string(text), "\n---\n")[1:] {
		var object map[string]any
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		all = append(all, object)
	}
	return all
}

// decode reads an object into its type. A field that the type does not have, or
// of another form, is an error.
func decode(raw map[string]any) (manifest, error) {
	m := manifest{kind: fmt.Sprintf("%v/%v", raw["apiVersion"], raw["kind"]), raw: raw}
	create, known := kinds[m.kind]
	if !known {
		return m, fmt.Errorf("%s: no kind that is known here", m)
	}
	text, err := yaml.Marshal(raw)
	if err != nil {
		return m, err
	}
	m.typed = create()
	if err := yaml.UnmarshalStrict(text, m.typed); err != nil {
		return m, fmt.Errorf("%s: %w", m, err)
	}
	return m, nil
}

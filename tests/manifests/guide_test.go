package manifests

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/yaml"
)

// section returns the part of docs/operating.md below a heading.
func section(t *testing.T, page, title string) string {
	t.Helper()
	_, after, found := strings.Cut(page, "\n## "+title+"\n")
	if !found {
		t.Fatalf("docs/operating.md has no section %q", title)
	}
	part, _, _ := strings.Cut(after, "\n## ")
	return part
}

// example returns the only YAML of a text.
func example(t *testing.T, text string) string {
	t.Helper()
	found := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(found) != 1 {
		t.Fatalf("%d blocks of YAML", len(found))
	}
	return found[0][1]
}

func text(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOverlayOfSeveralClusters makes the overlay that docs/operating.md
// describes: every pod that reads RAY_CLUSTERS must have its file.
func TestOverlayOfSeveralClusters(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	// The program reads the file when it reads the settings.
	clusters := filepath.Join(folder, "clusters.yaml")
	write(t, clusters, "clusters:\n- {name: default, address: 'ray://ray-executor-head-svc:10001'}\n- {name: east, address: 'ray://ray-east-head-svc:10001'}\n")
	write(t, filepath.Join(folder, "ray-east.yaml"), strings.Replace(text(t, "deploy/base/ray.yaml"), "name: ray-executor", "name: ray-east", 1))
	write(t, filepath.Join(folder, "settings.env"), "RAY_CLUSTERS="+clusters+"\n")
	overlay := strings.Replace(example(t, section(t, text(t, "docs/operating.md"), "Several Ray clusters")),
		"../../base", between(t, folder, filepath.Join(root, "deploy/base")), 1)
	write(t, filepath.Join(folder, "kustomization.yaml"), "namespace: swe-ai-fleet\n"+
		"configMapGenerator:\n- {name: ray-executor, namespace: swe-ai-fleet, behavior: merge, envs: [settings.env]}\n"+overlay)
	s, err := load(render(t, between(t, root, folder)))
	if err != nil {
		t.Fatal(err)
	}
	rays := 0
	for _, m := range s.manifests {
		if m.kind == "ray.io/v1/RayService" {
			rays++
			continue
		}
		for _, pod := range m.pods() {
			for _, container := range slices.Concat(pod.spec.InitContainers, pod.spec.Containers) {
				reads := slices.ContainsFunc(container.EnvFrom, func(from corev1.EnvFromSource) bool { return from.ConfigMapRef != nil })
				mounted := slices.ContainsFunc(container.VolumeMounts, func(mount corev1.VolumeMount) bool { return mount.MountPath == "/etc/ray-executor" })
				if reads && !mounted {
					t.Errorf("%s: %s reads RAY_CLUSTERS and lacks its file", m, container.Name)
				}
			}
		}
	}
	if rays != 2 {
		t.Errorf("%d RayServices", rays)
	}
}

// TestTheGuideToKeys renders the overlay of docs/security.md: the Service that callers
// use asks for keys and has the file; those behind the Triggers, which send none, do not.
func TestTheGuideToKeys(t *testing.T) {
	t.Parallel()
	guide := example(t, section(t, text(t, "docs/security.md"), "On Kubernetes"))
	all := strings.Replace(guide, "name: ray-executor}", "labelSelector: app.kubernetes.io/component=functions}", 1)
	if asking := askForKeys(t, guide); !slices.Equal(asking, []string{"ray-executor"}) {
		t.Errorf("%v ask for keys", asking)
	}
	if asking := askForKeys(t, all); len(asking) != 5 {
		t.Errorf("%v ask for keys", asking)
	}
}

// askForKeys renders an overlay, and returns the functions that ask for keys. They may
// be published, and have the file.
func askForKeys(t *testing.T, overlay string) (asking []string) {
	t.Helper()
	folder := t.TempDir()
	write(t, filepath.Join(folder, "kustomization.yaml"), "resources: ["+between(t, folder, filepath.Join(root, "deploy/base"))+"]\n"+overlay)
	s, err := load(render(t, between(t, root, folder)))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.manifests {
		service, ok := m.typed.(*servingv1.Service)
		if !ok || service.Labels["app.kubernetes.io/component"] != "functions" {
			continue
		}
		delete(service.Labels, "networking.knative.dev/visibility")
		if s.admission(service) != nil {
			continue
		}
		asking = append(asking, service.Name)
		container := service.Spec.Template.Spec.Containers[0]
		at := slices.IndexFunc(container.Env, func(one corev1.EnvVar) bool { return one.Name == "AUTH_KEYS" })
		if len(container.VolumeMounts) != 1 || at < 0 || !strings.HasPrefix(container.Env[at].Value, container.VolumeMounts[0].MountPath+"/") {
			t.Errorf("%s mounts %v", service.Name, container.VolumeMounts)
		}
	}
	return asking
}

// TestTheGuideToScraping renders the overlay of docs/operating.md by which Prometheus
// sends a key to the function servers.
func TestTheGuideToScraping(t *testing.T) {
	t.Parallel()
	_, guide, _ := strings.Cut(text(t, "docs/operating.md"), "\n### Scraping with keys\n")
	guide, _, _ = strings.Cut(guide, "\n### ")
	folder := t.TempDir()
	write(t, filepath.Join(folder, "kustomization.yaml"), "resources: ["+between(t, folder, filepath.Join(root, "deploy/base"))+
		"]\ncomponents: ["+between(t, folder, filepath.Join(root, "deploy/monitoring"))+"]\n"+example(t, guide))
	s, err := load(render(t, between(t, root, folder)))
	if err != nil {
		t.Fatal(err)
	}
	monitor, found := find[*monitoringv1.PodMonitor](s, "ray-executor-functions")
	if !found || monitor.Spec.PodMetricsEndpoints[0].Authorization == nil || monitor.Spec.PodMetricsEndpoints[0].Authorization.Credentials.Key != "token" {
		t.Errorf("Prometheus sends no key: %v", monitor)
	}
}

// between is the way from one folder to another, as kustomize wants it.
func between(t *testing.T, from, to string) string {
	t.Helper()
	absoluteFrom, err := filepath.Abs(from)
	if err != nil {
		t.Fatal(err)
	}
	absoluteTo, err := filepath.Abs(to)
	if err != nil {
		t.Fatal(err)
	}
	way, err := filepath.Rel(absoluteFrom, absoluteTo)
	if err != nil {
		t.Fatal(err)
	}
	return way
}

// TestPolicyForPrometheus checks that the example selects pods that exist.
func TestPolicyForPrometheus(t *testing.T) {
	t.Parallel()
	var policy networkingv1.NetworkPolicy
	if err := yaml.UnmarshalStrict([]byte(example(t, section(t, text(t, "docs/operating.md"), "Network policies"))), &policy); err != nil {
		t.Fatal(err)
	}
	s, err := load(render(t, "deploy/base"))
	if err != nil {
		t.Fatal(err)
	}
	for _, wanted := range policy.Spec.PodSelector.MatchExpressions {
		for _, value := range wanted.Values {
			known := slices.ContainsFunc(s.manifests, func(m manifest) bool { return m.typed.GetLabels()[wanted.Key] == value })
			if !known {
				t.Errorf("no manifest has the label %s: %s", wanted.Key, value)
			}
		}
	}
}

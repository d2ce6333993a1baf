package manifests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/yaml"

	"rayexecutor/config"
)

var overlays = []string{"deploy/base", "deploy/overlays/local", "deploy/overlays/production"}

func TestEveryInstallationIsValid(t *testing.T) {
	t.Parallel()
	for _, folder := range overlays {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			s, err := load(render(t, folder))
			if err != nil {
				t.Error(err)
			}
			if len(s.manifests) < 25 {
				t.Errorf("only %d manifests", len(s.manifests))
			}
		})
	}
}

// TestNATSHoldsItsMessages: nats-server takes up to 230 bytes of memory for each
// message, and as much again (docs/operating.md, Sizing). The kernel must not kill it
// before submit answers 429.
func TestNATSHoldsItsMessages(t *testing.T) {
	t.Parallel()
	const perMessage = 230
	for _, folder := range []string{"deploy/base", "deploy/overlays/production"} {
		s, err := load(render(t, folder))
		if err != nil {
			t.Fatal(err)
		}
		own := map[string]string{}
		if messages := s.settings["JOURNAL_MAX_MESSAGES"]; messages != "" {
			own["JOURNAL_MAX_MESSAGES"] = messages
		}
		settings, err := config.Parse(own)
		if err != nil {
			t.Fatal(err)
		}
		nats, ok := find[*appsv1.StatefulSet](s, "nats")
		if !ok {
			t.Fatalf("%s has no NATS", folder)
		}
		container := nats.Spec.Template.Spec.Containers[0]
		i := slices.IndexFunc(container.Env, func(v corev1.EnvVar) bool { return v.Name == "GOMEMLIMIT" })
		if i < 0 {
			t.Fatalf("%s: NATS has no GOMEMLIMIT", folder)
		}
		collector, err := resource.ParseQuantity(strings.TrimSuffix(container.Env[i].Value, "B"))
		if err != nil {
			t.Fatal(err)
		}
		needs, limit := settings.JournalMaxMessages*perMessage, container.Resources.Limits.Memory().Value()
		if needs <= 0 || limit < 2*needs || collector.Value() < needs || collector.Value() > limit*9/10 {
			t.Errorf("%s: %d messages need %d MB; the pod has %d MB, GOMEMLIMIT is %d MB", folder, settings.JournalMaxMessages,
				needs>>20, limit>>20, collector.Value()>>20)
		}
	}
}

func TestServiceFileStandsAlone(t *testing.T) {
	t.Parallel()
	s, err := load(serviceFile(t))
	if err != nil {
		t.Error(err)
	}
	var first *servingv1.Service
	services := 0
	for _, m := range s.manifests {
		service, ok := m.typed.(*servingv1.Service)
		if !ok {
			continue
		}
		services++
		if first == nil {
			first = service
		}
		if got, want := common(t, service), common(t, first); got != want {
			t.Errorf("%s differs from %s in more than name, labels and FUNCTIONS:\n%s\n%s", service.Name, first.Name, got, want)
		}
	}
	if services != 5 {
		t.Errorf("%d Services", services)
	}
}

// common is what all functions have alike.
func common(t *testing.T, service *servingv1.Service) string {
	t.Helper()
	template := service.Spec.Template.DeepCopy()
	delete(template.Labels, "app.kubernetes.io/name")
	for i, variable := range template.Spec.Containers[0].Env {
		if variable.Name == "FUNCTIONS" {
			template.Spec.Containers[0].Env[i].Value = ""
		}
	}
	text, err := yaml.Marshal(template)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestWhatIsWrongIsSeen breaks one thing at a time: a check that lets it pass
// checks nothing.
func TestWhatIsWrongIsSeen(t *testing.T) {
	t.Parallel()
	for _, broken := range []struct{ id, path, value, says string }{
		{"Service/ray-executor-submit", "spec.template.spec.containerConcurency", "1", "containerConcurency"},
		{"Service/ray-executor-submit", "spec.template.spec.containerConcurrency", "-1", "containerConcurrency"},
		{"Service/ray-executor-submit", "spec.template.spec.timeoutSeconds", "100000", "timeoutSeconds"},
		{"Service/ray-executor-submit", "spec.template.spec.containers.0.ports.0.name", "grpc", "grpc"},
		{"Service/ray-executor-submit", "spec.template.spec.containers.0.securityContext.allowPrivilegeEscalation", "true", "allowPrivilegeEscalation"},
		{"Service/ray-executor-submit", "spec.template.spec.containers.0.env.0.name", "FUNCTION", "FUNCTION is no setting"},
		{"Service/ray-executor-submit", "spec.template.spec.containers.0.env.0.value", "status", "serves status"},
		{"Service/ray-executor-submit", "spec.template.spec.containers.0.env.2.name", "PORT", "HOST does not say"},
		{"Service/ray-executor-submit", "spec.template.spec.containers.0.envFrom.1.configMapRef.name", "other", "ConfigMap other"},
		{"Service/ray-executor-submit", "spec.template.spec.containers.0.envFrom.0.configMapRef.name", "other", "AUTH is not said"},
		{"Service/ray-executor", "metadata.labels", "{}", "not cluster-local"},
		{"ConfigMap/functions-auth", "data.AUTH", "''", "AUTH is not said"},
		{"Service/ray-executor-submit", "spec.template.spec.hostNetwork", "true", "hostNetwork"},
		{"Broker/ray-executor", "spec.delivery.backoffPolicy", "quadratic", "backoffPolicy"},
		{"Broker/ray-executor", "spec.delivery.backoffDelay", "1s", "backoffDelay"},
		{"Broker/ray-executor", "spec.delivery.deadLetterSink.ref.name", "other", "other is not here"},
		{"Trigger/ray-executor-submit", "spec.broker", "other", "Broker other"},
		{"Trigger/ray-executor-submit", "spec.filter.attributes.type", "ray_executor.v1.ExecuteDeliberationResponse", "not ray_executor.v1.ExecuteDeliberationResponse"},
		{"Trigger/ray-executor-submit", "spec.filter.attributes.Type-1", "x", "Type-1"},
		{"Trigger/ray-executor-submit", "spec.subscriber.ref.name", "other", "other is not here"},
		{"SinkBinding/ray-executor-keeper", "spec.sink.ref.kind", "Brokr", "Brokr"},
		{"SinkBinding/ray-executor-keeper", "spec.subject.name", "", "name"},
		{"Deployment/ray-executor-keeper", "spec.template.spec.containers.0.securityContext.runAsUser", "0", "runAsUser"},
		{"Deployment/ray-executor-keeper", "spec.replicas", "two", "replicas"},
		{"StatefulSet/nats", "spec.template.spec.securityContext.runAsNonRoot", "false", "runAsNonRoot"},
		{"Service/nats", "spec.ports.0.port", "4223", "NATS_URL"},
		{"RayService/ray-executor", "metadata.name", "other", "RAY_ADDRESS"},
		{"RayService/ray-executor", "metadata.name", strings.Repeat("a", 60), "no more than"},
		{"RayService/ray-executor", "spec.rayClusterConfig.rayVersion", "2.59.0", "rayVersion"},
		{"RayService/ray-executor", "spec.rayClusterConfig.headGroupSpec.template.spec.containers", "[]", "at least one container"},
		{"RayService/ray-executor", "spec.serveConfig", "x", "serveConfig"},
		{"NetworkPolicy/ray-executor-nats", "spec.podSelectr", "{}", "podSelectr"},
		{"ConfigMap", "data.JOURNAL_REPLICAS", `"2"`, "JOURNAL_REPLICAS"},
		{"ConfigMap", "data.JOURNAL_REPLICA", `"3"`, "JOURNAL_REPLICA is no setting"},
		{"Namespace/swe-ai-fleet", "kind", "Namespce", "no kind"},
	} {
		t.Run(broken.id+" "+broken.path+"="+broken.value, func(t *testing.T) {
			t.Parallel()
			objects := render(t, "deploy/base")
			var value any
			if err := yaml.Unmarshal([]byte(broken.value), &value); err != nil {
				t.Fatal(err)
			}
			put(t, objects, broken.id, strings.Split(broken.path, "."), value)
			if _, err := load(objects); err == nil || !strings.Contains(err.Error(), broken.says) {
				t.Errorf("got %v, want …%s…", err, broken.says)
			}
		})
	}
}

// funcModule is the folder of the module that the func CLI is built from. It is
// downloaded where the module cache lacks it.
func funcModule(t *testing.T) string {
	t.Helper()
	download := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "knative.dev/func")
	download.Dir, download.Stderr = filepath.Join(root, "tools/func"), os.Stderr
	output, err := download.Output()
	if err != nil {
		t.Fatalf("download the module of func: %v", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(output, &module); err != nil {
		t.Fatal(err)
	}
	return module.Dir
}

// TestFuncYAML checks func.yaml against func's own JSON schema.
func TestFuncYAML(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(funcModule(t), "schema/func_yaml-schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "func.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var function map[string]any
	if err := yaml.UnmarshalStrict(text, &function); err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(function); err != nil {
		t.Error(err)
	}
	function["runtim"] = "go"
	if err := schema.Validate(function); err == nil {
		t.Error("an unknown key passes")
	}
}

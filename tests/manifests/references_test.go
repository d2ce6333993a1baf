package manifests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
	rayv1 "github.com/ray-project/kuberay/ray-operator/apis/ray/v1"
	corev1 "k8s.io/api/core/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"
	duckv1 "knative.dev/pkg/apis/duck/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"

	"rayexecutor/config"
	"rayexecutor/deliberation"
	"rayexecutor/functions"
)

// system is all that one installation is made of.
type system struct {
	manifests []manifest
	settings  map[string]string // of the ConfigMap
}

// load reads an installation, and asks everything of it that can be asked
// without a cluster.
func load(objects []map[string]any) (*system, error) {
	s := &system{settings: map[string]string{}}
	var failed []error
	for _, raw := range objects {
		m, err := decode(raw)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		failed = append(failed, m.rules())
		s.manifests = append(s.manifests, m)
		if found, ok := m.typed.(*corev1.ConfigMap); ok && strings.HasPrefix(m.name(), "ray-executor-") { // not functions-auth, which it overrides
			s.settings = found.Data
		}
	}
	return s, errors.Join(errors.Join(failed...), s.references())
}

func find[T any](s *system, name string) (found T, ok bool) {
	for _, m := range s.manifests {
		if typed, is := m.typed.(T); is && m.name() == name {
			return typed, true
		}
	}
	return found, false
}

func (s *system) references() error {
	var failed []error
	for _, m := range s.manifests {
		var err error
		switch typed := m.typed.(type) {
		case *eventingv1.Broker:
			err = s.sink(typed.Spec.Delivery.DeadLetterSink)
		case *eventingv1.Trigger:
			err = s.trigger(typed)
		case *sourcesv1.SinkBinding:
			err = s.sink(&typed.Spec.Sink)
		case *rayv1.RayService:
			err = s.ray(typed)
		}
		for _, pod := range m.pods() {
			err = errors.Join(err, s.environment(pod))
		}
		if service, ok := m.typed.(*servingv1.Service); ok {
			err = errors.Join(err, s.admission(service))
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", m, err))
		}
	}
	return errors.Join(append(failed, s.hosts())...)
}

// sink must lead to a manifest.
func (s *system) sink(to *duckv1.Destination) error {
	if to == nil || to.Ref == nil {
		return errors.New("no sink")
	}
	for _, m := range s.manifests {
		if m.kind == to.Ref.APIVersion+"/"+to.Ref.Kind && m.name() == to.Ref.Name {
			return nil
		}
	}
	return fmt.Errorf("its sink %s %s is not here", to.Ref.Kind, to.Ref.Name)
}

// trigger must lead a type to a function that serves it.
func (s *system) trigger(trigger *eventingv1.Trigger) error {
	if _, ok := find[*eventingv1.Broker](s, trigger.Spec.Broker); !ok {
		return fmt.Errorf("its Broker %s is not here", trigger.Spec.Broker)
	}
	if err := s.sink(&trigger.Spec.Subscriber); err != nil {
		return err
	}
	service, ok := find[*servingv1.Service](s, trigger.Spec.Subscriber.Ref.Name)
	if !ok {
		return errors.New("its subscriber is no Knative Service")
	}
	kind := trigger.Spec.Filter.Attributes["type"]
	for _, variable := range service.Spec.Template.Spec.Containers[0].Env {
		if variable.Name != "FUNCTIONS" {
			continue
		}
		settings, err := config.Parse(map[string]string{"FUNCTIONS": variable.Value})
		if err != nil {
			return err
		}
		if !serves(settings.Functions, kind) {
			return fmt.Errorf("%s serves %s, not %s", service.Name, variable.Value, kind)
		}
	}
	return nil
}

// serves asks the functions themselves: an event that says nothing is refused
// for its type or for its data.
func serves(operations []string, kind string) bool {
	e := event.New()
	e.SetID("1")
	e.SetSource("/manifests")
	e.SetType(kind)
	_ = e.SetData("application/json", []byte("no JSON"))
	_, err := functions.New(functions.Options{Serve: operations, Log: slog.New(slog.DiscardHandler)}).Handle(context.Background(), e)
	refused := deliberation.AsError(err)
	return refused.Field != "type"
}

// ray must be what its own version and image say.
func (s *system) ray(service *rayv1.RayService) error {
	version := service.Spec.RayClusterSpec.RayVersion
	for _, container := range service.Spec.RayClusterSpec.HeadGroupSpec.Template.Spec.Containers {
		if _, tag, _ := strings.Cut(container.Image, ":"); tag != version && !strings.HasPrefix(tag, version+"-") {
			return fmt.Errorf("rayVersion %s, but image %s", version, container.Image)
		}
	}
	return nil
}

// workerSettings are those that only the Ray nodes read: docs/settings.md.
var workerSettings = []string{"NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "NATS_CERT", "NATS_KEY"}

// environment must be settings that the program knows.
func (s *system) environment(pod podTemplate) error {
	var failed []error
	for _, container := range slices.Concat(pod.spec.InitContainers, pod.spec.Containers) {
		ours := strings.Contains(container.Image, "ray-executor") || strings.Contains(container.Image, "/ray:")
		for _, variable := range container.Env {
			if ours && !slices.Contains(config.Names(), variable.Name) && !slices.Contains(workerSettings, variable.Name) {
				failed = append(failed, fmt.Errorf("%s: %s is no setting", container.Name, variable.Name))
			}
		}
		silent := !slices.ContainsFunc(container.Env, func(v corev1.EnvVar) bool { return v.Name == "HOST" })
		if strings.Contains(container.Image, "/ray-executor:") && len(container.Ports) > 0 && silent && !slices.Contains(container.Args, "model") {
			failed = append(failed, fmt.Errorf("%s: HOST does not say where it listens", container.Name))
		}
		for _, from := range container.EnvFrom {
			if from.ConfigMapRef == nil || len(s.settings) == 0 && from.ConfigMapRef.Optional != nil {
				continue
			}
			if _, ok := find[*corev1.ConfigMap](s, from.ConfigMapRef.Name); !ok {
				failed = append(failed, fmt.Errorf("%s: its ConfigMap %s is not here", container.Name, from.ConfigMapRef.Name))
			}
		}
	}
	return errors.Join(failed...)
}

// admission must be said: a server in a cluster does not start without AUTH. What
// asks nobody for credentials must be reached from the cluster only.
func (s *system) admission(service *servingv1.Service) error {
	container := service.Spec.Template.Spec.Containers[0]
	local := service.Labels["networking.knative.dev/visibility"] == "cluster-local"
	if !slices.Contains(container.Args, "serve") {
		return nil
	}
	said := ""
	for _, from := range container.EnvFrom {
		if from.ConfigMapRef == nil {
			continue
		}
		if found, ok := find[*corev1.ConfigMap](s, from.ConfigMapRef.Name); ok && found.Data["AUTH"] != "" {
			said = found.Data["AUTH"]
		}
	}
	for _, one := range container.Env { // it comes before envFrom
		if one.Name == "AUTH" {
			said = one.Value
		}
	}
	switch {
	case said == "":
		return errors.New("AUTH is not said")
	case said == "none" && !local:
		return errors.New("AUTH=none, and others than the cluster reach it: it is not cluster-local")
	}
	return nil
}

// hosts that the settings name without a domain must be Services of this
// installation, and the settings such as the program takes.
func (s *system) hosts() error {
	if len(s.settings) == 0 {
		return nil
	}
	for name := range s.settings {
		if !slices.Contains(config.Names(), name) {
			return fmt.Errorf("settings: %s is no setting", name)
		}
	}
	read := map[string]string{}
	for name, value := range s.settings {
		read[name] = value
	}
	settings, err := config.Parse(read)
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	var failed []error
	for name, address := range map[string]string{"NATS_URL": settings.NATSURL, "RAY_ADDRESS": settings.RayAddress, "VLLM_URL": settings.VLLMURL} {
		parsed, err := url.Parse(address)
		if err != nil {
			return err
		}
		if host := parsed.Hostname(); host != "" && !strings.Contains(host, ".") && !s.serviceOn(host, parsed.Port()) {
			failed = append(failed, fmt.Errorf("%s=%s: no such Service and port here", name, address))
		}
	}
	return errors.Join(failed...)
}

// serviceOn tells whether host is a Service with the port; KubeRay makes the
// head's.
func (s *system) serviceOn(host, port string) bool {
	if service, ok := find[*corev1.Service](s, host); ok {
		return slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return fmt.Sprint(p.Port) == port })
	}
	_, ok := find[*rayv1.RayService](s, strings.TrimSuffix(host, "-head-svc"))
	return ok && strings.HasSuffix(host, "-head-svc")
}

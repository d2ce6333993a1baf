package manifests

import (
	"context"
	"errors"
	"fmt"

	rayv1 "github.com/ray-project/kuberay/ray-operator/apis/ray/v1"
	rayutils "github.com/ray-project/kuberay/ray-operator/controllers/ray/utils"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	eventingconfig "knative.dev/eventing/pkg/apis/config"
	"knative.dev/pkg/apis"
	servingconfig "knative.dev/serving/pkg/apis/config"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
)

// rules are those of the project that reads a manifest, as its webhook or its
// controller asks them.
func (m manifest) rules() error {
	var err error
	switch typed := m.typed.(type) {
	case apis.Validatable:
		err = knative(typed)
	case *rayv1.RayService:
		err = errors.Join(rayutils.ValidateRayServiceMetadata(typed.ObjectMeta), rayutils.ValidateRayServiceSpec(typed))
	}
	for _, pod := range m.pods() {
		err = errors.Join(err, restricted(pod))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m, err)
	}
	return nil
}

// brokerDefaults is what eventing's own ConfigMap config-br-defaults holds.
const brokerDefaults = `
clusterDefault:
  brokerClass: MTChannelBasedBroker
  apiVersion: v1
  kind: ConfigMap
  name: config-br-default-channel
  namespace: knative-eventing
`

// knative asks what Knative's webhooks ask of a new object, with the defaults
// of an installation.
func knative(object apis.Validatable) error {
	ctx := apis.WithinCreate(context.Background())
	ctx = servingconfig.ToContext(ctx, servingconfig.FromContextOrDefaults(ctx))
	defaults, err := eventingconfig.NewDefaultsConfigFromMap(map[string]string{eventingconfig.BrokerDefaultsKey: brokerDefaults})
	if err != nil {
		return err
	}
	ctx = eventingconfig.ToContext(ctx, &eventingconfig.Config{Defaults: defaults})
	if defaulted, ok := object.(apis.Defaultable); ok {
		defaulted.SetDefaults(ctx)
	}
	if err := object.Validate(ctx).Filter(apis.ErrorLevel); err != nil {
		return err
	}
	return nil
}

// podTemplate is what the pods of a manifest are made of.
type podTemplate struct {
	at   string
	meta metav1.ObjectMeta
	spec corev1.PodSpec
}

func (m manifest) pods() []podTemplate {
	switch typed := m.typed.(type) {
	case *appsv1.Deployment:
		return []podTemplate{{"template", typed.Spec.Template.ObjectMeta, typed.Spec.Template.Spec}}
	case *appsv1.StatefulSet:
		return []podTemplate{{"template", typed.Spec.Template.ObjectMeta, typed.Spec.Template.Spec}}
	case *servingv1.Service:
		return []podTemplate{{"template", typed.Spec.Template.ObjectMeta, typed.Spec.Template.Spec.PodSpec}}
	case *rayv1.RayService:
		head := typed.Spec.RayClusterSpec.HeadGroupSpec.Template
		pods := []podTemplate{{"head", head.ObjectMeta, head.Spec}}
		for _, group := range typed.Spec.RayClusterSpec.WorkerGroupSpecs {
			pods = append(pods, podTemplate{group.GroupName, group.Template.ObjectMeta, group.Template.Spec})
		}
		return pods
	}
	return nil
}

// restricted asks Kubernetes' own restricted Pod Security Standard.
func restricted(pod podTemplate) error {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	var failed []error
	for _, result := range evaluator.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &pod.meta, &pod.spec) {
		if !result.Allowed {
			failed = append(failed, fmt.Errorf("%s: %s: %s", pod.at, result.ForbiddenReason, result.ForbiddenDetail))
		}
	}
	return errors.Join(failed...)
}

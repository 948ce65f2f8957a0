package policy

import (
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// maxUtilization is the highest CPU target that a bound may name, in percent of the requests: beyond it a bound is a slip.
const maxUtilization = 1000

// maxReplicasEver is the highest replica count that a bound may name; the HPA API itself has no limit.
const maxReplicasEver = 1_000_000

// Validate reports everything that is wrong with a defaulted document.
func Validate(d *Document) field.ErrorList {
	var errs field.ErrorList
	if d.APIVersion != APIVersion {
		errs = append(errs, field.NotSupported(field.NewPath("apiVersion"), d.APIVersion, []string{APIVersion}))
	}
	if d.Kind != Kind {
		errs = append(errs, field.NotSupported(field.NewPath("kind"), d.Kind, []string{Kind}))
	}
	errs = append(errs, validateMatch(&d.Match, field.NewPath("match"))...)
	errs = append(errs, oneOf(d.Mode, field.NewPath("mode"), Enforce, Warn, Audit, Off)...)
	errs = append(errs, validateResources(&d.Resources, field.NewPath("resources"))...)
	errs = append(errs, validateAutoscaling(&d.Autoscaling, field.NewPath("autoscaling"))...)
	errs = append(errs, validateReplicas(&d.Replicas, field.NewPath("replicas"))...)
	errs = append(errs, validateBreakGlass(&d.BreakGlass, field.NewPath("breakGlass"))...)
	return errs
}

func validateMatch(m *Match, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelSelector(&m.NamespaceSelector, metav1validation.LabelSelectorValidationOptions{},
		path.Child("namespaceSelector"))
	if len(m.DataPlane) == 0 {
		errs = append(errs, field.Required(path.Child("dataPlane"), "must have at least one entry"))
	}
	return append(errs, ValidateDataPlanes(m.DataPlane, path.Child("dataPlane"))...)
}

// ValidateDataPlanes reports everything that is wrong with a list of data-plane entries.
func ValidateDataPlanes(entries []DataPlaneMatch, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range entries {
		errs = append(errs, validateDataPlane(&entries[i], path.Index(i))...)
	}
	return errs
}

func validateDataPlane(m *DataPlaneMatch, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	given := 0
	if m.Env != nil {
		given++
		for _, problem := range validation.IsRelaxedEnvVarName(m.Env.Name) {
			errs = append(errs, field.Invalid(path.Child("env", "name"), m.Env.Name, problem))
		}
	}
	if m.Labels != nil {
		given++
		errs = append(errs, metav1validation.ValidateLabelSelector(m.Labels, metav1validation.LabelSelectorValidationOptions{}, path.Child("labels"))...)
		if len(m.Labels.MatchLabels) == 0 && len(m.Labels.MatchExpressions) == 0 {
			errs = append(errs, field.Required(path.Child("labels"), "must select something: an empty selector makes every Deployment a data plane"))
		}
	}
	if m.Image != "" {
		given++
		if allWildcards.MatchString(m.Image) {
			errs = append(errs, field.Invalid(path.Child("image"), m.Image, "must hold more than wildcards: this makes every Deployment a data plane"))
		}
	}
	if given != 1 {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "must have exactly one of env, labels, image"))
	}
	return errs
}

var allWildcards = regexp.MustCompile(`^[*?]*$`)

func validateResources(r *Resources, path *field.Path) field.ErrorList {
	errs := validateSectionMode(r.Mode, path)
	errs = append(errs, oneOf(r.OnUpdate, path.Child("onUpdate"), TemplateChange, Always)...)
	errs = append(errs, validateContainerResources(r.Proxy, path.Child("proxy"))...)
	return append(errs, validateContainerResources(r.Sidecars, path.Child("sidecars"))...)
}

func validateContainerResources(r *ContainerResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name   string
		values corev1.ResourceList
	}{{kube.Requests, r.Requests}, {kube.Limits, r.Limits}} {
		for _, name := range kube.ResourceNames(list.values) {
			at := path.Child(list.name).Key(string(name))
			value := list.values[name]
			switch {
			case name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage:
				errs = append(errs, field.NotSupported(at, name, []corev1.ResourceName{
					corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
				}))
			case value.Sign() <= 0:
				errs = append(errs, field.Invalid(at, value.String(), "must be greater than 0"))
			}
		}
	}
	for _, name := range kube.ResourceNames(r.Requests) {
		request := r.Requests[name]
		if limit, ok := r.Limits[name]; ok && request.Cmp(limit) > 0 {
			errs = append(errs, field.Invalid(path.Child(kube.Requests).Key(string(name)), request.String(),
				"must not be above the limit, "+limit.String()))
		}
	}
	return errs
}

func validateAutoscaling(a *Autoscaling, path *field.Path) field.ErrorList {
	errs := validateSectionMode(a.Mode, path)
	replicas := validateBounds(a.MinReplicas, 0, maxReplicasEver, path.Child("minReplicas"))
	replicas = append(replicas, validateBounds(a.MaxReplicas, 1, maxReplicasEver, path.Child("maxReplicas"))...)
	if len(replicas) == 0 {
		replicas = validateMinAgainstMax(a, path)
	}
	if a.MinSpread < 0 {
		errs = append(errs, field.Invalid(path.Child("minSpread"), a.MinSpread, "must be 0 or more"))
	} else if len(replicas) == 0 {
		errs = append(errs, validateSpread(a, path.Child("minSpread"))...)
	}
	errs = append(errs, replicas...)
	errs = append(errs, validateBounds(a.TargetCPUUtilization, 1, maxUtilization, path.Child("targetCPUUtilization"))...)
	errs = append(errs, oneOf(a.Metrics, path.Child("metrics"), AnyMetrics, CPURequired)...)
	return append(errs, oneOf(a.Computable.Mode, path.Child("computable", "mode"), Enforce, Warn, Audit, Off)...)
}

// validateMinAgainstMax holds sound bounds of minReplicas and maxReplicas against each other.
func validateMinAgainstMax(a *Autoscaling, path *field.Path) field.ErrorList {
	if a.MinReplicas.Min > a.MaxReplicas.Max {
		return field.ErrorList{field.Invalid(path.Child("minReplicas", "min"), a.MinReplicas.Min,
			fmt.Sprintf("must not be above maxReplicas.max, %d: no HPA could comply", a.MaxReplicas.Max))}
	}
	if a.MinReplicas.Default > a.MaxReplicas.Default {
		return field.ErrorList{field.Invalid(path.Child("minReplicas", "default"), a.MinReplicas.Default,
			fmt.Sprintf("must not be above maxReplicas.default, %d: the default HPA would be invalid", a.MaxReplicas.Default))}
	}
	return nil
}

// validateSpread holds minSpread against sound bounds.
func validateSpread(a *Autoscaling, path *field.Path) field.ErrorList {
	if widest := a.MaxReplicas.Max - a.MinReplicas.Min; a.MinSpread > widest {
		return field.ErrorList{field.Invalid(path, a.MinSpread,
			fmt.Sprintf("must not be above maxReplicas.max - minReplicas.min, %d: no HPA could comply", widest))}
	}
	if spread := a.MaxReplicas.Default - a.MinReplicas.Default; a.MinSpread > spread {
		return field.ErrorList{field.Invalid(path, a.MinSpread,
			fmt.Sprintf("must not be above maxReplicas.default - minReplicas.default, %d: the defaults would not comply", spread))}
	}
	return nil
}

func validateBounds(b Bounds, lowest, highest int32, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, bound := range []struct {
		name  string
		value int32
	}{{"min", b.Min}, {"max", b.Max}} {
		if bound.value < lowest || bound.value > highest {
			errs = append(errs, field.Invalid(path.Child(bound.name), bound.value, fmt.Sprintf("must be between %d and %d", lowest, highest)))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	switch {
	case b.Min > b.Max:
		errs = append(errs, field.Invalid(path.Child("min"), b.Min, fmt.Sprintf("must not be above max, %d", b.Max)))
	case !b.Contains(b.Default):
		errs = append(errs, field.Invalid(path.Child("default"), b.Default, fmt.Sprintf("must be between min and max, %d and %d", b.Min, b.Max)))
	}
	return errs
}

func validateReplicas(r *Replicas, path *field.Path) field.ErrorList {
	errs := validateSectionMode(r.Mode, path)
	errs = append(errs, oneOf(r.OnOverride, path.Child("onOverride"), Reject, Preserve, WarnAction)...)
	errs = append(errs, oneOf(r.OnReset, path.Child("onReset"), Reject, Preserve, WarnAction)...)
	return append(errs, validateNames(r.Autoscalers, path.Child("autoscalers"))...)
}

func validateBreakGlass(b *BreakGlass, path *field.Path) field.ErrorList {
	errs := validateNames(b.Groups, path.Child("groups"))
	if b.MaxDuration.Duration <= 0 {
		errs = append(errs, field.Invalid(path.Child("maxDuration"), b.MaxDuration.Duration.String(), "must be greater than 0"))
	}
	return errs
}

func validateNames(names []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, name := range names {
		switch {
		case name == "":
			errs = append(errs, field.Required(path.Index(i), "must not be empty"))
		case seen[name]:
			errs = append(errs, field.Duplicate(path.Index(i), name))
		}
		seen[name] = true
	}
	return errs
}

// validateSectionMode lets a section leave its mode out.
func validateSectionMode(m Mode, path *field.Path) field.ErrorList {
	if m == "" {
		return nil
	}
	return oneOf(m, path.Child("mode"), Enforce, Warn, Audit, Off)
}

func oneOf[T ~string](value T, path *field.Path, allowed ...T) field.ErrorList {
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

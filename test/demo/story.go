//go:build unix

package main

import (
	"fmt"
	"strings"
)

// namespace is where the story's application team works.
const namespace = "team-a"

// step is one command of the story and what it should do.
type step struct {
	title string
	// command as a user types it, without the leading "kubectl". Quotes group words, as in a shell.
	command string
	// expect says what should come back, for people.
	expect string
	// refused is true where the command should fail.
	refused bool
	// holds are texts that must all be in what comes back.
	holds []string
	// lacks are texts that must not be.
	lacks []string
	// waits is true for a command that may have to be asked again until it answers so.
	waits bool
}

// hpaController is who the HPA controller is in a cluster made by kubeadm.
const hpaController = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"

func story() []step {
	return []step{
		{
			title:   "A platform team installs its policy: here the built-in one, as a ConfigMap.",
			command: "apply -f config/samples/default.yaml",
			expect:  "the policy is there",
			holds:   []string{"configmap/kdp-webhook-policy created"},
		},
		{
			title:   "The webhook says that it holds.",
			command: "get events -n kdp-system --field-selector reason=PolicyLoaded",
			expect:  "an event on the ConfigMap",
			holds:   []string{"configmap/kdp-webhook-policy", "In force"},
			waits:   true,
		},
		{
			title:   "An application team gets a namespace.",
			command: "create namespace " + namespace,
			expect:  "it is created",
			holds:   []string{"namespace/team-a created"},
		},
		{
			title:   "It deploys a Kong data plane without any resources.",
			command: "apply -n team-a -f test/demo/manifests/data-plane.yaml",
			expect:  "it is created",
			holds:   []string{"deployment.apps/kong-dp-kong created"},
		},
		{
			title:   "The proxy has them nevertheless.",
			command: "get deployment kong-dp-kong -n team-a -o 'jsonpath={.spec.template.spec.containers[0].resources}'",
			expect:  "requests 300m / 300Mi, limits 1200m / 800Mi",
			holds:   []string{`{"limits":{"cpu":"1200m","memory":"800Mi"},"requests":{"cpu":"300m","memory":"300Mi"}}`},
		},
		{
			title:   "An autoscaling/v1 HPA that asks for 80 %, as chart 2.3.0 renders it for whoever asks for 75.",
			command: "apply -n team-a -f test/demo/manifests/hpa.yaml",
			expect:  "it is created",
			holds:   []string{"horizontalpodautoscaler.autoscaling/kong-dp-kong created"},
		},
		{
			title:   "It aims at the documented 75 %.",
			command: "get hpa kong-dp-kong -n team-a -o 'jsonpath={.spec.minReplicas}-{.spec.maxReplicas} at {.spec.metrics[0].resource.target.averageUtilization}%'",
			expect:  "1-20 at 75%",
			holds:   []string{"1-20 at 75%"},
		},
		{
			title:   "Somebody wants up to 50 replicas.",
			command: `patch hpa kong-dp-kong -n team-a --patch '{"spec":{"maxReplicas":50}}'`,
			expect:  "refused, with the field, what is allowed, and the way out",
			refused: true,
			holds:   []string{"spec.maxReplicas: Invalid value: 50: must be between 1 and 20", "autoscaling.maxReplicas"},
		},
		{
			title:   "60 % and up to 15 are within the policy.",
			command: `patch hpa kong-dp-kong -n team-a --patch '{"spec":{"maxReplicas":15,"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":60}}}]}}'`,
			expect:  "allowed",
			holds:   []string{"horizontalpodautoscaler.autoscaling/kong-dp-kong patched"},
		},
		{
			title:   "Load comes: the HPA controller (its identity, played here) scales out to 5.",
			command: "scale deployment kong-dp-kong -n team-a --replicas=5 --as=" + hpaController + " --as-group=system:masters",
			expect:  "the autoscaler is free",
			holds:   []string{"deployment.apps/kong-dp-kong scaled"},
		},
		{
			title:   "A person wants 3.",
			command: "scale deployment kong-dp-kong -n team-a --replicas=3",
			expect:  "refused: the HPA would undo it, and the message says how to get there for good",
			refused: true,
			holds:   []string{"spec.replicas: Invalid value: 3", `the HPA "kong-dp-kong" drives it between 1 and 15, it is at 5`, `{"spec":{"maxReplicas":3}}`},
		},
		{
			title:   "The team applies its manifest again, which says replicas: 1.",
			command: "apply -n team-a -f test/demo/manifests/data-plane.yaml",
			expect:  "goes through, with a warning",
			holds:   []string{"Warning: spec.replicas: kept at 5, not 1", "deployment.apps/kong-dp-kong configured"},
		},
		{
			title:   "No pod was lost.",
			command: "get deployment kong-dp-kong -n team-a -o 'jsonpath={.spec.replicas}'",
			expect:  "still 5",
			holds:   []string{"5"},
			lacks:   []string{"1"},
		},
		{
			title:   "A dry run of a refusal leaves no trace.",
			command: `patch hpa kong-dp-kong -n team-a --dry-run=server --patch '{"spec":{"minReplicas":44,"maxReplicas":44}}'`,
			expect:  "refused alike",
			refused: true,
			holds:   []string{"spec.minReplicas: Invalid value: 44", "spec.maxReplicas: Invalid value: 44"},
		},
		{
			title:   "The platform team breaks its policy.",
			command: `patch configmap kdp-webhook-policy -n kdp-system --patch '{"data":{"policy.yaml":"apiVersion: kdp-webhook.io/v1alpha1\nkind: DataPlanePolicy\nautoscaling:\n  maxReplica: {max: 30}\n"}}'`,
			expect:  "stored, but not taken over",
			holds:   []string{"configmap/kdp-webhook-policy patched"},
		},
		{
			title:   "It is told what is wrong; the last good policy stays in force.",
			command: "get events -n kdp-system --field-selector reason=PolicyInvalid",
			expect:  "an event with the field path and what was probably meant",
			holds:   []string{"autoscaling.maxReplica", `did you mean "maxReplicas"?`, "stays in force"},
			waits:   true,
		},
		{
			title:   "What happened to the team, as it sees it.",
			command: "get events -n team-a",
			expect:  "what was changed, refused and kept, and nothing of the dry run",
			holds:   []string{"PolicyApplied", "PolicyViolation", "maxReplicas 20 → 50", "kept at 5 instead of 1"},
			lacks:   []string{"44"},
			waits:   true,
		},
	}
}

// args splits the command into words.
func (s step) args() []string {
	var words []string
	var word strings.Builder
	quoted := false
	for _, r := range s.command {
		switch {
		case r == '\'':
			quoted = !quoted
		case r == ' ' && !quoted:
			words = append(words, word.String())
			word.Reset()
		default:
			word.WriteRune(r)
		}
	}
	return append(words, word.String())
}

// judge says what is wrong with an answer.
func (s step) judge(answer string, err error) error {
	if refused := err != nil; refused != s.refused {
		return fmt.Errorf("expected: %s", s.expect)
	}
	for _, text := range s.holds {
		if !strings.Contains(answer, text) {
			return fmt.Errorf("expected: %s; %q is not in it", s.expect, text)
		}
	}
	for _, text := range s.lacks {
		if strings.Contains(answer, text) {
			return fmt.Errorf("expected: %s; %q is in it", s.expect, text)
		}
	}
	return nil
}

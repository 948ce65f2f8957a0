//go:build linux

package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kdp-webhook/kdp-webhook/test/cluster/internal/child"
)

// ownClusterIn tells the re-executed test binary to start a cluster in that folder.
const ownClusterIn = "KDP_TEST_OWN_CLUSTER_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownClusterIn); dir != "" {
		if err := ownCluster(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// ownCluster starts a cluster with a further process, says so and never ends.
func ownCluster(dir string) error {
	c, err := Start(context.Background(), Options{Dir: dir, Progress: os.Stderr})
	if err != nil {
		return err
	}
	if _, err := c.StartProcess(Program{Name: "sleep", Path: "/bin/sleep", Args: []string{"600"}}); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

func startCluster(t *testing.T, o Options) *Cluster {
	t.Helper()
	o.Progress = t.Output()
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestTwoClustersServeTheirUsersSideBySide(t *testing.T) {
	first, second := startCluster(t, Options{}), startCluster(t, Options{Dir: filepath.Join(t.TempDir(), "second")})
	for _, tc := range []struct {
		name string
		test func(t *testing.T, first, second *Cluster)
	}{
		{"the server reports the version it was built from", reportsItsVersion},
		{"what is written to one is not in the other", keepsToItself},
		{"a user without a role is forbidden and reads with one", obeysRoles},
		{"a manifest on stdin is applied", readsStdin},
		{"a service account's token is accepted", acceptsTokens},
		{"the audit log has a request when it is answered", audits},
		{"after Stop no process and no temporary folder is left", leavesNothing},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, first, second) })
	}
}

func reportsItsVersion(t *testing.T, first, _ *Cluster) {
	t.Helper()
	want, err := requiredVersion(t.Context(), "components/kubernetes", "k8s.io/kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		ClientVersion, ServerVersion struct{ GitVersion, Major, Minor string }
	}
	if err := json.Unmarshal([]byte(kubectl(t, first, "version", "-o", "json")), &got); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("KUBEBUILDER_ASSETS") != "" {
		t.Skip("the binaries are not ours")
	}
	if got.ServerVersion.GitVersion != want || got.ClientVersion.GitVersion != want {
		t.Errorf("got %+v, want %s of both", got, want)
	}
}

func keepsToItself(t *testing.T, first, second *Cluster) {
	t.Helper()
	kubectl(t, first, "create", "namespace", "only-here")
	if got := kubectl(t, second, "get", "namespaces", "-o", "name"); strings.Contains(got, "only-here") {
		t.Errorf("the second cluster has the first one's namespace:\n%s", got)
	}
}

func obeysRoles(t *testing.T, first, _ *Cluster) {
	t.Helper()
	kubeconfig, err := first.KubeconfigFor("jane", "developers")
	if err != nil {
		t.Fatal(err)
	}
	get := Command{Kubeconfig: kubeconfig, Args: []string{"get", "namespace", "default", "-o", "name"}}
	_, stderr, err := first.Run(t.Context(), get)
	want := `Error from server (Forbidden): namespaces "default" is forbidden: User "jane" cannot get ` +
		`resource "namespaces" in API group "" in the namespace "default"` + "\n"
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || stderr != want {
		t.Fatalf("got %v and stderr\n%swant exit status 1 and\n%s", err, stderr, want)
	}
	kubectl(t, first, "create", "clusterrole", "reader", "--verb=get", "--resource=namespaces")
	kubectl(t, first, "create", "clusterrolebinding", "developers", "--clusterrole=reader", "--group=developers")
	eventually(t, "the role to take effect", func() bool {
		stdout, _, err := first.Run(t.Context(), get)
		return err == nil && stdout == "namespace/default\n"
	})
}

func readsStdin(t *testing.T, first, _ *Cluster) {
	t.Helper()
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: piped, namespace: default}\n"
	apply := Command{Args: []string{"apply", "-f", "-"}, Stdin: strings.NewReader(manifest)}
	stdout, _, err := first.Run(t.Context(), apply)
	if err != nil || stdout != "configmap/piped created\n" {
		t.Errorf("got %q, %v", stdout, err)
	}
}

func acceptsTokens(t *testing.T, first, _ *Cluster) {
	t.Helper()
	if got, want := tokenUser(t, first.Config()), "system:serviceaccount:default:robot"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func audits(t *testing.T, _, second *Cluster) {
	t.Helper()
	cfg, err := second.ConfigFor("auditor", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	namespaces := clientFor(t, cfg).CoreV1().Namespaces()
	if _, err := namespaces.Get(t.Context(), "kube-system", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if !audited(t, second.AuditLog(), "auditor", "/api/v1/namespaces/kube-system") {
		t.Error("no ResponseComplete event of that user and URI")
	}
}

func leavesNothing(t *testing.T, first, second *Cluster) {
	t.Helper()
	if _, err := first.StartProcess(Program{Name: "sleep", Path: "/bin/sleep", Args: []string{"600"}}); err != nil {
		t.Fatal(err)
	}
	pids := descendants(t, os.Getpid())
	if err := errors.Join(first.Stop(), second.Stop(), first.Stop()); err != nil {
		t.Error(err)
	}
	if left := alive(pids); len(left) > 0 || len(pids) < 9 {
		t.Errorf("of the processes %v these are left: %v", pids, left)
	}
	if _, err := os.Stat(first.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: got %v, want that it does not exist", first.Dir(), err)
	}
	if _, err := first.StartProcess(Program{Name: "late", Path: "/bin/true"}); err == nil {
		t.Error("a process started after Stop")
	}
}

func TestNoProcessOutlivesAKilledOwner(t *testing.T) {
	if _, err := Build(t.Context(), t.Output(), Etcd, APIServer, Kubectl, leash); err != nil {
		t.Fatal(err)
	}
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownClusterIn+"="+filepath.Join(t.TempDir(), "state"))
	owner.Stderr = t.Output()
	stdout, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	exited, err := child.Start(owner)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	pids := descendants(t, owner.Process.Pid)
	if want := 5; len(pids) != want { // two leashes, etcd, kube-apiserver, sleep
		t.Fatalf("got processes %v, want %d", pids, want)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-exited; err == nil {
		t.Error("the owner ended by itself")
	}
	eventually(t, "the end of all processes", func() bool { return len(alive(pids)) == 0 })
}

func TestAFailedStartNamesTheComponentAndLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	_, err := Start(t.Context(), Options{
		Dir: dir, Progress: t.Output(), APIServerArgs: map[string]string{"no-such-flag": "1"},
	})
	if err == nil {
		t.Fatal("it started")
	}
	for _, want := range []string{"start the control plane: kube-apiserver: ", "unknown flag: --no-such-flag"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if left := descendants(t, os.Getpid()); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

func TestAFailedEtcdIsNamedWithItsLastWords(t *testing.T) {
	assets := t.TempDir()
	for _, name := range []Component{Etcd, APIServer, Kubectl} {
		script := []byte("#!/bin/sh\necho disk on fire\nexit 1\n")
		if err := os.WriteFile(filepath.Join(assets, string(name)), script, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("KUBEBUILDER_ASSETS", assets)
	_, err := Start(t.Context(), Options{Progress: t.Output()})
	want := "start the control plane: etcd: timeout waiting for process etcd to start successfully " +
		"(it may have failed to start, or stopped unexpectedly before becoming ready); " +
		"the end of its log:\ndisk on fire"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestAStartIsGivenUpWhenItsContextEnds(t *testing.T) {
	if _, err := Build(t.Context(), t.Output(), Etcd, APIServer, Kubectl, leash); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("had enough")
	go func() {
		defer cancel(reason)
		for ctx.Err() == nil {
			if log, err := os.Stat(filepath.Join(dir, "kube-apiserver.log")); err == nil && log.Size() > 0 {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := Start(ctx, Options{Dir: dir}); !errors.Is(err, reason) {
		t.Errorf("got %v, want %v", err, reason)
	}
	if left := descendants(t, os.Getpid()); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

func TestAStateFolderInUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{Dir: dir, Progress: t.Output()})
	if want := "start the control plane: state folder " + dir + " is not empty"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func kubectl(t *testing.T, c *Cluster, args ...string) string {
	t.Helper()
	stdout, _, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return stdout
}

func clientFor(t *testing.T, cfg *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// tokenUser creates the service account default/robot and returns who the API
// server takes the bearer of its token for.
func tokenUser(t *testing.T, admin *rest.Config) string {
	t.Helper()
	accounts := clientFor(t, admin).CoreV1().ServiceAccounts("default")
	robot := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}
	if _, err := accounts.Create(t.Context(), robot, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := accounts.CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(admin)
	cfg.BearerToken = token.Status.Token
	review, err := clientFor(t, cfg).AuthenticationV1().SelfSubjectReviews().
		Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.UserInfo.Username
}

func audited(t *testing.T, path, user, uri string) bool {
	t.Helper()
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		var event struct {
			Stage, RequestURI string
			User              struct{ Username string }
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatal(err)
		}
		if event.Stage == "ResponseComplete" && event.User.Username == user && event.RequestURI == uri {
			return true
		}
	}
	return false
}

// eventually waits for a condition, for as long as a busy machine may need.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"
)

var beginning = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

// fixture is a queue over a fake API.
type fixture struct {
	*Events
	client *fake.Clientset
	clock  *clocktesting.FakePassiveClock
	// metrics that the queue registered.
	metrics *prometheus.Registry
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{client: fake.NewClientset(), clock: clocktesting.NewFakePassiveClock(beginning), metrics: prometheus.NewRegistry()}
	var err error
	if f.Events, err = NewEvents(f.client.EventsV1(), "pod-1", f.clock, logr.Discard(), f.metrics); err != nil {
		t.Fatal(err)
	}
	return f
}

// run works the queue off until the test ends, or the returned function is called.
func (f *fixture) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { f.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func (f *fixture) stored(t *testing.T) []eventsv1.Event {
	t.Helper()
	list, err := f.client.EventsV1().Events("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func (f *fixture) expectDropped(t *testing.T, queueFull, apiError int) {
	t.Helper()
	err := testutil.GatherAndCompare(f.metrics, strings.NewReader(fmt.Sprintf(`
# HELP kdp_events_dropped_total Events that were not written: the queue was full (reason queue_full), or the API did not take them (reason api_error).
# TYPE kdp_events_dropped_total counter
kdp_events_dropped_total{reason="api_error"} %d
kdp_events_dropped_total{reason="queue_full"} %d
`, apiError, queueFull)), "kdp_events_dropped_total")
	if err != nil {
		t.Error(err)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		return condition(), nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func refusal(note string) Event {
	return Event{
		Regarding: corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "team", Name: "kong", UID: "uid"},
		Type:      corev1.EventTypeWarning, Reason: ReasonPolicyViolation, Action: "replicasOverride", User: "alice", Note: note,
	}
}

func TestAnEventSaysWhoWhatAndWhere(t *testing.T) {
	f := newFixture(t)
	stop := f.run(t)
	e := refusal("no")
	e.Related = corev1.ObjectReference{Kind: "HorizontalPodAutoscaler", Name: "hpa"}
	f.Record(e)
	stop()
	got := f.stored(t)
	got[0].ManagedFields = nil // the fake API's own
	want := []eventsv1.Event{{
		TypeMeta:   metav1.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: got[0].Name},
		EventTime:  metav1.NewMicroTime(beginning), ReportingController: "kdp-webhook.io/kdp-webhook", ReportingInstance: "pod-1",
		Action: "replicasOverride", Reason: "PolicyViolation", Type: "Warning", Note: "no",
		Regarding: e.Regarding, Related: &e.Related,
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(got[0].Name, "kong.") {
		t.Errorf("name %q", got[0].Name)
	}
	f.expectDropped(t, 0, 0)
}

func TestRepeatsBecomeOneEventWhoseCountGrows(t *testing.T) {
	f := newFixture(t)
	f.run(t)
	for n := int32(1); n <= 3; n++ {
		f.Record(refusal("no"))
		eventually(t, "count", func() bool {
			events := f.stored(t)
			if len(events) != 1 {
				return false
			}
			s := events[0].Series
			return n == 1 && s == nil || n > 1 && s != nil && s.Count == n && s.LastObservedTime.Time.Equal(f.clock.Now())
		})
		f.clock.SetTime(f.clock.Now().Add(time.Second))
	}
	f.expectDropped(t, 0, 0)
}

func TestWhatRepeatsBeforeItIsWrittenIsOneEventWithItsCount(t *testing.T) {
	f := newFixture(t)
	for range 5 {
		f.Record(refusal("no"))
	}
	f.run(t)()
	events := f.stored(t)
	if len(events) != 1 || events[0].Series == nil || events[0].Series.Count != 5 {
		t.Errorf("events %+v", events)
	}
}

// A repeat that comes while the first is on its way must not be written beside it: the API would refuse the second create.
func TestARepeatWhileTheFirstIsBeingWrittenWaitsForIt(t *testing.T) {
	f := newFixture(t)
	begun, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
		once.Do(func() {
			close(begun)
			<-proceed
		})
		return false, nil, nil
	})
	stop := f.run(t)
	f.Record(refusal("no"))
	<-begun
	for range 100 {
		f.Record(refusal("no"))
	}
	other := refusal("no")
	other.User = "bob"
	f.Record(other) // the other writers go on meanwhile
	close(proceed)
	stop()
	counts := map[int32]int{}
	for _, e := range f.stored(t) {
		if e.Series != nil {
			counts[e.Series.Count]++
		} else {
			counts[1]++
		}
	}
	if diff := cmp.Diff(map[int32]int{101: 1, 1: 1}, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	f.expectDropped(t, 0, 0)
}

func TestDifferentObjectsRulesUsersAndNotesAreDifferentEvents(t *testing.T) {
	f := newFixture(t)
	for _, change := range []func(*Event){
		func(*Event) {},
		func(e *Event) { e.Regarding.Name = "other" },
		func(e *Event) { e.Regarding.UID = "recreated" },
		func(e *Event) { e.Related = corev1.ObjectReference{Kind: "Deployment", Name: "x"} },
		func(e *Event) { e.Action = "maxReplicas" },
		func(e *Event) { e.User = "bob" },
		func(e *Event) { e.Note = "other" },
		func(e *Event) { e.Reason = ReasonPolicyWarning },
	} {
		e := refusal("no")
		change(&e)
		f.Record(e)
	}
	f.run(t)()
	if n := len(f.stored(t)); n != 8 {
		t.Errorf("%d events", n)
	}
}

func TestNotesOfOneObjectRuleAndUserAreBounded(t *testing.T) {
	f := newFixture(t)
	for n := range 1000 {
		f.Record(refusal(fmt.Sprintf("replicas %d", n)))
	}
	f.run(t)()
	events := f.stored(t)
	if len(events) != maxNotes {
		t.Fatalf("%d events", len(events))
	}
	var total int32
	for _, e := range events {
		if e.Series == nil {
			total++
		} else {
			total += e.Series.Count
		}
	}
	if total != 1000 {
		t.Errorf("%d of 1000 are counted", total)
	}
	f.expectDropped(t, 0, 0)
}

func TestWhatTheQueueCannotHoldIsDroppedAndCounted(t *testing.T) {
	f := newFixture(t)
	record := func(n int) {
		for i := range n {
			e := refusal("no")
			e.Regarding.Name = fmt.Sprintf("kong-%d", i)
			f.Record(e)
		}
	}
	record(maxSeries + 7) // nobody writes: Record would block if it did
	f.expectDropped(t, 7, 0)
	record(maxSeries) // what is known already is counted, not dropped
	f.expectDropped(t, 7, 0)
}

func TestSeriesThatHaveBeenWrittenMakeRoom(t *testing.T) {
	f := newFixture(t)
	f.client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, nil // the fake API is slow at keeping so many
	})
	stop := f.run(t)
	for i := range maxSeries {
		e := refusal("no")
		e.Regarding.Name = fmt.Sprintf("kong-%d", i)
		f.Record(e)
	}
	stop()
	f.Record(refusal("one more"))
	f.expectDropped(t, 0, 0)
	if f.size != 1 {
		t.Errorf("%d series remembered", f.size)
	}
}

func TestSeriesThatAreStillGoingOnAreRememberedLongest(t *testing.T) {
	f := newFixture(t)
	f.client.PrependReactor("*", "events", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
	stop := f.run(t)
	for i := range maxSeries {
		e := refusal("no")
		e.Regarding.Name = fmt.Sprintf("kong-%d", i)
		f.Record(e)
	}
	f.clock.SetTime(beginning.Add(seriesIdle))
	again := refusal("no")
	again.Regarding.Name = "kong-7"
	f.Record(again)
	stop()
	f.Record(refusal("one more"))
	f.expectDropped(t, 0, 0)
	if f.size != 2 {
		t.Errorf("%d series remembered, want the one that went on and the new one", f.size)
	}
}

func TestWhatTheAPIDoesNotTakeIsDroppedAndCounted(t *testing.T) {
	f := newFixture(t)
	var mu sync.Mutex
	failing := true
	f.client.PrependReactor("*", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		return failing, nil, errors.New("the API is away")
	})
	f.run(t)
	for range 3 {
		f.Record(refusal("no"))
	}
	eventually(t, "dropped", func() bool { return testutil.ToFloat64(f.dropped.WithLabelValues(droppedAPI)) == 3 })
	mu.Lock()
	failing = false
	mu.Unlock()
	f.Record(refusal("no"))
	eventually(t, "written", func() bool { return len(f.stored(t)) == 1 })
	if e := f.stored(t)[0]; e.Series != nil {
		t.Errorf("it starts anew, not with %+v", e.Series)
	}
	f.expectDropped(t, 0, 3)
}

func TestAFailingAPINeverBlocksWhoRecords(t *testing.T) {
	f := newFixture(t)
	hang := make(chan struct{})
	f.client.PrependReactor("*", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
		<-hang
		return true, nil, errors.New("timed out")
	})
	stop := f.run(t)
	var recorders sync.WaitGroup
	for user := range 8 {
		recorders.Go(func() {
			for n := range 3000 {
				e := refusal("no")
				e.User, e.Regarding.Name = strconv.Itoa(user), fmt.Sprintf("kong-%d", n)
				f.Record(e)
			}
		})
	}
	recorders.Wait()
	close(hang)
	stop()
	full, api := testutil.ToFloat64(f.dropped.WithLabelValues(droppedQueueFull)), testutil.ToFloat64(f.dropped.WithLabelValues(droppedAPI))
	if full+api != 8*3000 || full < 1 || api < maxSeries {
		t.Errorf("dropped: %v since the queue was full, %v since the API did not answer", full, api)
	}
}

func TestAnEventThatTheAPIHasForgottenIsSaidAgain(t *testing.T) {
	f := newFixture(t)
	f.run(t)
	f.Record(refusal("no"))
	eventually(t, "first", func() bool { return len(f.stored(t)) == 1 })
	f.client.PrependReactor("patch", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, "gone")
	})
	if err := f.client.EventsV1().Events("team").Delete(t.Context(), f.stored(t)[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.Record(refusal("no"))
	eventually(t, "second", func() bool {
		events := f.stored(t)
		return len(events) == 1 && events[0].Series != nil && events[0].Series.Count == 2
	})
	f.expectDropped(t, 0, 0)
}

func TestWhatIsQueuedAtTheEndIsWritten(t *testing.T) {
	f := newFixture(t)
	for i := range 500 {
		e := refusal("no")
		e.Regarding.Name = fmt.Sprintf("kong-%d", i)
		f.Record(e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Run(ctx)
	if n := len(f.stored(t)); n != 500 {
		t.Errorf("%d events of 500", n)
	}
}

func TestNotesAreCutToWhatTheAPITakesAtACharactersEdge(t *testing.T) {
	for _, note := range []string{"", strings.Repeat("x", maxNote)} {
		if got := cutNote(note); got != note {
			t.Errorf("a note of %d bytes was cut to %d", len(note), len(got))
		}
	}
	for _, character := range []string{"x", "é", "→", "🦍"} {
		for shift := range 4 {
			note := strings.Repeat("-", shift) + strings.Repeat(character, maxNote+1)
			got := cutNote(note)
			if len(got) > maxNote || len(got) < maxNote-len(character) || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
				t.Errorf("%q × %d: %d bytes, valid: %t", character, maxNote, len(got), utf8.ValidString(got))
			}
		}
	}
}

func TestNamesOfEventsFitAndDiffer(t *testing.T) {
	e := refusal("no")
	e.Regarding.Name = strings.Repeat("a", 235) + "." + strings.Repeat("b", 17)
	name := eventName(e, subject{user: "alice"}, beginning)
	if len(name) > 253 || strings.Contains(name, "..") {
		t.Errorf("name %q of %d characters", name, len(name))
	}
	for what, other := range map[string]string{
		"user": eventName(e, subject{user: "bob"}, beginning),
		"time": eventName(e, subject{user: "alice"}, beginning.Add(1)),
		"note": eventName(refusal("other"), subject{user: "alice"}, beginning),
	} {
		if other == name {
			t.Errorf("another %s, the same name", what)
		}
	}
}

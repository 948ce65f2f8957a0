package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/utils/clock"
)

const (
	// reportingController names this project in Events.
	reportingController = "kdp-webhook.io/kdp-webhook"
	// maxNote is the longest note that the API takes, in bytes.
	maxNote = 1024
	// maxSeries is how many different Events are remembered so that repeats of them are counted. Those that have been
	// written make room for new ones; when as many wait to be written, what comes on top is dropped.
	maxSeries = 10_000
	// maxNotes is how many notes of one object, rule and user are told apart; what comes on top counts as a repeat of
	// the latest.
	maxNotes = 10
	// seriesIdle is how long a series is remembered after its last Event; well below the hour that the API keeps one.
	seriesIdle = 30 * time.Minute
	// writers is how many Events are written at a time.
	writers = 8
)

// Event is what is told about an object.
type Event struct {
	Regarding, Related corev1.ObjectReference
	// Type is Normal or Warning.
	Type   string
	Reason string
	// Action is the rule's name.
	Action string
	User   string
	// Note is the text; at most 1024 bytes.
	Note string
}

// subject is what repeats are counted by.
type subject struct {
	namespace, kind, name string
	uid                   types.UID
	related               string
	reason, action, user  string
}

// series is one Event in the API and how often it happened.
type series struct {
	subject subject
	event   Event
	name    string
	first   time.Time
	last    time.Time
	count   int32
	written int32
	// queued and writing say where it is: an event that repeats while it is being written waits until it has been, so
	// that the API hears of the counts in their order.
	queued, writing bool
}

// Events writes Events through a bounded queue of its own. Repeats become one Event whose count grows; each Event that
// does not fit or that the API does not take is counted by reason, and logged.
type Events struct {
	client   eventsclient.EventsV1Interface
	clock    clock.PassiveClock
	log      logr.Logger
	instance string
	dropped  *prometheus.CounterVec

	mu       sync.Mutex
	remember map[subject][]*series
	size     int
	pruned   time.Time
	queue    chan *series
}

// Reasons for which Events are dropped.
const (
	droppedQueueFull = "queue_full"
	droppedAPI       = "api_error"
)

// NewEvents prepares the queue; Run works it off. instance is the name of this process's Pod or host.
func NewEvents(client eventsclient.EventsV1Interface, instance string, c clock.PassiveClock, log logr.Logger, registerer prometheus.Registerer) (*Events, error) {
	e := &Events{
		client: client, clock: c, log: log, instance: instance,
		remember: map[subject][]*series{},
		// Every series is in the queue once at most, so that sending to it never blocks.
		queue: make(chan *series, maxSeries),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kdp_events_dropped_total",
			Help: "Events that were not written: the queue was full (reason queue_full), or the API did not take them (reason api_error).",
		}, []string{"reason"}),
	}
	for _, reason := range []string{droppedQueueFull, droppedAPI} {
		e.dropped.WithLabelValues(reason)
	}
	return e, registerer.Register(e.dropped)
}

// Record queues an Event. It never blocks.
func (e *Events) Record(event Event) {
	now := e.clock.Now()
	s := subject{
		namespace: event.Regarding.Namespace, kind: event.Regarding.Kind, name: event.Regarding.Name, uid: event.Regarding.UID,
		related: event.Related.Kind + "/" + event.Related.Name,
		reason:  event.Reason, action: event.Action, user: event.User,
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	entry := e.find(s, event.Note)
	if entry == nil {
		if e.size >= maxSeries {
			e.prune(now)
		}
		if e.size >= maxSeries {
			e.drop(droppedQueueFull, event, 1, nil)
			return
		}
		entry = &series{subject: s, event: event, name: eventName(event, s, now), first: now}
		e.remember[s] = append(e.remember[s], entry)
		e.size++
	}
	entry.count++
	entry.last = now
	if !entry.queued && !entry.writing {
		e.enqueue(entry)
	}
}

func (e *Events) enqueue(entry *series) {
	entry.queued = true
	e.queue <- entry
}

// find returns the series that the event repeats, nil where it is a new one.
func (e *Events) find(s subject, note string) *series {
	entries := e.remember[s]
	for _, entry := range entries {
		if entry.event.Note == note {
			return entry
		}
	}
	if len(entries) >= maxNotes {
		return entries[len(entries)-1]
	}
	return nil
}

// prune makes room: it forgets the series that have been written and quiet for seriesIdle, or else all that have been
// written. It walks through all of them, so that it does so at most once a second where that does not help.
func (e *Events) prune(now time.Time) {
	if now.Sub(e.pruned) < time.Second {
		return
	}
	if e.forgetQuiet(now, seriesIdle); e.size >= maxSeries {
		e.forgetQuiet(now, 0)
	}
	if e.size >= maxSeries {
		e.pruned = now
	}
}

func (e *Events) forgetQuiet(now time.Time, idle time.Duration) {
	for s, entries := range e.remember {
		kept := slices.DeleteFunc(entries, func(entry *series) bool {
			return !entry.queued && !entry.writing && now.Sub(entry.last) >= idle
		})
		e.keep(s, entries, kept)
	}
}

// keep remembers what is kept of a subject's entries.
func (e *Events) keep(s subject, entries, kept []*series) {
	e.size -= len(entries) - len(kept)
	if len(kept) == 0 {
		delete(e.remember, s)
	} else {
		e.remember[s] = kept
	}
}

func (e *Events) forget(entry *series) {
	entries := e.remember[entry.subject]
	kept := slices.DeleteFunc(entries, func(s *series) bool { return s == entry })
	e.keep(entry.subject, entries, kept)
}

// drop counts and logs an Event that is not told, and how often it happened.
func (e *Events) drop(reason string, event Event, count int32, err error) {
	e.dropped.WithLabelValues(reason).Add(float64(count))
	e.log.Error(err, "event dropped", "reason", reason, "namespace", event.Regarding.Namespace, "kind", event.Regarding.Kind,
		"name", event.Regarding.Name, "eventReason", event.Reason, "note", event.Note, "count", count)
}

// Run writes Events until ctx ends, then what is queued still, for drain at the most.
func (e *Events) Run(ctx context.Context) {
	// A write that has begun is not cut off by the end of the process; it has the drain's time like the rest.
	writing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for {
				select {
				case entry := <-e.queue:
					e.write(writing, entry)
				case <-ctx.Done():
					e.drain(writing)
					return
				}
			}
		})
	}
	<-ctx.Done()
	const drain = 5 * time.Second
	stop := time.AfterFunc(drain, cancel)
	defer stop.Stop()
	group.Wait()
}

func (e *Events) drain(ctx context.Context) {
	for {
		select {
		case entry := <-e.queue:
			e.write(ctx, entry)
		default:
			return
		}
	}
}

// write brings the API in line with a series.
func (e *Events) write(ctx context.Context, entry *series) {
	e.mu.Lock()
	entry.queued, entry.writing = false, true
	now := *entry
	e.mu.Unlock()

	err := e.send(ctx, &now)
	e.mu.Lock()
	defer e.mu.Unlock()
	entry.writing = false
	if err == nil {
		entry.written = now.count
	}
	switch {
	case entry.count > now.count:
		// It happened again meanwhile: the next write tells of both.
		e.enqueue(entry)
	case err != nil:
		e.drop(droppedAPI, entry.event, now.count-now.written, err)
		// The next one of its kind starts anew.
		e.forget(entry)
	}
}

// sendTimeout bounds one request to the Events API.
const sendTimeout = 10 * time.Second

func (e *Events) send(ctx context.Context, s *series) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	client := e.client.Events(s.event.Regarding.Namespace)
	if s.written > 0 {
		patch, err := json.Marshal(map[string]any{"series": eventsv1.EventSeries{Count: s.count, LastObservedTime: metav1.NewMicroTime(s.last)}})
		if err != nil {
			return fmt.Errorf("marshal event series: %w", err)
		}
		if _, err = client.Patch(ctx, s.name, types.MergePatchType, patch, metav1.PatchOptions{}); !apierrors.IsNotFound(err) {
			return err
		}
		// The API has forgotten the event: say it again.
	}
	event := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: s.event.Regarding.Namespace, Name: s.name},
		EventTime:           metav1.NewMicroTime(s.first),
		ReportingController: reportingController,
		ReportingInstance:   e.instance,
		Action:              s.event.Action,
		Reason:              s.event.Reason,
		Regarding:           s.event.Regarding,
		Note:                s.event.Note,
		Type:                s.event.Type,
	}
	if s.event.Related.Kind != "" {
		related := s.event.Related
		event.Related = &related
	}
	if s.count > 1 {
		event.Series = &eventsv1.EventSeries{Count: s.count, LastObservedTime: metav1.NewMicroTime(s.last)}
	}
	_, err := client.Create(ctx, event, metav1.CreateOptions{})
	return err
}

// eventName returns the object's name with a hash of what the event is about and when it began.
func eventName(e Event, s subject, now time.Time) string {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%v\x00%s\x00%d", s, e.Note, now.UnixNano())
	name := e.Regarding.Name
	const longest = 253 - 17
	if len(name) > longest {
		name = strings.TrimRight(name[:longest], "-.")
	}
	return fmt.Sprintf("%s.%016x", name, h.Sum64())
}

// cutNote shortens a note to what the API takes, at a character's edge.
func cutNote(note string) string {
	if len(note) <= maxNote {
		return note
	}
	const ellipsis = "..."
	cut := maxNote - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(note[cut]) {
		cut--
	}
	return note[:cut] + ellipsis
}

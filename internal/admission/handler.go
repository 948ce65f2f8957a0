package admission

import (
	"bytes"
	"context"
	"errors"
	"net/http"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// decideFunc answers a review; an error means "could not decide".
type decideFunc func(context.Context, admission.Request) (admission.Response, error)

// newHandler serves a decideFunc on controller-runtime's webhook. An answer that nobody decided on becomes an HTTP error:
// the API server takes any AdmissionReview that does not allow for a refusal, whatever its code, and only a call that
// fails is left to the webhook's failurePolicy. That goes for "could not decide", for a panic, and for a review that
// cannot be read.
func newHandler(decide decideFunc, constructor func(logr.Logger, *admission.Request) logr.Logger) http.Handler {
	hook := &admission.Webhook{Handler: markOutcome(decide), LogConstructor: constructor}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		result := &outcome{err: errors.New("internal error, see the webhook's log")}
		answer := &bufferedAnswer{header: w.Header()}
		hook.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), outcomeKey{}, result)))
		if result.err != nil {
			http.Error(w, "kdp-webhook could not decide: "+result.err.Error(), http.StatusInternalServerError)
			return
		}
		// A client that has gone away does not need the answer.
		_, _ = w.Write(answer.body.Bytes())
	})
}

// outcome is what became of one review; err is nil once it was decided.
type outcome struct{ err error }

// outcomeKey is the context's key of the *outcome.
type outcomeKey struct{}

func markOutcome(decide decideFunc) admission.HandlerFunc {
	return func(ctx context.Context, req admission.Request) admission.Response {
		response, err := decide(ctx, req)
		if err != nil {
			log.FromContext(ctx).Error(err, "could not decide", "kind", req.Kind.Kind, "operation", req.Operation,
				"namespace", req.Namespace, "name", req.Name, "user", req.UserInfo.Username)
		}
		if result, ok := ctx.Value(outcomeKey{}).(*outcome); ok {
			result.err = err
		}
		return response
	}
}

// bufferedAnswer keeps an answer until it is known whether it is one.
type bufferedAnswer struct {
	header http.Header
	body   bytes.Buffer
}

func (b *bufferedAnswer) Header() http.Header         { return b.header }
func (b *bufferedAnswer) Write(p []byte) (int, error) { return b.body.Write(p) }

// WriteHeader is not called by controller-runtime's webhook, which always answers 200.
func (b *bufferedAnswer) WriteHeader(int) {}

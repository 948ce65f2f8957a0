package certs

import (
	"crypto/tls"
	"crypto/x509"
	"sync"
	"time"
)

// handover keeps serving the previous certificate until the API server accepts
// the latest one. The library signs a new leaf the moment its CA changes, which
// is before any API server can have the new CA.
type handover struct {
	latest  func() (*tls.Certificate, error) // the library's certificate
	trusted func(leaf *x509.Certificate) error

	// settle is how long the latest certificate has to be trusted before it is
	// served: other API servers see a configuration later than this process
	// does, and one with a slow clock takes a fresh leaf for not yet valid.
	settle time.Duration

	mu      sync.Mutex
	served  *tls.Certificate
	waiting *tls.Certificate
	since   time.Time // when waiting was first found trusted; zero: it is not
}

// certificate returns the one to serve at now. It decides when it is asked, so
// a certificate that nobody asks for waits longer. The first one is served at
// once, there being no other, and so is one that follows an expired one.
func (h *handover) certificate(now time.Time) (*tls.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()

	latest, err := h.latest()
	if err != nil {
		return nil, err
	}
	if latest == h.served {
		return latest, nil
	}
	if latest != h.waiting {
		h.waiting, h.since = latest, time.Time{}
	}
	if h.served == nil || now.After(h.served.Leaf.NotAfter) || h.settled(now) {
		h.served, h.waiting = latest, nil
	}
	return h.served, nil
}

func (h *handover) settled(now time.Time) bool {
	if h.trusted(h.waiting.Leaf) != nil {
		h.since = time.Time{}
		return false
	}
	if h.since.IsZero() {
		h.since = now
	}
	return now.Sub(h.since) >= h.settle
}

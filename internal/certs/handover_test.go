package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"
)

func TestTheLatestCertificateIsServedOnceItHasBeenTrustedForAWhile(t *testing.T) {
	start := time.Now().Truncate(time.Second) // as certificates do
	ca := newCA(t, caCommonName, start, start.Add(time.Hour))
	first := ca.leaf(t, start, start.Add(time.Minute))
	second := ca.leaf(t, start, start.Add(time.Hour))
	third := ca.leaf(t, start, start.Add(time.Hour))
	all := []*tls.Certificate{first, second, third}

	type step struct {
		at      time.Duration
		latest  *tls.Certificate
		trusted []*tls.Certificate
		want    *tls.Certificate
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"the first is served untrusted: there is no other", []step{
			{0, first, nil, first},
		}},
		{"a new one waits until it is trusted and has settled", []step{
			{0, first, all, first},
			{1 * time.Second, second, nil, first},
			{30 * time.Second, second, nil, first},
			{31 * time.Second, second, all, first},
			{40 * time.Second, second, all, first},
			{41 * time.Second, second, all, second},
			{42 * time.Second, second, nil, second},
		}},
		{"trust that is lost starts the wait again", []step{
			{0, first, all, first},
			{1 * time.Second, second, all, first},
			{10 * time.Second, second, nil, first},
			{12 * time.Second, second, all, first},
			{21 * time.Second, second, all, first},
			{22 * time.Second, second, all, second},
		}},
		{"a newer one takes the waiting one's place and waits itself", []step{
			{0, first, all, first},
			{1 * time.Second, second, all, first},
			{12 * time.Second, third, all, first},
			{21 * time.Second, third, all, first},
			{22 * time.Second, third, all, third},
		}},
		{"an expired one gives way, trusted or not", []step{
			{0, first, all, first},
			{60 * time.Second, second, nil, first},
			{61 * time.Second, second, nil, second},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var now step
			h := &handover{
				settle: 10 * time.Second,
				latest: func() (*tls.Certificate, error) { return now.latest, nil },
				trusted: func(leaf *x509.Certificate) error {
					for _, c := range now.trusted {
						if c.Leaf == leaf {
							return nil
						}
					}
					return errors.New("not trusted")
				},
			}
			names := map[*tls.Certificate]string{first: "first", second: "second", third: "third"}
			for _, now = range tc.steps {
				got, err := h.certificate(start.Add(now.at))
				if err != nil {
					t.Fatal(err)
				}
				if got != now.want {
					t.Errorf("after %s the %s certificate is served, want the %s", now.at, names[got], names[now.want])
				}
			}
		})
	}
}

func TestNoCertificateIsAnError(t *testing.T) {
	none := errors.New("none yet")
	h := &handover{latest: func() (*tls.Certificate, error) { return nil, none }}
	if _, err := h.certificate(time.Now()); !errors.Is(err, none) {
		t.Errorf("got error %v, want %v", err, none)
	}
}

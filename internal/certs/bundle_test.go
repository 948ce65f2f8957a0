package certs

import (
	"bytes"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestABundleHoldsTheRequiredCAsAndTheNewestOfOurOwn(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	aged := func(days int) testCA {
		return newCA(t, caCommonName, now.Add(-time.Duration(days)*day), now.Add(100*day))
	}
	ca1, ca2, ca3, ca4 := aged(4), aged(3), aged(2), aged(1)
	twin := newCA(t, caCommonName, ca1.NotBefore, ca1.NotAfter)
	expired := newCA(t, caCommonName, now.Add(-9*day), now)
	foreign := newCA(t, "somebody-else", now.Add(-day), now.Add(day))
	foreignRoot := newCA(t, "root", now.Add(-day), now.Add(day))
	signedByForeign := sign(t, &x509.Certificate{
		Subject: newCA(t, caCommonName, now, now).Subject, NotBefore: now.Add(-day), NotAfter: now.Add(day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, &foreignRoot)
	notCA := testCA{Certificate: ca1.leaf(t, now.Add(-day), now.Add(day)).Leaf}

	names := map[string]string{}
	for name, ca := range map[string]testCA{
		"ca1": ca1, "ca2": ca2, "ca3": ca3, "ca4": ca4, "twin": twin, "expired": expired,
		"foreign": foreign, "signedByForeign": signedByForeign, "notCA": notCA,
	} {
		names[string(ca.Raw)] = name
	}
	firstTwin, secondTwin := "ca1", "twin"
	if bytes.Compare(ca1.Raw, twin.Raw) > 0 {
		firstTwin, secondTwin = "twin", "ca1"
	}

	for _, tc := range []struct {
		name            string
		required, found []testCA
		want            []string
	}{
		{"the first bundle holds the CA alone", []testCA{ca1}, nil, []string{"ca1"}},
		{"a bundle at rest stays", []testCA{ca2}, []testCA{ca2, ca1}, []string{"ca2", "ca1"}},
		{"a new CA comes before the previous one", []testCA{ca2}, []testCA{ca1}, []string{"ca2", "ca1"}},
		{"an order of somebody else's is put right", []testCA{ca2}, []testCA{ca1, ca2}, []string{"ca2", "ca1"}},
		{"certificates found twice are held once", []testCA{ca1, ca1}, []testCA{ca1, ca2, ca2}, []string{"ca2", "ca1"}},
		{"a fourth CA drops the oldest", []testCA{ca4}, []testCA{ca3, ca2, ca1}, []string{"ca4", "ca3", "ca2"}},
		{"the CA still served is held however old", []testCA{ca4, ca1}, []testCA{ca3, ca2, ca1}, []string{"ca4", "ca3", "ca1"}},
		{"a CA that went back in time keeps the newer ones", []testCA{ca1}, []testCA{ca2, ca3}, []string{"ca3", "ca2", "ca1"}},
		{"a replica behind does not drop a newer CA", []testCA{ca1}, []testCA{ca2, ca1}, []string{"ca2", "ca1"}},
		{"equal times are ordered by content", []testCA{twin}, []testCA{ca1}, []string{firstTwin, secondTwin}},
		{"expired ones are dropped, even required", []testCA{ca1, expired}, []testCA{expired}, []string{"ca1"}},
		{"foreign ones are dropped", []testCA{ca1}, []testCA{foreign, signedByForeign, notCA}, []string{"ca1"}},
		{"a foreign CA in our Secret is served, so it is held", []testCA{foreign}, []testCA{ca1}, []string{"foreign", "ca1"}},
		{"no CA, no bundle", nil, nil, nil},
		{"no CA in the Secret keeps the previous ones", nil, []testCA{ca1}, []string{"ca1"}},
		{"nothing but expired ones, no bundle", []testCA{expired}, []testCA{expired}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pem := bundle(certificates(tc.required), certificates(tc.found), now)
			var got []string
			for _, ca := range parseCAs(pem) {
				got = append(got, names[string(ca.Raw)])
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("bundle (-want +got):\n%s", diff)
			}
			again := bundle(certificates(tc.required), parseCAs(pem), now)
			if !bytes.Equal(again, pem) {
				t.Errorf("the bundle of its own result differs:\n%s\n%s", pem, again)
			}
		})
	}
}

func certificates(cas []testCA) []*x509.Certificate {
	var certs []*x509.Certificate
	for _, ca := range cas {
		certs = append(certs, ca.Certificate)
	}
	return certs
}

func TestReplicasThatKnowDifferentCAsAgreeOnOneBundle(t *testing.T) {
	now := time.Now()
	ca1 := newCA(t, caCommonName, now.Add(-2*time.Hour), now.Add(time.Hour)).Certificate
	ca2 := newCA(t, caCommonName, now.Add(-time.Hour), now.Add(time.Hour)).Certificate

	behind := bundle([]*x509.Certificate{ca1}, nil, now)
	ahead := bundle([]*x509.Certificate{ca2}, parseCAs(behind), now)
	if again := bundle([]*x509.Certificate{ca1}, parseCAs(ahead), now); !bytes.Equal(again, ahead) {
		t.Errorf("the replica behind wants to write\n%s\nover\n%s", again, ahead)
	}
}

func TestParsingPassesOverWhatIsNoCertificate(t *testing.T) {
	ca := newCA(t, caCommonName, time.Now(), time.Now().Add(time.Hour))
	broken := []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	for _, tc := range []struct {
		name string
		data []byte
		want int
	}{
		{"empty", nil, 0},
		{"text", []byte("no PEM"), 0},
		{"broken", broken, 0},
		{"text, a CA, broken, the CA again", slices.Concat([]byte("# ours\n"), ca.pem(), broken, ca.pem(), []byte("end")), 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := len(parseCAs(tc.data)); got != tc.want {
				t.Errorf("got %d certificates, want %d", got, tc.want)
			}
		})
	}
}

package certs

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"time"
)

const (
	// caCommonName is the subject of every CA of ours; old ones are recognised
	// by it.
	caCommonName = "kdp-webhook-ca"

	// maxCAs bounds a bundle, whoever keeps replacing the Secret.
	maxCAs = 3
)

// bundle returns the CA bundle to write, in PEM.
//
// It holds the required CAs (the Secret's, and the one whose leaf this process
// still serves) and, of the CAs found in the bundles written so far, those that
// are ours, newest first, up to maxCAs in all: a replica that has not noticed a
// rotation yet still serves a leaf of one of these. Left out are expired
// certificates and whatever is not ours, for it would let its owner answer in
// our place.
//
// The order depends on the certificates alone, so replicas that know of
// different CAs agree as soon as they have seen each other's bundle. The result
// is empty when every CA has expired.
func bundle(required, found []*x509.Certificate, now time.Time) []byte {
	var keep []*x509.Certificate
	for _, ca := range unexpired(required, now) {
		if !contains(keep, ca) {
			keep = append(keep, ca)
		}
	}
	for _, ca := range newestFirst(unexpired(found, now)) {
		if len(keep) < maxCAs && ours(ca) && !contains(keep, ca) {
			keep = append(keep, ca)
		}
	}
	var out bytes.Buffer
	for _, ca := range newestFirst(keep) {
		// Encoding into memory fails on invalid headers only; there are none.
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	}
	return out.Bytes()
}

// ours tells whether ca is a self-signed CA of the kind this package makes. It
// is housekeeping, not proof: whoever can write the configurations can forge it.
func ours(ca *x509.Certificate) bool {
	return ca.IsCA && ca.Subject.CommonName == caCommonName && ca.CheckSignatureFrom(ca) == nil
}

func contains(cas []*x509.Certificate, ca *x509.Certificate) bool {
	return slices.ContainsFunc(cas, ca.Equal)
}

func unexpired(cas []*x509.Certificate, now time.Time) []*x509.Certificate {
	var valid []*x509.Certificate
	for _, ca := range cas {
		if now.Before(ca.NotAfter) {
			valid = append(valid, ca)
		}
	}
	return valid
}

// newestFirst sorts in place. Equal times are ordered by content, so that every
// replica writes the same bytes.
func newestFirst(cas []*x509.Certificate) []*x509.Certificate {
	slices.SortFunc(cas, func(a, b *x509.Certificate) int {
		return cmp.Or(b.NotBefore.Compare(a.NotBefore), bytes.Compare(a.Raw, b.Raw))
	})
	return cas
}

// parseCAs returns the certificates in a PEM bundle and passes over everything
// else in it.
func parseCAs(data []byte) []*x509.Certificate {
	var cas []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil {
			cas = append(cas, ca)
		}
	}
	return cas
}

// issuer returns which of the CAs signed the leaf, nil when none did.
func issuer(leaf *x509.Certificate, cas []*x509.Certificate) *x509.Certificate {
	for _, ca := range cas {
		if leaf.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

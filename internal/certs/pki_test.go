package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// testCA is a certificate and the key to sign with.
type testCA struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func newCA(t testing.TB, commonName string, from, until time.Time) testCA {
	t.Helper()
	return sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
}

func (ca testCA) leaf(t testing.TB, from, until time.Time) *tls.Certificate {
	t.Helper()
	leaf := sign(t, &x509.Certificate{
		DNSNames: []string{"localhost"}, NotBefore: from, NotAfter: until,
		BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &ca)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: leaf.key, Leaf: leaf.Certificate}
}

// sign signs with a new key's own, or with the parent's.
func sign(t testing.TB, template *x509.Certificate, parent *testCA) testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := testCA{template, key}
	if parent != nil {
		signer = *parent
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, template, signer.Certificate, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return testCA{cert, key}
}

func (ca testCA) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
}

func (ca testCA) keyPEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

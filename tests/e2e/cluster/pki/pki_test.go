package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestIssuedCertificatesVerify(t *testing.T) {
	dir := t.TempDir()
	if _, err := New(dir); err != nil {
		t.Fatal(err)
	}
	authority, err := Load(dir) // like a node that joins later
	if err != nil {
		t.Fatal(err)
	}
	leaf := Leaf{CommonName: "system:node:node1", Organization: []string{"system:nodes"}, IPs: []net.IP{net.IPv4(10, 0, 0, 1)}}
	if err := authority.Issue("node1", leaf); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node1.crt"), filepath.Join(dir, "node1.key"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.0.0.1", KeyUsages: usages}); err != nil {
		t.Error(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.0.0.2"}); err == nil {
		t.Error("the certificate is valid for another address")
	}
	if got := pair.Leaf.Subject; got.CommonName != leaf.CommonName || got.Organization[0] != "system:nodes" {
		t.Errorf("subject %v", got)
	}
}

func TestLoadRejectsDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); err == nil {
		t.Error("an empty folder was accepted")
	}
	if _, err := New(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a damaged key was accepted")
	}
}

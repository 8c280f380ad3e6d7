package build

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weft.dev/cluster/image"
	"weft.dev/cluster/versions"
)

func (b Builder) imageFile(name string) string { return b.target("images", name+".tar") }

// pack packs an image of built programs.
func (b Builder) pack(name string, spec image.Spec) (string, error) {
	out := b.imageFile(name)
	inputs := []string{fmt.Sprintf("=%+v", spec)}
	for _, file := range spec.Files {
		inputs = append(inputs, file.Source)
	}
	err := b.do(step{
		name: "image-" + name, inputs: inputs, outputs: []string{out},
		run: func() error { return image.Pack(spec, out) },
	})
	return out, err
}

// SystemImages packs the images of the cluster's own pods, and returns their archives.
func (b Builder) SystemImages() ([]string, error) {
	one := func(tag, user, program, destination string) image.Spec {
		return image.Spec{Tag: tag, User: user, Files: []image.File{{Source: b.Bin(program), Destination: destination}}}
	}
	return b.packAll(map[string]image.Spec{
		"pause":   one(versions.PauseImage, "65535:65535", "pause", "/pause"),
		"coredns": one(versions.CoreDNSImage, "0", "coredns", "/coredns"),
		"metallb": one(versions.MetalLBImage, "65534", "metallb-controller", "/controller"),
	})
}

// ConformanceImages builds the images that the conformance suite's manifests and the cluster tests use,
// and returns their archives.
func (b Builder) ConformanceImages(ctx context.Context) ([]string, error) {
	const suite = "sigs.k8s.io/gateway-api-conformance-images/echo-basic"
	if err := b.goModule(ctx, b.source("conformance"), "", map[string]string{"echo-basic": suite}); err != nil {
		return nil, err
	}
	const echo = "istio.io/istio/pkg/test/echo/cmd/"
	advanced := map[string]string{
		"echo-server": echo + "server", "echo-client": echo + "client", "authorizer": "./authorizer",
	}
	if err := b.goModule(ctx, b.source("cluster", "images", "echo-advanced"), "", advanced); err != nil {
		return nil, err
	}
	cert, key := b.target("echo-cert", "cert.crt"), b.target("echo-cert", "cert.key")
	err := b.do(step{
		name: "echo-cert", inputs: []string{"=echo"}, outputs: []string{cert, key},
		run: func() error { return writeEchoCertificate(cert, key) },
	})
	if err != nil {
		return nil, err
	}
	images := versions.EchoImagesOf(b.gatewayAPI())
	specs := map[string]image.Spec{"echo-advanced": {
		Tag: images.Advanced, User: "0", Entrypoint: []string{"/usr/local/bin/server"},
		Files: []image.File{
			{Source: b.Bin("echo-server"), Destination: "/usr/local/bin/server"},
			{Source: b.Bin("echo-client"), Destination: "/usr/local/bin/client"},
			{Source: cert, Destination: "/cert.crt"},
			{Source: key, Destination: "/cert.key"},
		},
	}}
	specs["authorizer"] = image.Spec{
		Tag: versions.AuthorizerImage, User: "65532",
		Files: []image.File{{Source: b.Bin("authorizer"), Destination: "/authorizer"}},
	}
	for _, tag := range images.Basic {
		_, version, _ := strings.Cut(tag, ":")
		specs["echo-basic-"+version] = image.Spec{
			Tag: tag, User: "65532", Files: []image.File{{Source: b.Bin("echo-basic"), Destination: "/echo-basic"}},
		}
	}
	return b.packAll(specs)
}

func (b Builder) packAll(specs map[string]image.Spec) ([]string, error) {
	var archives []string
	for name, spec := range specs {
		archive, err := b.pack(name, spec)
		if err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// writeEchoCertificate writes the certificate of the echo server's TLS ports.
func writeEchoCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "echo"},
		DNSNames:     []string{"echo"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(10, 0, 0),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile:  {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o644); err != nil {
			return err
		}
	}
	return nil
}

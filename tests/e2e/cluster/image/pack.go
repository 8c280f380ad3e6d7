// Package image packs files into container images without a container engine.
//
// An image has one layer and is written as a docker archive. The output is reproducible: fixed
// times, sorted entries, owner root. Dynamically linked programs are packed with their shared
// libraries.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// caCertificates is the path of the public CA certificates on Debian, where TLS libraries look for
// them.
const caCertificates = "/etc/ssl/certs/ca-certificates.crt"

// File maps a file or folder of the host to a path in the image.
type File struct {
	Source      string
	Destination string
}

// Spec describes an image to pack.
type Spec struct {
	Tag        string
	User       string
	Entrypoint []string
	Env        []string
	Files      []File
	// CACertificates adds the host's public CA certificates.
	CACertificates bool
}

// tagForm matches a name and a tag without blanks; the registry may have a port.
var tagForm = regexp.MustCompile(`^[a-z0-9][a-zA-Z0-9._/:-]*:[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// ParseFile parses SRC:DST.
func ParseFile(text string) (File, error) {
	source, destination, ok := strings.Cut(text, ":")
	if !ok || source == "" || !strings.HasPrefix(destination, "/") {
		return File{}, fmt.Errorf("%q is not SRC:DST with an absolute DST", text)
	}
	return File{Source: source, Destination: destination}, nil
}

func (s Spec) check() error {
	if !tagForm.MatchString(s.Tag) {
		return fmt.Errorf("%q is not an image name with a tag, as in example.com/name:tag", s.Tag)
	}
	if len(s.Files) == 0 {
		return errors.New("an image needs at least one SRC:DST")
	}
	for _, variable := range s.Env {
		if name, _, ok := strings.Cut(variable, "="); !ok || name == "" {
			return fmt.Errorf("%q is not NAME=VALUE", variable)
		}
	}
	return nil
}

// Pack writes the image to the file out.
func Pack(spec Spec, out string) error {
	if err := spec.check(); err != nil {
		return err
	}
	if len(spec.Entrypoint) == 0 {
		spec.Entrypoint = []string{spec.Files[0].Destination}
	}
	contents, err := collect(spec)
	if err != nil {
		return fmt.Errorf("pack %s: %w", spec.Tag, err)
	}
	layer, err := os.CreateTemp(filepath.Dir(out), ".layer-*")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	digest := sha256.New()
	if err := contents.write(io.MultiWriter(layer, digest)); err != nil {
		return fmt.Errorf("pack %s: %w", spec.Tag, err)
	}
	return writeArchive(spec, layer, hex.EncodeToString(digest.Sum(nil)), out)
}

// collect returns the entries of the layer.
func collect(spec Spec) (*tree, error) {
	contents := newTree()
	contents.dir("/tmp", 0o1777)
	contents.text("/etc/passwd", "root:x:0:0:root:/:/\nnobody:x:65534:65534:nobody:/:/\nnonroot:x:65532:65532:nonroot:/:/\n")
	contents.text("/etc/group", "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n")
	contents.text("/etc/nsswitch.conf", "hosts: files dns\n")
	files := spec.Files
	if spec.CACertificates {
		files = append(files[:len(files):len(files)], File{caCertificates, caCertificates})
	}
	for _, file := range files {
		if err := contents.add(file); err != nil {
			return nil, err
		}
	}
	libraries, err := sharedLibraries(contents.hostFiles())
	if err != nil {
		return nil, err
	}
	for _, library := range libraries {
		if err := contents.add(File{library, library}); err != nil {
			return nil, err
		}
	}
	return contents, nil
}

// imageConfig is the part of an image's configuration that container runtimes read.
type imageConfig struct {
	Architecture string         `json:"architecture"`
	OS           string         `json:"os"`
	Created      time.Time      `json:"created"`
	Config       runConfig      `json:"config"`
	RootFS       rootFilesystem `json:"rootfs"`
}

type runConfig struct {
	User       string   `json:"User,omitempty"`
	Env        []string `json:"Env"`
	Entrypoint []string `json:"Entrypoint"`
	WorkingDir string   `json:"WorkingDir"`
}

type rootFilesystem struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type manifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func writeArchive(spec Spec, layer *os.File, digest, out string) error {
	config, err := json.Marshal(imageConfig{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Created:      time.Unix(0, 0).UTC(),
		Config: runConfig{
			User:       spec.User,
			Env:        append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"}, spec.Env...),
			Entrypoint: spec.Entrypoint,
			WorkingDir: "/",
		},
		RootFS: rootFilesystem{Type: "layers", DiffIDs: []string{"sha256:" + digest}},
	})
	if err != nil {
		return err
	}
	configSum := sha256.Sum256(config)
	configName, layerName := hex.EncodeToString(configSum[:])+".json", digest+".tar"
	index, err := json.Marshal([]manifest{{Config: configName, RepoTags: []string{spec.Tag}, Layers: []string{layerName}}})
	if err != nil {
		return err
	}
	size, err := layer.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return replaceFile(out, func(w io.Writer) error {
		archive := tar.NewWriter(w)
		for _, part := range []struct {
			name    string
			size    int64
			content io.Reader
		}{
			{"manifest.json", int64(len(index)), bytes.NewReader(index)},
			{configName, int64(len(config)), bytes.NewReader(config)},
			{layerName, size, layer},
		} {
			header := &tar.Header{Name: part.name, Mode: 0o644, Size: part.size, ModTime: time.Unix(0, 0)}
			if err := archive.WriteHeader(header); err != nil {
				return err
			}
			if _, err := io.Copy(archive, part.content); err != nil {
				return err
			}
		}
		return archive.Close()
	})
}

// replaceFile writes a file atomically.
func replaceFile(name string, write func(io.Writer) error) error {
	temporary, err := os.CreateTemp(filepath.Dir(name), "."+path.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name()) // fails after the rename
	if err := write(temporary); err != nil {
		temporary.Close()
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := temporary.Chmod(0o644); err != nil {
		temporary.Close()
		return err
	}
	if err := temporary.Close(); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), name)
}

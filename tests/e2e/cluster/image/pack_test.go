package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// untar returns the contents of a tar file by name.
func untar(t *testing.T, archive []byte) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	contents, headers := map[string][]byte{}, map[string]*tar.Header{}
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return contents, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		contents[header.Name], headers[header.Name] = text, header
	}
}

func pack(t *testing.T, spec Spec) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	if err := Pack(spec, out); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// layerOf reads an archive like a container engine: manifest, configuration, layer.
func layerOf(t *testing.T, archive []byte) (manifest, imageConfig, map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	parts, _ := untar(t, archive)
	var index []manifest
	if err := json.Unmarshal(parts["manifest.json"], &index); err != nil || len(index) != 1 {
		t.Fatalf("manifest.json: %v, %d images", err, len(index))
	}
	var config imageConfig
	if err := json.Unmarshal(parts[index[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	contents, headers := untar(t, parts[index[0].Layers[0]])
	return index[0], config, contents, headers
}

func source(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPackContents(t *testing.T) {
	program := source(t, "program", "#!/bin/true\n", 0o700)
	data := source(t, "data", "words", 0o600)
	archive := pack(t, Spec{
		Tag: "example.com/a:1", User: "65532", Env: []string{"A=b"},
		Files: []File{{program, "/usr/bin/program"}, {data, "/srv/deep/data"}},
	})
	index, config, contents, headers := layerOf(t, archive)
	if !slices.Equal(index.RepoTags, []string{"example.com/a:1"}) {
		t.Errorf("tags %v", index.RepoTags)
	}
	if config.Config.User != "65532" || !slices.Contains(config.Config.Env, "A=b") ||
		!slices.Equal(config.Config.Entrypoint, []string{"/usr/bin/program"}) {
		t.Errorf("configuration %+v", config.Config)
	}
	if string(contents["srv/deep/data"]) != "words" || headers["srv/deep/data"].Mode != 0o644 {
		t.Errorf("data: %q, %+v", contents["srv/deep/data"], headers["srv/deep/data"])
	}
	if headers["usr/bin/program"].Mode != 0o755 || headers["srv/deep/"] == nil || headers["tmp/"].Mode != 0o1777 {
		t.Error("a mode or a folder is missing")
	}
	for _, name := range []string{"etc/passwd", "etc/group", "etc/nsswitch.conf"} {
		if len(contents[name]) == 0 {
			t.Errorf("no %s", name)
		}
	}
	if !strings.Contains(string(contents["etc/passwd"]), "nonroot:x:65532:65532:") {
		t.Error("no user nonroot")
	}
}

func TestPackIsReproducible(t *testing.T) {
	data := source(t, "data", "words", 0o600)
	spec := Spec{Tag: "example.com/a:1", Files: []File{{data, "/b"}, {data, "/a"}}}
	first := pack(t, spec)
	long := time.Unix(1, 0)
	if err := os.Chtimes(data, long, long); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, pack(t, spec)) {
		t.Error("the same files gave another archive")
	}
}

func TestPackAddsLibraries(t *testing.T) {
	const shell = "/bin/sh"
	loader, err := loaderOf(shell)
	if err != nil {
		t.Fatal(err)
	}
	if loader == "" {
		t.Skip("this host's shell is linked statically")
	}
	_, _, contents, _ := layerOf(t, pack(t, Spec{Tag: "example.com/a:1", Files: []File{{shell, "/sh"}}}))
	libc := false
	for name := range contents {
		libc = libc || strings.HasSuffix(name, "/libc.so.6")
	}
	if !libc || len(contents[strings.TrimPrefix(loader, "/")]) == 0 {
		t.Errorf("libc or the loader %s is missing", loader)
	}
}

func TestPackCopiesFolders(t *testing.T) {
	data := source(t, "data", "words", 0o600)
	_, _, contents, _ := layerOf(t, pack(t, Spec{Tag: "example.com/a:1", Files: []File{{filepath.Dir(data), "/d"}}}))
	if string(contents["d/data"]) != "words" {
		t.Error("the folder's file is missing")
	}
}

func TestPackRejectsInvalidInput(t *testing.T) {
	data := source(t, "data", "words", 0o600)
	for name, spec := range map[string]Spec{
		"no tag":       {Tag: "example.com/a", Files: []File{{data, "/d"}}},
		"no files":     {Tag: "example.com/a:1"},
		"missing file": {Tag: "example.com/a:1", Files: []File{{data + "-missing", "/d"}}},
		"bad variable": {Tag: "example.com/a:1", Files: []File{{data, "/d"}}, Env: []string{"A"}},
	} {
		out := filepath.Join(t.TempDir(), "image.tar")
		if err := Pack(spec, out); err == nil {
			t.Errorf("%s: no error", name)
		}
		if left, _ := os.ReadDir(filepath.Dir(out)); len(left) > 0 {
			t.Errorf("%s: left %v behind", name, left)
		}
	}
	for _, text := range []string{"a", ":/b", "a:b", "a:"} {
		if _, err := ParseFile(text); err == nil {
			t.Errorf("%q was accepted as SRC:DST", text)
		}
	}
}

func TestParseLoaderList(t *testing.T) {
	got, err := parseLoaderList("\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n")
	if err != nil || !slices.Equal(got, []string{"/lib/x/libc.so.6"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseLoaderList("\tlibmissing.so => not found\n"); err == nil {
		t.Error("a missing library gave no error")
	}
}

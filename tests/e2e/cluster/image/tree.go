package image

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// tree is the content of a layer, by path without the leading slash.
type tree struct {
	entries map[string]entry
}

// entry is a folder, a text, or a file of the host.
type entry struct {
	isDir  bool
	mode   int64
	text   string
	source string
}

func newTree() *tree { return &tree{entries: map[string]entry{}} }

// put adds an entry and its parent folders.
func (t *tree) put(name string, e entry) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
		if _, ok := t.entries[dir]; !ok {
			t.entries[dir] = entry{isDir: true, mode: 0o755}
		}
	}
	t.entries[name] = e
}

func (t *tree) dir(name string, mode int64) { t.put(name, entry{isDir: true, mode: mode}) }

func (t *tree) text(name, text string) { t.put(name, entry{mode: 0o644, text: text}) }

// add adds a file, or a folder with its content. Links are followed: the image contains their
// targets.
func (t *tree) add(file File) error {
	source, err := filepath.EvalSymlinks(file.Source)
	if err != nil {
		return err
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return t.addFile(source, file.Destination, info)
	}
	t.dir(file.Destination, 0o755)
	children, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	for _, child := range children {
		below := File{filepath.Join(source, child.Name()), path.Join(file.Destination, child.Name())}
		if err := t.add(below); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) addFile(source, destination string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is neither a file nor a folder", source)
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	t.put(destination, entry{mode: mode, source: source})
	return nil
}

// hostFiles lists the files of the host that are in the tree.
func (t *tree) hostFiles() []string {
	var files []string
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		if source := t.entries[name].source; source != "" {
			files = append(files, source)
		}
	}
	return files
}

// write writes the tree as a tar file, folders before their content.
func (t *tree) write(w io.Writer) error {
	archive := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		if err := writeEntry(archive, name, t.entries[name]); err != nil {
			return err
		}
	}
	return archive.Close()
}

func writeEntry(archive *tar.Writer, name string, e entry) error {
	header := &tar.Header{Name: name, Mode: e.mode, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
	switch {
	case e.isDir:
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
		return archive.WriteHeader(header)
	case e.source == "":
		header.Size = int64(len(e.text))
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := io.WriteString(archive, e.text)
		return err
	}
	file, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(archive, file); err != nil {
		return fmt.Errorf("%s (did it change meanwhile?): %w", e.source, err)
	}
	return nil
}

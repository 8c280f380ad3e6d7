package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// nameServices are the libraries that older versions of glibc load by name to resolve a host name.
var nameServices = []string{"libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"}

// sharedLibraries returns the loader and the libraries of the dynamically linked programs among the
// files, at the paths where the loader looks for them.
func sharedLibraries(files []string) ([]string, error) {
	needed := map[string]bool{}
	for _, file := range files {
		loader, err := loaderOf(file)
		if err != nil {
			return nil, err
		}
		if loader == "" {
			continue
		}
		needed[loader] = true
		// The loader itself lists what it would load; ldd is a script around this.
		output, err := exec.Command(loader, "--list", file).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s --list %s: %w: %s", loader, file, err, bytes.TrimSpace(output))
		}
		libraries, err := parseLoaderList(string(output))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, library := range libraries {
			needed[library] = true
			if filepath.Base(library) == "libc.so.6" {
				addNameServices(needed, filepath.Dir(library))
			}
		}
	}
	return slices.Sorted(maps.Keys(needed)), nil
}

func addNameServices(needed map[string]bool, dir string) {
	for _, name := range nameServices {
		library := filepath.Join(dir, name)
		if _, err := os.Stat(library); err == nil {
			needed[library] = true
		}
	}
}

// loaderOf returns the dynamic loader of a program; empty if it is not dynamically linked.
func loaderOf(file string) (string, error) {
	program, err := elf.Open(file)
	var notELF *elf.FormatError
	if errors.As(err, &notELF) || isShort(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	defer program.Close()
	for _, part := range program.Progs {
		if part.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, part.Filesz)
		if _, err := part.ReadAt(name, 0); err != nil {
			return "", fmt.Errorf("read the loader's name in %s: %w", file, err)
		}
		return string(bytes.TrimRight(name, "\x00")), nil
	}
	return "", nil
}

// isShort tells whether a file is too short to be a program.
func isShort(err error) bool {
	return err != nil && strings.HasSuffix(err.Error(), "EOF")
}

// parseLoaderList parses lines like `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0000)`; the
// vDSO has no path, the loader no arrow.
func parseLoaderList(text string) ([]string, error) {
	var libraries []string
	for line := range strings.Lines(text) {
		name, target, ok := strings.Cut(strings.TrimSpace(line), " => ")
		if !ok {
			continue
		}
		if strings.HasPrefix(target, "not found") {
			return nil, fmt.Errorf("the shared library %s is not on this host", name)
		}
		if library, _, _ := strings.Cut(target, " ("); strings.HasPrefix(library, "/") {
			libraries = append(libraries, library)
		}
	}
	return libraries, nil
}

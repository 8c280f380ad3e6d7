// Package build builds the programs, images and manifests of the cluster from Go modules into
// target/cluster.
//
// Each is built once: a stamp file next to it holds a hash of its inputs.
package build

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"weft.dev/cluster/versions"
)

// Builder builds for the checkout at Root. Say reports long steps to the user.
type Builder struct {
	Root string
	// GatewayAPI is the version whose CRDs the cluster serves; empty means versions.GatewayAPI.
	GatewayAPI string
	Say        func(format string, args ...any)
}

func (b Builder) gatewayAPI() string {
	return cmp.Or(b.GatewayAPI, versions.GatewayAPI)
}

func (b Builder) target(parts ...string) string {
	return filepath.Join(append([]string{b.Root, "target", "cluster"}, parts...)...)
}

func (b Builder) source(parts ...string) string {
	return filepath.Join(append([]string{b.Root, "tests", "e2e"}, parts...)...)
}

// Bin returns the path of a built program.
func (b Builder) Bin(name string) string { return b.target("bin", name) }

// Manifest returns the path of a manifest taken from a module.
func (b Builder) Manifest(name string) string { return b.target("manifests", name) }

// step builds one program, image or manifest.
type step struct {
	name    string
	inputs  []string // files, and strings that start with "="
	outputs []string
	run     func() error
}

// do runs a step unless its output exists and was built from the same inputs.
func (b Builder) do(s step) error {
	stamp := b.target("stamps", s.name)
	want, err := hashInputs(s.inputs)
	if err != nil {
		return fmt.Errorf("build %s: %w", s.name, err)
	}
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want && allExist(s.outputs) {
		return nil
	}
	for _, file := range append(s.outputs[:len(s.outputs):len(s.outputs)], stamp) {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
	}
	b.Say("building %s", s.name)
	started := time.Now()
	if err := s.run(); err != nil {
		return fmt.Errorf("build %s: %w", s.name, err)
	}
	b.Say("built %s in %.0f s", s.name, time.Since(started).Seconds())
	return os.WriteFile(stamp, []byte(want), 0o644)
}

func hashInputs(inputs []string) (string, error) {
	sum := sha256.New()
	for _, input := range append(inputs[:len(inputs):len(inputs)], "="+runtime.Version()+runtime.GOARCH) {
		if strings.HasPrefix(input, "=") {
			fmt.Fprintln(sum, input)
			continue
		}
		file, err := os.Open(input)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(sum, file)
		file.Close()
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func allExist(files []string) bool {
	return !slices.ContainsFunc(files, func(file string) bool {
		_, err := os.Stat(file)
		return err != nil
	})
}

// goTool runs the go command at low priority in a folder, with additional environment. If a module
// needs a newer Go than the installed one, the go command downloads that one.
func goTool(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, "nice", append([]string{"go"}, args...)...)
	command.Dir = dir
	command.Env = append(os.Environ(), append([]string{"CGO_ENABLED=0", "GOWORK=off", "GOTOOLCHAIN=auto"}, env...)...)
	output, err := command.Output()
	if err != nil {
		said := ""
		if exit, ok := err.(*exec.ExitError); ok {
			said = strings.TrimSpace(string(exit.Stderr))
		}
		return nil, fmt.Errorf("go %s (in %s): %w: %s", strings.Join(args, " "), dir, err, said)
	}
	return output, nil
}

// moduleDir downloads a module and returns its folder.
func moduleDir(ctx context.Context, module, version string) (string, error) {
	output, err := goTool(ctx, os.TempDir(), nil, "mod", "download", "-json", module+"@"+version)
	if err != nil {
		return "", err
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(output, &found); err != nil {
		return "", fmt.Errorf("read what go says of %s: %w", module, err)
	}
	return found.Dir, nil
}

// install builds PACKAGE@VERSION to target/cluster/bin/NAME.
func (b Builder) install(ctx context.Context, name, pkg, version string) error {
	out := b.Bin(name)
	return b.do(step{
		name:    name,
		inputs:  []string{"=" + pkg + "@" + version},
		outputs: []string{out},
		run: func() error {
			// go install names the program after its package, so it installs into a folder of its
			// own first.
			dir, err := os.MkdirTemp(b.target(), "install-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			_, err = goTool(ctx, dir, []string{"GOBIN=" + dir}, "install", "-trimpath", "-ldflags=-s -w", pkg+"@"+version)
			if err != nil {
				return err
			}
			made, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || len(made) != 1 {
				return fmt.Errorf("%s made %d programs, not one", pkg, len(made))
			}
			return os.Rename(made[0], out)
		},
	})
}

// goModule builds a package of the module at dir as target/cluster/bin/NAME.
func (b Builder) goModule(ctx context.Context, name, dir, pkg, ldflags string) error {
	inputs, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	module := dir
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		module = b.source("cluster")
	}
	inputs = append(inputs, filepath.Join(module, "go.mod"), filepath.Join(module, "go.sum"), "="+pkg, "="+ldflags)
	out := b.Bin(name)
	return b.do(step{
		name: name, inputs: inputs, outputs: []string{out},
		run: func() error {
			_, err := goTool(ctx, dir, nil, "build", "-trimpath", "-ldflags=-s -w "+ldflags, "-o", out, pkg)
			return err
		},
	})
}

// Kube builds the binary with every Kubernetes program, and the link kubectl to it.
func (b Builder) Kube(ctx context.Context) error {
	if _, err := os.Stat(b.Bin("kube")); err != nil {
		b.Say("Kubernetes is built from source once; that takes some minutes")
	}
	const version = "k8s.io/component-base/version"
	parts := strings.SplitN(versions.Kubernetes, ".", 3)
	ldflags := fmt.Sprintf("-X %[1]s.gitVersion=v%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s",
		version, versions.Kubernetes, parts[0], parts[1])
	if err := b.goModule(ctx, "kube", b.source("cluster", "kube"), ".", ldflags); err != nil {
		return err
	}
	link := b.Bin("kubectl")
	if target, err := os.Readlink(link); err == nil && target == "kube" {
		return nil
	}
	_ = os.Remove(link)
	return os.Symlink("kube", link)
}

// Tools builds the programs that are not part of the cluster but operate on it.
func (b Builder) Tools(ctx context.Context) error {
	return b.install(ctx, "helm", "helm.sh/helm/v4/cmd/helm", versions.Helm)
}

// Kind builds kind.
func (b Builder) Kind(ctx context.Context) error {
	return b.install(ctx, "kind", "sigs.k8s.io/kind", versions.Kind)
}

// Manifests extracts the CRDs of the Gateway API's experimental channel and of MetalLB from their
// modules.
func (b Builder) Manifests(ctx context.Context) error {
	gatewayAPI, metallb := b.Manifest("gateway-api.yaml"), b.Manifest("metallb-crds.yaml")
	return b.do(step{
		name:    "manifests",
		inputs:  []string{"=" + b.gatewayAPI(), "=" + versions.MetalLB},
		outputs: []string{gatewayAPI, metallb},
		run: func() error {
			dir, err := moduleDir(ctx, "sigs.k8s.io/gateway-api", b.gatewayAPI())
			if err != nil {
				return err
			}
			command := exec.CommandContext(ctx, b.Bin("kubectl"), "kustomize", filepath.Join(dir, "config/crd/experimental"))
			text, err := command.Output()
			if err != nil {
				return fmt.Errorf("kubectl kustomize: %w", err)
			}
			if err := os.WriteFile(gatewayAPI, text, 0o644); err != nil {
				return err
			}
			dir, err = moduleDir(ctx, "go.universe.tf/metallb", versions.MetalLB)
			if err != nil {
				return err
			}
			return concatenate(metallb, filepath.Join(dir, "config/crd/bases/*.yaml"))
		},
	})
}

// concatenate joins the YAML files that match a pattern into one.
func concatenate(out, pattern string) error {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no file matches %s", pattern)
	}
	var all []byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		all = append(append(all, "---\n"...), text...)
	}
	return os.WriteFile(out, all, 0o644)
}

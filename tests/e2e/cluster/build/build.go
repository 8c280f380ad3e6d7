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
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
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
	return b.together([]step{s}, func([]step) error { return s.run() })
}

// together passes those steps to run whose output is missing or was built from other inputs, and
// does nothing if there are none. The steps' own functions are not called.
func (b Builder) together(steps []step, run func(outdated []step) error) error {
	var outdated []step
	var names []string
	stamps := map[string]string{}
	for _, s := range steps {
		stamp := b.target("stamps", s.name)
		want, err := hashInputs(s.inputs)
		if err != nil {
			return fmt.Errorf("build %s: %w", s.name, err)
		}
		if have, err := os.ReadFile(stamp); err == nil && string(have) == want && allExist(s.outputs) {
			continue
		}
		for _, file := range append(s.outputs[:len(s.outputs):len(s.outputs)], stamp) {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
		}
		outdated, names, stamps[stamp] = append(outdated, s), append(names, s.name), want
	}
	if len(outdated) == 0 {
		return nil
	}
	what := strings.Join(names, ", ")
	b.Say("building %s", what)
	started := time.Now()
	if err := run(outdated); err != nil {
		return fmt.Errorf("build %s: %w", what, err)
	}
	b.Say("built %s in %.0f s", what, time.Since(started).Seconds())
	for stamp, want := range stamps {
		if err := os.WriteFile(stamp, []byte(want), 0o644); err != nil {
			return err
		}
	}
	return nil
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

// goModule builds packages of the module at dir with one go command, which compiles what they share
// once. Each is named by the program that it becomes in target/cluster/bin.
func (b Builder) goModule(ctx context.Context, dir, ldflags string, packages map[string]string) error {
	inputs := []string{filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum"), "=" + ldflags}
	var steps []step
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		sources, err := filepath.Glob(filepath.Join(dir, packages[name], "*.go"))
		if err != nil {
			return err
		}
		inputs := slices.Concat(inputs, sources, []string{"=" + packages[name]})
		steps = append(steps, step{name: name, inputs: inputs, outputs: []string{b.Bin(name)}})
	}
	return b.together(steps, func(outdated []step) error {
		// The go command names programs after their packages.
		made, err := os.MkdirTemp(b.target(), "programs-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(made)
		args := []string{"build", "-trimpath", "-ldflags=-s -w " + ldflags, "-o", made + "/"}
		for _, s := range outdated {
			args = append(args, packages[s.name])
		}
		if _, err := goTool(ctx, dir, nil, args...); err != nil {
			return err
		}
		for _, s := range outdated {
			if err := os.Rename(filepath.Join(made, path.Base(packages[s.name])), b.Bin(s.name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// programs are the packages that are built of the module programs/.
var programs = map[string]string{
	"kube":    "./kube",
	"pause":   "./pause",
	"coredns": "./coredns",
	"helm":    "helm.sh/helm/v4/cmd/helm",
}

func (b Builder) buildPrograms(ctx context.Context, packages map[string]string) error {
	const version = "k8s.io/component-base/version"
	parts := strings.SplitN(versions.Kubernetes, ".", 3)
	ldflags := fmt.Sprintf("-X %[1]s.gitVersion=v%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s",
		version, versions.Kubernetes, parts[0], parts[1])
	return b.goModule(ctx, b.source("cluster", "programs"), ldflags, packages)
}

// Programs builds the programs that the cluster runs, the link kubectl, and Helm.
func (b Builder) Programs(ctx context.Context) error {
	if _, err := os.Stat(b.Bin("kube")); err != nil {
		b.Say("Kubernetes is built from source once; that takes some minutes")
	}
	// Not of the module programs/: MetalLB does not compile with Kubernetes' version of client-go.
	// Built at the same time, because Kubernetes is linked by one thread.
	metallb := make(chan error, 1)
	go func() {
		metallb <- b.install(ctx, "metallb-controller", "go.universe.tf/metallb/controller", versions.MetalLB)
	}()
	if err := errors.Join(b.buildPrograms(ctx, programs), <-metallb); err != nil {
		return err
	}
	link := b.Bin("kubectl")
	if target, err := os.Readlink(link); err == nil && target == "kube" {
		return nil
	}
	_ = os.Remove(link)
	return os.Symlink("kube", link)
}

// Tools builds Helm alone, for use without a cluster of this machine.
func (b Builder) Tools(ctx context.Context) error {
	return b.buildPrograms(ctx, map[string]string{"helm": programs["helm"]})
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

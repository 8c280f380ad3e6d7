// cluster creates and removes the Kubernetes cluster of this project's tests.
//
// It parses the command line; the work is done by the packages beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"weft.dev/cluster/build"
	"weft.dev/cluster/image"
	"weft.dev/cluster/plan"
	"weft.dev/cluster/provider"
)

const usage = `usage: cluster COMMAND

  up [--nodes N] [--family F]
                        create the cluster, or add nodes to a running one. F is ipv4, dual (both, IPv4 first) or
                        ipv6; the default is FAMILY, else ipv4
  prepare [--conformance]
                        build what up needs, and the images of the conformance suite, for use before or beside
                        other work
  down, delete          remove the cluster and its state
  load FILE.tar...      import docker archives into every node
  node stop NAME        disconnect a node and kill its kubelet and containerd; embedded only
  node start NAME       reconnect it, and wait until it is ready
  kubeconfig            print the path of the administrator's kubeconfig
  conformance-images    build the images of the conformance suite and load them
  tools                 build helm
  pack TAG OUT.tar [--user N] [--entrypoint a,b] [--env K=V] [--ca-certificates] SRC:DST...
                        pack files into an image, with the shared libraries that they need

E2E_CLUSTER=embedded|kind|existing selects the provider; the default is kind if Docker runs and has its node
image, else embedded. existing uses KUBECONFIG. Programs are in target/cluster/bin (kubectl and helm too), the state in
.cluster, its logs in .cluster/log.

GATEWAY_API=v1.6.3 installs that version of the Gateway API's CRDs.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

func builder(root string) build.Builder {
	return build.Builder{Root: root, GatewayAPI: os.Getenv("GATEWAY_API"), Say: say}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "cluster: "+format+"\n", args...) }

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	root := flags.String("root", "", "the checkout")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w\n%s", err, usage)
	}
	if *root == "" {
		return errors.New("run the script tests/e2e/cluster/cluster, which knows where the checkout is")
	}
	absolute, err := filepath.EvalSymlinks(*root)
	if err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("no command given\n" + usage)
	}
	command, rest := flags.Arg(0), flags.Args()[1:]
	switch command {
	case "help":
		fmt.Print(usage)
		return nil
	case "pack":
		return pack(rest)
	}
	options := provider.Options{Root: absolute, Builder: builder(absolute), Say: say}
	unlock, err := lock(filepath.Join(absolute, "target", "cluster", "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	return onCluster(ctx, options, command, rest)
}

// onCluster runs a command that builds for the cluster or operates on it.
func onCluster(ctx context.Context, options provider.Options, command string, args []string) error {
	if command == "tools" {
		return options.Builder.Tools(ctx)
	}
	if command == "up" {
		return up(ctx, options, args)
	}
	cluster, err := provider.Choose(ctx, options)
	if err != nil {
		return err
	}
	switch command {
	case "prepare":
		return prepare(ctx, options, cluster, args)
	case "down", "delete":
		return cluster.Delete(ctx)
	case "load":
		return load(ctx, cluster, args)
	case "node":
		return node(ctx, cluster, args)
	case "kubeconfig":
		path, err := cluster.Kubeconfig(ctx)
		if err == nil {
			fmt.Println(path)
		}
		return err
	case "conformance-images":
		archives, err := options.Builder.ConformanceImages(ctx)
		if err != nil {
			return err
		}
		return cluster.Load(ctx, archives)
	}
	return fmt.Errorf("no command %q\n%s", command, usage)
}

func up(ctx context.Context, options provider.Options, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	nodes := flags.Int("nodes", 0, "number of nodes (default 2, or as many as there are)")
	family := flags.String("family", os.Getenv("FAMILY"), "ipv4, dual or ipv6 (default ipv4, or that of the cluster that runs)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("up: unknown argument %q", flags.Arg(0))
	}
	if *family != "" {
		parsed, err := plan.ParseFamily(*family)
		if err != nil {
			return fmt.Errorf("up: %w", err)
		}
		options.Family = parsed
	}
	cluster, err := provider.Choose(ctx, options)
	if err != nil {
		return err
	}
	return cluster.Create(ctx, *nodes)
}

func prepare(ctx context.Context, options provider.Options, cluster provider.Provider, args []string) error {
	flags := flag.NewFlagSet("prepare", flag.ContinueOnError)
	conformance := flags.Bool("conformance", false, "also build the images of the conformance suite")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := cluster.Prepare(ctx); err != nil {
		return err
	}
	if !*conformance {
		return nil
	}
	_, err := options.Builder.ConformanceImages(ctx)
	return err
}

func node(ctx context.Context, cluster provider.Provider, args []string) error {
	breakable, ok := cluster.(provider.Breakable)
	if !ok {
		return errors.New("node: only the nodes of the embedded cluster can be stopped and started")
	}
	if len(args) == 2 && args[0] == "stop" {
		return breakable.StopNode(ctx, args[1])
	}
	if len(args) == 2 && args[0] == "start" {
		return breakable.StartNode(ctx, args[1])
	}
	return errors.New("node: usage: `node stop NAME` or `node start NAME`")
}

func load(ctx context.Context, cluster provider.Provider, archives []string) error {
	if len(archives) == 0 {
		return errors.New("load: name at least one docker archive")
	}
	for _, archive := range archives {
		if _, err := os.Stat(archive); err != nil {
			return fmt.Errorf("load: %w", err)
		}
	}
	return cluster.Load(ctx, archives)
}

// lock serializes the commands on one cluster.
func lock(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		say("waiting for another command on this cluster to end")
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
	return func() { file.Close() }, nil
}

func pack(args []string) error {
	if len(args) < 3 {
		return errors.New("pack: TAG, OUT.tar and at least one SRC:DST are needed\n" + usage)
	}
	spec, out := image.Spec{Tag: args[0]}, args[1]
	flags := flag.NewFlagSet("pack", flag.ContinueOnError)
	flags.StringVar(&spec.User, "user", "", "the user, as number or number:number")
	flags.BoolVar(&spec.CACertificates, "ca-certificates", false, "add the host's list of public authorities")
	flags.Func("entrypoint", "the command, its words separated by commas", func(text string) error {
		spec.Entrypoint = strings.Split(text, ",")
		return nil
	})
	flags.Func("env", "a variable, NAME=VALUE; may be repeated", func(text string) error {
		spec.Env = append(spec.Env, text)
		return nil
	})
	if err := flags.Parse(args[2:]); err != nil {
		return err
	}
	for _, text := range flags.Args() {
		file, err := image.ParseFile(text)
		if err != nil {
			return err
		}
		spec.Files = append(spec.Files, file)
	}
	return image.Pack(spec, out)
}

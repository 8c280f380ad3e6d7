// kube contains etcd, every Kubernetes control plane and node program, and kubectl in one binary.
//
// It runs the program named by its first argument or by the name it was called by:
//
//	kube kube-apiserver --etcd-servers=...
//	kubectl get pods          (a link named kubectl that points to kube)
//
// It has no configuration of its own: all flags are those of the upstream programs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // build information metric
	kubectl "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs are the constructors of the programs' commands; only the one that runs is called.
var programs = map[string]func(context.Context) *cobra.Command{
	"etcd":                    newEtcd,
	"kube-apiserver":          func(context.Context) *cobra.Command { return apiserver.NewAPIServerCommand() },
	"kube-controller-manager": func(context.Context) *cobra.Command { return controllermanager.NewControllerManagerCommand() },
	"kube-scheduler":          func(context.Context) *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kube-proxy":              func(context.Context) *cobra.Command { return proxy.NewProxyCommand() },
	"kubelet":                 func(ctx context.Context) *cobra.Command { return kubelet.NewKubeletCommand(ctx) },
	"kubectl":                 func(context.Context) *cobra.Command { return kubectl.NewDefaultKubectlCommand() },
}

func main() {
	name := filepath.Base(os.Args[0])
	if programs[name] == nil && len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = os.Args[1:]
	}
	newCommand := programs[name]
	if newCommand == nil {
		fmt.Fprintln(os.Stderr, "usage: kube PROGRAM [flags]; PROGRAM is etcd, kubelet, kubectl or a kube-... program")
		os.Exit(2)
	}
	// The control plane programs handle signals themselves; only these two take a context.
	ctx := context.Background()
	if name == "kubelet" || name == "etcd" {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
	}
	command := newCommand(ctx)
	if name == "kubectl" {
		// kubectl prints its own errors, and `kubectl exec` must return the exit code.
		if err := cli.RunNoErrOutput(command); err != nil {
			cmdutil.CheckErr(err)
		}
		return
	}
	os.Exit(cli.Run(command))
}

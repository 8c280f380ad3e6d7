package render

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"weft.dev/cluster/plan"
)

var (
	testPlan  = plan.Plan{ID: "abcdef", Block: 2}
	testPaths = Paths{Root: "/c"}
)

// field reads a nested field of a JSON text.
func field(t *testing.T, text []byte, keys ...string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	for _, key := range keys {
		fields, ok := value.(map[string]any)
		if !ok {
			t.Fatalf("no field %s in %v", key, value)
		}
		value = fields[key]
	}
	return value
}

func TestNodeConfigsNameOnlyTheirNode(t *testing.T) {
	files := func(n int) [][]byte {
		kubelet, err := KubeletConfig(testPlan, testPaths, n)
		if err != nil {
			t.Fatal(err)
		}
		cni, err := CNIConfig(testPlan, testPaths, n)
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{kubelet, cni, ContainerdConfig(testPaths, n, "/usr/lib/cni")}
	}
	for i, text := range files(2) {
		for _, foreign := range []string{"/c/n1", "weft-abcdef-n1\"", testPlan.NodePods(1)[0].String()} {
			if strings.Contains(string(text), foreign) {
				t.Errorf("file %d of node 2 names %s of node 1:\n%s", i, foreign, text)
			}
		}
	}
}

func TestKubeletConfig(t *testing.T) {
	text, err := KubeletConfig(testPlan, testPaths, 2)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"cgroupRoot":               "/weft-abcdef-n2",
		"containerRuntimeEndpoint": "unix:///c/n2/containerd.sock",
		"tlsCertFile":              "/c/pki/node2.crt",
	} {
		if got := field(t, text, key); got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
}

func TestAPIServerUsesAddressesOfThePlan(t *testing.T) {
	args := APIServerArgs(testPlan, testPaths)
	for _, want := range []string{"--advertise-address=10.136.0.1", "--service-cluster-ip-range=10.138.0.0/16"} {
		if !slices.Contains(args, want) {
			t.Errorf("no %s in %v", want, args)
		}
	}
	for _, arg := range args {
		if strings.HasPrefix(arg, "--disable-admission-plugins") {
			t.Errorf("%s: admission must keep its defaults", arg)
		}
	}
}

func TestProgramsGetAddressesOfTheFamily(t *testing.T) {
	for family, want := range map[plan.Family]struct{ advertise, nodes, services, pods, listen string }{
		plan.IPv4: {"10.136.0.1", "10.136.0.2", "10.138.0.0/16", "10.137.0.0/16", "0.0.0.0"},
		plan.Dual: {"10.136.0.1", "10.136.0.2,NET::2", "10.138.0.0/16,NET:200::/112", "10.137.0.0/16,NET:100::/56", "::"},
		plan.IPv6: {"NET::1", "NET::2", "NET:200::/112", "NET:100::/56", "::"},
	} {
		p := plan.Plan{ID: "abcdef", Block: 2, Family: family}
		six := plan.Plan{ID: "abcdef", Block: 2, Family: plan.IPv6}.All()[0]
		named := func(text string) string {
			return strings.ReplaceAll(text, "NET", strings.TrimSuffix(six.Addr().String(), "::"))
		}
		args := APIServerArgs(p, testPaths)
		for _, arg := range []string{
			"--advertise-address=" + named(want.advertise), "--bind-address=" + want.listen,
			"--service-cluster-ip-range=" + named(want.services),
		} {
			if !slices.Contains(args, arg) {
				t.Errorf("%s: no %s in %v", family, arg, args)
			}
		}
		if args, arg := KubeletArgs(p, testPaths, 2), "--node-ip="+named(want.nodes); !slices.Contains(args, arg) {
			t.Errorf("%s: no %s in %v", family, arg, args)
		}
		kubelet, err := KubeletConfig(p, testPaths, 2)
		if err != nil || field(t, kubelet, "address") != want.listen {
			t.Errorf("%s: %v, the kubelet should listen on %s:\n%s", family, err, want.listen, kubelet)
		}
		proxy, err := ProxyConfig(p, testPaths, 2)
		if err != nil || field(t, proxy, "clusterCIDR") != named(want.pods) {
			t.Errorf("%s: %v, kube-proxy should have the pod ranges %s:\n%s", family, err, named(want.pods), proxy)
		}
	}
}

func TestPodNetworkHasAddressAndRouteOfEachFamily(t *testing.T) {
	for family, want := range map[plan.Family][]string{
		plan.IPv4: {"0.0.0.0/0"}, plan.Dual: {"0.0.0.0/0", "::/0"}, plan.IPv6: {"::/0"},
	} {
		p := plan.Plan{ID: "abcdef", Block: 2, Family: family}
		text, err := CNIConfig(p, testPaths, 2)
		if err != nil {
			t.Fatal(err)
		}
		var config struct {
			Plugins []struct {
				IPAM struct {
					Ranges [][]struct{ Subnet string }
					Routes []struct{ Dst string }
				}
			}
		}
		if err := json.Unmarshal(text, &config); err != nil {
			t.Fatal(err)
		}
		ipam := config.Plugins[0].IPAM
		var routes, subnets []string
		for _, route := range ipam.Routes {
			routes = append(routes, route.Dst)
		}
		for _, set := range ipam.Ranges {
			subnets = append(subnets, set[0].Subnet)
		}
		if !slices.Equal(routes, want) || strings.Join(subnets, ",") != plan.List(p.NodePods(2)) {
			t.Errorf("%s: routes %v, subnets %v", family, routes, subnets)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	text, err := Kubeconfig("https://10.0.0.1:6443", []byte("ca"), []byte("cert"), []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	if field(t, text, "current-context") != "weft" || !strings.Contains(string(text), "https://10.0.0.1:6443") {
		t.Errorf("unusable kubeconfig:\n%s", text)
	}
	if _, err := Kubeconfig("https://10.0.0.1:6443", []byte("ca"), nil, []byte("key")); err == nil {
		t.Error("a kubeconfig without a certificate was made")
	}
}

func TestAPIServerShowsItsCertificateToTheInjector(t *testing.T) {
	args := APIServerArgs(testPlan, testPaths)
	if want := "--admission-control-config-file=/c/pki/admission.json"; !slices.Contains(args, want) {
		t.Errorf("no %s in %v", want, args)
	}
	text, err := AdmissionConfig(testPaths)
	if err != nil {
		t.Fatal(err)
	}
	plugins, _ := field(t, text, "plugins").([]any)
	if len(plugins) != 2 {
		t.Fatalf("plugins %v", plugins)
	}
	for _, plugin := range plugins {
		plugin, _ := json.Marshal(plugin)
		if got := field(t, plugin, "configuration", "kubeConfigFile"); got != "/c/pki/webhooks.json" {
			t.Errorf("the kubeconfig of the webhooks is %v", got)
		}
	}
	text, err = WebhookKubeconfig(testPaths)
	if err != nil {
		t.Fatal(err)
	}
	users, _ := field(t, text, "users").([]any)
	if len(users) != 1 {
		t.Fatalf("users %v", users)
	}
	user, _ := json.Marshal(users[0])
	for _, want := range []struct {
		keys []string
		want string
	}{
		{[]string{"name"}, "weft-injector.weft-system.svc"},
		{[]string{"user", "client-certificate"}, "/c/pki/kube-apiserver-webhook.crt"},
		{[]string{"user", "client-key"}, "/c/pki/kube-apiserver-webhook.key"},
	} {
		if got := field(t, user, want.keys...); got != want.want {
			t.Errorf("%v is %v, want %s", want.keys, got, want.want)
		}
	}
}

func TestCheckLength(t *testing.T) {
	if err := testPaths.CheckLength(); err != nil {
		t.Error(err)
	}
	if err := (Paths{Root: "/" + strings.Repeat("x", 90)}).CheckLength(); err == nil {
		t.Error("a path too long for a socket was accepted")
	}
}

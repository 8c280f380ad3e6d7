package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const mountinfo = `25 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
40 25 0:40 / /src/.cluster/n1/run/a\040b rw - overlay overlay rw
41 40 0:41 / /src/.cluster/n1/run/a\040b/c rw - tmpfs tmpfs rw
42 25 0:42 / /src/.cluster-other/x rw - tmpfs tmpfs rw
`

func TestParseHierarchies(t *testing.T) {
	want := []hierarchy{{"/sys/fs/cgroup/cpu", 1}, {"/sys/fs/cgroup/unified", 2}}
	if got := parseHierarchies(mountinfo); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMountsBelowSkipsOtherMounts(t *testing.T) {
	want := []string{"/src/.cluster/n1/run/a b", "/src/.cluster/n1/run/a b/c"}
	if got := mountsBelow(mountinfo, "/src/.cluster"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLackingCapabilities(t *testing.T) {
	if got := lackingCapabilities(^uint64(0)); got != nil {
		t.Errorf("full root lacks %v", got)
	}
	if got := lackingCapabilities(1 << 12); !slices.Equal(got, []string{"CAP_SYS_PTRACE", "CAP_SYS_ADMIN"}) {
		t.Errorf("got %v", got)
	}
}

func TestIPv6FamilyRequiresKernelSupport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disable_ipv6")
	if err := checkIPv6(file); err == nil || !strings.Contains(err.Error(), "kernel") {
		t.Errorf("a kernel without IPv6: %v", err)
	}
	for text, refused := range map[string]bool{"0\n": false, "1\n": true} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := checkIPv6(file); (err != nil) != refused {
			t.Errorf("%q: %v", text, err)
		}
	}
}

package host

import (
	"os"
	"path/filepath"
	"strings"
)

// kubeletSysctls are the settings of the whole machine that a kubelet changes when it starts.
var kubeletSysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// SaveSysctls reads what a kubelet will change, for RestoreSysctls.
func SaveSysctls() map[string]string {
	saved := map[string]string{}
	for _, name := range kubeletSysctls {
		if value, err := os.ReadFile(filepath.Join("/proc/sys", name)); err == nil {
			saved[name] = strings.TrimSpace(string(value))
		}
	}
	return saved
}

// RestoreSysctls puts back what SaveSysctls read; only names that a kubelet changes are touched.
func RestoreSysctls(saved map[string]string) {
	for _, name := range kubeletSysctls {
		if value, ok := saved[name]; ok {
			_ = setSysctl(name, value) // a read-only setting was not changed either
		}
	}
}

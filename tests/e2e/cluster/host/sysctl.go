package host

import (
	"os"
	"path/filepath"
	"strings"
)

// kubeletSysctls are the host-wide settings that a kubelet changes at its start.
var kubeletSysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// SaveSysctls returns the values of the settings that a kubelet changes, for RestoreSysctls.
func SaveSysctls() map[string]string {
	saved := map[string]string{}
	for _, name := range kubeletSysctls {
		if value, err := os.ReadFile(filepath.Join("/proc/sys", name)); err == nil {
			saved[name] = strings.TrimSpace(string(value))
		}
	}
	return saved
}

// RestoreSysctls restores what SaveSysctls returned; only settings that a kubelet changes are
// written.
func RestoreSysctls(saved map[string]string) {
	for _, name := range kubeletSysctls {
		if value, ok := saved[name]; ok {
			_ = setSysctl(name, value) // a read-only setting was not changed
		}
	}
}

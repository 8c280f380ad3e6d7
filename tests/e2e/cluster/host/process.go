package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs in a network namespace and continues after this process exits.
type Process struct {
	Name string
	Log  string
	PID  int
	done chan struct{}
	err  error
}

// Start starts a program in a network namespace, with its output in a log file. name is used in
// messages.
func Start(name, netns, log string, argv ...string) (*Process, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	command := exec.Command(argv[0], argv[1:]...)
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := In(netns, command.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	process := &Process{Name: name, Log: log, PID: command.Process.Pid, done: make(chan struct{})}
	go func() {
		process.err = command.Wait()
		close(process.done)
	}()
	return process, nil
}

// Ended returns why a process has exited, with the last lines of its log; nil while it runs.
func (p *Process) Ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s exited: %v; the end of %s:\n%s", p.Name, p.err, p.Log, Tail(p.Log, 15))
	default:
		return nil
	}
}

// Alive tells whether the process with this ID exists in this network namespace, so that a reused
// ID does not count.
func Alive(pid int, netns string) bool {
	own, err := netnsOf(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return false
	}
	wanted, err := netnsOf(filepath.Join(netnsDir, netns))
	return err == nil && own == wanted
}

// Kill kills the process with this ID, if it exists in this network namespace, and waits for its
// end.
func Kill(ctx context.Context, pid int, netns string) error {
	deadline := time.Now().Add(10 * time.Second)
	for Alive(pid, netns) {
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d is still running after SIGKILL", pid)
		}
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have exited
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// Tail returns the last lines of a file.
func Tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// namespaceID identifies a network namespace.
type namespaceID struct{ device, inode uint64 }

func netnsOf(path string) (namespaceID, error) {
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		return namespaceID{}, err
	}
	return namespaceID{uint64(stat.Dev), stat.Ino}, nil
}

// Members lists the processes of a cluster: those in its network namespaces (its programs and their
// children) and in its cgroups (pods).
func Members(prefix string) []int {
	members := cgroupMembers(prefix)
	namespaces := map[namespaceID]bool{}
	for _, netns := range Namespaces(prefix) {
		if id, err := netnsOf(filepath.Join(netnsDir, netns)); err == nil {
			namespaces[id] = true
		}
	}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if id, err := netnsOf(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && namespaces[id] {
			members[pid] = true
		}
	}
	delete(members, os.Getpid())
	var pids []int
	for pid := range members {
		pids = append(pids, pid)
	}
	return pids
}

// KillMembers kills every process of a cluster and waits until all have ended.
func KillMembers(ctx context.Context, prefix string) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		pids := Members(prefix)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v are still running after SIGKILL", pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have exited
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

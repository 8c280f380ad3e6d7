package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"weft.dev/cluster/host"
	"weft.dev/cluster/plan"
)

// logPolicy decides whether the logs of a removed cluster are kept.
type logPolicy bool

const (
	keepLogs   logPolicy = true
	removeLogs logPolicy = false
)

// Down removes everything that belongs to the cluster. It finds objects by name and not by the
// saved state, so it also removes incomplete clusters.
func (c *Cluster) Down(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed to take the embedded cluster down")
	}
	return c.clean(ctx, removeLogs)
}

func (c *Cluster) clean(ctx context.Context, logs logPolicy) error {
	s, _, err := c.load()
	if err != nil {
		return err
	}
	if err := host.KillMembers(ctx, c.prefix()); err != nil {
		return err
	}
	host.RemoveStrays(c.paths.Root, c.prefix())
	if err := host.Unmount(c.paths.Root); err != nil {
		return err
	}
	if err := host.RemoveNetwork(ctx, c.prefix(), plan.Plan{ID: c.id}.HostLink()); err != nil {
		return err
	}
	if err := host.RemoveCgroups(c.prefix()); err != nil {
		return err
	}
	if !host.Sibling(c.prefix()) {
		host.RestoreSysctls(s.Sysctls)
		if err := host.RemoveFolders(s.AbsentFolders); err != nil {
			return err
		}
	}
	return c.removeFiles(logs)
}

// removeFiles removes the cluster's folder; the logs of a failed cluster are kept as log.old in the
// folder of the next one.
func (c *Cluster) removeFiles(logs logPolicy) error {
	entries, err := os.ReadDir(c.paths.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	old := filepath.Join(c.paths.Root, "log.old")
	if _, err := os.Stat(c.paths.Logs()); err == nil && logs == keepLogs {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
		if err := os.Rename(c.paths.Logs(), old); err != nil {
			return err
		}
	}
	for _, entry := range entries {
		file := filepath.Join(c.paths.Root, entry.Name())
		if logs == keepLogs && (file == old || entry.Name() == "provider") {
			continue // the provider must be known while the cluster is recreated
		}
		if err := os.RemoveAll(file); err != nil {
			return fmt.Errorf("remove %s: %w", file, err)
		}
	}
	if logs == keepLogs {
		return nil
	}
	return os.Remove(c.paths.Root)
}

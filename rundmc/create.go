package rundmc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"code.cloudfoundry.org/lager/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/atomicfile"
	"github.com/verger-garden/verger/internal/cgroups"
	"github.com/verger-garden/verger/internal/handle"
	"github.com/verger-garden/verger/rundmc/bundle"
	"github.com/verger-garden/verger/rundmc/keeper"
)

// Create makes the sandbox and starts gdn-init in it. After an error Destroy
// and RemoveBundle clean up.
func (c *Containerizer) Create(log lager.Logger, d spec.DesiredContainerSpec) error {
	if err := handle.Validate(d.Handle); err != nil {
		return err
	}
	built, err := bundle.Build(c.config.Bundle, d)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.config.Depot, d.Handle)
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("depot %s exists", dir)
		}
		return fmt.Errorf("make depot: %w", err)
	}
	made := newContainer(d.Handle, dir, c)
	made.record = record{
		Handle: d.Handle, Created: time.Now().UTC(), Privileged: d.Privileged, Limits: d.Limits,
		CgroupName: built.Linux.CgroupsPath,
	}
	made.bundle = slim(built)
	c.mu.Lock()
	c.containers[d.Handle] = made
	c.mu.Unlock()

	if err := made.save(); err != nil {
		return err
	}
	if err := os.Mkdir(made.path(replayDir), 0o700); err != nil {
		return fmt.Errorf("make depot: %w", err)
	}
	if err := atomicfile.WriteJSON(made.path(bundleFile), built, 0o600); err != nil {
		return err
	}
	conn, pid, err := c.launch(made)
	if err != nil {
		return err
	}
	if err := made.begin(pid); err != nil {
		_ = conn.Close() // the first error tells more
		return fmt.Errorf("the container's init ended at once: %w", err)
	}
	if err := made.meet(conn); err != nil {
		return fmt.Errorf("greet the container's init: %w", err)
	}
	return nil
}

// launch has the runtime make the sandbox and start init in it.
func (c *Containerizer) launch(made *container) (*keeper.Conn, int, error) {
	listener, err := keeper.Listen(made.path(socketFile))
	if err != nil {
		return nil, 0, err
	}
	defer listener.Close() // init has its own
	conn, err := keeper.Dial(made.path(socketFile))
	if err != nil {
		return nil, 0, err
	}
	pid, err := c.config.Runtime.Run(context.Background(), made.dir, made.handle, listener)
	if err != nil {
		_ = conn.Close() // the first error tells more
		return nil, 0, err
	}
	return conn, pid, nil
}

// begin takes hold of the init that the runtime has started, and records it.
func (c *container) begin(pid int) error {
	if err := c.hold(pid); err != nil {
		return err
	}
	started, err := startTime(pid)
	if err != nil {
		return err
	}
	paths, err := cgroups.Of(pid)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.Pid, c.record.Started, c.record.Cgroups = pid, started, paths
	return c.save()
}

// slim keeps of a bundle what processes and Info need.
func slim(s specs.Spec) specs.Spec {
	kept := specs.Spec{Root: s.Root}
	if s.Process != nil {
		kept.Process = &specs.Process{Env: s.Process.Env, Capabilities: s.Process.Capabilities}
	}
	if s.Linux != nil {
		kept.Linux = &specs.Linux{UIDMappings: s.Linux.UIDMappings, GIDMappings: s.Linux.GIDMappings}
	}
	return kept
}

// startTime is when pid was started, in clock ticks since boot: field 22 of
// /proc/<pid>/stat. The second field, the name, may hold anything.
func startTime(pid int) (uint64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

package rundmc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"code.cloudfoundry.org/lager/v3"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/cgroups"
	"github.com/verger-garden/verger/internal/handle"
)

// destroyTimeout bounds the wait for killed processes to be gone. Only the
// kernel can be that slow: a process in uninterruptible sleep.
const destroyTimeout = 10 * time.Second

// frozenAfter is how long killed processes have before they are taken for
// frozen: cgroup v1 kills nobody in its freezer.
const frozenAfter = time.Second

// Destroy kills the container and removes what the runtime holds of it and
// its cgroups. It works from the handle alone, takes missing things as done
// and may be called again after an error. The bundle stays for RemoveBundle.
func (c *Containerizer) Destroy(log lager.Logger, h string) error {
	if err := handle.Validate(h); err != nil {
		return err
	}
	found, err := c.get(h)
	if err != nil {
		return nil // never made, or removed
	}
	return found.destroy(c)
}

func (c *container) destroy(of *Containerizer) error {
	c.mu.Lock()
	name := c.record.CgroupName
	c.mu.Unlock()
	if name == "" { // the record is lost
		name = of.config.Bundle.CgroupParent + "/" + c.handle
	}
	if err := c.killInit(); err != nil {
		return err
	}
	// Without a pidfd, or with processes that joined from outside, the cgroup
	// tells who is left.
	if err := killAll(cgroups.Named(name)); err != nil {
		return fmt.Errorf("kill container %s: %w", c.handle, err)
	}
	c.mu.Lock()
	c.dead = true
	c.mu.Unlock()
	err := of.config.Runtime.Delete(context.Background(), c.dir, c.handle)
	if err != nil {
		return err
	}
	if err := cgroups.Remove(name); err != nil {
		return err
	}
	c.close()
	return nil
}

// killInit ends init, and with it all of its pid namespace.
func (c *container) killInit() error {
	c.mu.Lock()
	paths := c.record.Cgroups
	c.mu.Unlock()
	c.inUse.RLock()
	defer c.inUse.RUnlock()
	if err := signalPidfd(c.pidfd, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill init: %w", err)
	}
	if !waitPidfd(c.pidfd, frozenAfter) {
		if err := paths.Thaw(); err != nil {
			return fmt.Errorf("thaw container %s: %w", c.handle, err)
		}
	}
	if !waitPidfd(c.pidfd, destroyTimeout) {
		return fmt.Errorf("container %s still has a process %s after SIGKILL: it hangs in the kernel; the next destroy tries again", c.handle, destroyTimeout)
	}
	return nil
}

// killAll kills every process in the cgroup and waits until none is left.
func killAll(paths cgroups.Paths) error {
	deadline := time.Now().Add(destroyTimeout)
	for {
		pids, err := paths.Processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still there %s after SIGKILL: %s", destroyTimeout, describe(pids))
		}
		signalEach(paths, pids, pids, unix.SIGKILL, time.Until(deadline))
	}
}

// signalEach signals those of pids that are told, and waits until all of pids
// have ended; both as far as they are members of the cgroup.
func signalEach(paths cgroups.Paths, pids, told []int, sig unix.Signal, timeout time.Duration) (left int) {
	var held []*os.File
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // ended meanwhile
		}
		f := os.NewFile(uintptr(fd), "pidfd")
		defer f.Close()
		// The descriptor is taken first: now the pid cannot change hands.
		if !paths.Holds(pid) {
			continue
		}
		if !slices.Contains(told, pid) || signalPidfd(f, sig) == nil {
			held = append(held, f)
		}
	}
	deadline := time.Now().Add(timeout)
	for _, f := range held {
		if !waitPidfd(f, time.Until(deadline)) {
			left++
		}
	}
	return left
}

// describe names processes for an error message.
func describe(pids []int) string {
	var all []string
	for _, pid := range pids {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			name = []byte("?") // ended meanwhile
		}
		all = append(all, fmt.Sprintf("%d (%s)", pid, strings.TrimSpace(string(name))))
		if len(all) == 10 {
			all = append(all, "...")
			break
		}
	}
	return strings.Join(all, ", ")
}

// stopGrace is how long processes have to end after SIGTERM.
const stopGrace = 10 * time.Second

// Stop ends every process but init: SIGTERM and, stopGrace later, SIGKILL; or
// SIGKILL at once. The container stays and is reported as stopped.
func (c *Containerizer) Stop(log lager.Logger, h string, kill bool) error {
	found, err := c.get(h)
	if err != nil {
		return err
	}
	at := time.Now()
	if err := found.stop(kill); err != nil {
		return err
	}
	log.Info("stopped", lager.Data{"kill": kill, "took": time.Since(at).String()})
	return nil
}

func (c *container) stop(kill bool) error {
	c.mu.Lock()
	paths, init, dead := c.record.Cgroups, c.record.Pid, c.dead
	c.mu.Unlock()
	if !dead {
		if !kill {
			if err := c.sweep(paths, init, unix.SIGTERM, stopGrace); err != nil && !errors.Is(err, errSurvivors) {
				return err
			}
		}
		if err := c.sweep(paths, init, unix.SIGKILL, destroyTimeout); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.Stopped = true
	return c.save()
}

var errSurvivors = errors.New("processes survive")

// sweep signals every process but init once, those that are born meanwhile
// too, until none is left or the time is over. A second SIGTERM would tell
// many a program to drop what it is doing.
func (c *container) sweep(paths cgroups.Paths, init int, sig unix.Signal, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	known := map[int]bool{}
	for {
		pids, err := paths.Processes()
		if err != nil {
			return err
		}
		var others, fresh []int
		for _, pid := range pids {
			if pid == init {
				continue
			}
			others = append(others, pid)
			if !known[pid] {
				fresh = append(fresh, pid)
				known[pid] = true
			}
		}
		left := time.Until(deadline)
		switch {
		case len(others) == 0:
			return nil
		case left <= 0:
			return fmt.Errorf("stop container %s: %w %v and %s: %s", c.handle, errSurvivors, sig, timeout, describe(others))
		}
		// In slices: the next round reaches those born after this one's list.
		signalEach(paths, others, fresh, sig, min(left, time.Second))
	}
}

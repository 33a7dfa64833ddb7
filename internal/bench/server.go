package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"
	"code.cloudfoundry.org/garden/client/connection"
)

const tag = "bm"

// A server is a running gdn with the network on and its client.
type server struct {
	gdn, dir, runtime string
	cmd               *exec.Cmd
	client            client.Client
}

func startServer(gdn, dir, runtime string) (*server, error) {
	s := &server{gdn: gdn, dir: dir, runtime: runtime}
	s.client = client.New(connection.New("unix", s.path("state", "garden.sock")))
	return s, s.start()
}

func (s *server) path(names ...string) string {
	return filepath.Join(append([]string{s.dir}, names...)...)
}

func (s *server) start() error {
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(s.gdn, "server", "--state-dir", s.path("state"), "--store-dir", s.path("store"),
		"--tag", tag, "--runtime-plugin", s.runtime, "--network-pool", "10.253.0.0/16")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		err := s.client.Ping()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("server does not answer: %w: see %s", err, s.path("log"))
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *server) stop(sig syscall.Signal) error {
	if err := s.cmd.Process.Signal(sig); err != nil {
		return err
	}
	err := s.cmd.Wait()
	if sig == syscall.SIGKILL {
		return nil
	}
	return err
}

// clean destroys every container and stops the server.
func (s *server) clean() error {
	containers, err := s.client.Containers(nil)
	for _, c := range containers {
		err = errors.Join(err, s.client.Destroy(c.Handle()))
	}
	return errors.Join(err, s.stop(syscall.SIGTERM))
}

// steps are the times of one cycle.
type steps struct{ create, run, destroy time.Duration }

// cycle is one container's life as a client sees it.
func (s *server) cycle(pause time.Duration) (steps, error) {
	var t steps
	time.Sleep(pause)
	at := time.Now()
	c, err := s.client.Create(garden.ContainerSpec{})
	if err != nil {
		return t, fmt.Errorf("create: %w", err)
	}
	t.create = time.Since(at)
	time.Sleep(pause)
	at = time.Now()
	p, err := c.Run(garden.ProcessSpec{Path: "/bin/true"}, garden.ProcessIO{Stdout: io.Discard, Stderr: io.Discard})
	if err != nil {
		return t, fmt.Errorf("run: %w", err)
	}
	if code, err := p.Wait(); err != nil || code != 0 {
		return t, fmt.Errorf("wait: %d, %w", code, err)
	}
	t.run = time.Since(at)
	time.Sleep(pause)
	at = time.Now()
	if err := s.client.Destroy(c.Handle()); err != nil {
		return t, fmt.Errorf("destroy: %w", err)
	}
	t.destroy = time.Since(at)
	return t, nil
}

// floor measures what no run through this API can go below on this machine:
// a run is three requests, each on a connection of its own, and one process.
func (s *server) floor(n int, t *table) error {
	var ping, process []time.Duration
	for range n {
		at := time.Now()
		if err := s.client.Ping(); err != nil {
			return err
		}
		ping = append(ping, time.Since(at))
		at = time.Now()
		if err := exec.Command("/bin/busybox", "true").Run(); err != nil {
			return err
		}
		process = append(process, time.Since(at))
	}
	p, e := percentile(ping, 50), percentile(process, 50)
	t.figure("floor of a run here: 3 x ping + busybox true on the host",
		fmt.Sprintf("3 x %.1f + %.1f = %.1f ms", p, e, 3*p+e), "", true)
	return nil
}

// sleepers makes n containers with one sleeping process each.
func (s *server) sleepers(n int) (destroy func() error, err error) {
	var handles []string
	destroy = func() error {
		var errs []error
		for _, h := range handles {
			errs = append(errs, s.client.Destroy(h))
		}
		return errors.Join(errs...)
	}
	for i := range n {
		c, err := s.client.Create(garden.ContainerSpec{Handle: fmt.Sprintf("sleeper-%d", i)})
		if err != nil {
			return destroy, err
		}
		handles = append(handles, c.Handle())
		// No connection stays open: a client that starts and leaves.
		if _, err := c.Run(garden.ProcessSpec{ID: "sleep", Path: "/bin/sleep", Args: []string{"100000"}}, garden.ProcessIO{}); err != nil {
			return destroy, err
		}
	}
	return destroy, nil
}

// memory is what one idle container with one process costs in our programs.
func (s *server) memory(n int, t *table) error {
	if _, err := s.cycle(0); err != nil {
		return err
	}
	before, err := pss(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	destroy, err := s.sleepers(n)
	defer destroy()
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // idle is what is measured
	after, err := pss(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	var inits int
	for i := range n {
		raw, err := os.ReadFile(s.path("state", "depot", fmt.Sprintf("sleeper-%d", i), "pidfile"))
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			return err
		}
		kib, err := pss(pid)
		if err != nil {
			return err
		}
		inits += kib
	}
	each := float64(inits+after-before) / float64(n)
	t.figure("PSS of ours per idle container with one process",
		fmt.Sprintf("%.0f KiB (gdn-init %.0f, server's growth %.0f)", each, float64(inits)/float64(n), float64(after-before)/float64(n)),
		"<= 512 KiB", each <= 512)
	t.figure("PSS of the server with these", fmt.Sprintf("%.1f MiB", float64(after)/1024), "", true)
	return nil
}

// flatness compares a cycle beside live containers with one alone.
func (s *server) flatness(live, n int, t *table) error {
	measure := func() (sample, error) {
		var all sample
		for range n {
			c, err := s.cycle(0)
			if err != nil {
				return all, err
			}
			all.add(c)
		}
		return all, nil
	}
	alone, err := measure()
	if err != nil {
		return err
	}
	destroy, err := s.sleepers(live)
	if err == nil {
		var beside sample
		if beside, err = measure(); err == nil {
			t.flat(live, alone, beside)
		}
	}
	return errors.Join(err, destroy())
}

// restart kills the server with n containers and waits until the next one
// has them all and a process of each can be attached to.
func (s *server) restart(n int, t *table) error {
	destroy, err := s.sleepers(n)
	if err != nil {
		return errors.Join(err, destroy())
	}
	if err := s.stop(syscall.SIGKILL); err != nil {
		return err
	}
	at := time.Now()
	if err := s.start(); err != nil {
		return err
	}
	found, err := s.client.Containers(nil)
	if err != nil {
		return err
	}
	ready := time.Since(at)
	if len(found) < n {
		return fmt.Errorf("%d of %d containers after the restart", len(found), n)
	}
	for i := range n {
		c, err := s.client.Lookup(fmt.Sprintf("sleeper-%d", i))
		if err != nil {
			return err
		}
		if _, err := c.Attach("sleep", garden.ProcessIO{}); err != nil {
			return err
		}
	}
	t.figure(fmt.Sprintf("restart after SIGKILL with %d containers, until all are listed", n),
		fmt.Sprintf("%.0f ms", ready.Seconds()*1000), "", true)
	return destroy()
}

// pss is a process's proportional set size in KiB.
func pss(pid int) (int, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			return strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return 0, errors.New("no Pss in smaps_rollup")
}

func kernel() string {
	raw, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(raw))
}

func cpuModel() string {
	raw, _ := os.ReadFile("/proc/cpuinfo") // unknown: left out
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return "unknown CPU"
}

func splitComma(s string) []string { return strings.Split(s, ",") }

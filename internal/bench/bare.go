package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"code.cloudfoundry.org/garden"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/internal/cgroups"
)

// bare is the runtime alone, on the bundle of one of the server's containers:
// same root file system, mounts, filter, namespaces and limits, no network.
type bare struct {
	runtime, root, dir string
	cgroup             string
	spec               specs.Spec
	count              atomic.Int64
}

func newBare(s *server, runtime string) (*bare, error) {
	if _, err := s.client.Create(garden.ContainerSpec{Handle: "model"}); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(s.path("state", "depot", "model", "config.json"))
	if err != nil {
		return nil, err
	}
	b := &bare{runtime: runtime, root: s.path("bare-state"), dir: s.path("bare"), cgroup: "/garden-" + tag + "-bare"}
	if err := json.Unmarshal(raw, &b.spec); err != nil {
		return nil, err
	}
	return b, os.Mkdir(b.dir, 0o700)
}

func (b *bare) clean() { _ = cgroups.Remove(b.cgroup) } // empty by then, or the cycle has failed

func (b *bare) call(inherit *os.File, args ...string) error {
	cmd := exec.Command(b.runtime, append([]string{"--root", b.root}, args...)...)
	if inherit != nil {
		cmd.ExtraFiles = []*os.File{inherit}
	}
	ended, other, err := os.Pipe() // not /dev/null: crun gives its stdio to the container's root
	if err != nil {
		return err
	}
	defer ended.Close() // nothing was written
	_ = other.Close()   // nothing was written
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ended, ended, ended
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %v: %w", b.runtime, args, err)
	}
	return nil
}

func (b *bare) cycle(pause time.Duration) (t steps, err error) {
	id := fmt.Sprintf("bare-%d", b.count.Add(1))
	bundle := filepath.Join(b.dir, id)
	if err := os.Mkdir(bundle, 0o700); err != nil {
		return t, err
	}
	defer os.RemoveAll(bundle)
	s := b.spec
	linux := *s.Linux
	linux.CgroupsPath = b.cgroup + "/" + id
	s.Linux = &linux
	raw, err := json.Marshal(s)
	if err != nil {
		return t, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o600); err != nil {
		return t, err
	}
	// What gdn-init expects as descriptor 3.
	socket, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(bundle, "init.sock"), Net: "unixpacket"})
	if err != nil {
		return t, err
	}
	defer socket.Close()
	listener, err := socket.File()
	if err != nil {
		return t, err
	}
	defer listener.Close()

	time.Sleep(pause)
	at := time.Now()
	if err := b.call(listener, "run", "--detach", "--no-new-keyring", "--preserve-fds", "1", "--bundle", bundle, id); err != nil {
		return t, err
	}
	t.create = time.Since(at)
	defer func() {
		err = errors.Join(err, cgroups.Remove(b.cgroup+"/"+id)) // plain folders that crun leaves
	}()
	time.Sleep(pause)
	at = time.Now()
	if err := b.call(nil, "exec", id, "/bin/true"); err != nil {
		return t, err
	}
	t.run = time.Since(at)
	time.Sleep(pause)
	at = time.Now()
	if err := b.call(nil, "delete", "--force", id); err != nil {
		return t, err
	}
	t.destroy = time.Since(at)
	return t, nil
}

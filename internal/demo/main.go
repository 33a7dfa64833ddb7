// Command demo shows a newcomer a real container: it starts a gdn server with
// everything in a fresh directory, runs a process in a container, takes it all
// down again and compares the host with before.
//
//	demo PATH-TO-GDN
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/verger-garden/verger/internal/testhost"
)

// tag keeps the demo's links, rules and cgroups apart from another server's.
const tag = "dm"

// look is what the demo runs inside.
const look = "id; hostname; ip addr; cat /proc/self/uid_map"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo PATH-TO-GDN")
		os.Exit(2)
	}
	if err := demo(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(gdn string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("containers need root: run this as root")
	}
	gdn, err = filepath.Abs(gdn)
	if err != nil {
		return err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)

	before := testhost.Take("garden-" + tag)
	dir, err := os.MkdirTemp("", "verger-demo-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the containers' root passes through
		return errors.Join(err, os.RemoveAll(dir))
	}
	server, err := start(gdn, dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		err = errors.Join(err, server.stop(), os.RemoveAll(dir))
		if err == nil {
			err = compare(before)
		}
	}()
	if err := server.ready(interrupted); err != nil {
		return err
	}
	if _, err := server.run("run", "--rm", "--handle", "demo", "--", "sh", "-c", look); err != nil {
		return err
	}
	took, err := server.run("run", "--rm", "--", "true")
	if err == nil {
		fmt.Printf("  %v from prompt to prompt: a container made, used and destroyed.\n", took.Round(time.Millisecond))
	}
	return err
}

// A server is one running "gdn server" and how to reach it.
type server struct {
	gdn, dir string
	log      *os.File
	cmd      *exec.Cmd
	ended    chan struct{} // closed when it has ended
}

func (s *server) socket() string { return filepath.Join(s.dir, "state", "garden.sock") }

func start(gdn, dir string) (*server, error) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	s := &server{gdn: gdn, dir: dir, log: log, ended: make(chan struct{})}
	s.cmd = exec.Command(gdn, "server",
		"--state-dir", filepath.Join(dir, "state"),
		"--store-dir", filepath.Join(dir, "store"),
		"--tag", tag,
		"--network-pool", "10.253.253.0/24",
	)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours to handle
	fmt.Printf("\n  $ gdn server &\n")
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() {
		_ = s.cmd.Wait() // its log says why
		close(s.ended)
	}()
	return s, nil
}

// ready waits until the server answers.
func (s *server) ready(interrupted <-chan os.Signal) error {
	deadline := time.After(30 * time.Second)
	for {
		conn, err := net.Dial("unix", s.socket())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case sig := <-interrupted:
			return errors.New(sig.String())
		case <-deadline:
			return fmt.Errorf("the server is not ready after 30 seconds; its log:\n%s", s.logged())
		case <-s.ended:
			return fmt.Errorf("the server ended; its log:\n%s", s.logged())
		}
	}
}

// run shows a gdn command and what it prints, and tells how long it took.
func (s *server) run(args ...string) (time.Duration, error) {
	fmt.Printf("  $ gdn %s\n\n", shown(args))
	cmd := exec.Command(s.gdn, args...)
	cmd.Env = append(os.Environ(), "GDN_SOCKET="+s.socket())
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	for line := range strings.Lines(string(out)) {
		fmt.Print("    ", line)
	}
	if err != nil {
		return 0, fmt.Errorf("gdn %s: %w; the server's log:\n%s", args[0], err, s.logged())
	}
	if len(out) > 0 {
		fmt.Println()
	}
	return took, nil
}

// stop destroys what is left and ends the server.
func (s *server) stop() error {
	defer s.log.Close() // the server has its own descriptor
	var problems []error
	select {
	case <-s.ended:
	default:
		problems = append(problems, s.empty(), s.cmd.Process.Signal(syscall.SIGTERM))
	}
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		problems = append(problems, errors.New("the server did not stop"), s.cmd.Process.Kill())
		<-s.ended
	}
	return errors.Join(problems...)
}

// empty destroys the containers that a failure left.
func (s *server) empty() error {
	gdn := func(args ...string) ([]byte, error) {
		cmd := exec.Command(s.gdn, args...)
		cmd.Env = append(os.Environ(), "GDN_SOCKET="+s.socket())
		return cmd.Output()
	}
	left, err := gdn("ps", "-q")
	if err != nil || len(left) == 0 {
		return err
	}
	_, err = gdn(append([]string{"rm"}, strings.Fields(string(left))...)...)
	return err
}

func (s *server) logged() string {
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// compare tells whether the host is as before.
func compare(before testhost.Host) error {
	after := testhost.Take("garden-" + tag)
	before.Descriptors, after.Descriptors = nil, nil // this process's own
	if left := testhost.Diff(before, after); len(left) > 0 {
		return fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
	fmt.Printf("  No mount, link, rule, cgroup or process of it is left on this host.\n\n")
	return nil
}

// shown is a command line as a person types it.
func shown(args []string) string {
	var out []string
	for _, a := range args {
		if strings.ContainsAny(a, " ;") {
			a = "'" + a + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client/connection"
	"code.cloudfoundry.org/lager/v3"
)

// clientOptions are those of every command that needs a server.
type clientOptions struct {
	Socket string `long:"socket" env:"GDN_SOCKET" default:"/run/gdn/garden.sock" value-name:"PATH" description:"The server's socket, or its HOST:PORT"`
}

// connect returns a connection to the server. Nothing is dialled before the
// first call.
func (o clientOptions) connect() connection.Connection {
	return connection.NewWithDialerAndLogger(o.dial, silent)
}

// startPatience is how long a server that was started just before may take to
// open its socket.
const startPatience = time.Second

// dial ignores the name the client asks for: there is one server.
func (o clientOptions) dial(string, string) (net.Conn, error) {
	if !strings.Contains(o.Socket, "/") && strings.Contains(o.Socket, ":") {
		return net.DialTimeout("tcp", o.Socket, 5*time.Second)
	}
	for deadline := time.Now().Add(startPatience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", o.Socket)
		if err == nil || !absent(err) || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// absent tells that nobody serves the socket.
func absent(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// silent is a logger without a sink: what goes wrong comes back as an error.
var silent = lager.NewLogger("gdn")

// control acts on a process that another connection follows, over an
// attachment of its own. The one that follows will not do: the server reads
// it no further once stdin has ended, or while the process reads no input.
func (o clientOptions) control(handle, process string, act func(garden.Process) error) error {
	var mu sync.Mutex
	var open []net.Conn
	conn := connection.NewWithDialerAndLogger(func(network, address string) (net.Conn, error) {
		c, err := o.dial(network, address)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			open = append(open, c)
		}
		return c, err
	}, silent)
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			_ = c.Close() // it has served
		}
	}()
	attached, err := conn.Attach(handle, process, garden.ProcessIO{})
	if err != nil {
		return err
	}
	return act(attached)
}

// handleTaken is how Garden servers say, in words only, that a container is there.
var handleTaken = regexp.MustCompile(`^Handle '([^']*)' already in use$`)

// explain turns what the client library says into what a person can act on.
func (o clientOptions) explain(err error) error {
	if err == nil {
		return nil
	}
	if missing, ok := errors.AsType[garden.ContainerNotFoundError](err); ok {
		return fmt.Errorf("no container %q: see \"gdn ps\"", missing.Handle)
	}
	if missing, ok := errors.AsType[garden.ProcessNotFoundError](err); ok {
		return fmt.Errorf("no process %q: \"gdn ps\" lists those that run", missing.ProcessID)
	}
	if taken := handleTaken.FindStringSubmatch(err.Error()); taken != nil {
		return fmt.Errorf("there is already a container %q: choose another --handle, or remove it with \"gdn rm %[1]s\"", taken[1])
	}
	switch {
	case absent(err):
		return fmt.Errorf("no server at %s: start one with \"gdn server\" or name it with --socket", o.Socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no access to %s: be root or in the socket's group", o.Socket)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("the server at %s went away before it answered: its log may say why", o.Socket)
	}
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		return fmt.Errorf("no way to the server at %s: %w: name another with --socket", o.Socket, dial.Err)
	}
	return err
}

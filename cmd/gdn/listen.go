package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// socketGroup is the group that may use the server, where it exists.
const socketGroup = "garden"

// listenUnix makes a socket at path that root and the group garden may use,
// and nobody else at any moment: whoever can call the server is root on this
// host. A socket that nobody serves is replaced; one in use, or a file of
// another kind, is an error.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	before := syscall.Umask(0o177)
	listener, err := net.Listen("unix", path)
	syscall.Umask(before)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	gid := 0
	if group, err := user.LookupGroup(socketGroup); err == nil {
		gid, err = strconv.Atoi(group.Gid)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("group %s: %w", socketGroup, err), listener.Close())
		}
	}
	if err := errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// removeStale removes what a server that was killed left at path.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket: move it away or choose another --bind-socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close() // it was only a question
		return fmt.Errorf("socket %s is in use by another server: stop it or choose another --bind-socket", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("socket %s may be in use: %w", path, err)
	}
	return os.Remove(path)
}

// listenTCP listens on ip and port.
func listenTCP(ip string, port uint16) (net.Listener, error) {
	address := net.JoinHostPort(ip, strconv.Itoa(int(port)))
	listener, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use by another program: choose another --bind-port", address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return listener, nil
}

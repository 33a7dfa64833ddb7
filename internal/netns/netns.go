// Package netns runs functions inside another network namespace. It is the
// only place that locks goroutines to operating system threads, so no other
// code can be left on a thread that stands in the wrong namespace.
package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread that stands in the network namespace that path names,
// such as /proc/<pid>/ns/net, and returns what f returns. Sockets that f opens
// belong to that namespace for good; goroutines that f starts do not run in
// it. A panic of f reaches the caller.
func Do(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }() // read only
	return DoFD(int(ns.Fd()), f)
}

// DoFD is Do for a namespace that is open already.
func DoFD(fd int, f func() error) error {
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() { done <- o }()
		o = inside(fd, f)
	}()
	o := <-done
	if o.panicked != nil {
		panic(o.panicked)
	}
	return o.err
}

type outcome struct {
	err      error
	panicked any
}

// inside is the whole life of one goroutine. If its thread cannot go back, it
// ends locked, and the Go runtime ends the thread with it.
func inside(fd int, f func() error) outcome {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return outcome{err: fmt.Errorf("open own network namespace: %w", err)}
	}
	defer func() { _ = home.Close() }() // read only
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return outcome{err: fmt.Errorf("enter network namespace: %w", err)}
	}
	o := guarded(f)
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return o
}

func guarded(f func() error) (o outcome) {
	defer func() { o.panicked = recover() }()
	return outcome{err: f()}
}

// Same tells whether two open namespaces are one and the same.
func Same(a, b *os.File) (bool, error) {
	sa, err := a.Stat()
	if err != nil {
		return false, err
	}
	sb, err := b.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(sa, sb), nil
}

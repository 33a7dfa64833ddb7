package kawasaki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/verger-garden/verger/internal/atomicfile"
	"github.com/verger-garden/verger/internal/handle"
)

const (
	leaseFile  = "lease.json"
	hostsFile  = "hosts"
	resolvFile = "resolv.conf"

	// restingPrefix starts the name of a folder whose container is gone.
	// No handle starts with a dot.
	restingPrefix = ".resting-"
)

// records keeps one folder per container. Destroy renames it, in one step, to
// one that is no handle's, so that the handle is free at once, and what is
// left to be taken back is still on record.
type records struct{ dir string }

func (r records) path(h string) string       { return filepath.Join(r.dir, h) }
func (r records) restPath(l Lease) string    { return filepath.Join(r.dir, restingPrefix+l.ID) }
func (r records) file(h, name string) string { return filepath.Join(r.dir, h, name) }

// write records a lease.
func (r records) write(l Lease) error {
	if err := handle.Validate(l.Handle); err != nil {
		return err
	}
	// The runtime reaches the files below as a container's root.
	if err := os.MkdirAll(r.path(l.Handle), 0o755); err != nil {
		return err
	}
	return atomicfile.WriteJSON(r.file(l.Handle, leaseFile), l, 0o600)
}

// rest marks a lease as one whose container is gone.
func (r records) rest(l Lease) error { return os.Rename(r.path(l.Handle), r.restPath(l)) }

// forget ends the record of a resting lease.
func (r records) forget(l Lease) error { return os.RemoveAll(r.restPath(l)) }

// discard removes what is left in a handle's folder.
func (r records) discard(h string) error { return os.RemoveAll(r.path(h)) }

// setAside keeps a lease that cannot be used for people to look at.
func (r records) setAside(folder string) error {
	lease := r.file(folder, leaseFile)
	return os.Rename(lease, lease+".bad")
}

func (r records) handles() ([]string, error) {
	folders, err := r.folders()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range folders {
		if handle.Validate(f) == nil {
			out = append(out, f)
		}
	}
	return out, nil
}

// resting lists the folders of resting leases.
func (r records) resting() ([]string, error) {
	folders, err := r.folders()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range folders {
		if strings.HasPrefix(f, restingPrefix) {
			out = append(out, f)
		}
	}
	return out, nil
}

func (r records) folders() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// read returns the lease in a folder. One that was never written is
// fs.ErrNotExist.
func (r records) read(folder string) (Lease, error) {
	var l Lease
	path := r.file(folder, leaseFile)
	if err := atomicfile.ReadJSON(path, &l); err != nil {
		return Lease{}, err
	}
	if !l.sound() || (folder != l.Handle && folder != restingPrefix+l.ID) {
		return Lease{}, fmt.Errorf("parse %s: not a lease of %s", path, folder)
	}
	return l, nil
}

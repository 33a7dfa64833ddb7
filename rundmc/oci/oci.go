// Package oci makes and deletes sandboxes through any runc-compatible runtime
// program, named by path. Processes are not its matter.
package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Runtime is a program with runc's command line (runc, crun).
type Runtime struct {
	Path      string   // the program
	Root      string   // folder of its state (--root)
	ExtraArgs []string // before the subcommand
}

// timeout bounds one call: a runtime that takes longer hangs.
const timeout = 2 * time.Minute

// Check returns an error unless Path is a program that calls itself an OCI
// runtime.
func (r Runtime) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, r.Path, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("runtime %s: %w: name a runc or crun with --runtime-plugin", r.Path, err)
	}
	if !bytes.Contains(out, []byte("spec: ")) {
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("runtime %s is no OCI runtime (--version says %q): name a runc or crun with --runtime-plugin", r.Path, first)
	}
	return nil
}

// Run makes the sandbox id from bundle and starts its init, which inherits
// listener as descriptor 3. It returns init's pid.
func (r Runtime) Run(ctx context.Context, bundle, id string, listener *os.File) (int, error) {
	pidfile := filepath.Join(bundle, "pidfile")
	err := r.call(ctx, bundle, []*os.File{listener},
		"run", "--detach", "--no-new-keyring", "--preserve-fds", "1", "--bundle", bundle, "--pid-file", pidfile, id)
	if err != nil {
		return 0, err
	}
	raw, err := os.ReadFile(pidfile)
	if err != nil {
		return 0, fmt.Errorf("runtime left no pid: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("runtime left pid %q", raw)
	}
	return pid, nil
}

// stateFiles are all that runc and crun keep of a running container in its
// folder below Root. The one that tells whose it is comes last.
var stateFiles = [][]string{
	{"state.json"},                           // runc
	{"seccomp.bpf", "config.json", "status"}, // crun
}

// Delete removes what the runtime holds of id, all of whose processes have
// ended. One it does not know is done. The caller removes the cgroup.
//
// To start the program for this takes longer than all the rest of a destroy,
// so state that holds nothing but what is known of runc and crun is removed
// here; anything else is left to the runtime's own delete.
func (r Runtime) Delete(ctx context.Context, bundle, id string) error {
	dir := filepath.Join(r.Root, id)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(r.ExtraArgs) == 0 { // which may say that there is more to undo
		for _, known := range stateFiles {
			if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !e.Type().IsRegular() || !slices.Contains(known, e.Name()) }) {
				continue
			}
			return removeState(dir, known)
		}
	}
	if err = r.call(ctx, bundle, nil, "delete", id); err == nil {
		return nil
	}
	// A create that was killed half-way leaves what only force removes.
	return r.call(ctx, bundle, nil, "delete", "--force", id)
}

func removeState(dir string, files []string) error {
	for _, name := range files {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove runtime state: %w", err)
		}
	}
	if err := os.Remove(dir); err != nil {
		return fmt.Errorf("remove runtime state: %w", err)
	}
	return nil
}

// call runs one subcommand. Its stdio is a pipe that has ended, since what the
// runtime inherits, init keeps; its complaints come through a log file.
//
// It is not /dev/null: crun gives its stdio to the container's root, who would
// own the host's null device and could close it to everybody.
func (r Runtime) call(ctx context.Context, dir string, inherit []*os.File, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	log := filepath.Join(dir, args[0]+".log")
	all := append([]string{"--root", r.Root, "--log", log, "--log-format", "json"}, r.ExtraArgs...)
	cmd := exec.CommandContext(ctx, r.Path, append(all, args...)...)
	cmd.ExtraFiles = inherit
	ended, other, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ended.Close() // nothing was written
	_ = other.Close()   // nothing was written
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ended, ended, ended
	err = cmd.Run()
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		err = fmt.Errorf("%w: %w", err, ended) // it was killed for its slowness
	}
	name := filepath.Base(r.Path) + " " + args[0]
	if msg := lastError(log); msg != "" {
		return fmt.Errorf("%s: %w: %s", name, err, msg)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// lastError returns the message of the last line of level error in a log of
// JSON lines, or the last line as it is.
func lastError(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var last string
	for line := range strings.Lines(string(raw)) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) != nil {
			last = strings.TrimSpace(line)
		} else if entry.Level == "error" || entry.Level == "fatal" || last == "" {
			last = entry.Msg
		}
	}
	return last
}

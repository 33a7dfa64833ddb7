package testhost

import (
	"os"
	"os/exec"
	"path/filepath"
)

// Busybox makes a root file system of Debian's busybox-static in dir, owned
// by owner, for containers and changeroots of tests.
func Busybox(dir string, owner int) error {
	for _, sub := range []string{"bin", "etc", "tmp", "root", "home/alice", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	binary, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	for name, file := range map[string]struct {
		content []byte
		mode    os.FileMode
	}{
		"bin/busybox": {binary, 0o755},
		"etc/passwd":  {[]byte("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n"), 0o644},
		"etc/group":   {[]byte("root:x:0:\nalice:x:1001:\nteam:x:2000:alice\n"), 0o644},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), file.content, file.mode); err != nil {
			return err
		}
	}
	out, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	start := 0
	for i, b := range out {
		if b != '\n' {
			continue
		}
		if name := string(out[start:i]); name != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
				return err
			}
		}
		start = i + 1
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		uid := owner
		if path == filepath.Join(dir, "home/alice") {
			return os.Lchown(path, 1000, 1001)
		}
		return os.Lchown(path, uid, uid)
	})
}

// Runtimes lists the OCI runtimes to test: the runc that make builds and
// Debian's crun.
func Runtimes() map[string]string {
	return map[string]string{"runc": filepath.Join(Root(), "bin", "runc"), "crun": "/usr/bin/crun"}
}

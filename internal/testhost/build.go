package testhost

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Root is the folder of the module.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// BuildInit compiles gdn-init into dir and returns its path.
func BuildInit(dir string) (string, error) {
	out := filepath.Join(dir, "gdn-init")
	cmd := exec.Command("musl-gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror",
		"-o", out, filepath.Join(Root(), "cmd/gdn-init/init.c"))
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile gdn-init (make deps installs musl-tools): %w\n%s", err, msg)
	}
	return out, os.Chmod(out, 0o755)
}

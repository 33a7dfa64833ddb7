package users_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/user"
	"github.com/verger-garden/verger/rundmc/users"
)

// FuzzLookup sets foreign files and names against moby/sys/user, which other
// container engines use: where it and we both find somebody, it is the same
// one. We refuse more: numbers that are none, which it reads as 0.
func FuzzLookup(f *testing.F) {
	for _, spec := range []string{"", "root", "alice", "1000", "alice:staff", "9:9", ":", "::", "4294967295", "99999999999999999999", "-1", "+0"} {
		f.Add(spec, passwd, group)
	}
	f.Add("a", "a:x:5", "b:x:6:a,")
	f.Add("root", "", "")
	f.Add("x", "x::::::::\n#x:1:1:1", ":::x")

	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}

		ours, err := users.Lookup(root, spec)
		if err != nil {
			return
		}
		if ours.UID == math.MaxUint32 || ours.GID == math.MaxUint32 || ours.Home == "" {
			t.Fatalf("%q: impossible user %+v", spec, ours)
		}
		theirs, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader([]byte(passwd)), strings.NewReader(group))
		if err != nil || lenient(passwd) || lenient(group) {
			return
		}
		if int(ours.UID) != theirs.Uid || int(ours.GID) != theirs.Gid || len(ours.Groups) != len(theirs.Sgids) {
			t.Fatalf("%q: we say %+v, moby/sys/user says %+v", spec, ours, *theirs)
		}
	})
}

// lenient tells whether moby/sys/user may read a line otherwise than we do:
// numbers that are none or carry a sign, comments in passwd.
func lenient(file string) bool {
	for line := range strings.Lines(file) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if strings.HasPrefix(f[0], "#") {
			return true
		}
		for i := 2; i < 4 && i < len(f); i++ {
			if strings.Trim(f[i], "0123456789") != "" || f[i] == "" {
				return true
			}
		}
		if len(f) < 4 {
			return true
		}
	}
	return false
}

func BenchmarkLookup(b *testing.B) {
	root := b.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		b.Fatal(err)
	}
	var passwd, group strings.Builder
	for i := range 40 {
		n := strings.Repeat("u", 1+i%8)
		passwd.WriteString(n + ":x:1:1:a user:/home/u:/bin/sh\n")
		group.WriteString(n + ":x:1:u,uu,alice\n")
	}
	passwd.WriteString("alice:x:1000:1000::/home/alice:/bin/sh\n")
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/group"), []byte(group.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := users.Lookup(root, "alice"); err != nil {
			b.Fatal(err)
		}
	}
}

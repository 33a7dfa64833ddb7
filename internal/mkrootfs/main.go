// Command mkrootfs writes the default root file system: a tar file with
// Debian's busybox-static, a link per applet, and the few files that make it
// feel like a system. The same busybox gives the same bytes.
//
//	mkrootfs BUSYBOX OUTPUT
package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/verger-garden/verger/internal/atomicfile"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: mkrootfs BUSYBOX OUTPUT")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "mkrootfs:", err)
		os.Exit(1)
	}
}

func write(busybox, output string) error {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list the applets of %s: %w", busybox, err)
	}
	archive, err := pack(entries(binary, strings.Fields(string(applets))))
	if err != nil {
		return err
	}
	return atomicfile.Write(output, archive, 0o644)
}

// An entry is one file; its content is a link's target.
type entry struct {
	name    string
	kind    byte
	mode    int64
	uid     int
	content []byte
}

func dir(name string, mode int64, uid int) entry {
	return entry{name: name + "/", kind: tar.TypeDir, mode: mode, uid: uid}
}

func file(name string, mode int64, content string) entry {
	return entry{name: name, kind: tar.TypeReg, mode: mode, content: []byte(content)}
}

// The users of the image. The ordinary one is for trying things without root.
const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
verger:x:1000:1000:an ordinary user:/home/verger:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
`
	group = `root:x:0:
daemon:x:1:
tty:x:5:
verger:x:1000:
nogroup:x:65534:
`
	ordinary = 1000
)

// entries is the whole image, in order.
func entries(busybox []byte, applets []string) []entry {
	all := []entry{
		dir("bin", 0o755, 0),
		{name: "bin/busybox", kind: tar.TypeReg, mode: 0o755, content: busybox},
		dir("dev", 0o755, 0),
		dir("etc", 0o755, 0),
		file("etc/group", 0o644, group),
		file("etc/hosts", 0o644, ""),
		file("etc/passwd", 0o644, passwd),
		file("etc/profile", 0o644, "export PS1='\\u@\\h:\\w\\$ '\n"),
		file("etc/resolv.conf", 0o644, ""),
		dir("home", 0o755, 0),
		dir("home/verger", 0o755, ordinary),
		dir("proc", 0o755, 0),
		dir("root", 0o700, 0),
		dir("run", 0o755, 0),
		dir("sys", 0o755, 0),
		dir("tmp", 0o1777, 0),
		dir("var", 0o755, 0),
		dir("var/log", 0o755, 0),
		dir("var/tmp", 0o1777, 0),
	}
	for name, target := range map[string]string{
		"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin", "var/run": "../run",
	} {
		all = append(all, entry{name: name, kind: tar.TypeSymlink, mode: 0o777, content: []byte(target)})
	}
	all = append(all, dir("usr", 0o755, 0))
	for _, applet := range applets {
		if applet != "busybox" {
			all = append(all, entry{name: path.Join("bin", applet), kind: tar.TypeSymlink, mode: 0o777, content: []byte("busybox")})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return all
}

// pack is the tar archive of the entries.
func pack(all []entry) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range all {
		header := &tar.Header{
			Name: e.name, Typeflag: e.kind, Mode: e.mode, Uid: e.uid, Gid: e.uid,
			ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
		}
		switch e.kind {
		case tar.TypeSymlink:
			header.Linkname = string(e.content)
		case tar.TypeReg:
			header.Size = int64(len(e.content))
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		if e.kind == tar.TypeReg {
			if _, err := w.Write(e.content); err != nil {
				return nil, fmt.Errorf("%s: %w", e.name, err)
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

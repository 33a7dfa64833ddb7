package unpack_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/volplugin/unpack"
)

// hostile are archives that try to reach the folder victim, which lies beside
// the layer's and holds "file" and the empty folder "dir".
var hostile = []struct {
	name  string
	items func(victim string) []item
}{
	{"names with ..", func(v string) []item {
		return []item{file("../victim/file", "bad"), file("a/../../victim/new", "bad"), file("./../../"+v+"/x", "bad")}
	}},
	{"absolute names", func(v string) []item { return []item{file(v+"/file", "bad"), dir(v+"/dir", 0o777)} }},
	{"a symlink, then a file through it", func(v string) []item {
		return []item{symlink("s", v), file("s/file", "bad"), file("s/new", "bad")}
	}},
	{"a relative symlink, then a file through it", func(string) []item {
		return []item{symlink("s", "../victim"), file("s/file", "bad"), dir("s/dir", 0o777)}
	}},
	{"a chain of symlinks", func(string) []item {
		return []item{symlink("a", "b/.."), symlink("b", "c/.."), symlink("c", ".."), file("a/victim/file", "bad")}
	}},
	{"a symlink in place of a folder already in use", func(v string) []item {
		return []item{dir("d", 0o755), file("d/one", ""), symlink("d", v), file("d/file", "bad"), file("d/new", "bad")}
	}},
	{"a symlink to a file, then that file", func(v string) []item {
		return []item{symlink("f", v+"/file"), file("f", "bad")}
	}},
	{"a hard link to a file outside", func(v string) []item {
		return []item{hardlink("h", v+"/file"), file("h", "bad")}
	}},
	{"a hard link by ..", func(string) []item { return []item{hardlink("h", "../victim/file")} }},
	{"a hard link through a symlink", func(v string) []item {
		return []item{symlink("s", v), hardlink("h", "s/file"), file("h", "bad")}
	}},
	{"chmod through a hard link to a symlink", func(v string) []item {
		return []item{symlink("s", v+"/file"), hardlink("h", "s")}
	}},
	{"chmod of a symlink", func(v string) []item {
		i := symlink("s", v+"/file")
		i.Mode, i.Uid, i.Gid = 0o6777, 1234, 1234
		return []item{i}
	}},
	{"a folder's mode through a symlink", func(v string) []item {
		return []item{symlink("s", v), dir("s", 0o777), symlink("t", v+"/dir"), dir("t/", 0o777)}
	}},
	{"attributes through a symlink", func(v string) []item {
		i := symlink("s", v+"/file")
		i.PAXRecords = map[string]string{"SCHILY.xattr.user.bad": "bad"}
		return []item{i}
	}},
	{"times through a symlink", func(v string) []item {
		return []item{dir("d", 0o755), {Header: tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: v}}}
	}},
	{"whiteouts of files outside", func(v string) []item {
		return []item{symlink("s", v), file("s/.wh.file", ""), file(".wh...", ""), file("s/.wh..wh..opq", ""), file("../.wh.victim", "")}
	}},
	{"a deletion through a replaced folder", func(v string) []item {
		return []item{dir("d", 0o755), symlink("d/l", v), file("d", "replaces d and what is in it")}
	}},
	{"magic links of /proc", func(string) []item {
		return []item{symlink("p", "/proc/self/cwd"), file("p/new", "bad"), symlink("q", "/proc/self/root"), file("q/tmp/new", "bad")}
	}},
	{"devices and pipes through a symlink", func(v string) []item {
		return []item{symlink("s", v),
			{Header: tar.Header{Name: "s/disk", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}},
			{Header: tar.Header{Name: "s/file", Typeflag: tar.TypeFifo, Mode: 0o666}}}
	}},
	{"a root entry that opens everything", func(string) []item {
		return []item{dir("./", 0o777), dir("..", 0o777), dir("../", 0o777)}
	}},
	{"a way of a thousand ..", func(string) []item {
		return []item{file(strings.Repeat("../", 1000)+"victim/file", "bad"), symlink("s", strings.Repeat("../", 300)), file("s/new", "bad")}
	}},
}

// sparseBomb is an archive of two kilobytes with a file of 7 EiB, all hole.
func sparseBomb() []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	hdr := &tar.Header{Name: "bomb", Typeflag: tar.TypeReg, Mode: 0o600, Size: 512, Format: tar.FormatGNU}
	if err := w.WriteHeader(hdr); err != nil {
		panic(err)
	}
	if _, err := w.Write(make([]byte, 512)); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	b := buf.Bytes()
	b[156] = tar.TypeGNUSparse
	const real = 7 << 60
	copy(b[386:398], fmt.Sprintf("%011o\x00", 0))         // where the one piece of data begins
	copy(b[398:410], fmt.Sprintf("%011o\x00", 512))       // and its length
	copy(b[483:495], append([]byte{0x80}, be11(real)...)) // the size it claims
	sum := 0
	copy(b[148:156], "        ")
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// be11 is n as eleven bytes, big end first.
func be11(n uint64) []byte {
	b := make([]byte, 11)
	for i := 10; n > 0; i-- {
		b[i] = byte(n)
		n >>= 8
	}
	return b
}

// snapshot describes all below top but skip: kind, mode, owner, content.
func snapshot(top, skip string) map[string]string {
	all := map[string]string{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == skip {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(top, path) // path is below top
		line := fmt.Sprint(info.Mode(), st.Uid, ":", st.Gid, " ", st.Rdev)
		if path != top { // making the layer's folder may touch top's time
			line += fmt.Sprint(" ", st.Mtim)
		}
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			attrs := make([]byte, 1024)
			n, _ := unix.Llistxattr(path, attrs) // no attributes
			line += fmt.Sprint(" ", st.Nlink, " ", string(attrs[:n]), " ", sha256.Sum256(data))
		}
		all[rel] = line
		return nil
	})
	if err != nil {
		all["."] = err.Error()
	}
	return all
}

func command(name string, args ...string) ([]byte, error) {
	return exec.Command(name, args...).Output()
}

// FuzzLayer feeds any bytes to Layer beside a folder that must not change. Run
// it with -fuzzminimizetime 5x: the layers that it makes are slow to minimize.
func FuzzLayer(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root")
	}
	for _, h := range hostile {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, i := range h.items("/victim") {
			if err := w.WriteHeader(&i.Header); err != nil {
				f.Fatal(err)
			}
			if _, err := w.Write([]byte(i.data)); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes())
	}
	f.Add(sparseBomb())
	f.Add([]byte("not a tar"))
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		layer, victim := filepath.Join(top, "layer"), filepath.Join(top, "victim")
		for _, d := range []string{layer, victim, filepath.Join(victim, "dir")} {
			if err := os.Mkdir(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(victim, "file"), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := fmt.Sprint(snapshot(top, layer))
		_, _ = unpack.Layer(layer, bytes.NewReader(data), unpack.Options{Room: 1 << 20}) // either is fine
		if after := fmt.Sprint(snapshot(top, layer)); after != before {
			t.Fatalf("outside changed:\n%s\n%s", before, after)
		}
	})
}

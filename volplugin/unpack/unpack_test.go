package unpack_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/volplugin/unpack"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// An item is one entry of a test archive.
type item struct {
	tar.Header
	data string
}

func file(name, data string) item {
	return item{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}, data}
}

func dir(name string, mode int64) item {
	return item{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}}
}

func symlink(name, target string) item {
	return item{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

func hardlink(name, target string) item {
	return item{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o4777}}
}

func archive(items ...item) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, i := range items {
		Expect(w.WriteHeader(&i.Header)).To(Succeed())
		_, err := io.WriteString(w, i.data)
		Expect(err).NotTo(HaveOccurred())
	}
	Expect(w.Close()).To(Succeed())
	return buf.Bytes()
}

var _ = Describe("Layer", func() {
	var root string

	BeforeEach(func() {
		testhost.Need(GinkgoT(), "root")
		root = GinkgoT().TempDir()
	})

	at := func(name string) string { return filepath.Join(root, name) }
	apply := func(o unpack.Options, items ...item) (unpack.Result, error) {
		return unpack.Layer(root, bytes.NewReader(archive(items...)), o)
	}
	stat := func(name string) unix.Stat_t {
		GinkgoHelper()
		var st unix.Stat_t
		Expect(unix.Lstat(at(name), &st)).To(Succeed())
		return st
	}

	It("keeps owner, mode, setuid bits and times", func() {
		when := time.Unix(1_500_000_000, 123_456_789)
		_, err := apply(unpack.Options{},
			item{tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o3751, Uid: 7, Gid: 8, ModTime: when}, ""},
			item{tar.Header{Name: "bin/su", Typeflag: tar.TypeReg, Mode: 0o6755, Uid: 1000, Gid: 4294967294, Size: 2, ModTime: when, Format: tar.FormatPAX}, "su"},
			item{tar.Header{Name: "bin/link", Typeflag: tar.TypeSymlink, Linkname: "su", Uid: 5, Gid: 6, ModTime: when}, ""},
			item{tar.Header{Name: "bin/pipe", Typeflag: tar.TypeFifo, Mode: 0o622, ModTime: when}, ""},
			item{tar.Header{Name: "bin/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""},
		)
		Expect(err).NotTo(HaveOccurred())
		st := stat("bin")
		Expect([]uint32{st.Mode & 0o7777, st.Uid, st.Gid}).To(Equal([]uint32{0o3751, 7, 8}))
		Expect(st.Mtim.Sec).To(BeEquivalentTo(1_500_000_000))
		st = stat("bin/su")
		Expect([]uint32{st.Mode & 0o7777, st.Uid, st.Gid}).To(Equal([]uint32{0o6755, 1000, 4294967294}))
		Expect(st.Mtim).To(Equal(unix.Timespec{Sec: 1_500_000_000, Nsec: 123_456_789}))
		st = stat("bin/link")
		Expect([]uint32{st.Uid, st.Gid}).To(Equal([]uint32{5, 6}))
		Expect(st.Mtim.Sec).To(BeEquivalentTo(1_500_000_000))
		st = stat("bin/pipe")
		Expect(st.Mode).To(BeEquivalentTo(unix.S_IFIFO | 0o622))
		st = stat("bin/null")
		Expect(st.Mode).To(BeEquivalentTo(unix.S_IFCHR | 0o666))
		Expect(st.Rdev).To(Equal(unix.Mkdev(1, 3)))
	})

	It("keeps file capabilities and user attributes, and nothing that steers the host", func() {
		caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
		i := file("ping", "x")
		i.PAXRecords = map[string]string{
			"SCHILY.xattr.security.capability":       caps,
			"SCHILY.xattr.user.note":                 "kept",
			"SCHILY.xattr.trusted.overlay.redirect":  "/../../victim",
			"SCHILY.xattr.trusted.overlay.metacopy":  "",
			"SCHILY.xattr.user.overlay.opaque":       "y",
			"SCHILY.xattr.security.selinux":          "system_u:object_r:shadow_t:s0",
			"SCHILY.xattr.system.posix_acl_access":   "nonsense",
			"SCHILY.xattr.trusted.overlay.nlink":     "U-1",
			"SCHILY.xattr.security.evm":              "x",
			"SCHILY.xattr.trusted.overlay.protattr":  "i",
			"SCHILY.xattr.trusted.overlay.something": "x",
		}
		_, err := apply(unpack.Options{}, i)
		Expect(err).NotTo(HaveOccurred())
		buf := make([]byte, 4096)
		n, err := unix.Llistxattr(at("ping"), buf)
		Expect(err).NotTo(HaveOccurred())
		names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
		Expect(names).To(ConsistOf("security.capability", "user.note"))
		n, err = unix.Lgetxattr(at("ping"), "security.capability", buf)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(buf[:n])).To(Equal(caps))
	})

	It("leaves holes where a file is zero and keeps its size", func() {
		block := strings.Repeat("\x00", 1<<20)
		_, err := apply(unpack.Options{}, file("holes", block+"middle"+block), file("tail", block))
		Expect(err).NotTo(HaveOccurred())
		Expect(os.ReadFile(at("holes"))).To(BeEquivalentTo(block + "middle" + block))
		Expect(os.ReadFile(at("tail"))).To(BeEquivalentTo(block))
		Expect(stat("holes").Blocks * 512).To(BeNumerically("<", 512<<10))
		Expect(stat("tail").Blocks).To(BeZero())
	})

	It("lets the last entry of a name win, whatever the kinds", func() {
		_, err := apply(unpack.Options{},
			dir("a", 0o755), file("a/x", "1"), file("a", "file now"),
			symlink("b", "nowhere"), file("b", "file now"),
			file("c", "1"), dir("c", 0o700), file("c/x", "in c"),
			dir("d", 0o700), file("d/x", "stays"), dir("d", 0o711),
			symlink("e", "d"), file("e/y", "through the link"), file("e", "file now"), file("d/z", "z"),
		)
		Expect(err).NotTo(HaveOccurred())
		Expect(os.ReadFile(at("a"))).To(BeEquivalentTo("file now"))
		Expect(os.ReadFile(at("b"))).To(BeEquivalentTo("file now"))
		Expect(os.ReadFile(at("c/x"))).To(BeEquivalentTo("in c"))
		Expect(os.ReadFile(at("d/x"))).To(BeEquivalentTo("stays"))
		Expect(os.ReadFile(at("d/y"))).To(BeEquivalentTo("through the link"))
		Expect(os.ReadFile(at("d/z"))).To(BeEquivalentTo("z"))
		Expect(os.ReadFile(at("e"))).To(BeEquivalentTo("file now"))
		Expect(stat("d").Mode & 0o7777).To(BeEquivalentTo(0o711))
	})

	It("does not go on into a folder that was replaced", func() {
		_, err := apply(unpack.Options{},
			dir("real", 0o755), symlink("way", "real"), file("way/one", "1"),
			dir("way", 0o755), file("way/two", "2"))
		Expect(err).NotTo(HaveOccurred())
		Expect(at("real/one")).To(BeAnExistingFile())
		Expect(at("real/two")).NotTo(BeAnExistingFile())
		Expect(os.ReadFile(at("way/two"))).To(BeEquivalentTo("2"))
	})

	It("links files by their other name", func() {
		_, err := apply(unpack.Options{}, dir("d", 0o755), item{tar.Header{Name: "d/a", Typeflag: tar.TypeReg, Mode: 0o600, Size: 1}, "a"},
			hardlink("b", "/d/a"), hardlink("d/a", "d/a"))
		Expect(err).NotTo(HaveOccurred())
		Expect(stat("b").Ino).To(Equal(stat("d/a").Ino))
		Expect(stat("b").Mode&0o7777).To(BeEquivalentTo(0o600), "the link's header changes nothing")
	})

	Describe("whiteouts", func() {
		whiteout := func(name string) func() {
			return func() {
				GinkgoHelper()
				st := stat(name)
				Expect(st.Mode & unix.S_IFMT).To(BeEquivalentTo(unix.S_IFCHR))
				Expect(st.Rdev).To(BeZero())
			}
		}
		opaque := func(name string) string {
			buf := make([]byte, 8)
			n, err := unix.Lgetxattr(at(name), "trusted.overlay.opaque", buf)
			if err != nil {
				return ""
			}
			return string(buf[:n])
		}

		It("become devices 0:0", func() {
			_, err := apply(unpack.Options{}, dir("etc", 0o755), file("etc/.wh.gone", ""), file(".wh.top", ""))
			Expect(err).NotTo(HaveOccurred())
			whiteout("etc/gone")()
			whiteout("top")()
		})

		It("leave what the layer itself has, before or after them", func() {
			_, err := apply(unpack.Options{},
				dir("a", 0o755), file("a/f", "1"), file(".wh.a", ""),
				file(".wh.b", ""), dir("b", 0o755), file("b/f", "2"),
				file("c", "3"), file(".wh.c", ""),
				file(".wh.d", ""), file("d", "4"),
				file(".wh.e", ""), file("e/f", "5"))
			Expect(err).NotTo(HaveOccurred())
			Expect(os.ReadFile(at("a/f"))).To(BeEquivalentTo("1"))
			Expect(opaque("a")).To(Equal("y"))
			Expect(os.ReadFile(at("b/f"))).To(BeEquivalentTo("2"))
			Expect(opaque("b")).To(Equal("y"))
			Expect(os.ReadFile(at("c"))).To(BeEquivalentTo("3"))
			Expect(os.ReadFile(at("d"))).To(BeEquivalentTo("4"))
			Expect(os.ReadFile(at("e/f"))).To(BeEquivalentTo("5"))
			Expect(opaque("e")).To(Equal("y"))
		})

		It("of all of a folder make it opaque", func() {
			r, err := apply(unpack.Options{}, dir("d", 0o755), file("d/.wh..wh..opq", ""), file("d/new", ""))
			Expect(err).NotTo(HaveOccurred())
			Expect(opaque("d")).To(Equal("y"))
			Expect(r.Opaque).To(BeFalse())
			Expect(at("d/.wh..wh..opq")).NotTo(BeAnExistingFile())
		})

		It("of all of the root are told", func() {
			r, err := apply(unpack.Options{}, file(".wh..wh..opq", ""))
			Expect(err).NotTo(HaveOccurred())
			Expect(r.Opaque).To(BeTrue())
		})

		It("of aufs's own files are dropped", func() {
			_, err := apply(unpack.Options{}, file(".wh..wh.plnk", ""), file(".wh..wh.aufs", ""))
			Expect(err).NotTo(HaveOccurred())
			Expect(os.ReadDir(root)).To(BeEmpty())
		})

		DescribeTable("of nothing are refused", func(name string) {
			_, err := apply(unpack.Options{}, dir("d", 0o755), file(name, ""))
			Expect(err).To(MatchError(ContainSubstring("whiteout of nothing")))
		},
			Entry(nil, ".wh."), Entry(nil, "d/.wh.."), Entry(nil, "d/.wh..."))
	})

	Describe("folders that the archive does not describe", func() {
		It("are made as root's and told", func() {
			r, err := apply(unpack.Options{}, file("a/b/c", "x"), dir("a", 0o700))
			Expect(err).NotTo(HaveOccurred())
			Expect(r.Implicit).To(Equal([]string{"a/b"}))
			Expect(stat("a/b").Mode & 0o7777).To(BeEquivalentTo(0o755))
		})

		When("the layers beneath are known", func() {
			var base, middle string

			BeforeEach(func() {
				base, middle = GinkgoT().TempDir(), GinkgoT().TempDir()
				_, err := unpack.Layer(base, bytes.NewReader(archive(
					item{tar.Header{Name: "tmp", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 3, Gid: 4}, ""},
					dir("usr/lib", 0o755), symlink("lib", "usr/lib"), symlink("abs", "/usr/lib"),
					item{tar.Header{Name: "hidden", Typeflag: tar.TypeDir, Mode: 0o700}, ""},
					item{tar.Header{Name: "hidden/sub", Typeflag: tar.TypeDir, Mode: 0o700}, ""},
					dir("veiled", 0o755), dir("veiled/sub", 0o700),
				)), unpack.Options{})
				Expect(err).NotTo(HaveOccurred())
				_, err = unpack.Layer(middle, bytes.NewReader(archive(file(".wh.hidden", ""), dir("veiled", 0o750), file("veiled/.wh..wh..opq", ""))), unpack.Options{})
				Expect(err).NotTo(HaveOccurred())
			})

			It("are as they are beneath", func() {
				_, err := apply(unpack.Options{Below: []string{middle, base}}, file("tmp/x", ""))
				Expect(err).NotTo(HaveOccurred())
				st := stat("tmp")
				Expect([]uint32{st.Mode & 0o7777, st.Uid, st.Gid}).To(Equal([]uint32{0o1777, 3, 4}))
			})

			It("are found through the symlinks beneath", func() {
				_, err := apply(unpack.Options{Below: []string{middle, base}}, file("lib/x", "1"), file("abs/y", "2"))
				Expect(err).NotTo(HaveOccurred())
				Expect(os.ReadFile(at("usr/lib/x"))).To(BeEquivalentTo("1"))
				Expect(os.ReadFile(at("usr/lib/y"))).To(BeEquivalentTo("2"))
				Expect(at("lib")).NotTo(BeAnExistingFile())
			})

			It("are not looked for behind a whiteout", func() {
				_, err := apply(unpack.Options{Below: []string{middle, base}}, file("hidden/sub/x", ""))
				Expect(err).NotTo(HaveOccurred())
				Expect(stat("hidden").Mode & 0o7777).To(BeEquivalentTo(0o755))
				Expect(stat("hidden/sub").Mode & 0o7777).To(BeEquivalentTo(0o755))
			})

			It("are not looked for behind an opaque folder", func() {
				_, err := apply(unpack.Options{Below: []string{middle, base}}, file("veiled/sub/x", ""))
				Expect(err).NotTo(HaveOccurred())
				Expect(stat("veiled").Mode & 0o7777).To(BeEquivalentTo(0o750))
				Expect(stat("veiled/sub").Mode & 0o7777).To(BeEquivalentTo(0o755))
			})
		})
	})

	DescribeTable("refuses", func(want string, o unpack.Options, data func() []byte) {
		_, err := unpack.Layer(root, bytes.NewReader(data()), o)
		Expect(err).To(MatchError(ContainSubstring(want)))
	},
		Entry("an empty stream", "not a tar archive", unpack.Options{}, func() []byte { return nil }),
		Entry("a few bytes", "not a tar archive", unpack.Options{}, func() []byte { return []byte("hello") }),
		Entry("text", "not a tar archive", unpack.Options{}, func() []byte { return bytes.Repeat([]byte("text "), 500) }),
		Entry("an archive cut inside a file", "unexpected EOF", unpack.Options{}, func() []byte {
			return archive(file("f", strings.Repeat("x", 4000)))[:2000]
		}),
		Entry("an archive cut in a long file", "unexpected EOF", unpack.Options{}, func() []byte {
			return archive(file("f", strings.Repeat("x", 400000)))[:300000]
		}),
		Entry("more bytes than there is room", `file "b": 6 bytes do not fit: 5 bytes of room are left`, unpack.Options{Room: 10}, func() []byte {
			return archive(file("a", "12345"), file("b", "123456"))
		}),
		Entry("a sparse file of exabytes", "do not fit", unpack.Options{Room: 1 << 40}, sparseBomb),
		Entry("an owner that means no change", "out of range", unpack.Options{}, func() []byte {
			i := file("f", "")
			i.Uid = 1<<32 - 1
			return archive(i)
		}),
		Entry("an owner that wraps to root", "out of range", unpack.Options{}, func() []byte {
			i := file("f", "")
			i.Gid = 1 << 32
			return archive(i)
		}),
		Entry("a file in a file", `file "f/g": folder "f": not a directory`, unpack.Options{}, func() []byte {
			return archive(file("f", ""), file("f/g", ""))
		}),
		Entry("a loop of symlinks", "too many levels", unpack.Options{}, func() []byte {
			return archive(symlink("a", "b"), symlink("b", "a"), file("a/x", ""))
		}),
		Entry("a loop of dangling symlinks", "too many levels", unpack.Options{}, func() []byte {
			return archive(symlink("a", "missing/../b"), symlink("b", "missing/../a"), file("a/x", ""))
		}),
		Entry("a name that is too long", "file name too long", unpack.Options{}, func() []byte {
			return archive(file(strings.Repeat("n", 300), ""))
		}),
		Entry("a link to a folder", "no such file in this layer", unpack.Options{}, func() []byte {
			return archive(dir("d", 0o755), hardlink("l", "d"))
		}),
		Entry("a root that is a file", "would replace the root", unpack.Options{}, func() []byte {
			return archive(symlink("./", "/etc"))
		}),
	)

	It("takes an archive without entries as an empty layer", func() {
		Expect(apply(unpack.Options{})).To(Equal(unpack.Result{}))
	})

	Describe("a hostile archive", func() {
		var top, victim string

		BeforeEach(func() {
			top = GinkgoT().TempDir()
			root, victim = filepath.Join(top, "layer"), filepath.Join(top, "victim")
			Expect(os.Mkdir(root, 0o700)).To(Succeed())
			Expect(os.Mkdir(victim, 0o700)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(victim, "file"), []byte("precious"), 0o600)).To(Succeed())
			Expect(os.Mkdir(filepath.Join(victim, "dir"), 0o700)).To(Succeed())
		})

		for _, h := range hostile {
			It("touches nothing outside: "+h.name, func() {
				before := snapshot(top, root)
				_, err := apply(unpack.Options{Room: 1 << 30}, h.items(victim)...)
				if err != nil {
					GinkgoWriter.Println("refused:", err)
				}
				Expect(snapshot(top, root)).To(Equal(before))
			})
		}
	})

	It("unpacks a real folder as GNU tar packs it", func() {
		testhost.Need(GinkgoT(), "tar")
		src := GinkgoT().TempDir()
		for i := range 300 {
			sub := filepath.Join(src, fmt.Sprint("dir", i%7), fmt.Sprint("sub", i%5))
			Expect(os.MkdirAll(sub, 0o755)).To(Succeed())
			data := make([]byte, rand.IntN(200_000))
			for j := range data {
				data[j] = byte(rand.Uint32())
			}
			name := filepath.Join(sub, fmt.Sprint("file", i, strings.Repeat("long", i%60)))
			Expect(os.WriteFile(name, data, os.FileMode(0o600+i%0o177))).To(Succeed())
			Expect(os.Lchown(name, i, 1000+i)).To(Succeed())
		}
		out, err := command("tar", "--sparse", "--format=posix", "-C", src, "-cf", "-", ".")
		Expect(err).NotTo(HaveOccurred())
		_, err = unpack.Layer(root, bytes.NewReader(out), unpack.Options{})
		Expect(err).NotTo(HaveOccurred())
		Expect(snapshot(root, "")).To(Equal(snapshot(src, "")))
	})
})

package volplugin_test

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/volplugin"
	"github.com/verger-garden/verger/volplugin/overlay"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Create", func() {
	var w *world

	BeforeEach(func() {
		w = newWorld()
		w.start()
	})

	DescribeTable("takes a rootfs archive", func(name string, pack func([]byte) []byte) {
		tar := write(w.path(name), pack(archive(dir("etc", 0o755), file("etc/motd", "hello"))))
		one := w.create("one", tar, false)
		Expect(read(one, "etc/motd")).To(Equal("hello"))

		By("letting nobody else see what one writes")
		write(filepath.Join(one, "etc/motd"), []byte("changed"))
		two := w.create("two", tar, false)
		Expect(read(two, "etc/motd")).To(Equal("hello"))
		Expect(w.logged("layer-unpacked")).To(Equal(1))
	},
		Entry("plain", "rootfs.tar", func(b []byte) []byte { return b }),
		Entry("by gzip, whatever its name", "rootfs", gzipped),
		Entry("by zstd", "rootfs.tar.gz", zstandard),
	)

	It("knows the content of archives, not their names", func() {
		content := archive(file("f", "x"))
		w.create("one", write(w.path("a.tar"), content), false)
		w.create("two", write(w.path("b.tgz"), gzipped(content)), false)
		Expect(w.layers()).To(HaveLen(1))
	})

	It("sees that an archive was changed", func() {
		tar := write(w.path("rootfs.tar"), archive(file("f", "old")))
		Expect(read(w.create("one", tar, false), "f")).To(Equal("old"))
		write(tar, archive(file("f", "new")))
		Expect(read(w.create("two", tar, false), "f")).To(Equal("new"))
		Expect(os.WriteFile(tar+".next", archive(file("f", "nxt")), 0o644)).To(Succeed())
		Expect(os.Rename(tar+".next", tar)).To(Succeed())
		Expect(read(w.create("three", tar, false), "f")).To(Equal("nxt"))
	})

	It("is not deceived by an archive that was changed and given its old time", func() {
		tar := write(w.path("rootfs.tar"), archive(file("f", "old")))
		info, err := os.Stat(tar)
		Expect(err).NotTo(HaveOccurred())
		w.create("one", tar, false)
		write(tar, archive(file("f", "new")))
		Expect(os.Chtimes(tar, info.ModTime(), info.ModTime())).To(Succeed())
		Expect(read(w.create("two", tar, false), "f")).To(Equal("new"))
	})

	It("lays volumes over a folder and leaves it alone", func() {
		folder := w.path("folder")
		Expect(os.Mkdir(folder, 0o700)).To(Succeed())
		write(filepath.Join(folder, "f"), []byte("original"))
		one, two := w.create("one", folder, false), w.create("two", folder, true)
		write(filepath.Join(one, "f"), []byte("one's"))
		write(filepath.Join(two, "f"), []byte("two's"))
		Expect(read(folder, "f")).To(Equal("original"))
		Expect(read(one, "f")).To(Equal("one's"))
		Expect(owner(filepath.Join(two, "f"))).To(Equal([]uint32{maximus, maximus}))
		Expect(owner(filepath.Join(folder, "f"))).To(Equal([]uint32{0, 0}))
	})

	It("gives a raw folder as it is", func() {
		folder := w.path("folder")
		Expect(os.Mkdir(folder, 0o700)).To(Succeed())
		write(filepath.Join(folder, "f"), []byte("x"))
		mounts := testhost.Take("verger-volplugin-test").Mounts
		Expect(w.create("one", "raw://"+folder, true)).To(Equal(folder))
		Expect(testhost.Take("verger-volplugin-test").Mounts).To(Equal(mounts))
		Expect(w.store.Destroy(w.log, "one")).To(Succeed())
		Expect(read(folder, "f")).To(Equal("x"))
	})

	It("takes the default if no rootfs is named", func() {
		w.config.DefaultRootfs = write(w.path("rootfs.tar"), archive(file("f", "default")))
		w.restart()
		s, err := w.store.Create(w.log, "one", spec.RootfsSpec{})
		Expect(err).NotTo(HaveOccurred())
		Expect(read(s.Root.Path, "f")).To(Equal("default"))
		Expect(s.Process).To(BeNil())
		s, err = w.store.Create(w.log, "two", spec.RootfsSpec{RootFS: &url.URL{}})
		Expect(err).NotTo(HaveOccurred())
		Expect(read(s.Root.Path, "f")).To(Equal("default"))
	})

	Describe("from an OCI layout", func() {
		It("stacks the layers and tells the environment", func() {
			writeLayout(w.path("image"), []string{"PATH=/bin", "A=b"},
				archive(dir("d", 0o755), file("d/low", "low"), file("d/gone", ""), dir("o", 0o755), file("o/low", ""), dir("t", 0o755), file("t/x", "")),
				archive(dir("d", 0o755), file("d/.wh.gone", ""), file("d/high", "high"), dir("o", 0o755), file("o/.wh..wh..opq", ""), file("o/high", ""), file(".wh.t", "")),
			)
			for _, uri := range []string{"", ":v1", "#v1"} {
				handle := "h" + strings.TrimLeft(uri, ":#")
				s, err := w.try(handle, "oci://"+w.path("image")+uri, false)
				Expect(err).NotTo(HaveOccurred())
				Expect(s.Process.Env).To(Equal([]string{"PATH=/bin", "A=b"}))
				Expect(s.Process.Cwd).To(BeEmpty())
				root := s.Root.Path
				Expect(read(root, "d/low")).To(Equal("low"))
				Expect(read(root, "d/high")).To(Equal("high"))
				Expect(filepath.Join(root, "d/gone")).NotTo(BeAnExistingFile())
				Expect(filepath.Join(root, "o/low")).NotTo(BeAnExistingFile())
				Expect(filepath.Join(root, "o/high")).To(BeAnExistingFile())
				Expect(filepath.Join(root, "t")).NotTo(BeAnExistingFile())
				Expect(w.store.Destroy(w.log, handle)).To(Succeed())
			}
			Expect(w.logged("layer-unpacked")).To(Equal(2))
		})

		It("takes layers that stand twice in an image, and images of none", func() {
			low, high := archive(file("f", "low"), file("g", "low")), archive(file("f", "high"))
			writeLayout(w.path("twice"), nil, low, high, low, archive(), archive())
			root := w.create("one", "oci://"+w.path("twice"), true)
			Expect(read(root, "f")).To(Equal("low"))
			Expect(read(root, "g")).To(Equal("low"))
			writeLayout(w.path("none"), nil)
			Expect(os.ReadDir(w.create("two", "oci://"+w.path("none"), true))).To(BeEmpty())
		})

		It("hides all that is below an opaque root", func() {
			writeLayout(w.path("image"), nil, archive(file("low", "")), archive(file(".wh..wh..opq", ""), file("high", "")))
			entries, err := os.ReadDir(w.create("one", "oci://"+w.path("image"), false))
			Expect(err).NotTo(HaveOccurred())
			Expect(entries).To(HaveLen(1))
			Expect(entries[0].Name()).To(Equal("high"))
		})

		It("keeps folders that an upper layer uses and does not describe as they are", func() {
			upper := archive(file("tmp/new", ""), file("lib/new", "new"))
			writeLayout(w.path("image"), nil,
				archive(dir("tmp", 0o1777), dir("usr", 0o755), dir("usr/lib", 0o755), file("usr/lib/old", "old"),
					item{Header: link("lib", "usr/lib")}), upper)
			root := w.create("one", "oci://"+w.path("image"), false)
			info, err := os.Stat(filepath.Join(root, "tmp"))
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Mode()).To(Equal(os.ModeDir | os.ModeSticky | 0o777))
			Expect(read(root, "usr/lib/new")).To(Equal("new"))
			Expect(read(root, "lib/old")).To(Equal("old"))

			By("also after a restart, without unpacking again")
			n := w.logged("layer-unpacked")
			w.restart()
			w.create("two", "oci://"+w.path("image"), false)
			Expect(w.logged("layer-unpacked")).To(Equal(n))

			By("and where the same layer lies on another")
			writeLayout(w.path("other"), nil, archive(dir("tmp", 0o750)), upper)
			info, err = os.Stat(filepath.Join(w.create("three", "oci://"+w.path("other"), false), "tmp"))
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Mode()).To(Equal(os.ModeDir | 0o750))
		})

		Describe("that was tampered with", func() {
			blobs := func(except ...string) (layers []string) {
				all, err := filepath.Glob(w.path("image", "blobs", "sha256", "*"))
				Expect(err).NotTo(HaveOccurred())
				for _, b := range all {
					if !strings.HasPrefix(read(b), "{") {
						layers = append(layers, b)
					}
				}
				return layers
			}

			It("names the layer whose content is another, and keeps nothing of it", func() {
				writeLayout(w.path("image"), nil, archive(file("f", strings.Repeat("x", 5000))))
				layer := blobs()[0]
				other := gzipped(archive(file("f", strings.Repeat("y", 5000))))
				size := len(read(layer))
				Expect(len(other)).To(BeNumerically("<=", size))
				write(layer, append(other, make([]byte, size-len(other))...))
				_, err := w.try("one", "oci://"+w.path("image"), false)
				Expect(err).To(MatchError(ContainSubstring("layer sha256:" + filepath.Base(layer) + ": content is sha256:")))
				Expect(w.layers()).To(BeEmpty())
				Expect(w.leftOvers()).To(BeEmpty())
			})

			It("finds the change also where unpacking fails on it", func() {
				writeLayout(w.path("image"), nil, archive(file("f", strings.Repeat("x", 5000))))
				layer := blobs()[0]
				write(layer, []byte(strings.Repeat("?", len(read(layer)))))
				_, err := w.try("one", "oci://"+w.path("image"), false)
				Expect(err).To(MatchError(ContainSubstring(filepath.Base(layer) + ": content is sha256:")))
				Expect(w.layers()).To(BeEmpty())
			})

			It("compares the unpacked content too", func() {
				image := writeLayout(w.path("image"), nil, archive(file("f", "x")))
				config, err := image.ConfigFile()
				Expect(err).NotTo(HaveOccurred())
				lie(w.path("image"), image, config.RootFS.DiffIDs[0].Hex)
				_, err = w.try("one", "oci://"+w.path("image"), false)
				Expect(err).To(MatchError(ContainSubstring("unpacked content is sha256:" + config.RootFS.DiffIDs[0].Hex)))
				Expect(w.layers()).To(BeEmpty())
				Expect(w.leftOvers()).To(BeEmpty())
			})
		})
	})

	Describe("for a container with a user namespace", func() {
		check := func() {
			GinkgoHelper()
			tar := write(w.path("rootfs.tar"), busyboxRootfs())
			root := w.create("one", tar, true)
			out, err := inContainer(root, "stat", "-c", "%u:%g %n", "/", "/bin/busybox", "/home/me/file", "/tmp")
			Expect(err).NotTo(HaveOccurred(), out)
			Expect(strings.Split(out, "\n")).To(Equal([]string{"0:0 /", "0:0 /bin/busybox", "1000:1001 /home/me/file", "0:0 /tmp"}))
			Expect(owner(root)).To(Equal([]uint32{maximus, maximus}))

			out, err = inContainer(root, "sh", "-c", "echo changed > /etc/passwd && echo new > /new && mkdir /dir && chown 1000 /home/me && rm -r /tmp && stat -c %u:%g /etc/passwd /new /home/me")
			Expect(err).NotTo(HaveOccurred(), out)
			Expect(strings.Split(out, "\n")).To(Equal([]string{"0:0", "0:0", "1000:0"}))
			Expect(owner(filepath.Join(root, "etc/passwd"))).To(Equal([]uint32{maximus, maximus}))
			for _, l := range w.layers() {
				Expect(read(l, "fs/etc/passwd")).To(Equal("root"))
				Expect(owner(filepath.Join(l, "fs/etc/passwd"))).To(Equal([]uint32{0, 0}))
			}

			By("with file capabilities in force")
			chown := func(program string) error {
				cmd := exec.Command(program, "chown", "1000", "/bin")
				cmd.Args[0] = "busybox"
				cmd.SysProcAttr = userNamespace(1000)
				cmd.SysProcAttr.Chroot = root
				cmd.Dir = "/"
				return cmd.Run()
			}
			Expect(chown("/bin/busybox")).NotTo(Succeed())
			Expect(chown("/bin/chowner")).To(Succeed())
		}

		It("shows the owners that the image gives", check)

		for _, k := range []overlay.Kernel{{AppendLayers: true, Volatile: true}, {Volatile: true}, {}} {
			It(fmt.Sprintf("does so with %+v", k), func() {
				Expect(w.store.Downgrade(k)).To(Succeed())
				check()
				Expect(filepath.Glob(filepath.Join(w.dir, "tmp/*"))).To(BeEmpty())
			})
		}

		It("adds one mount to the host's", func() {
			tar := write(w.path("rootfs.tar"), archive(file("f", "")))
			for _, k := range []overlay.Kernel{{AppendLayers: true, Volatile: true, DetachedViews: true}, {}} {
				Expect(w.store.Downgrade(k)).To(Succeed())
				mounts := testhost.Take("verger-volplugin-test").Mounts
				root := w.create("one", tar, true)
				Expect(testhost.Take("verger-volplugin-test").Mounts).To(ConsistOf(append(mounts, root)))
				Expect(w.store.Destroy(w.log, "one")).To(Succeed())
				Expect(testhost.Take("verger-volplugin-test").Mounts).To(ConsistOf(mounts))
			}
		})

		It("opens no devices of the image", func() {
			null := item{}
			null.Name, null.Typeflag, null.Devmajor, null.Devminor, null.Mode = "null", '3', 1, 3, 0o666
			tar := write(w.path("rootfs.tar"), archive(null))
			_, err := os.Open(filepath.Join(w.create("one", tar, true), "null"))
			Expect(err).To(MatchError(os.ErrPermission))
			f, err := os.Open(filepath.Join(w.create("two", tar, false), "null"))
			Expect(err).NotTo(HaveOccurred())
			Expect(f.Close()).To(Succeed())
		})

		It("needs mappings", func() {
			w.config.UIDMappings, w.config.GIDMappings = nil, nil
			w.restart()
			tar := write(w.path("rootfs.tar"), archive(file("f", "")))
			_, err := w.try("one", tar, true)
			Expect(err).To(MatchError(ContainSubstring("no id mappings")))
			Expect(w.leftOvers()).To(BeEmpty())
			w.create("two", tar, false)
		})
	})

	It("lets nobody but root and the containers' root into the store", func() {
		root := w.create("one", write(w.path("rootfs.tar"), busyboxRootfs()), true)
		for _, id := range []uint32{1000, 65534} {
			cmd := exec.Command("/bin/busybox", "ls", root)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
			Expect(cmd.Run()).NotTo(Succeed())
		}
		for _, sub := range []string{"layers", "files", "tmp"} {
			out, err := exec.Command("/bin/busybox", "stat", "-c", "%a", filepath.Join(w.dir, sub)).Output()
			Expect(err).NotTo(HaveOccurred())
			Expect(string(out)).To(Equal("700\n"))
		}
	})

	DescribeTable("refuses", func(handle, uri, want string) {
		write(w.path("text"), []byte("this is no archive"))
		write(w.path("xz"), []byte("\xfd7zXZ\x00 and so on"))
		write(w.path("cut"), gzipped(archive(file("f", strings.Repeat("long", 5000))))[:60])
		Expect(unix.Mkfifo(w.path("pipe"), 0o600)).To(Succeed())
		_, err := w.try(handle, strings.ReplaceAll(uri, "TOP", w.top), false)
		Expect(err).To(MatchError(ContainSubstring(strings.ReplaceAll(want, "TOP", w.top))))
		Expect(w.store.Handles()).To(BeEmpty())
		Expect(w.leftOvers()).To(BeEmpty())
		Expect(w.layers()).To(BeEmpty())
	},
		Entry("what is no archive", "h", "TOP/text", "rootfs TOP/text: not a tar archive"),
		Entry("a compression it does not know", "h", "TOP/xz", "rootfs TOP/xz: compressed by xz, which is not supported: use gzip or zstd"),
		Entry("a broken archive", "h", "TOP/cut", "rootfs TOP/cut: "),
		Entry("a pipe", "h", "TOP/pipe", "rootfs TOP/pipe: neither a folder nor a regular file"),
		Entry("what is missing", "h", "TOP/gone", "rootfs TOP/gone: no such file or directory"),
		Entry("a raw root that is missing", "h", "raw://TOP/gone", "rootfs TOP/gone: no such file or directory"),
		Entry("a raw root that is a file", "h", "raw://TOP/text", "rootfs TOP/text: not a folder"),
		Entry("a layout that is none", "h", "oci://TOP", "rootfs TOP: no OCI image layout"),
		Entry("a registry, for now", "h", "docker:///busybox#1.36", `scheme "docker" is not supported: use a path, raw:///folder or oci:///layout[:tag]`),
		Entry("a host in place of a path", "h", "oci://image/v1", "the path is not absolute"),
		Entry("a relative path", "h", "rootfs.tar", "the path is not absolute"),
		Entry("nothing, without a default", "h", "", "no rootfs given and no default: set --default-rootfs"),
		Entry("the folder that the store is in", "h", "TOP", "lie within one another"),
		Entry("the root of the host", "h", "/", "lie within one another"),
		Entry("a handle that is a path", "../h", "TOP/text", "invalid handle"),
	)

	It("tells no password of a URI", func() {
		_, err := w.try("h", "docker://user:secret@registry/image", false)
		Expect(err).To(MatchError(Not(ContainSubstring("secret"))))
	})

	It("refuses a handle that exists, and leaves its volume alone", func() {
		tar := write(w.path("rootfs.tar"), archive(file("f", "x")))
		root := w.create("one", tar, false)
		_, err := w.try("one", tar, false)
		Expect(err).To(MatchError("volume one exists"))
		Expect(read(root, "f")).To(Equal("x"))
	})

	It("takes the longest handle", func() {
		h := strings.Repeat("h", 255)
		root := w.create(h, write(w.path("rootfs.tar"), archive(file("f", "x"))), true)
		Expect(read(root, "f")).To(Equal("x"))
		Expect(w.store.Destroy(w.log, h)).To(Succeed())
	})

	DescribeTable("unpacks an image once for 64 who want it at a time", func(uri func() string, layers int) {
		u := uri()
		var group sync.WaitGroup
		for i := range 64 {
			group.Go(func() {
				defer GinkgoRecover()
				root := w.create(fmt.Sprint("h", i), u, i%2 == 0)
				Expect(read(root, "f")).To(Equal("x"))
			})
		}
		group.Wait()
		Expect(w.logged("layer-unpacked")).To(Equal(layers))
		Expect(w.store.Handles()).To(HaveLen(64))
		for i := range 64 {
			group.Go(func() {
				defer GinkgoRecover()
				Expect(w.store.Destroy(w.log, fmt.Sprint("h", i))).To(Succeed())
			})
		}
		group.Wait()
		Expect(w.leftOvers()).To(BeEmpty())
	},
		Entry("an archive", func() string {
			return write(w.path("rootfs.tar"), archive(file("f", "x"), file("big", strings.Repeat("big", 1<<20))))
		}, 1),
		Entry("an OCI image", func() string {
			writeLayout(w.path("image"), nil, archive(file("f", "x"), file("big", strings.Repeat("big", 1<<20))), archive(file("g", "y")), archive(file("h", "z")))
			return "oci://" + w.path("image")
		}, 3),
	)

	It("lets one of 64 win a handle", func() {
		tar := write(w.path("rootfs.tar"), archive(file("f", "x")))
		var group sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for range 64 {
			group.Go(func() {
				defer GinkgoRecover()
				_, err := w.try("same", tar, true)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else {
					Expect(err).To(MatchError("volume same exists"))
				}
			})
		}
		group.Wait()
		Expect(won).To(Equal(1))
	})

	It("works on tmpfs", func() {
		tmp := w.path("tmpfs")
		Expect(os.Mkdir(tmp, 0o711)).To(Succeed())
		Expect(unix.Mount("tmpfs", tmp, "tmpfs", 0, "mode=711")).To(Succeed())
		DeferCleanup(unix.Unmount, tmp, unix.MNT_DETACH)
		w.config.Dir = filepath.Join(tmp, "store")
		store, err := volplugin.New(w.config)
		Expect(err).NotTo(HaveOccurred())
		Expect(store.Start()).To(Succeed())
		s, err := store.Create(w.log, "one", spec.RootfsSpec{RootFS: &url.URL{Path: write(w.path("rootfs.tar"), busyboxRootfs())}, Namespaced: true})
		Expect(err).NotTo(HaveOccurred())
		out, err := inContainer(s.Root.Path, "sh", "-c", "echo > /etc/passwd; stat -c %u /etc/passwd /home/me/file")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(Equal("0\n1000"))
		Expect(store.Destroy(w.log, "one")).To(Succeed())
		Expect(store.Close()).To(Succeed())
	})
})

package volplugin_test

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Destroy", func() {
	var (
		w   *world
		tar string
	)

	BeforeEach(func() {
		w = newWorld()
		w.start()
		tar = write(w.path("rootfs.tar"), archive(dir("d", 0o755), file("d/f", "x")))
	})

	It("takes an unknown volume as destroyed, any number of times", func() {
		Expect(w.store.Destroy(w.log, "nobody")).To(Succeed())
		w.create("one", tar, true)
		Expect(w.store.Destroy(w.log, "one")).To(Succeed())
		Expect(w.store.Destroy(w.log, "one")).To(Succeed())
		Expect(w.store.Handles()).To(BeEmpty())
		Expect(w.leftOvers()).To(BeEmpty())
	})

	It("refuses a handle that is a path", func() {
		Expect(w.store.Destroy(w.log, "../layers")).NotTo(Succeed())
		Expect(filepath.Join(w.dir, "layers")).To(BeADirectory())
	})

	It("leaves the layers to the next one", func() {
		w.create("one", tar, true)
		Expect(w.store.Destroy(w.log, "one")).To(Succeed())
		Expect(read(w.create("one", tar, true), "d/f")).To(Equal("x"))
		Expect(w.logged("layer-unpacked")).To(Equal(1))
	})

	It("removes what a container leaves to be in the way", func() {
		victim := w.path("victim")
		Expect(os.Mkdir(victim, 0o700)).To(Succeed())
		write(filepath.Join(victim, "f"), []byte("precious"))
		root := w.create("one", tar, false)
		Expect(os.Symlink(victim, filepath.Join(root, "link"))).To(Succeed())
		deep := root
		for range 15 {
			deep = filepath.Join(deep, strings.Repeat("deep", 50))
		}
		Expect(os.MkdirAll(deep, 0)).To(Succeed())
		write(filepath.Join(deep, "f"), nil)
		stuck := write(filepath.Join(root, "d", "stuck"), nil)
		f, err := os.Open(stuck)
		Expect(err).NotTo(HaveOccurred())
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0x10); err == nil {
			Expect(os.Remove(stuck)).NotTo(Succeed())
		} else {
			GinkgoWriter.Println("no immutable files here:", err)
		}
		Expect(f.Close()).To(Succeed())

		Expect(w.store.Destroy(w.log, "one")).To(Succeed())
		Expect(w.leftOvers()).To(BeEmpty())
		Expect(read(victim, "f")).To(Equal("precious"))
	})

	It("unmounts later what is still in use, and says so", func() {
		root := w.create("one", tar, false)
		f, err := os.Open(filepath.Join(root, "d/f"))
		Expect(err).NotTo(HaveOccurred())
		defer f.Close()
		Expect(w.store.Destroy(w.log, "one")).To(Succeed())
		Expect(w.logged("volume-busy")).To(Equal(1))
		Expect(w.leftOvers()).To(BeEmpty())
		Expect(testhost.Take("verger-volplugin-test").Mounts).NotTo(ContainElement(root))
	})

	It("keeps the volume listed if something cannot be removed, and can be tried again", func() {
		w.create("one", tar, false)
		busy := filepath.Join(w.dir, "volumes/one/upper/busy")
		Expect(os.Mkdir(busy, 0o755)).To(Succeed())
		Expect(unix.Mount("tmpfs", busy, "tmpfs", 0, "")).To(Succeed())
		DeferCleanup(func() { _ = unix.Unmount(busy, unix.MNT_DETACH) })
		Expect(w.store.Destroy(w.log, "one")).To(MatchError(ContainSubstring("busy")))
		Expect(w.store.Handles()).To(Equal([]string{"one"}))
		_, err := w.try("one", tar, false)
		Expect(err).To(MatchError("volume one exists"))

		Expect(unix.Unmount(busy, 0)).To(Succeed())
		Expect(w.store.Destroy(w.log, "one")).To(Succeed())
		Expect(w.store.Handles()).To(BeEmpty())
		Expect(w.leftOvers()).To(BeEmpty())
	})
})

var _ = Describe("Metrics", func() {
	var w *world

	BeforeEach(func() {
		w = newWorld()
		w.start()
	})

	megabyte := func(n int) string { return strings.Repeat("m", n<<20) }
	about := func(n int) OmegaMatcher {
		return And(BeNumerically(">=", n<<20), BeNumerically("<", n<<20+128<<10))
	}

	It("counts the container's own files, and those with the image's", func() {
		writeLayout(w.path("image"), nil, archive(file("a", megabyte(2))), archive(file("b", megabyte(1))))
		root := w.create("one", "oci://"+w.path("image"), true)
		stat, err := w.store.Metrics(w.log, "one", true)
		Expect(err).NotTo(HaveOccurred())
		Expect(stat.ExclusiveBytesUsed).To(about(0))
		Expect(stat.TotalBytesUsed).To(about(3))

		write(filepath.Join(root, "c"), []byte(megabyte(4)))
		Expect(os.Chmod(filepath.Join(root, "b"), 0o600)).To(Succeed())
		stat, err = w.store.Metrics(w.log, "one", true)
		Expect(err).NotTo(HaveOccurred())
		Expect(stat.ExclusiveBytesUsed).To(about(5), "a copied file is the container's own")
		Expect(stat.TotalBytesUsed).To(about(8))

		By("also after a restart")
		w.restart()
		Expect(w.store.Metrics(w.log, "one", true)).To(Equal(stat))
	})

	It("counts the folder that a volume lies on", func() {
		folder := w.path("folder")
		Expect(os.Mkdir(folder, 0o755)).To(Succeed())
		write(filepath.Join(folder, "a"), []byte(megabyte(2)))
		w.create("one", folder, false)
		stat, err := w.store.Metrics(w.log, "one", false)
		Expect(err).NotTo(HaveOccurred())
		Expect(stat.ExclusiveBytesUsed).To(about(0))
		Expect(stat.TotalBytesUsed).To(about(2))
	})

	It("counts nothing of a raw root", func() {
		w.create("one", "raw://"+w.top, false)
		stat, err := w.store.Metrics(w.log, "one", false)
		Expect(err).NotTo(HaveOccurred())
		Expect(stat).To(BeZero())
	})

	It("knows no volume that is not there", func() {
		_, err := w.store.Metrics(w.log, "nobody", false)
		Expect(err).To(MatchError("volume nobody: unknown"))
	})

	It("tells the size of the disk", func() {
		var st unix.Statfs_t
		Expect(unix.Statfs(w.top, &st)).To(Succeed())
		Expect(w.store.Capacity(w.log)).To(Equal(st.Blocks * uint64(st.Bsize)))
	})

	It("clears away what failed unpackings left, and no more", func() {
		root := w.create("one", write(w.path("rootfs.tar"), archive(file("f", "x"))), false)
		Expect(os.MkdirAll(filepath.Join(w.dir, "tmp/layer-123/fs/etc"), 0o755)).To(Succeed())
		Expect(w.store.GC(w.log)).To(Succeed())
		Expect(filepath.Glob(filepath.Join(w.dir, "tmp/*"))).To(BeEmpty())
		Expect(read(root, "f")).To(Equal("x"))
		Expect(w.layers()).To(HaveLen(1))
	})
})

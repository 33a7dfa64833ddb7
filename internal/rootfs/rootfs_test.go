package rootfs_test

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/verger-garden/verger/internal/rootfs"
	"golang.org/x/sys/unix"
)

func TestRootfs(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "internal/rootfs")
}

var _ = Describe("a container's files", func() {
	var root, outside string

	BeforeEach(func() {
		base := GinkgoT().TempDir()
		root, outside = filepath.Join(base, "root"), filepath.Join(base, "outside")
		Expect(os.MkdirAll(filepath.Join(root, "etc"), 0o755)).To(Succeed())
		Expect(os.MkdirAll(filepath.Join(root, "real"), 0o755)).To(Succeed())
		Expect(os.MkdirAll(outside, 0o755)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(root, "real/passwd"), []byte("inside"), 0o644)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(outside, "passwd"), []byte("the host's"), 0o644)).To(Succeed())
	})

	link := func(target, name string) {
		GinkgoHelper()
		Expect(os.Symlink(target, filepath.Join(root, name))).To(Succeed())
	}

	DescribeTable("are found as the container finds them",
		func(target string) {
			link(target, "etc/passwd")
			Expect(rootfs.ReadFile(root, "/etc/passwd", rootfs.MaxFile)).To(BeEquivalentTo("inside"))
		},
		Entry("through an absolute link", "/real/passwd"),
		Entry("through a relative link", "../real/passwd"),
		Entry("through a link that climbs above the root", "../../../../real/passwd"),
	)

	It("takes a name with or without a leading slash", func() {
		Expect(rootfs.ReadFile(root, "real/passwd", rootfs.MaxFile)).To(BeEquivalentTo("inside"))
		Expect(rootfs.ReadFile(root, "/real/passwd", rootfs.MaxFile)).To(BeEquivalentTo("inside"))
	})

	DescribeTable("never lead out of the root",
		func(target func() string) {
			link(target(), "etc/passwd")
			_, err := rootfs.ReadFile(root, "/etc/passwd", rootfs.MaxFile)
			Expect(err).To(MatchError(fs.ErrNotExist))
		},
		Entry("by an absolute link", func() string { return filepath.Join(outside, "passwd") }),
		Entry("by a relative link", func() string { return "../../outside/passwd" }),
	)

	It("does not follow the kernel's magic links", func() {
		Expect(os.Mkdir(filepath.Join(root, "proc"), 0o755)).To(Succeed())
		r, err := rootfs.OpenRoot("/")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(r.Close)
		_, err = r.Open("/proc/self/exe")
		Expect(err).To(MatchError(unix.ELOOP))
	})

	It("says which file is missing", func() {
		_, err := rootfs.Open(root, "/etc/passwd")
		Expect(err).To(MatchError(fs.ErrNotExist))
		Expect(err).To(MatchError(ContainSubstring("/etc/passwd")))
	})

	It("says which root is missing", func() {
		_, err := rootfs.Open("/no/such/root", "/etc/passwd")
		Expect(err).To(MatchError("open root /no/such/root: no such file or directory"))
	})

	DescribeTable("are regular files only",
		func(plant func(path string)) {
			plant(filepath.Join(root, "etc/passwd"))
			_, err := rootfs.Open(root, "/etc/passwd")
			Expect(err).To(MatchError(rootfs.ErrNotRegular))
		},
		Entry("not a folder", func(p string) { Expect(os.Mkdir(p, 0o755)).To(Succeed()) }),
		Entry("not a pipe, which would keep us waiting", func(p string) { Expect(unix.Mkfifo(p, 0o644)).To(Succeed()) }),
		Entry("not a socket", func(p string) { Expect(unix.Mknod(p, unix.S_IFSOCK|0o644, 0)).To(Succeed()) }),
	)

	It("does not wait for a lease that the container holds", func() {
		f, err := os.OpenFile(filepath.Join(root, "real/passwd"), os.O_RDWR, 0)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(f.Close)
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
			Skip("no leases on this file system: " + err.Error())
		}
		start := time.Now()
		_, err = rootfs.Open(root, "/real/passwd")
		Expect(err).To(MatchError(unix.EAGAIN))
		Expect(time.Since(start)).To(BeNumerically("<", time.Second))
	})

	Describe("the bound", func() {
		It("admits a file of exactly that size", func() {
			Expect(rootfs.ReadFile(root, "real/passwd", 6)).To(BeEquivalentTo("inside"))
		})
		It("refuses a larger one, and says so", func() {
			_, err := rootfs.ReadFile(root, "real/passwd", 5)
			Expect(err).To(MatchError(rootfs.ErrTooLarge))
			Expect(err).To(MatchError("read real/passwd: file is too large: 6 bytes, at most 5 are read"))
		})
		It("holds for files whose size the kernel does not tell", func() {
			_, err := rootfs.ReadFile("/", "/proc/kallsyms", 4096)
			Expect(err).To(MatchError(rootfs.ErrTooLarge))
		})
	})

	It("can be read as a stream after the root is closed", func() {
		Expect(os.WriteFile(filepath.Join(root, "real/long"), []byte(strings.Repeat("x", 1<<17)), 0o644)).To(Succeed())
		f, err := rootfs.Open(root, "/real/long")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(f.Close)
		Expect(io.ReadAll(f)).To(HaveLen(1 << 17))
	})

	It("leaves no descriptor open", func() {
		count := func() int {
			open, err := os.ReadDir("/proc/self/fd")
			Expect(err).NotTo(HaveOccurred())
			return len(open)
		}
		before := count()
		for range 50 {
			Expect(rootfs.ReadFile(root, "real/passwd", rootfs.MaxFile)).To(BeEquivalentTo("inside"))
			_, err := rootfs.ReadFile(root, "none", rootfs.MaxFile)
			Expect(err).To(HaveOccurred())
			_, err = rootfs.ReadFile(root, "etc", rootfs.MaxFile)
			Expect(err).To(HaveOccurred())
		}
		Expect(count()).To(BeNumerically("<=", before+1)) // the Go runtime's own poller may have come
	})
})

package tree_test

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/volplugin/tree"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("a tree that a container filled", func() {
	var root, victim string

	BeforeEach(func() {
		top := GinkgoT().TempDir()
		root, victim = filepath.Join(top, "root"), filepath.Join(top, "victim")
		Expect(os.Mkdir(root, 0o755)).To(Succeed())
		Expect(os.Mkdir(victim, 0o755)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(victim, "file"), []byte("precious"), 0o644)).To(Succeed())
	})

	Describe("Remove", func() {
		It("takes a missing path as removed", func() {
			Expect(tree.Remove(filepath.Join(root, "nothing"))).To(Succeed())
			Expect(tree.Remove(filepath.Join(root, "no", "thing"))).To(Succeed())
		})

		It("deletes links to the outside and not what they point to", func() {
			Expect(os.Symlink(victim, filepath.Join(root, "dir"))).To(Succeed())
			Expect(os.Symlink(filepath.Join(victim, "file"), filepath.Join(root, "file"))).To(Succeed())
			Expect(os.Link(filepath.Join(victim, "file"), filepath.Join(root, "hard"))).To(Succeed())
			Expect(tree.Remove(root)).To(Succeed())
			Expect(root).NotTo(BeAnExistingFile())
			Expect(os.ReadFile(filepath.Join(victim, "file"))).To(BeEquivalentTo("precious"))
		})

		It("deletes folders with more entries than it reads at once", func() {
			for i := range 3000 {
				Expect(os.WriteFile(filepath.Join(root, strings.Repeat("n", 200)+string(rune('a'+i%26))+string(rune(0x4e00+i))), nil, 0o600)).To(Succeed())
			}
			Expect(tree.Remove(root)).To(Succeed())
			Expect(root).NotTo(BeAnExistingFile())
		})

		It("deletes a tree deeper than a path or the descriptor table can be", func() {
			digDeep(root, 3000)
			var limit unix.Rlimit
			Expect(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)).To(Succeed())
			low := limit
			low.Cur = 256
			Expect(unix.Setrlimit(unix.RLIMIT_NOFILE, &low)).To(Succeed())
			DeferCleanup(unix.Setrlimit, unix.RLIMIT_NOFILE, &limit)

			Expect(tree.Remove(root)).To(Succeed())
			Expect(root).NotTo(BeAnExistingFile())
		})

		DescribeTable("deletes what attributes protect",
			func(flags int, on string) {
				testhost.Need(GinkgoT(), "root")
				dir := filepath.Join(root, "dir")
				Expect(os.Mkdir(dir, 0o700)).To(Succeed())
				file := filepath.Join(dir, "file")
				Expect(os.WriteFile(file, nil, 0o600)).To(Succeed())
				protected := map[string]string{"file": file, "folder": dir, "root": root}[on]
				protect(protected, flags)
				Expect(os.Remove(file) == nil && os.Remove(dir) == nil && os.Remove(root) == nil).To(BeFalse(), "not protected")
				Expect(tree.Remove(root)).To(Succeed())
				Expect(root).NotTo(BeAnExistingFile())
			},
			Entry("an immutable file", 0x10, "file"),
			Entry("an append-only file", 0x20, "file"),
			Entry("an immutable folder", 0x10, "folder"),
			Entry("an append-only folder", 0x20, "folder"),
			Entry("an immutable root", 0x10, "root"),
		)

		It("tells what it could not delete, and deletes the rest", func() {
			testhost.Need(GinkgoT(), "root")
			busy := filepath.Join(root, "busy")
			Expect(os.Mkdir(busy, 0o755)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(root, "other"), nil, 0o600)).To(Succeed())
			Expect(unix.Mount(victim, busy, "", unix.MS_BIND, "")).To(Succeed())
			DeferCleanup(unix.Unmount, busy, unix.MNT_DETACH)

			Expect(tree.Remove(root)).To(MatchError(ContainSubstring("busy")))
			Expect(filepath.Join(root, "other")).NotTo(BeAnExistingFile())
		})
	})

	Describe("Usage", func() {
		It("counts blocks, not sizes", func() {
			before, err := tree.Usage(root)
			Expect(err).NotTo(HaveOccurred())
			Expect(os.WriteFile(filepath.Join(root, "full"), make([]byte, 1<<20), 0o600)).To(Succeed())
			sparse, err := os.Create(filepath.Join(root, "sparse"))
			Expect(err).NotTo(HaveOccurred())
			Expect(sparse.Truncate(1 << 40)).To(Succeed())
			Expect(sparse.Close()).To(Succeed())
			after, err := tree.Usage(root)
			Expect(err).NotTo(HaveOccurred())
			Expect(after - before).To(And(BeNumerically(">=", 1<<20), BeNumerically("<", 1<<20+64<<10)))
		})

		It("counts a file with two names once", func() {
			Expect(os.WriteFile(filepath.Join(root, "one"), make([]byte, 1<<20), 0o600)).To(Succeed())
			before, err := tree.Usage(root)
			Expect(err).NotTo(HaveOccurred())
			Expect(os.Link(filepath.Join(root, "one"), filepath.Join(root, "two"))).To(Succeed())
			Expect(tree.Usage(root)).To(Equal(before))
		})

		It("follows no link to the outside", func() {
			Expect(os.WriteFile(filepath.Join(victim, "big"), make([]byte, 4<<20), 0o600)).To(Succeed())
			Expect(os.Symlink(victim, filepath.Join(root, "dir"))).To(Succeed())
			Expect(tree.Usage(root)).To(BeNumerically("<", 1<<20))
		})

		It("gets through a tree deeper than it counts", func() {
			digDeep(root, 1000)
			DeferCleanup(tree.Remove, root)
			Expect(tree.Usage(root)).To(BeNumerically(">", 0))
		})

		It("says so if there is nothing to measure", func() {
			_, err := tree.Usage(filepath.Join(root, "nothing"))
			Expect(err).To(MatchError(os.ErrNotExist))
		})
	})
})

// digDeep makes depth folders inside one another, with a file in the last.
func digDeep(root string, depth int) {
	fd, err := unix.Open(root, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	Expect(err).NotTo(HaveOccurred())
	for range depth {
		Expect(unix.Mkdirat(fd, "d", 0o755)).To(Succeed())
		next, err := unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(unix.Close(fd)).To(Succeed())
		fd = next
	}
	f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	Expect(err).NotTo(HaveOccurred())
	Expect(unix.Close(f)).To(Succeed())
	Expect(unix.Close(fd)).To(Succeed())
}

func protect(path string, flags int) {
	f, err := os.Open(path)
	Expect(err).NotTo(HaveOccurred())
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags); err != nil {
		Skip("the file system of " + path + " knows no attributes: " + err.Error())
	}
	Expect(f.Close()).To(Succeed())
}

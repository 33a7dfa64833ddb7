package replay_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/rundmc/replay"
)

var _ = Describe("a replay buffer", func() {
	var path string

	BeforeEach(func() { path = filepath.Join(GinkgoT().TempDir(), "p.out") })

	put := func(b *replay.Buffer, parts ...string) {
		GinkgoHelper()
		for _, p := range parts {
			Expect(b.Put([]byte(p))).To(Succeed())
		}
	}
	fresh := func(size int) *replay.Buffer {
		b := replay.New(path, size)
		DeferCleanup(func() { _ = b.Close() }) // some specs close it themselves
		return b
	}
	reopen := func() *replay.Buffer {
		GinkgoHelper()
		b, err := replay.Open(path, 1)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { _ = b.Close() })
		return b
	}

	DescribeTable("keeps the last bytes",
		func(size int, parts []string, want string) {
			b := fresh(size)
			Expect(b.Empty()).To(BeTrue())
			put(b, parts...)
			Expect(b.Empty()).To(Equal(want == ""))
			Expect(string(b.Take())).To(Equal(want))
			Expect(b.Empty()).To(BeTrue())
			Expect(b.Take()).To(BeEmpty())
		},
		Entry("nothing", 4, nil, ""),
		Entry("no bytes", 4, []string{""}, ""),
		Entry("less than it holds", 4, []string{"ab"}, "ab"),
		Entry("exactly what it holds", 4, []string{"abcd"}, "abcd"),
		Entry("in parts", 4, []string{"a", "b", "cd"}, "abcd"),
		Entry("one more", 4, []string{"abcd", "e"}, "bcde"),
		Entry("twice around", 4, []string{"abc", "def", "ghi", "jkl"}, "ijkl"),
		Entry("one part larger than the ring", 4, []string{"ab", "cdefghij"}, "ghij"),
		Entry("one byte", 1, []string{"abc", "d"}, "d"),
		Entry("of size 0", 0, []string{"abc"}, ""),
	)

	It("goes on after it was emptied", func() {
		b := fresh(4)
		put(b, "abc")
		Expect(string(b.Take())).To(Equal("abc"))
		put(b, "defg")
		Expect(string(b.Take())).To(Equal("defg"))
	})

	It("has no file before there is something to keep", func() {
		b := fresh(4)
		put(b, "")
		Expect(path).NotTo(BeAnExistingFile())
		put(fresh(0), "abc")
		Expect(path).NotTo(BeAnExistingFile())
		put(b, "a")
		Expect(path).To(BeAnExistingFile())
		Expect(b.Remove()).To(Succeed())
		Expect(path).NotTo(BeAnExistingFile())
		Expect(b.Remove()).To(Succeed())
	})

	It("is found again, as it was, when its server was killed", func() {
		put(fresh(4), "abc", "de") // never closed
		b := reopen()
		Expect(b.Empty()).To(BeFalse())
		Expect(string(b.Take())).To(Equal("bcde"))
		put(b, "fghij")
		Expect(string(reopen().Take())).To(Equal("ghij"))
		Expect(reopen().Empty()).To(BeTrue())
	})

	It("keeps its file, and nothing more, once it is closed", func() {
		b := fresh(4)
		put(b, "abc")
		Expect(b.Close()).To(Succeed())
		Expect(b.Close()).To(Succeed())
		Expect(b.Take()).To(BeEmpty())
		put(b, "xyz")
		Expect(b.Remove()).To(Succeed())
		Expect(string(reopen().Take())).To(Equal("abc"))
	})

	It("makes no file any more once it is removed", func() {
		b := fresh(4)
		put(b, "abc")
		Expect(b.Remove()).To(Succeed())
		put(b, "def")
		Expect(b.Empty()).To(BeTrue())
		Expect(path).NotTo(BeAnExistingFile())
	})

	It("leaves an older buffer of the same name alone", func() {
		old := fresh(4)
		put(old, "abc")
		b := fresh(8)
		put(b, "12345678")
		put(old, "d") // into a file without a name
		Expect(string(old.Take())).To(Equal("abcd"))
		Expect(string(b.Take())).To(Equal("12345678"))
	})

	It("takes up what is there rather than the size it is asked for", func() {
		put(fresh(4), "abcd")
		b := reopen()
		put(b, "ef")
		Expect(string(b.Take())).To(Equal("cdef"))
	})

	It("is empty without a file, and with one that a kill left before anything was in it", func() {
		b, err := replay.Open(path, 2)
		Expect(err).NotTo(HaveOccurred())
		Expect(b.Empty()).To(BeTrue())
		Expect(path).NotTo(BeAnExistingFile())

		Expect(os.WriteFile(path, nil, 0o600)).To(Succeed())
		b, err = replay.Open(path, 2)
		Expect(err).NotTo(HaveOccurred())
		Expect(b.Take()).To(BeEmpty())
		put(b, "abc")
		Expect(string(b.Take())).To(Equal("bc"))
		Expect(b.Remove()).To(Succeed())
	})

	DescribeTable("names a file that is none of its own",
		func(content []byte, want string) {
			Expect(os.WriteFile(path, content, 0o600)).To(Succeed())
			_, err := replay.Open(path, 4)
			Expect(err).To(MatchError(And(ContainSubstring(path), ContainSubstring(want))))
			after, err := os.ReadFile(path)
			Expect(err).NotTo(HaveOccurred())
			Expect(after).To(Equal(content))
		},
		Entry("cut short", []byte("abc"), "3 bytes are too few"),
		Entry("without a ring", ring(0, 0, ""), "16 bytes are too few"),
		Entry("that begins after its end", ring(3, 2, "abcd"), "from 3 to 2 in a ring of 4 bytes"),
		Entry("that claims more than it has", ring(1, 6, "abcd"), "from 1 to 6 in a ring of 4 bytes"),
		Entry("with wild numbers", ring(0, ^uint64(0), "abcd"), "in a ring of 4 bytes"),
	)

	It("says so when its folder is gone", func() {
		path = filepath.Join(path, "p.out")
		Expect(fresh(4).Put([]byte("a"))).NotTo(Succeed())
	})

	It("survives a file system without space", Label("root"), func() {
		testhost.Need(GinkgoT(), "root")
		dir := GinkgoT().TempDir()
		Expect(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128k")).To(Succeed())
		DeferCleanup(unix.Unmount, dir, unix.MNT_DETACH)
		path = filepath.Join(dir, "p.out")
		b := fresh(256 << 10)
		put(b, strings.Repeat("a", 60<<10))
		Expect(b.Put(bytes.Repeat([]byte("b"), 200<<10))).To(MatchError(unix.ENOSPC))
		Expect(string(b.Take())).To(Equal(strings.Repeat("a", 60<<10)))

		full := replay.New(filepath.Join(dir, "q.out"), 256<<10)
		Expect(os.WriteFile(filepath.Join(dir, "fill"), nil, 0o600)).To(Succeed())
		_ = os.WriteFile(filepath.Join(dir, "fill"), bytes.Repeat([]byte{1}, 128<<10), 0o600) // no space, as wanted
		Expect(full.Put([]byte("c"))).To(MatchError(unix.ENOSPC))
		Expect(full.Empty()).To(BeTrue())
	})
})

// ring is a file's content.
func ring(begin, end uint64, content string) []byte {
	b := binary.NativeEndian.AppendUint64(nil, begin)
	return append(binary.NativeEndian.AppendUint64(b, end), content...)
}

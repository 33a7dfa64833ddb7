package rundmc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"
)

var _ = Describe("the record of exits", func() {
	var path string

	BeforeEach(func() { path = filepath.Join(GinkgoT().TempDir(), "exits") })

	lines := func(from, to int) string {
		var all strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&all, `{"id":"p%d","status":%d}`+"\n", i, i%256)
		}
		return all.String()
	}
	content := func() string {
		GinkgoHelper()
		raw, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		return string(raw)
	}

	It("is empty without a file", func() {
		Expect(loadExits(path)).To(BeEmpty())
		Expect(path).NotTo(BeAnExistingFile())
	})

	It("gives back what was added, in order", func() {
		log := exitLog{path: path}
		for _, e := range []exit{{"b", 1}, {`a "quoted" one`, 137}, {"b", 0}} {
			Expect(log.add(e)).To(Succeed())
		}
		later := exitLog{path: path}
		Expect(later.load()).To(Equal([]exit{{"b", 1}, {`a "quoted" one`, 137}, {"b", 0}}))
	})

	DescribeTable("drops a last line that a kill tore, for good",
		func(torn string) {
			Expect(os.WriteFile(path, []byte(lines(0, 2)+torn), 0o600)).To(Succeed())
			log := exitLog{path: path}
			Expect(log.load()).To(HaveLen(2))
			Expect(content()).To(Equal(lines(0, 2)))
			Expect(log.add(exit{"p2", 2})).To(Succeed())
			Expect(content()).To(Equal(lines(0, 3)))
		},
		Entry("in its first byte", "{"),
		Entry("in the id", `{"id":"p`),
		Entry("before its end", `{"id":"p2","status":2`),
		Entry("never written", "\x00\x00\x00"),
	)

	It("keeps a last line that lacks no more than its end of line, and goes on below it", func() {
		Expect(os.WriteFile(path, []byte(strings.TrimSpace(lines(0, 2))), 0o600)).To(Succeed())
		log := exitLog{path: path}
		Expect(log.load()).To(HaveLen(2))
		Expect(log.add(exit{"p2", 2})).To(Succeed())
		Expect(content()).To(Equal(lines(0, 3)))
	})

	DescribeTable("sets a record aside that is damaged before its last line",
		func(middle string) {
			whole := lines(0, 1) + middle + lines(1, 2)
			Expect(os.WriteFile(path, []byte(whole), 0o600)).To(Succeed())
			log := exitLog{path: path}
			_, err := log.load()
			Expect(err).To(MatchError(And(ContainSubstring("parse "+path+":"), ContainSubstring(path+".unreadable"))))
			Expect(path).NotTo(BeAnExistingFile())
			Expect(os.ReadFile(path + ".unreadable")).To(BeEquivalentTo(whole))
			Expect(log.add(exit{"p0", 0})).To(Succeed())
			Expect(content()).To(Equal(lines(0, 1)))
		},
		Entry("half a line", "{\"id\n"),
		Entry("an empty line", "\n"),
		Entry("no id", "{\"status\":1}\n"),
		Entry("another type", "[]\n"),
	)

	It("is shortened when it is read", func() {
		Expect(os.WriteFile(path, []byte(lines(0, maxExits+5)), 0o600)).To(Succeed())
		exits, err := loadExits(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(exits).To(HaveLen(maxExits))
		Expect(exits[0]).To(Equal(exit{"p5", 5}))
		Expect(content()).To(Equal(lines(5, maxExits+5)))
	})

	It("stays short however many processes end", func() {
		log := exitLog{path: path}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				defer GinkgoRecover()
				for j := range maxExits {
					Expect(log.add(exit{fmt.Sprintf("%d-%d", i, j), 0})).To(Succeed())
				}
			})
		}
		wg.Wait()
		Expect(strings.Count(content(), "\n")).To(BeNumerically("<", 2*maxExits))
		exits, err := loadExits(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(exits).To(HaveLen(maxExits))
	})

	It("has no part of a line for which there was no space", Label("root"), func() {
		testhost.Need(GinkgoT(), "root")
		dir := GinkgoT().TempDir()
		Expect(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k")).To(Succeed())
		DeferCleanup(unix.Unmount, dir, unix.MNT_DETACH)
		log := exitLog{path: filepath.Join(dir, "exits")}
		var err error
		added := 0
		for ; err == nil; added++ {
			err = log.add(exit{fmt.Sprintf("p%03d", added), 0})
		}
		Expect(err).To(MatchError(unix.ENOSPC))
		raw, err := os.ReadFile(log.path)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(raw)).To(HaveSuffix("}\n"))
		Expect(strings.Count(string(raw), "\n")).To(Equal(added - 1))
	})
})

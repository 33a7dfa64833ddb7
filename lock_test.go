package verger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/internal/testhost"
)

func TestMain(m *testing.M) {
	testhost.Isolate()
	os.Exit(m.Run())
}

func TestVerger(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "verger")
}

var _ = Describe("the lock of a directory", func() {
	var dir string
	BeforeEach(func() { dir = filepath.Join(GinkgoT().TempDir(), "state") })

	It("is held by one server only, whose process id it tells", func() {
		first, err := lockDir(dir)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(first.Close)
		_, err = lockDir(dir)
		locked, ok := errors.AsType[*LockedError](err)
		Expect(ok).To(BeTrue())
		Expect(*locked).To(Equal(LockedError{Dir: dir, Holder: os.Getpid()}))
		Expect(locked.Error()).To(MatchRegexp(`^.*/state is in use by the server with process id \d+: stop it or choose another directory$`))
	})

	It("is free again when its file is closed", func() {
		first, err := lockDir(dir)
		Expect(err).NotTo(HaveOccurred())
		Expect(first.Close()).To(Succeed())
		second, err := lockDir(dir)
		Expect(err).NotTo(HaveOccurred())
		Expect(second.Close()).To(Succeed())
	})
})

var _ = Describe("the lock of a tag", func() {
	BeforeEach(func() { testhost.Need(GinkgoT(), "root") })
	tag := fmt.Sprintf("lock-%d", os.Getpid()) // longer than any that a server has

	It("is held by one server only, whose process id it tells", func() {
		first, err := lockTag(tag)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(unlockTag, first)
		_, err = lockTag(tag)
		Expect(err).To(Equal(&TagTakenError{Tag: tag, Holder: os.Getpid()}))
		other, err := lockTag(tag + "x")
		Expect(err).NotTo(HaveOccurred())
		Expect(unlockTag(other)).To(Succeed())
	})

	It("is free and leaves nothing when it is given back", func() {
		first, err := lockTag(tag)
		Expect(err).NotTo(HaveOccurred())
		Expect(unlockTag(first)).To(Succeed())
		Expect(first.Name()).NotTo(BeAnExistingFile())
		second, err := lockTag(tag)
		Expect(err).NotTo(HaveOccurred())
		Expect(unlockTag(second)).To(Succeed())
	})

	It("has one holder at a time, however many come and go", func() {
		var holding atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				defer GinkgoRecover()
				for taken := 0; taken < 50; {
					lock, err := lockTag(tag)
					if _, busy := errors.AsType[*TagTakenError](err); busy {
						continue
					}
					Expect(err).NotTo(HaveOccurred())
					Expect(holding.Add(1)).To(BeEquivalentTo(1))
					holding.Add(-1)
					Expect(unlockTag(lock)).To(Succeed())
					taken++
				}
			})
		}
		wg.Wait()
	})
})

package verger

import (
	"errors"
	"os"
	"path/filepath"
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

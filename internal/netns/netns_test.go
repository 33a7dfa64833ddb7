package netns_test

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"

	"github.com/verger-garden/verger/internal/netns"
	"github.com/verger-garden/verger/internal/testhost"
)

func TestMain(m *testing.M) {
	testhost.Isolate()
	os.Exit(m.Run())
}

func TestNetns(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "netns")
}

// other starts a process in a network namespace of its own and returns the
// path of that namespace.
func other() string {
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	Expect(cmd.Start()).To(Succeed())
	DeferCleanup(func() {
		Expect(cmd.Process.Kill()).To(Succeed())
		_ = cmd.Wait() // killed
	})
	return "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/net"
}

var _ = Describe("Do", func() {
	BeforeEach(func() { testhost.Need(GinkgoT(), "root") })

	It("runs inside the namespace and comes back", func() {
		path := other()
		Expect(netns.Do(path, func() error {
			return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "inner"}})
		})).To(Succeed())

		_, err := netlink.LinkByName("inner")
		Expect(err).To(MatchError(ContainSubstring("not found")))
		Expect(netns.Do(path, func() error {
			_, err := netlink.LinkByName("inner")
			return err
		})).To(Succeed())
	})

	It("leaves no thread behind in the other namespace", func() {
		path := other()
		there, err := os.Readlink(path)
		Expect(err).NotTo(HaveOccurred())
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				defer GinkgoRecover()
				Expect(netns.Do(path, func() error { return nil })).To(Succeed())
			})
		}
		wg.Wait()
		tasks, err := os.ReadDir("/proc/self/task")
		Expect(err).NotTo(HaveOccurred())
		for _, task := range tasks {
			here, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net")
			if err == nil {
				Expect(here).NotTo(Equal(there))
			}
		}
	})

	It("returns the function's error and passes its panic on", func() {
		path := other()
		boom := errors.New("boom")
		Expect(netns.Do(path, func() error { return boom })).To(MatchError(boom))
		Expect(func() { _ = netns.Do(path, func() error { panic("loud") }) }).To(PanicWith("loud"))
	})

	It("says which step was refused", func() {
		Expect(netns.Do("/proc/0/ns/net", func() error { return nil })).
			To(MatchError(ContainSubstring("open network namespace: open /proc/0/ns/net")))
		Expect(netns.Do("/dev/null", func() error { return nil })).
			To(MatchError("enter network namespace: invalid argument"))
	})

	It("opens no descriptor that stays", func() {
		path := other()
		before := testhost.Take("none")
		for range 20 {
			Expect(netns.Do(path, func() error { return nil })).To(Succeed())
		}
		Expect(testhost.Diff(before, testhost.Take("none"))).To(BeEmpty())
	})
})

var _ = Describe("Same", func() {
	It("tells namespaces apart", func() {
		testhost.Need(GinkgoT(), "root")
		own, err := os.Open("/proc/self/ns/net")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(own.Close)
		again, err := os.Open("/proc/self/ns/net")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(again.Close)
		foreign, err := os.Open(other())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(foreign.Close)

		Expect(netns.Same(own, again)).To(BeTrue())
		Expect(netns.Same(own, foreign)).To(BeFalse())
	})
})

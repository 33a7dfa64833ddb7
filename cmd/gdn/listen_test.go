package main

import (
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/verger-garden/verger/internal/testhost"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("the socket", func() {
	var path string
	BeforeEach(func() {
		testhost.Need(GinkgoT(), "root")
		path = filepath.Join(GinkgoT().TempDir(), "sub", "garden.sock")
	})

	listen := func() net.Listener {
		GinkgoHelper()
		listener, err := listenUnix(path)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(listener.Close)
		return listener
	}

	It("is for root and the group only", func() {
		before := syscall.Umask(0o022)
		listen()
		Expect(syscall.Umask(before)).To(Equal(0o022), "the umask is as before")
		info, err := os.Stat(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode()).To(Equal(os.ModeSocket | 0o660))
		Expect(info.Sys().(*syscall.Stat_t).Uid).To(BeZero())
	})

	It("replaces what a killed server left", func() {
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(filepath.Dir(filepath.Dir(path)), "s")})
		Expect(err).NotTo(HaveOccurred())
		dead.SetUnlinkOnClose(false)
		Expect(dead.Close()).To(Succeed())
		path = dead.Addr().String()
		listen()
		Expect(net.Dial("unix", path)).Error().NotTo(HaveOccurred())
	})

	It("does not take another server's", func() {
		listen()
		_, err := listenUnix(path)
		Expect(err).To(MatchError("socket " + path + " is in use by another server: stop it or choose another --bind-socket"))
		Expect(net.Dial("unix", path)).Error().NotTo(HaveOccurred(), "it still serves")
	})

	It("does not replace a file of another kind", func() {
		Expect(os.MkdirAll(filepath.Dir(path), 0o755)).To(Succeed())
		Expect(os.WriteFile(path, []byte("precious"), 0o600)).To(Succeed())
		_, err := listenUnix(path)
		Expect(err).To(MatchError(path + " is not a socket: move it away or choose another --bind-socket"))
		Expect(os.ReadFile(path)).To(Equal([]byte("precious")))
	})

	It("names an address that is in use", func() {
		first, err := listenTCP("127.0.0.1", 0)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(first.Close)
		port := first.Addr().(*net.TCPAddr).Port
		_, err = listenTCP("127.0.0.1", uint16(port))
		Expect(err).To(MatchError(first.Addr().String() + " is in use by another program: choose another --bind-port"))
	})
})

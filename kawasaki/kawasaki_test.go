package kawasaki_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3/lagertest"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"

	"github.com/verger-garden/verger/internal/netns"
	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/kawasaki"
)

func TestMain(m *testing.M) {
	testhost.Isolate()
	os.Exit(m.Run())
}

func TestKawasaki(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(10 * time.Second)
	RunSpecs(t, "kawasaki")
}

// silence is how long a test waits before it believes that nothing comes.
const silence = 300 * time.Millisecond

var log = lagertest.NewTestLogger("test")

// A sandbox is a process in a network namespace of its own.
type sandbox struct {
	pid    int
	handle string
	props  garden.Properties
	end    func()
}

func newSandbox(flags uintptr) *sandbox {
	GinkgoHelper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | flags, Pdeathsig: syscall.SIGKILL}
	if flags&syscall.CLONE_NEWUSER != 0 {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 4000000000, Size: 1}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids, ids
	}
	Expect(cmd.Start()).To(Succeed())
	end := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	DeferCleanup(end)
	return &sandbox{pid: cmd.Process.Pid, end: end}
}

func (s *sandbox) do(f func()) {
	GinkgoHelper()
	Expect(netns.Do("/proc/"+strconv.Itoa(s.pid)+"/ns/net", func() error {
		f()
		return nil
	})).To(Succeed())
}

func (s *sandbox) address() string { return s.props["garden.network.container-ip"] }
func (s *sandbox) gateway() string { return s.props["garden.network.host-ip"] }
func (s *sandbox) bridge() string  { return s.props["kawasaki.bridge-interface"] }
func (s *sandbox) link() string    { return s.props["kawasaki.container-interface"] }

// properties keeps what the networker tells, per handle.
type properties struct {
	mu  sync.Mutex
	all map[string]garden.Properties
}

func (p *properties) SetAll(handle string, props garden.Properties) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[string]garden.Properties{}
	}
	p.all[handle] = props
	return nil
}

func (p *properties) of(handle string) garden.Properties {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all[handle]
}

// A house is a networker with what it needs, and a way to start it again.
type house struct {
	*kawasaki.Networker
	config kawasaki.Config
	props  *properties
}

func newHouse(change func(*kawasaki.Config)) *house {
	GinkgoHelper()
	h := &house{props: &properties{}}
	h.config = kawasaki.Config{Dir: filepath.Join(GinkgoT().TempDir(), "network"), Properties: h.props}
	if change != nil {
		change(&h.config)
	}
	h.again()
	DeferCleanup(func() {
		handles, err := h.Handles()
		Expect(err).NotTo(HaveOccurred())
		for _, handle := range handles {
			Expect(h.Destroy(log, handle)).To(Succeed())
		}
		Expect(h.Stop()).To(Succeed())
		Expect(h.Uninstall()).To(Succeed())
	})
	return h
}

// again is what a new server finds that has the old one's folder.
func (h *house) again() {
	GinkgoHelper()
	var err error
	h.Networker, err = kawasaki.New(h.config)
	Expect(err).NotTo(HaveOccurred())
	Expect(h.Start()).To(Succeed())
}

// connect makes a sandbox that the networker has connected, as a create does.
func (h *house) connect(handle string) *sandbox {
	GinkgoHelper()
	Expect(h.PrepareNetwork(log, garden.ContainerSpec{Handle: handle})).To(Succeed())
	_, err := h.SetupBindMounts(log, handle, false, "/rootfs")
	Expect(err).NotTo(HaveOccurred())
	s := newSandbox(0)
	s.handle = handle
	Expect(h.Network(log, garden.ContainerSpec{Handle: handle}, s.pid)).To(Succeed())
	s.props = h.props.of(handle)
	return s
}

// destroy ends a sandbox as a destroy does.
func (h *house) destroy(s *sandbox) {
	GinkgoHelper()
	s.end()
	Expect(h.Destroy(log, s.handle)).To(Succeed())
}

// seen is the host after the last test, which is the host before the next.
var seen testhost.Host

// leakFree compares the host before and after the test.
func leakFree() {
	before := seen
	if before.Links == nil {
		before = look()
	}
	DeferCleanup(func() {
		Eventually(func() []string {
			seen = look()
			return testhost.Diff(before, seen)
		}).Should(BeEmpty())
	})
}

// look photographs the host. It leaves out mounts: a networker has none, and
// those that were copied from the host go when others there remove their folders.
func look() testhost.Host {
	h := testhost.Take("none")
	h.Mounts = nil
	return h
}

// newOutside is the rest of the world: it knows the host's address and no
// container's. The host's default route leads there.
func newOutside() *sandbox {
	GinkgoHelper()
	s := newSandbox(0)
	s.props = garden.Properties{"garden.network.container-ip": "192.0.2.2", "garden.network.host-ip": "192.0.2.1"}
	ns, err := os.Open("/proc/" + strconv.Itoa(s.pid) + "/ns/net")
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = ns.Close() }()
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: "up0", MTU: 1400, TxQLen: -1})
	veth.PeerName, veth.PeerMTU, veth.PeerNamespace = "up1", 1400, netlink.NsFd(int(ns.Fd()))
	Expect(netlink.LinkAdd(veth)).To(Succeed())
	DeferCleanup(netlink.LinkDel, veth)
	up(veth.Name, "192.0.2.1/24")
	Expect(netlink.RouteAdd(&netlink.Route{LinkIndex: veth.Index, Gw: net.ParseIP("192.0.2.2")})).To(Succeed())
	s.do(func() { up("up1", "192.0.2.2/24") })
	return s
}

func up(link string, addresses ...string) {
	GinkgoHelper()
	l, err := netlink.LinkByName(link)
	Expect(err).NotTo(HaveOccurred())
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		Expect(err).NotTo(HaveOccurred())
		addr.Flags = 0x02 // no duplicate address detection, which takes a second
		Expect(netlink.AddrAdd(l, addr)).To(Succeed())
	}
	Expect(netlink.LinkSetUp(l)).To(Succeed())
}

// onHost is the namespace of the test itself.
func onHost(f func()) { f() }

// network keeps a listener on [::] from taking IPv4 as well.
func network(address string) string {
	if strings.HasPrefix(address, "[") {
		return "tcp6"
	}
	return "tcp4"
}

// serve listens on address and tells each caller who it is.
func serve(in func(func()), address string) {
	GinkgoHelper()
	var l net.Listener
	in(func() {
		var err error
		l, err = net.Listen(network(address), address)
		Expect(err).NotTo(HaveOccurred())
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = io.WriteString(c, host)
			_ = c.Close()
		}
	}()
	DeferCleanup(func() {
		_ = l.Close()
		<-done
	})
}

// call returns who the server at address says that the caller is.
func call(in func(func()), address string) (string, error) {
	var who []byte
	var err error
	in(func() {
		var c net.Conn
		if c, err = net.DialTimeout(network(address), address, silence); err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(silence))
		who, err = io.ReadAll(c)
	})
	return string(who), err
}

// refused matches what a rejected connection comes to.
func refused() OmegaMatcher {
	return Or(MatchError(syscall.EHOSTUNREACH), MatchError(syscall.ECONNREFUSED))
}

// lost matches what a dropped packet comes to.
func lost() OmegaMatcher {
	return WithTransform(func(err error) bool {
		timeout, ok := errors.AsType[net.Error](err)
		return ok && timeout.Timeout()
	}, BeTrue())
}

// hear returns a function that sends datagrams to address in a namespace, one
// after the other from each of the given addresses, and tells which of them
// was heard there first; empty: none.
func hear(where func(func()), address string) func(in func(func()), from ...string) string {
	GinkgoHelper()
	var ear *net.UDPConn
	where(func() {
		a := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address))
		var err error
		ear, err = net.ListenUDP("udp", a)
		Expect(err).NotTo(HaveOccurred())
	})
	DeferCleanup(ear.Close)
	return func(in func(func()), from ...string) string {
		GinkgoHelper()
		in(func() {
			for _, from := range from {
				local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
				c, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
				Expect(err).NotTo(HaveOccurred())
				_, _ = c.Write([]byte(from)) // an earlier rejection may be told here
				_ = c.Close()
			}
		})
		_ = ear.SetReadDeadline(time.Now().Add(silence))
		got := make([]byte, 100)
		n, _ := ear.Read(got) // nothing: nothing was heard
		return string(got[:n])
	}
}

// ping sends one echo request from the host.
func ping(address string) error {
	c, err := net.Dial("ip4:icmp", address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	request := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}
	binary.BigEndian.PutUint16(request[2:], ^uint16(0x0800+0x1234+0x0001))
	if _, err := c.Write(request); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(silence))
	answer := make([]byte, 100)
	n, err := c.Read(answer)
	if err != nil {
		return err
	}
	if n < 8 || answer[n-8] != 0 {
		return fmt.Errorf("not an echo reply: % x", answer[:n])
	}
	return nil
}

func run(program string, args ...string) string {
	GinkgoHelper()
	out, err := exec.Command(program, args...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(out))
	return string(out)
}

func sysctl(name, value string) {
	GinkgoHelper()
	path := "/proc/sys/" + name
	old, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(path, []byte(value), 0)).To(Succeed())
	DeferCleanup(func() { _ = os.WriteFile(path, []byte(strings.TrimSpace(string(old))), 0) }) // the link may be gone
}

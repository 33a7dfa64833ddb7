package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/onsi/gomega/gexec"
	"github.com/verger-garden/verger/internal/testhost"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// A ground is where one server of a test lives: its directories, its tag,
// its addresses. When the test ends, nothing may be left of it on the host.
type ground struct {
	dir    string // the state directory is dir/state
	config string // ini file for "gdn server"
	socket string
}

var grounds int

func newGround(runtime string) ground {
	GinkgoHelper()
	testhost.Need(GinkgoT(), "root", "iptables", "busybox", "crun")
	Expect(carries(initAsset) && carries(rootfsAsset)).To(BeTrue(), `the tests need the assets: run "make build"`)

	grounds++
	tag := testTag(grounds)
	dir, err := os.MkdirTemp("", "gdn") // short, for the sockets in it
	Expect(err).NotTo(HaveOccurred())
	Expect(os.Chmod(dir, 0o755)).To(Succeed()) // the containers' root passes through
	g := ground{dir: dir, config: filepath.Join(dir, "gdn.ini"), socket: filepath.Join(dir, "state", "garden.sock")}
	config := fmt.Sprintf(`[server]
state-dir = %[1]s/state
store-dir = %[1]s/store
runtime-plugin = %[2]s
tag = %[3]s
network-pool = 10.250.%[4]d.0/24
`, dir, runtime, tag, grounds%256)
	Expect(os.WriteFile(g.config, []byte(config), 0o600)).To(Succeed())

	before := testhost.Take("garden-" + tag)
	DeferCleanup(func() {
		g.sweep()
		Expect(os.RemoveAll(dir)).To(Succeed())
		after := testhost.Take("garden-" + tag)
		before.Descriptors, after.Descriptors = nil, nil // what matters are the server's
		Expect(testhost.Diff(before, after)).To(BeEmpty())
	})
	return g
}

// testTag is a tag that no other test of this run has, and hardly one of
// another run: cgroups are one thing that test binaries share.
func testTag(n int) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	n = (os.Getpid()*37 + n) % (10 * 36) // a digit first: other suites take letters
	return string([]byte{digits[n/36], digits[n%36]})
}

// sweep destroys what a test that failed has left.
func (g ground) sweep() {
	left, err := filepath.Glob(filepath.Join(g.dir, "state", "depot", "*"))
	if err != nil || len(left) == 0 {
		return
	}
	server := g.launch("--destroy-containers-on-startup")
	server.Signal(syscall.SIGTERM)
	Eventually(server, time.Minute).Should(gexec.Exit())
}

// gdn is a gdn command for this ground's server.
func (g ground) gdn(args ...string) *exec.Cmd {
	cmd := exec.Command("gdn", args...)
	cmd.Env = append(os.Environ(), "GDN_SOCKET="+g.socket)
	return cmd
}

// run runs a gdn command to its end.
func (g ground) run(args ...string) *gexec.Session {
	GinkgoHelper()
	session := g.begin(args...)
	Eventually(session, 30*time.Second).Should(gexec.Exit())
	return session
}

// begin starts a gdn command.
func (g ground) begin(args ...string) *gexec.Session {
	GinkgoHelper()
	session, err := gexec.Start(g.gdn(args...), GinkgoWriter, GinkgoWriter)
	Expect(err).NotTo(HaveOccurred())
	return session
}

// start starts a server for the length of the test.
func (g ground) start() *gexec.Session {
	GinkgoHelper()
	session := g.launch()
	DeferCleanup(func() {
		session.Signal(syscall.SIGTERM)
		Eventually(session, 30*time.Second).Should(gexec.Exit(0))
	})
	return session
}

// launch starts a server and waits until it answers.
func (g ground) launch(args ...string) *gexec.Session {
	GinkgoHelper()
	session := g.begin(append([]string{"--config", g.config, "server"}, args...)...)
	Eventually(func(still Gomega) {
		select {
		case <-session.Exited:
			StopTrying("the server ended").Now()
		default:
		}
		still.Expect(g.gdn("ps").Run()).To(Succeed())
	}, 30*time.Second, 20*time.Millisecond).Should(Succeed())
	return session
}

// runtimes are those that every test of containers passes.
var runtimes = []string{runc(), "crun"}

// runc is the one that "make build" leaves.
func runc() string {
	path, err := filepath.Abs("../../bin/runc")
	if err != nil {
		panic(err)
	}
	return path
}

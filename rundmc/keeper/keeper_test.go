package keeper_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/rundmc/keeper"
)

const allCaps = ^uint64(0)

var _ = Describe("gdn-init", Label("root"), Ordered, ContinueOnFailure, func() {
	var (
		bin, dir string
		init     *exec.Cmd
		conn     *keeper.Conn
	)

	BeforeAll(func() {
		testhost.Need(GinkgoT(), "root", "musl-gcc")
		var err error
		bin, err = testhost.BuildInit(GinkgoT().TempDir())
		Expect(err).NotTo(HaveOccurred())
	})

	BeforeEach(func() {
		// A folder too deep for a socket address on its own.
		dir = filepath.Join(GinkgoT().TempDir(), strings.Repeat("d", 120))
		Expect(os.Mkdir(dir, 0o700)).To(Succeed())
		socket, err := keeper.Listen(filepath.Join(dir, "init.sock"))
		Expect(err).NotTo(HaveOccurred())
		// As a server started by "nohup gdn &" has it.
		init = exec.Command("/bin/sh", "-c", "trap '' HUP INT QUIT PIPE; exec "+bin)
		init.ExtraFiles = []*os.File{socket}
		init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		Expect(init.Start()).To(Succeed())
		Expect(socket.Close()).To(Succeed())
		DeferCleanup(func() {
			_ = init.Process.Kill() // some specs end it themselves
			_ = init.Wait()
		})
		conn = dial(dir)
		DeferCleanup(func() { _ = conn.Close() })
	})

	start := func(s keeper.Start) *keeper.Process {
		GinkgoHelper()
		if s.Dir == "" {
			s.Dir = "/"
		}
		s.Bounding, s.Permitted = allCaps, allCaps
		p, err := conn.Start(s)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(p.CloseFiles)
		return p
	}

	It("runs a program with its arguments, environment and directory", func() {
		p := start(keeper.Start{
			ID: "a", Dir: filepath.Join(dir, "new", "sub"), Env: []string{"PATH=/usr/bin:/bin", "X=y z"},
			Args: []string{"sh", "-c", `echo "$1|$X|$(pwd)"; echo err >&2; exit 7`, "sh", "a b"},
		})
		Eventually(p.Ended()).Should(BeClosed())
		Expect(p.Status()).To(Equal(7))
		Expect(io.ReadAll(p.Stdout)).To(BeEquivalentTo("a b|y z|" + filepath.Join(dir, "new", "sub") + "\n"))
		Expect(io.ReadAll(p.Stderr)).To(BeEquivalentTo("err\n"))
	})

	It("passes stdin on, and its end", func() {
		p := start(keeper.Start{Args: []string{"/bin/cat"}})
		_, err := p.Stdin.WriteString("hello")
		Expect(err).NotTo(HaveOccurred())
		Consistently(p.Ended(), "50ms").ShouldNot(BeClosed())
		Expect(p.CloseStdin()).To(Succeed())
		Eventually(p.Ended()).Should(BeClosed())
		Expect(io.ReadAll(p.Stdout)).To(BeEquivalentTo("hello"))
	})

	It("takes on ids, groups and capability sets", func() {
		p, err := conn.Start(keeper.Start{
			Args: []string{"/bin/sh", "-c", "id -u; id -g; id -G; grep Cap /proc/self/status; umask; : > /dev/stdout && echo reopened"},
			Env:  []string{"PATH=/usr/bin:/bin"}, Dir: "/", UID: 1234, GID: 99, Groups: []uint32{7, 8}, Bounding: 1<<unix.CAP_CHOWN | 1<<unix.CAP_KILL,
			PipeUID: 1234, PipeGID: 99,
		})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(p.CloseFiles)
		Eventually(p.Ended()).Should(BeClosed())
		out, _ := io.ReadAll(p.Stdout)
		Expect(strings.Join(strings.Fields(string(out)), " ")).To(Equal("1234 99 99 7 8 " +
			"CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000021 CapAmb: 0000000000000000 0022 reopened"))
	})

	It("gives a process nothing but its three streams", func() {
		p := start(keeper.Start{Args: []string{"/bin/sh", "-c", "ls /proc/self/fd; grep -E 'SigIgn|SigBlk' /proc/self/status"}, Env: []string{"PATH=/usr/bin:/bin"}})
		Eventually(p.Ended()).Should(BeClosed())
		out, _ := io.ReadAll(p.Stdout)
		Expect(strings.Fields(string(out))).To(Equal([]string{"0", "1", "2", "3" /* of ls */, "SigBlk:", "0000000000000000", "SigIgn:", "0000000000000000"}))
	})

	DescribeTable("tells why a process did not come to be",
		func(s keeper.Start, stage keeper.Stage, errno unix.Errno) {
			_, err := conn.Start(s)
			var failure *keeper.StartError
			Expect(errors.As(err, &failure)).To(BeTrue(), "%v", err)
			Expect(*failure).To(Equal(keeper.StartError{Stage: stage, Errno: errno}))
			Expect(conn.Close()).To(Succeed())
			conn = dial(dir)
			Expect(known).To(BeEmpty())
		},
		Entry("missing, absolute", keeper.Start{Args: []string{"/no/such"}, Dir: "/"}, keeper.AtExec, unix.ENOENT),
		Entry("missing in PATH", keeper.Start{Args: []string{"nosuch"}, Env: []string{"PATH=/bin"}, Dir: "/"}, keeper.AtExec, unix.ENOENT),
		Entry("missing, with a terminal", keeper.Start{Args: []string{"/no/such"}, Dir: "/", TTY: true}, keeper.AtExec, unix.ENOENT),
		Entry("not executable", keeper.Start{Args: []string{"/etc/passwd"}, Dir: "/"}, keeper.AtExec, unix.EACCES),
		Entry("a file as directory", keeper.Start{Args: []string{"/bin/true"}, Dir: "/etc/passwd"}, keeper.AtDir, unix.ENOTDIR),
		Entry("directory not permitted", keeper.Start{Args: []string{"/bin/true"}, Dir: "/root/x/y", UID: 1234, GID: 1234}, keeper.AtDir, unix.EACCES),
	)

	It("reports the signal that killed", func() {
		p := start(keeper.Start{Args: []string{"/bin/sleep", "100"}})
		Expect(p.Signal(unix.SIGTERM)).To(Succeed())
		Eventually(p.Ended()).Should(BeClosed())
		Expect(p.Status()).To(Equal(128 + 15))
		Expect(p.Signal(unix.SIGTERM)).To(Succeed())
	})

	It("lets limits be set before the program runs", func() {
		p := start(keeper.Start{
			Args: []string{"/bin/sh", "-c", "ulimit -n; ulimit -c"},
			Limit: func(pid int) error {
				return errors.Join(
					unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 77, Max: 77}, nil),
					unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: 0}, nil))
			},
		})
		Eventually(p.Ended()).Should(BeClosed())
		Expect(io.ReadAll(p.Stdout)).To(BeEquivalentTo("77\n0\n"))
	})

	It("kills a process whose limits cannot be set", func() {
		_, err := conn.Start(keeper.Start{Args: []string{"/bin/sleep", "100"}, Dir: "/", Limit: func(int) error { return errors.New("no") }})
		Expect(err).To(MatchError("no"))
		Eventually(func() []string { return childrenOf(init.Process.Pid) }).Should(BeEmpty())
	})

	It("gives a terminal its size, and resizes it", func() {
		p := start(keeper.Start{
			Args: []string{"/bin/sh", "-c", `stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done`},
			Env:  []string{"PATH=/usr/bin:/bin"}, TTY: true, Columns: 81, Rows: 25,
		})
		out := &collector{}
		go out.from(p.Master)
		Eventually(out.String).Should(Equal("25 81\r\nready\r\n"))
		Expect(p.Resize(100, 50)).To(Succeed())
		Eventually(p.Ended(), "5s").Should(BeClosed())
		Eventually(out.String).Should(Equal("25 81\r\nready\r\n50 100\r\n"))
		Expect(p.Status()).To(Equal(5))
	})

	It("reaps orphans", func() {
		p := start(keeper.Start{Args: []string{"/bin/sh", "-c", "(sleep 0.1 &) ; exit 0"}, Env: []string{"PATH=/usr/bin:/bin"}})
		Eventually(p.Ended()).Should(BeClosed())
		Eventually(func() []string { return childrenOf(init.Process.Pid) }).Should(BeEmpty())
	})

	It("stands a thousand processes at once", func() {
		var all []*keeper.Process
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				defer GinkgoRecover()
				for j := range 125 {
					p, err := conn.Start(keeper.Start{ID: fmt.Sprintf("%d-%d", i, j), Args: []string{"/bin/cat"}, Dir: "/", Permitted: allCaps})
					Expect(err).NotTo(HaveOccurred())
					mu.Lock()
					all = append(all, p)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for _, p := range all {
			Expect(p.CloseStdin()).To(Succeed())
		}
		for _, p := range all {
			Eventually(p.Ended(), "10s").Should(BeClosed())
			Expect(p.Status()).To(BeZero())
			Expect(p.Forget()).To(Succeed())
			p.CloseFiles()
		}
		Expect(conn.Close()).To(Succeed())
		conn = dial(dir)
		Expect(known).To(BeEmpty())
	})

	It("starts what ends before anybody can look", func() {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				defer GinkgoRecover()
				for range 50 {
					p, err := conn.Start(keeper.Start{Args: []string{"/bin/true"}, Dir: "/"})
					Expect(err).NotTo(HaveOccurred())
					<-p.Ended()
					Expect(p.Status()).To(BeZero())
					Expect(p.Forget()).To(Succeed())
					p.CloseFiles()
				}
			})
		}
		wg.Wait()
	})

	Describe("a server that comes back", func() {
		It("finds running and ended processes, their output and exit codes", func() {
			running := start(keeper.Start{ID: "running", Args: []string{"/bin/cat"}})
			quick := start(keeper.Start{ID: "quick", Args: []string{"/bin/sh", "-c", "echo last words; exit 9"}})
			closed := start(keeper.Start{ID: "closed", Args: []string{"/bin/sh", "-c", "cat >/dev/null; sleep 100"}, Env: []string{"PATH=/bin:/usr/bin"}})
			tty := start(keeper.Start{ID: "tty", Args: []string{"/bin/sh", "-c", "echo hi; sleep 100"}, Env: []string{"PATH=/bin:/usr/bin"}, TTY: true})
			Expect(closed.CloseStdin()).To(Succeed())
			Eventually(quick.Ended()).Should(BeClosed())
			Expect(conn.Close()).To(Succeed())
			for _, p := range []*keeper.Process{running, quick, closed, tty} {
				p.CloseFiles()
			}

			conn = dial(dir)
			byID := map[string]*keeper.Process{}
			for _, p := range known {
				DeferCleanup(p.CloseFiles)
				byID[p.ID] = p
			}
			Expect(byID).To(HaveLen(4))

			Expect(byID["quick"].Ended()).To(BeClosed())
			Expect(byID["quick"].Status()).To(Equal(9))
			Expect(io.ReadAll(byID["quick"].Stdout)).To(BeEquivalentTo("last words\n"))
			Expect(byID["quick"].Forget()).To(Succeed())

			_, err := byID["running"].Stdin.WriteString("again")
			Expect(err).NotTo(HaveOccurred())
			Expect(byID["running"].CloseStdin()).To(Succeed())
			Eventually(byID["running"].Ended()).Should(BeClosed())
			Expect(io.ReadAll(byID["running"].Stdout)).To(BeEquivalentTo("again"))

			Expect(byID["closed"].Stdin).To(BeNil())
			Expect(byID["tty"].TTY).To(BeTrue())
			out := &collector{}
			go out.from(byID["tty"].Master)
			Eventually(out.String).Should(Equal("hi\r\n"))
			Expect(byID["tty"].Signal(unix.SIGKILL)).To(Succeed())
			Eventually(byID["tty"].Ended()).Should(BeClosed())
			Expect(byID["tty"].Status()).To(Equal(137))
		})

		It("drops the connection before it", func() {
			old := conn
			conn = dial(dir)
			Eventually(old.Done()).Should(BeClosed())
			_, err := old.Start(keeper.Start{Args: []string{"/bin/true"}, Dir: "/"})
			Expect(err).To(MatchError(keeper.ErrGone))
		})

		It("finds no process that waited for its limits when the old one died", func() {
			held, release := make(chan struct{}), make(chan struct{})
			done := make(chan error, 1)
			old := conn
			go func() {
				_, err := old.Start(keeper.Start{ID: "held", Args: []string{"/bin/sleep", "100"}, Dir: "/", Limit: func(int) error {
					close(held)
					<-release
					return nil
				}})
				done <- err
			}()
			Eventually(held).Should(BeClosed())
			conn = dial(dir)
			close(release)
			Eventually(done).Should(Receive(MatchError(keeper.ErrGone)))
			Eventually(func() []string { return childrenOf(init.Process.Pid) }).Should(BeEmpty())
			Expect(conn.Close()).To(Succeed())
			conn = dial(dir)
			Expect(known).To(BeEmpty())
		})
	})

	It("says so when init has ended", func() {
		p := start(keeper.Start{Args: []string{"/bin/sleep", "100"}})
		Expect(init.Process.Kill()).To(Succeed())
		Eventually(conn.Done()).Should(BeClosed())
		Expect(p.Ended()).NotTo(BeClosed())
		_, err := conn.Start(keeper.Start{Args: []string{"/bin/true"}, Dir: "/"})
		Expect(err).To(MatchError(keeper.ErrGone))
		// The kernel may close the connection before the listener.
		again, err := keeper.Dial(filepath.Join(dir, "init.sock"))
		if err == nil {
			DeferCleanup(func() { _ = again.Close() }) // ended already
			_, err = again.Hello()
		}
		Expect(err).To(MatchError(keeper.ErrGone))
	})
})

// known is what the last dial's Hello answered.
var known []*keeper.Process

func dial(dir string) *keeper.Conn {
	GinkgoHelper()
	conn, err := keeper.Dial(filepath.Join(dir, "init.sock"))
	Expect(err).NotTo(HaveOccurred())
	known, err = conn.Hello()
	Expect(err).NotTo(HaveOccurred())
	return conn
}

func childrenOf(pid int) []string {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	return strings.Fields(string(raw))
}

type collector struct {
	mu  sync.Mutex
	out strings.Builder
}

func (c *collector) from(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		c.mu.Lock()
		c.out.Write(buf[:n])
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (c *collector) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

package rundmc_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	"code.cloudfoundry.org/lager/v3/lagertest"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/cgroups"
	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/rundmc"
	"github.com/verger-garden/verger/rundmc/bundle"
	"github.com/verger-garden/verger/rundmc/oci"
)

const maxID = 4294967294

var mappings = []specs.LinuxIDMapping{
	{ContainerID: 0, HostID: maxID, Size: 1},
	{ContainerID: 1, HostID: 1, Size: maxID - 1},
}

// A world is one server's depot and policy; several Containerizers may come
// and go in it, as servers do. At the end of the spec, or of the Ordered group,
// that made it, the host is as it was.
type world struct {
	config rundmc.Config
	log    *lagertest.TestLogger
	parent string
	dir    string
}

var (
	worlds   int
	suiteDir string
	initPath string // gdn-init, compiled once
)

var _ = BeforeSuite(func() { suiteDir = tempDir() })

// tempDir is one that users other than root can look into.
func tempDir() string {
	GinkgoHelper()
	dir, err := os.MkdirTemp("", "rundmc")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	Expect(os.Chmod(dir, 0o755)).To(Succeed())
	return dir
}

func newWorld(runtime string) *world {
	GinkgoHelper()
	testhost.Need(GinkgoT(), "root", runtime, "musl-gcc")
	worlds++
	dir := tempDir()
	w := &world{parent: fmt.Sprintf("/gdntest-rundmc-%d-%d", os.Getpid(), worlds), dir: dir}
	if initPath == "" {
		var err error
		initPath, err = testhost.BuildInit(suiteDir)
		Expect(err).NotTo(HaveOccurred())
	}
	filter, err := bundle.DefaultSeccomp()
	Expect(err).NotTo(HaveOccurred())
	bounding, err := bundle.HostCapabilities()
	Expect(err).NotTo(HaveOccurred())
	w.log = lagertest.NewTestLogger("rundmc")
	w.config = rundmc.Config{
		Depot:   filepath.Join(dir, "depot"),
		Runtime: oci.Runtime{Path: runtime, Root: filepath.Join(dir, "runtime")},
		Bundle: bundle.Config{
			InitPath: initPath, UIDMappings: mappings, GIDMappings: mappings,
			CgroupParent: w.parent, BoundingSet: bounding, Seccomp: filter,
		},
		Log: w.log,
	}
	before := testhost.Take(w.parent[1:])
	DeferCleanup(func() {
		Eventually(func() []string { return testhost.Diff(before, testhost.Take(w.parent[1:])) }).Should(BeEmpty())
	})
	return w
}

// rootfs is a file system whose root user is that of such containers.
func (w *world) rootfs(privileged bool) string {
	GinkgoHelper()
	dir := filepath.Join(w.dir, fmt.Sprintf("rootfs-%v", privileged))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	owner := maxID
	if privileged {
		owner = 0
	}
	Expect(testhost.Busybox(dir, owner)).To(Succeed())
	return dir
}

// server starts a Containerizer on the world's depot; at the end of the spec,
// or of the Ordered group, everything it has is destroyed.
func (w *world) server() *rundmc.Containerizer {
	GinkgoHelper()
	c, err := rundmc.New(w.config)
	Expect(err).NotTo(HaveOccurred())
	Expect(c.Start()).To(Succeed())
	DeferCleanup(func() {
		handles, err := c.Handles()
		Expect(err).NotTo(HaveOccurred())
		for _, h := range handles {
			Expect(c.Destroy(w.log, h)).To(Succeed())
			Expect(c.RemoveBundle(w.log, h)).To(Succeed())
		}
		Expect(c.Shutdown()).To(Succeed())
	})
	return c
}

func (w *world) desired(handle string, privileged bool) spec.DesiredContainerSpec {
	return spec.DesiredContainerSpec{
		Handle: handle, Privileged: privileged, Env: []string{"FROM=container"},
		BaseConfig: specs.Spec{Root: &specs.Root{Path: w.rootfs(privileged)}},
	}
}

func create(c *rundmc.Containerizer, w *world, handle string, privileged bool) {
	GinkgoHelper()
	Expect(c.Create(w.log, w.desired(handle, privileged))).To(Succeed())
}

// A buffer is an io.Writer that can be read while it is written.
type buffer struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

// A stuckWriter is a client that stays and takes nothing.
type stuckWriter chan struct{}

func (s stuckWriter) Write([]byte) (int, error) {
	<-s
	return 0, errors.New("gone")
}

// childWith is the child of pid with arg on its command line.
func childWith(pid int, arg string) int {
	GinkgoHelper()
	var found int
	Eventually(func() int {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // none: tried again
		for child := range strings.FieldsSeq(string(raw)) {
			line, _ := os.ReadFile("/proc/" + child + "/cmdline") // ended meanwhile
			if strings.Contains(string(line), "\x00"+arg+"\x00") {
				found, _ = strconv.Atoi(child) // the kernel's own
			}
		}
		return found
	}).ShouldNot(BeZero())
	return found
}

type result struct {
	code        int
	out, errout string
}

func sh(script string) garden.ProcessSpec {
	return garden.ProcessSpec{Path: "/bin/sh", Args: []string{"-c", script}}
}

func run(c *rundmc.Containerizer, handle string, s garden.ProcessSpec) result {
	GinkgoHelper()
	var out, errout buffer
	p, err := c.Run(lager.NewLogger("test"), handle, s, garden.ProcessIO{Stdout: &out, Stderr: &errout})
	Expect(err).NotTo(HaveOccurred())
	code, err := p.Wait()
	Expect(err).NotTo(HaveOccurred())
	return result{code, out.String(), errout.String()}
}

// behaves is what holds of processes in one container, one spec after the
// other, and of containers that have a spec to themselves.
func behaves(runtime string, privileged bool) {
	var (
		w, apart *world
		c        *rundmc.Containerizer
		log      = lager.NewLogger("test")
		stubborn garden.Process
		said     buffer
		stopped  = make(chan time.Duration, 1)
	)

	BeforeAll(func() {
		apart, w = newWorld(runtime), newWorld(runtime)
		c = w.server()
		create(c, w, "box", privileged)
		// Stopping it takes a while: the other specs run meanwhile.
		create(c, w, "stubborn", privileged)
		var err error
		stubborn, err = c.Run(log, "stubborn", sh(`trap 'echo term' TERM; echo ready; while :; do sleep 0.05; done`), garden.ProcessIO{Stdout: &said})
		Expect(err).NotTo(HaveOccurred())
		Eventually(said.String).Should(Equal("ready\n"))
		go func() {
			defer GinkgoRecover()
			at := time.Now()
			defer func() { stopped <- time.Since(at) }()
			Expect(c.Stop(log, "stubborn", false)).To(Succeed())
		}()
	})

	It("makes a sandbox as confined as it should be", func() {
		info, err := c.Info(log, "box")
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Pid).To(BeNumerically(">", 1))
		Expect(info.Stopped).To(BeFalse())
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", info.Pid))
		Expect(err).NotTo(HaveOccurred())
		ours, err := os.Readlink("/proc/self/ns/user")
		Expect(err).NotTo(HaveOccurred())
		if privileged {
			Expect(string(status)).To(ContainSubstring("Seccomp:\t0"))
			Expect(os.Readlink(fmt.Sprintf("/proc/%d/ns/user", info.Pid))).To(Equal(ours))
		} else {
			Expect(string(status)).To(ContainSubstring("Seccomp:\t2"))
			Expect(string(status)).To(ContainSubstring("CapBnd:\t00000000a80425fb"))
			Expect(os.Readlink(fmt.Sprintf("/proc/%d/ns/user", info.Pid))).NotTo(Equal(ours))
		}
		r := run(c, "box", sh(`id -u; hostname; cat /proc/1/comm; cat /proc/self/uid_map; grep -E 'Seccomp:|CapEff|CapBnd|NoNewPrivs' /proc/self/status; ls /proc/self/fd | wc -l; ls -A / | tr '\n' ' '`))
		Expect(r.errout).To(BeEmpty())
		Expect(r.out).To(HavePrefix("0\nbox\ngdn-init\n"))
		Expect(strings.TrimSpace(r.out)).To(HaveSuffix("\n4\nbin dev etc home proc root sys tmp"))
		if !privileged {
			Expect(strings.Join(strings.Fields(r.out), " ")).To(ContainSubstring("0 4294967294 1 1 1 4294967293 CapEff: 00000000a80425fb CapBnd: 00000000a80425fb NoNewPrivs: 0 Seccomp: 2"))
		}
	})

	It("keeps init out of the container's reach", func() {
		r := run(c, "box", sh(`kill -9 1; readlink /proc/1/fd/3; readlink /proc/1/exe; cat /proc/1/environ; head -c1 /proc/1/mem; echo x > /dev/.gdn-init; echo still here`))
		if privileged { // may look, but not end it
			Expect(r.out).To(HaveSuffix("still here\n"))
			return
		}
		Expect(r.out).To(Equal("still here\n"))
		Expect(r.errout).To(ContainSubstring("'/proc/1/environ': Permission denied"))
		Expect(r.errout).To(ContainSubstring("/proc/1/mem: Permission denied"))
		Expect(r.errout).To(ContainSubstring("/dev/.gdn-init: Read-only file system"))
	})

	DescribeTable("environment, directory, user",
		func(s garden.ProcessSpec, want string) {
			Expect(run(c, "box", s)).To(Equal(result{0, want, ""}))
		},
		Entry("root by default", sh(`echo $(id -u):$(id -g):$(id -G) $USER $HOME $PATH $FROM; pwd`),
			"0:0:0 root /root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container\n/root\n"),
		Entry("a user by name", garden.ProcessSpec{User: "alice", Path: "sh", Args: []string{"-c", `echo $(id -u):$(id -g):$(id -G) $USER $HOME $PATH; pwd`}},
			"1000:1001:1001 2000 alice /home/alice /usr/local/bin:/usr/bin:/bin\n/home/alice\n"),
		Entry("by numbers", garden.ProcessSpec{User: "77:88", Path: "/bin/sh", Args: []string{"-c", `echo $(id -u):$(id -g):$(id -G); pwd`}},
			"77:88:88\n/\n"),
		Entry("by uid of a listed user", garden.ProcessSpec{User: "1000", Path: "/bin/sh", Args: []string{"-c", `echo $(id -u):$(id -g):$(id -G)`}},
			"1000:1001:1001 2000\n"),
		Entry("the process's environment over the container's", garden.ProcessSpec{Path: "/bin/sh", Args: []string{"-c", `echo $FROM $USER`}, Env: []string{"FROM=process", "USER=me"}},
			"process me\n"),
		Entry("a directory made as the user", garden.ProcessSpec{User: "alice", Dir: "/tmp/a/b", Path: "/bin/sh", Args: []string{"-c", `pwd; stat -c '%U %a' /tmp/a . ; rm -r /tmp/a`}},
			"/tmp/a/b\nalice 755\nalice 755\n"),
		Entry("stdio that can be reopened", garden.ProcessSpec{User: "alice", Path: "/bin/sh", Args: []string{"-c", `echo out > /dev/stdout; ls -l /proc/self/fd/0 >/dev/null && : < /dev/stdin && echo in`}},
			"out\nin\n"),
		Entry("limits of resources", garden.ProcessSpec{Path: "/bin/sh", Args: []string{"-c", `ulimit -n; ulimit -f`}, Limits: garden.ResourceLimits{Nofile: new(uint64(99)), Fsize: new(uint64(512 * 7))}},
			"99\n7\n"),
	)

	DescribeTable("what cannot run",
		func(s garden.ProcessSpec, want string) {
			_, err := c.Run(log, "box", s, garden.ProcessIO{})
			Expect(err).To(MatchError(ContainSubstring(want)))
			_, notFound := errors.AsType[garden.ExecutableNotFoundError](err)
			Expect(notFound).To(Equal(strings.Contains(want, "no such executable")))
			info, err := c.Info(log, "box")
			Expect(err).NotTo(HaveOccurred())
			Expect(info.ProcessIDs).To(BeEmpty())
		},
		Entry("missing, absolute", garden.ProcessSpec{Path: "/no/such"}, "exec /no/such: no such executable in the container"),
		Entry("missing in PATH", garden.ProcessSpec{Path: "nosuch"}, "exec nosuch: no such executable in the container"),
		Entry("missing, relative", garden.ProcessSpec{Path: "./nosuch", Dir: "/bin"}, "exec ./nosuch: no such executable in the container"),
		Entry("missing, with a terminal", garden.ProcessSpec{Path: "nosuch", TTY: &garden.TTYSpec{}}, "exec nosuch: no such executable in the container"),
		Entry("not executable", garden.ProcessSpec{Path: "/etc/passwd"}, "exec /etc/passwd: permission denied"),
		Entry("unknown user", garden.ProcessSpec{Path: "true", User: "nobody-here"}, "unable to find user nobody-here"),
		Entry("forbidden directory", garden.ProcessSpec{Path: "true", User: "alice", Dir: "/root/x"}, "working directory /root/x as user alice: permission denied"),
		Entry("bad id", garden.ProcessSpec{Path: "true", ID: "a/b"}, `invalid process id "a/b"`),
		Entry("bind mounts", garden.ProcessSpec{Path: "true", BindMounts: []garden.BindMount{{}}}, "Running a process with bind mounts and no image provided is not allowed"),
	)

	It("passes stdin on, keeps the streams apart and the exit code", func() {
		var out, errout buffer
		p, err := c.Run(log, "box", sh(`cat; echo bad >&2; exit 42`), garden.ProcessIO{Stdin: strings.NewReader("in\x00\xff\n"), Stdout: &out, Stderr: &errout})
		Expect(err).NotTo(HaveOccurred())
		for range 3 {
			Expect(p.Wait()).To(Equal(42))
		}
		Expect(out.String()).To(Equal("in\x00\xff\n"))
		Expect(errout.String()).To(Equal("bad\n"))
	})

	It("signals, and tells the signal in the exit code", func() {
		for sig, code := range map[garden.Signal]int{garden.SignalTerminate: 143, garden.SignalKill: 137} {
			p, err := c.Run(log, "box", garden.ProcessSpec{Path: "sleep", Args: []string{"100"}}, garden.ProcessIO{})
			Expect(err).NotTo(HaveOccurred())
			Expect(p.Signal(sig)).To(Succeed())
			Expect(p.Wait()).To(Equal(code))
			Expect(p.Signal(sig)).To(Succeed())
		}
	})

	It("gives a terminal with its size", func() {
		var out buffer
		p, err := c.Run(log, "box", garden.ProcessSpec{
			Path: "/bin/sh", Args: []string{"-c", `tty; stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done`},
			TTY: &garden.TTYSpec{WindowSize: &garden.WindowSize{Columns: 90, Rows: 30}},
		}, garden.ProcessIO{Stdout: &out})
		Expect(err).NotTo(HaveOccurred())
		Eventually(out.String).Should(Equal("/dev/pts/0\r\n30 90\r\nready\r\n"))
		Expect(p.SetTTY(garden.TTYSpec{WindowSize: &garden.WindowSize{Columns: 91, Rows: 31}})).To(Succeed())
		Expect(p.Wait()).To(Equal(3))
		Expect(out.String()).To(HaveSuffix("31 91\r\n"))
	})

	It("collects all output of a process that ends at once", func() {
		for range 20 {
			r := run(c, "box", sh(`head -c 300000 /dev/zero; echo done >&2`))
			Expect(len(r.out)).To(Equal(300000))
			Expect(r.errout).To(Equal("done\n"))
		}
		for range 10 {
			s := sh(`head -c 100000 /dev/zero | tr '\0' x`)
			s.TTY = &garden.TTYSpec{}
			Expect(len(run(c, "box", s).out)).To(Equal(100000))
		}
	})

	It("does not wait for what a process left in the background", func() {
		r := run(c, "box", sh(`(sleep 100; echo late) & echo early`))
		Expect(r.out).To(Equal("early\n"))
		Expect(run(c, "box", sh(`kill -9 -1`)).code).To(BeZero())
	})

	It("gives every attached client all output from then on, and the code to late ones", func() {
		var first, second buffer
		stdin, feed := io.Pipe()
		p, err := c.Run(log, "box", garden.ProcessSpec{ID: "shared", Path: "cat"}, garden.ProcessIO{Stdin: stdin, Stdout: &first})
		Expect(err).NotTo(HaveOccurred())
		_, err = io.WriteString(feed, "one\n")
		Expect(err).NotTo(HaveOccurred())
		Eventually(first.String).Should(Equal("one\n"))
		again, err := c.Attach(log, "box", "shared", garden.ProcessIO{Stdout: &second})
		Expect(err).NotTo(HaveOccurred())
		_, err = io.WriteString(feed, "two\n")
		Expect(err).NotTo(HaveOccurred())
		Expect(feed.Close()).To(Succeed())
		for _, each := range []garden.Process{p, again} {
			Expect(each.ID()).To(Equal("shared"))
			Expect(each.Wait()).To(Equal(0))
		}
		Expect(first.String()).To(Equal("one\ntwo\n"))
		Expect(second.String()).To(Equal("two\n"))

		late, err := c.Attach(log, "box", "shared", garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		Expect(late.Wait()).To(Equal(0))
		_, err = c.Attach(log, "box", "nosuch", garden.ProcessIO{})
		Expect(err).To(Equal(garden.ProcessNotFoundError{ProcessID: "nosuch"}))
		_, err = c.Run(log, "box", garden.ProcessSpec{ID: "shared", Path: "cat"}, garden.ProcessIO{})
		Expect(err).To(MatchError("process ID 'shared' already in use"))
	})

	It("keeps a bounded rest of the output for a client that comes back, once", func() {
		stdin, lose := io.Pipe()
		var before, after, third buffer
		_, err := c.Run(log, "box", garden.ProcessSpec{ID: "p", Path: "/bin/sh", Args: []string{"-c",
			`echo first; while [ ! -e /tmp/go ]; do sleep 0.02; done; head -c 400000 /dev/zero | tr '\0' x; echo end; touch /tmp/written; while [ -e /tmp/go ]; do sleep 0.02; done; echo last; rm /tmp/written`}},
			garden.ProcessIO{Stdin: stdin, Stdout: &before})
		Expect(err).NotTo(HaveOccurred())
		Eventually(before.String).Should(Equal("first\n"))
		Expect(lose.CloseWithError(errors.New("Connection closed"))).To(Succeed())
		Expect(run(c, "box", sh(`sleep 0.1; touch /tmp/go; while [ ! -e /tmp/written ]; do sleep 0.02; done`)).code).To(BeZero())
		// The server reads on meanwhile; one that does not fails here.
		Expect(run(c, "box", sh(`sleep 0.3`)).code).To(BeZero())
		again, err := c.Attach(log, "box", "p", garden.ProcessIO{Stdout: &after})
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.HasSuffix(after.String(), "x\nend\n") || strings.HasSuffix(after.String(), "xend\n")).To(BeTrue())
		Expect(len(after.String())).To(BeNumerically("<=", rundmc.DefaultReplayBuffer))
		Expect(len(after.String())).To(BeNumerically(">", rundmc.DefaultReplayBuffer-70000))
		_, err = c.Attach(log, "box", "p", garden.ProcessIO{Stdout: &third})
		Expect(err).NotTo(HaveOccurred())
		Expect(run(c, "box", sh(`rm /tmp/go`)).code).To(BeZero())
		Expect(again.Wait()).To(Equal(0))
		Expect(third.String()).To(Equal("last\n"))
	})

	It("measures", func() {
		Expect(run(c, "box", sh(`i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done`)).code).To(BeZero())
		m, err := c.Metrics(log, "box")
		Expect(err).NotTo(HaveOccurred())
		Expect(m.CPU.Usage).To(BeNumerically(">", 1000000))
		Expect(m.Memory.TotalUsageTowardLimit).To(BeNumerically(">", 0))
		Eventually(func() uint64 { m, _ = c.Metrics(log, "box"); return m.Pid.Current }).Should(BeEquivalentTo(1))
		Expect(m.Age).To(BeNumerically(">", 0))
	})

	It("logs a line per outcome, and nobody's secrets", func() {
		logged := lagertest.NewTestLogger("caller")
		p, err := c.Run(logged, "box", garden.ProcessSpec{ID: "logged", Path: "sh", Args: []string{"-c", "exit 3 # hush-arg"}, Env: []string{"PASSWORD=hush-env"}}, garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		Expect(p.Wait()).To(Equal(3))
		_, err = c.Attach(logged, "box", "logged", garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		_, err = c.Run(logged, "box", garden.ProcessSpec{ID: "missing", Path: "nosuch", Args: []string{"hush-arg"}, Env: []string{"PASSWORD=hush-env"}}, garden.ProcessIO{})
		Expect(err).To(HaveOccurred())
		Expect(logged.LogMessages()).To(Equal([]string{"caller.started", "caller.attached", "caller.run-failed"}))
		Expect(w.log.Buffer()).To(gbytes.Say(`process-ended.*"process":"logged"`))
		for _, l := range []*lagertest.TestLogger{logged, w.log} {
			Expect(string(l.Buffer().Contents())).NotTo(ContainSubstring("hush"))
		}
	})

	Describe("a container", func() { livesAndDies(&apart, privileged) })

	It("tells a process once to end, and kills it after ten seconds", func() {
		var took time.Duration
		Eventually(stopped, "15s").Should(Receive(&took))
		Expect(took).To(BeNumerically("~", 10*time.Second, time.Second))
		Expect(stubborn.Wait()).To(Equal(137))
		Expect(said.String()).To(Equal("ready\nterm\n"))
	})
}

// livesAndDies is what needs a container of its own.
func livesAndDies(in **world, privileged bool) {
	var (
		w   *world
		c   *rundmc.Containerizer
		log = lager.NewLogger("test")
	)

	BeforeEach(func() {
		w = *in
		c = w.server()
		create(c, w, "box", privileged)
	})

	Describe("stop", func() {
		It("terminates all but init, then reports the container as stopped", func() {
			var out buffer
			p, err := c.Run(log, "box", sh(`trap 'exit 5' TERM; sleep 100 & echo ready; while :; do sleep 0.05; done`), garden.ProcessIO{Stdout: &out})
			Expect(err).NotTo(HaveOccurred())
			Eventually(out.String).Should(Equal("ready\n"))
			q, err := c.Run(log, "box", garden.ProcessSpec{Path: "sleep", Args: []string{"100"}}, garden.ProcessIO{})
			Expect(err).NotTo(HaveOccurred())
			at := time.Now()
			Expect(c.Stop(log, "box", false)).To(Succeed())
			Expect(time.Since(at)).To(BeNumerically("<", 9*time.Second))
			Expect(p.Wait()).To(Equal(5))
			Expect(q.Wait()).To(Equal(143))
			info, err := c.Info(log, "box")
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Stopped).To(BeTrue())
			Expect(info.ProcessIDs).To(BeEmpty())
		})

		It("kills at once if told to", func() {
			var out buffer
			p, err := c.Run(log, "box", sh(`trap '' TERM; echo ready; while :; do sleep 0.05; done`), garden.ProcessIO{Stdout: &out})
			Expect(err).NotTo(HaveOccurred())
			Eventually(out.String).Should(Equal("ready\n"))
			at := time.Now()
			Expect(c.Stop(log, "box", true)).To(Succeed())
			Expect(time.Since(at)).To(BeNumerically("<", 3*time.Second))
			Expect(p.Wait()).To(Equal(137))
		})
	})

	It("destroys with processes running, again and again", func() {
		p, err := c.Run(log, "box", sh(`trap '' TERM; sleep 100 & sleep 100`), garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		Expect(c.Destroy(log, "box")).To(Succeed())
		Expect(p.Wait()).To(Equal(137))
		Expect(c.Destroy(log, "box")).To(Succeed())
		Expect(c.Handles()).To(ConsistOf("box"))
		Expect(c.RemoveBundle(log, "box")).To(Succeed())
		Expect(c.Handles()).To(BeEmpty())
		_, err = c.Info(log, "box")
		Expect(err).To(Equal(garden.ContainerNotFoundError{Handle: "box"}))
		create(c, w, "box", privileged)
		Expect(run(c, "box", sh("echo back")).out).To(Equal("back\n"))
	})

	It("destroys what is frozen", func() {
		p, err := c.Run(log, "box", sh("sleep 100"), garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		frozen := false
		for file, value := range map[string]string{"freezer" + w.parent + "/box/freezer.state": "FROZEN", w.parent[1:] + "/box/cgroup.freeze": "1"} {
			frozen = frozen || os.WriteFile(filepath.Join(cgroups.Root, file), []byte(value), 0) == nil
		}
		Expect(frozen).To(BeTrue())
		Expect(c.Destroy(log, "box")).To(Succeed())
		Expect(p.Wait()).To(Equal(137))
	})

	It("forgets for good what it is told to forget at Wait", func() {
		Expect(c.Shutdown()).To(Succeed())
		w.config.CleanupProcessDirsOnWait = true
		DeferCleanup(func() { w.config.CleanupProcessDirsOnWait = false })
		c = w.server()
		once := garden.ProcessSpec{ID: "once", Path: "true"}
		Expect(run(c, "box", once).code).To(BeZero())
		Expect(run(c, "box", once).code).To(BeZero())
		Expect(c.Shutdown()).To(Succeed())
		c = w.server()
		Expect(run(c, "box", once).code).To(BeZero())
	})

	It("destroys though a client takes nothing, and though others hold the pipes", func() {
		stuck := make(stuckWriter)
		DeferCleanup(func() { close(stuck) })
		p, err := c.Run(log, "box", sh("echo one; exec sleep 100"), garden.ProcessIO{Stdout: stuck})
		Expect(err).NotTo(HaveOccurred())
		var out buffer
		q, err := c.Run(log, "box", sh("echo up; exec sleep 101"), garden.ProcessIO{Stdout: &out})
		Expect(err).NotTo(HaveOccurred())
		Eventually(out.String).Should(Equal("up\n"))
		info, err := c.Info(log, "box")
		Expect(err).NotTo(HaveOccurred())
		// As a process of another container would, to which it was passed.
		held, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", childWith(info.Pid, "101")), os.O_WRONLY, 0)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { _ = held.Close() })

		destroyed := make(chan error, 1)
		go func() { destroyed <- c.Destroy(log, "box") }()
		Eventually(destroyed, "5s").Should(Receive(BeNil()))
		Expect(p.Wait()).To(Equal(137))
		Expect(q.Wait()).To(Equal(137))
	})

	Describe("a restart", func() {
		It("does not wait for a client that takes nothing", func() {
			stuck := make(stuckWriter)
			DeferCleanup(func() { close(stuck) })
			_, err := c.Run(log, "box", garden.ProcessSpec{ID: "p", Path: "/bin/sh", Args: []string{"-c", "echo one; read x; echo two"}}, garden.ProcessIO{Stdout: stuck})
			Expect(err).NotTo(HaveOccurred())
			done := make(chan error, 1)
			go func() { done <- c.Shutdown() }()
			Eventually(done, "5s").Should(Receive(BeNil()))
			c = w.server()
			var out buffer
			p, err := c.Attach(log, "box", "p", garden.ProcessIO{Stdin: strings.NewReader("\n"), Stdout: &out})
			Expect(err).NotTo(HaveOccurred())
			Expect(p.Wait()).To(Equal(0))
			Expect(out.String()).To(HaveSuffix("two\n"))
		})

		It("takes up what runs though its lesser records cannot be read, and says so", func() {
			_, err := c.Run(log, "box", garden.ProcessSpec{ID: "cat", Path: "cat"}, garden.ProcessIO{})
			Expect(err).NotTo(HaveOccurred())
			Expect(c.Shutdown()).To(Succeed())
			box := filepath.Join(w.config.Depot, "box")
			Expect(os.WriteFile(filepath.Join(box, "exits"), []byte("{\n{}\n"), 0o600)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(box, "replay", "cat.out"), []byte("bad"), 0o600)).To(Succeed())
			c = w.server()
			Expect(w.log.Errors).To(ContainElements(
				MatchError(ContainSubstring("box/exits.unreadable")), MatchError(ContainSubstring("replay/cat.out"))))
			info, err := c.Info(log, "box")
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Stopped).To(BeFalse())
			Expect(filepath.Join(box, "exits.unreadable")).To(BeARegularFile())
			var out buffer
			p, err := c.Attach(log, "box", "cat", garden.ProcessIO{Stdin: strings.NewReader("hello"), Stdout: &out})
			Expect(err).NotTo(HaveOccurred())
			Expect(p.Wait()).To(Equal(0))
			Expect(out.String()).To(Equal("hello"))
		})

		It("finds containers, processes, output and exit codes again", func() {
			var out buffer
			_, err := c.Run(log, "box", garden.ProcessSpec{ID: "cat", Path: "cat"}, garden.ProcessIO{Stdout: &out})
			Expect(err).NotTo(HaveOccurred())
			_, err = c.Run(log, "box", garden.ProcessSpec{ID: "before", Path: "/bin/sh", Args: []string{"-c", "exit 11"}}, garden.ProcessIO{})
			Expect(err).NotTo(HaveOccurred())
			_, err = c.Run(log, "box", garden.ProcessSpec{ID: "meanwhile", Path: "/bin/sh", Args: []string{"-c", "until [ -e /tmp/down ]; do sleep 0.02; done; echo words; exit 12"}}, garden.ProcessIO{})
			Expect(err).NotTo(HaveOccurred())
			before, err := c.Attach(log, "box", "before", garden.ProcessIO{})
			Expect(err).NotTo(HaveOccurred())
			Expect(before.Wait()).To(Equal(11))
			Expect(c.Shutdown()).To(Succeed())
			tmp := filepath.Join(w.rootfs(privileged), "tmp")
			Expect(os.WriteFile(filepath.Join(tmp, "down"), nil, 0o644)).To(Succeed())
			time.Sleep(200 * time.Millisecond) // no server runs that could tell

			c = w.server()
			info, err := c.Info(log, "box")
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Stopped).To(BeFalse())
			Eventually(func() []string { info, _ = c.Info(log, "box"); return info.ProcessIDs }).Should(ConsistOf("cat"))

			before, err = c.Attach(log, "box", "before", garden.ProcessIO{})
			Expect(err).NotTo(HaveOccurred())
			Expect(before.Wait()).To(Equal(11))
			var words buffer
			meanwhile, err := c.Attach(log, "box", "meanwhile", garden.ProcessIO{Stdout: &words})
			Expect(err).NotTo(HaveOccurred())
			Expect(meanwhile.Wait()).To(Equal(12))
			Expect(words.String()).To(Equal("words\n"))

			var again buffer
			cat, err := c.Attach(log, "box", "cat", garden.ProcessIO{Stdin: strings.NewReader("hello"), Stdout: &again})
			Expect(err).NotTo(HaveOccurred())
			Expect(cat.Wait()).To(Equal(0))
			Expect(again.String()).To(Equal("hello"))
			_, err = c.Run(log, "box", garden.ProcessSpec{ID: "meanwhile", Path: "true"}, garden.ProcessIO{})
			Expect(err).To(MatchError("process ID 'meanwhile' already in use"))
			Expect(run(c, "box", sh("echo new")).out).To(Equal("new\n"))
			Expect(c.Destroy(log, "box")).To(Succeed())
		})

		It("reports a container whose init died meanwhile as stopped, and destroys it", func() {
			info, err := c.Info(log, "box")
			Expect(err).NotTo(HaveOccurred())
			Expect(c.Shutdown()).To(Succeed())
			Expect(unix.Kill(info.Pid, unix.SIGKILL)).To(Succeed())
			c = w.server()
			info, err = c.Info(log, "box")
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Stopped).To(BeTrue())
			_, err = c.Run(log, "box", sh("true"), garden.ProcessIO{})
			Expect(err).To(MatchError("container box has no init any more: destroy it"))
			Expect(c.Destroy(log, "box")).To(Succeed())
		})

		It("destroys a container whose record is lost", func() {
			Expect(c.Shutdown()).To(Succeed())
			Expect(os.WriteFile(filepath.Join(w.config.Depot, "box", "container.json"), []byte("{"), 0o600)).To(Succeed())
			c = w.server()
			Expect(w.log.Errors).To(ContainElement(MatchError(ContainSubstring("box/container.json"))))
			Expect(c.Destroy(log, "box")).To(Succeed())
		})
	})

	It("notices that init ends while it looks", func() {
		p, err := c.Run(log, "box", garden.ProcessSpec{Path: "sleep", Args: []string{"100"}}, garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		info, err := c.Info(log, "box")
		Expect(err).NotTo(HaveOccurred())
		Expect(unix.Kill(info.Pid, unix.SIGKILL)).To(Succeed())
		Expect(p.Wait()).To(Equal(137))
		Eventually(func() bool { info, _ = c.Info(log, "box"); return info.Stopped }).Should(BeTrue())
	})
}

var _ = Describe("rundmc", Label("root"), func() {
	for name, runtime := range testhost.Runtimes() {
		for _, privileged := range []bool{false, true} {
			Describe(fmt.Sprintf("with %s, privileged %v", name, privileged), Ordered, ContinueOnFailure, func() { behaves(runtime, privileged) })
		}
	}

	for name, runtime := range testhost.Runtimes() {
		It("leaves the host's null device to root, with "+name, func() {
			restore := func() { Expect(os.Chown("/dev/null", 0, 0)).To(Succeed()) }
			restore()
			DeferCleanup(restore)
			w := newWorld(runtime)
			c := w.server()
			Expect(c.Create(w.log, w.desired("box", false))).To(Succeed())
			var null unix.Stat_t
			Expect(unix.Stat("/dev/null", &null)).To(Succeed())
			Expect(null.Uid).To(BeZero())
			Expect(c.Destroy(w.log, "box")).To(Succeed())
			Expect(c.RemoveBundle(w.log, "box")).To(Succeed())
		})
	}

	Describe("with a runtime that is none", func() {
		DescribeTable("does not start", func(script, want string) {
			w := newWorld(testhost.Runtimes()["crun"])
			w.config.Runtime.Path = filepath.Join(GinkgoT().TempDir(), "runtime")
			if script != "" {
				Expect(os.WriteFile(w.config.Runtime.Path, []byte(script), 0o755)).To(Succeed())
			}
			c, err := rundmc.New(w.config)
			Expect(err).NotTo(HaveOccurred())
			Expect(c.Start()).To(MatchError(And(ContainSubstring(w.config.Runtime.Path), ContainSubstring(want), ContainSubstring("--runtime-plugin"))))
			Expect(w.config.Depot).NotTo(BeADirectory())
		},
			Entry("missing", "", "no such file"),
			Entry("something else", "#!/bin/sh\necho hello 1.0\n", `hello 1.0`),
			Entry("failing", "#!/bin/sh\nexit 3\n", "exit status 3"),
		)

		It("says what a failing runtime said, and leaves nothing", func() {
			w := newWorld(testhost.Runtimes()["runc"])
			c := w.server()
			d := w.desired("box", false)
			d.BaseConfig.Root.Path = "/no/such/rootfs"
			err := c.Create(w.log, d)
			Expect(err).To(MatchError(And(ContainSubstring("runc run: exit status 1"), ContainSubstring("/no/such/rootfs"))))
			Expect(c.Handles()).To(ConsistOf("box"))
			Expect(c.Destroy(w.log, "box")).To(Succeed())
			Expect(c.RemoveBundle(w.log, "box")).To(Succeed())
		})

		It("says that init ended at its start", func() {
			w := newWorld(testhost.Runtimes()["runc"])
			script := filepath.Join(filepath.Dir(w.config.Depot), "dies")
			Expect(os.Link(filepath.Join(w.rootfs(true), "bin/busybox"), script)).To(Succeed())
			w.config.Bundle.InitPath = script // busybox with an unknown applet name
			c := w.server()
			err := c.Create(w.log, w.desired("box", false))
			Expect(err).To(MatchError(ContainSubstring("init")))
			Expect(c.Destroy(w.log, "box")).To(Succeed())
			Expect(c.RemoveBundle(w.log, "box")).To(Succeed())
		})
	})
})

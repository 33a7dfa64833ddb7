package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/onsi/gomega/gbytes"
	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// A console is a terminal with a person before it.
type console struct {
	person   *os.File // reads the screen, types
	terminal *os.File // what programs have as terminal
	screen   *gbytes.Buffer
}

func newConsole() *console {
	GinkgoHelper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	Expect(err).NotTo(HaveOccurred())
	fd := int(person.Fd())
	Expect(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)).To(Succeed())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	Expect(err).NotTo(HaveOccurred())
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	Expect(err).NotTo(HaveOccurred())
	c := &console{person: person, terminal: terminal, screen: gbytes.NewBuffer()}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(io.MultiWriter(c.screen, GinkgoWriter), person) // ends with the terminal
	}()
	DeferCleanup(func() {
		Expect(terminal.Close()).To(Succeed())
		Eventually(read).Should(BeClosed())
		Expect(person.Close()).To(Succeed())
	})
	c.resize(80, 24)
	return c
}

func (c *console) resize(columns, rows uint16) {
	GinkgoHelper()
	Expect(unix.IoctlSetWinsize(int(c.person.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})).To(Succeed())
}

func (c *console) mode() unix.Termios {
	GinkgoHelper()
	mode, err := unix.IoctlGetTermios(int(c.terminal.Fd()), unix.TCGETS)
	Expect(err).NotTo(HaveOccurred())
	return *mode
}

func (c *console) types(text string) {
	GinkgoHelper()
	Expect(io.WriteString(c.person, text)).Error().NotTo(HaveOccurred())
}

// start starts cmd in this terminal. The channel gets its exit code.
func (c *console) start(cmd *exec.Cmd) <-chan int {
	GinkgoHelper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.terminal, c.terminal, c.terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	cmd.Env = append(cmd.Env, "TERM=vt220")
	Expect(cmd.Start()).To(Succeed())
	exited := make(chan int, 1)
	go func() {
		_ = cmd.Wait() // the code says it
		exited <- cmd.ProcessState.ExitCode()
	}()
	return exited
}

var _ = Describe("a terminal", Label("root"), func() {
	var (
		g      ground
		c      *console
		before unix.Termios
	)
	BeforeEach(func() {
		g = newGround(runc())
		g.start()
		c = newConsole()
		before = c.mode()
	})
	AfterEach(func() {
		Expect(c.mode()).To(Equal(before), "the terminal is as it was")
	})

	sees := func(text string) {
		GinkgoHelper()
		Eventually(c.screen, 20*time.Second).Should(gbytes.Say(text))
	}

	It("is a shell's, with its size and type", func() {
		c.resize(101, 37)
		exited := c.start(g.gdn("run", "--rm", "-it", "--", "sh"))
		sees(`\$ |# `)
		c.types("stty size; echo $TERM; tty\n")
		sees("37 101\r\n")
		sees("vt220\r\n")
		sees("/dev/(pts/0|console)\r\n")
		c.types("exit 4\n")
		Eventually(exited, 20*time.Second).Should(Receive(Equal(4)))
	})

	It("passes on that its size changed", func() {
		exited := c.start(g.gdn("run", "--rm", "-it", "--", "sh", "-c", "trap 'stty size' WINCH; echo ready; while [ ! -e /tmp/end ]; do sleep 0.05; done"))
		sees("ready")
		c.resize(90, 30)
		sees("30 90\r\n")
		c.resize(91, 31)
		sees("31 91\r\n")
		c.types("\x03") // the terminal inside makes a SIGINT of it
		Eventually(exited, 20*time.Second).Should(Receive(Equal(128 + 2)))
	})

	It("passes every key on", func() {
		exited := c.start(g.gdn("run", "--rm", "-it", "--", "sh", "-c", "stty raw -echo; echo ready; dd bs=1 count=4 2>/dev/null | hexdump -C"))
		sees("ready")
		c.types("\x03\x1a\x11\x04")
		sees("03 1a 11 04")
		Eventually(exited, 20*time.Second).Should(Receive(Equal(0)))
	})

	DescribeTable("is restored",
		func(code int, args ...string) {
			exited := c.start(g.gdn(args...))
			Eventually(exited, 20*time.Second).Should(Receive(Equal(code)))
		},
		Entry("when the command is missing", exitNotFound, "run", "--rm", "-it", "--", "/no/such/program"),
		Entry("when the container is missing", exitTrouble, "exec", "-it", "nosuch", "--", "sh"),
		Entry("when the process fails", 3, "run", "--rm", "-it", "--", "sh", "-c", "exit 3"),
	)

	It("is restored when a signal ends it all", func() {
		cmd := g.gdn("run", "--rm", "-it", "--", "sh", "-c", "echo ready; sleep 1000")
		exited := c.start(cmd)
		sees("ready")
		Expect(c.mode()).NotTo(Equal(before), "it is raw meanwhile")
		Expect(cmd.Process.Signal(syscall.SIGTERM)).To(Succeed())
		Eventually(exited, 20*time.Second).Should(Receive(BeNumerically(">", 0)))
	})

	It("is not needed for -t", func() {
		session := g.run("run", "--rm", "-t", "--", "sh", "-c", "tty; echo $TERM")
		Expect(session).To(gbytes.Say("/dev/(pts/0|console)"))
		Expect(session.ExitCode()).To(BeZero())
	})
})

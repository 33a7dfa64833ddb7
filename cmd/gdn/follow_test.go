package main

import (
	"net"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/onsi/gomega/gbytes"
	"github.com/onsi/gomega/gexec"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("following a process", Label("root"), func() {
	var g ground
	BeforeEach(func() {
		g = newGround(runc())
		g.start()
	})

	handles := func() []string {
		return strings.Fields(string(g.run("ps", "-q").Out.Contents()))
	}

	DescribeTable("a signal to gdn asks the process to end",
		func(sig syscall.Signal) {
			session := g.begin("run", "--rm", "--", "sh", "-c", "trap 'echo asked; exit 9' TERM; echo ready; while true; do sleep 0.05; done")
			Eventually(session, 20*time.Second).Should(gbytes.Say("ready"))
			session.Signal(sig)
			Eventually(session, 20*time.Second).Should(gexec.Exit(9))
			Expect(session).To(gbytes.Say("asked"))
			Expect(handles()).To(BeEmpty())
		},
		Entry("SIGINT", syscall.SIGINT),
		Entry("SIGTERM", syscall.SIGTERM),
		Entry("SIGHUP", syscall.SIGHUP),
	)

	It("a second signal kills it", func() {
		session := g.begin("run", "--rm", "--", "sh", "-c", "trap 'echo asked' TERM; echo ready; while true; do sleep 0.05; done")
		Eventually(session, 20*time.Second).Should(gbytes.Say("ready"))
		session.Signal(syscall.SIGINT)
		Eventually(session, 20*time.Second).Should(gbytes.Say("asked"))
		session.Signal(syscall.SIGINT)
		Eventually(session, 20*time.Second).Should(gexec.Exit(128 + 9))
		Expect(handles()).To(BeEmpty())
	})

	It("a signal reaches a process that does not read its input", func() {
		cmd := g.gdn("run", "--rm", "-i", "--", "sh", "-c", "echo ready; exec sleep 1000")
		input, err := cmd.StdinPipe()
		Expect(err).NotTo(HaveOccurred())
		session, err := gexec.Start(cmd, GinkgoWriter, GinkgoWriter)
		Expect(err).NotTo(HaveOccurred())
		Eventually(session, 20*time.Second).Should(gbytes.Say("ready"))
		go func() {
			_, _ = input.Write([]byte(strings.Repeat("nobody reads this\n", 100_000))) // until gdn ends
		}()
		session.Signal(syscall.SIGTERM)
		Eventually(session, 20*time.Second).Should(gexec.Exit(128 + 15))
	})

	It("ends the process when nobody reads its output any more", func() {
		cmd := g.gdn("run", "--rm", "--handle", "chatty", "--", "yes")
		reader, err := cmd.StdoutPipe()
		Expect(err).NotTo(HaveOccurred())
		Expect(cmd.Start()).To(Succeed())
		Expect(reader.Read(make([]byte, 10))).To(BeNumerically(">", 0))
		Expect(reader.Close()).To(Succeed())
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		Eventually(done, 20*time.Second).Should(Receive(BeAssignableToTypeOf(&exec.ExitError{})))
		Expect(cmd.ProcessState.ExitCode()).To(Equal(128 + 15))
		Expect(handles()).To(BeEmpty())
	})

	It("attach joins a process that runs, and leaves with its exit code", func() {
		Expect(g.run("create", "--handle", "web")).To(gexec.Exit(0))
		first := g.begin("exec", "web", "--", "sh", "-c", "while [ ! -e /tmp/go ]; do echo tick; sleep 0.05; done; exit 5")
		Eventually(first, 20*time.Second).Should(gbytes.Say("tick"))
		process := strings.Fields(string(g.run("ps").Out.Contents()))
		second := g.begin("attach", "web", process[len(process)-1])
		Eventually(second, 20*time.Second).Should(gbytes.Say("tick"))
		Expect(g.run("exec", "web", "--", "touch", "/tmp/go")).To(gexec.Exit(0))
		Eventually(first, 20*time.Second).Should(gexec.Exit(5))
		Eventually(second, 20*time.Second).Should(gexec.Exit(5))
		Expect(g.run("rm", "web")).To(gexec.Exit(0))
	})
})

var _ = Describe("a server that goes away", Label("root"), func() {
	It("is told from a process that ends", func() {
		g := newGround(runc())
		server := g.start()
		session := g.begin("run", "--handle", "web", "--", "sh", "-c", "echo ready; while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 5")
		Eventually(session, 20*time.Second).Should(gbytes.Say("ready"))
		server.Signal(syscall.SIGTERM)
		Eventually(session, 20*time.Second).Should(gexec.Exit(exitTrouble))
		Expect(session.Err).To(gbytes.Say(`gdn: the server went away, process \S+ of container web did not: follow it again with "gdn attach web \S+"`))
		Eventually(server, 20*time.Second).Should(gexec.Exit(0))

		g.start()
		process := strings.Fields(string(g.run("ps").Out.Contents()))
		again := g.begin("attach", "web", process[len(process)-1])
		Expect(g.run("exec", "web", "--", "touch", "/tmp/go")).To(gexec.Exit(0))
		Eventually(again, 20*time.Second).Should(gexec.Exit(5))
		Expect(g.run("rm", "web")).To(gexec.Exit(0))
	})
})

var _ = Describe("a server that is told to stop", Label("root"), func() {
	// halfAsked is a server with a client that began to ask and got stuck.
	halfAsked := func() *gexec.Session {
		GinkgoHelper()
		g := newGround(runc())
		server := g.launch("--read-header-timeout", "0", "--log-level", "debug")
		before := len(server.Out.Contents())
		conn, err := net.Dial("unix", g.socket)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(conn.Close)
		Expect(conn.Write([]byte("GET /ping HTTP/1.1\r\n"))).To(BeNumerically(">", 0))
		Eventually(func() string { return string(server.Out.Contents()[before:]) }).Should(ContainSubstring("connection.open"))
		return server
	}

	It("does not wait for a stuck client if told twice", func() {
		server := halfAsked()
		server.Signal(syscall.SIGTERM)
		Eventually(server, 5*time.Second).Should(gbytes.Say("waiting-for-connections-to-close"))
		Consistently(server, 200*time.Millisecond).ShouldNot(gexec.Exit())
		server.Signal(syscall.SIGTERM)
		Eventually(server, 5*time.Second).Should(gexec.Exit(0))
		Expect(server).To(gbytes.Say("stopped-with-calls-under-way"))
	})

	It("does not wait for a stuck client longer than it says", func() {
		server := halfAsked()
		server.Signal(syscall.SIGTERM)
		Consistently(server, stopPatience-2*time.Second).ShouldNot(gexec.Exit())
		Eventually(server, 10*time.Second).Should(gexec.Exit(0))
	})
})

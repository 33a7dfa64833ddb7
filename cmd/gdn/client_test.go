package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"code.cloudfoundry.org/garden"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("what people are told", func() {
	o := clientOptions{Socket: "/x.sock"}
	dial := func(errno syscall.Errno) error {
		return &url.Error{Op: "Get", URL: "http://api/ping", Err: &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", errno)}}
	}

	DescribeTable("of an error",
		func(err error, expected string) {
			Expect(o.explain(err)).To(MatchError(expected))
		},
		Entry("no socket", dial(syscall.ENOENT), `no server at /x.sock: start one with "gdn server" or name it with --socket`),
		Entry("a socket left behind", dial(syscall.ECONNREFUSED), `no server at /x.sock: start one with "gdn server" or name it with --socket`),
		Entry("somebody else's socket", dial(syscall.EACCES), `no access to /x.sock: be root or in the socket's group`),
		Entry("no such container", garden.ContainerNotFoundError{Handle: "web"}, `no container "web": see "gdn ps"`),
		Entry("no such process", fmt.Errorf("attach: %w", garden.ProcessNotFoundError{ProcessID: "p"}), `no process "p": "gdn ps" lists those that run`),
		Entry("an address that is none", &url.Error{Op: "Get", URL: "http://api/ping", Err: &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "x"}}},
			"no way to the server at /x.sock: lookup x: no such host: name another with --socket"),
		Entry("a server that ends meanwhile", &url.Error{Op: "Post", URL: "http://api/containers", Err: io.EOF},
			"the server at /x.sock went away before it answered: its log may say why"),
		Entry("a handle in use", garden.Error{Err: errors.New("Handle 'web' already in use")},
			`there is already a container "web": choose another --handle, or remove it with "gdn rm web"`),
		Entry("anything else", errors.New("as it is"), "as it is"),
	)

	DescribeTable("when an exit code is missing",
		func(err error, expected string) {
			Expect(lost(err, "web", "p")).To(MatchError(expected))
		},
		Entry("server stopped", errors.New("connection: decode failed: EOF"),
			`the server went away, process p of container web did not: follow it again with "gdn attach web p"`),
		Entry("server killed", fmt.Errorf("connection: decode failed: read: %w", syscall.ECONNRESET),
			`the server went away, process p of container web did not: follow it again with "gdn attach web p"`),
		Entry("container destroyed", errors.New("connection: process error: container destroyed"), "container destroyed"),
	)

	It("waits for a server that was started just before, and not for ever", func() {
		o := clientOptions{Socket: filepath.Join(GinkgoT().TempDir(), "late.sock")}
		dialled := make(chan error)
		dial := func() {
			conn, err := o.dial("", "")
			if err == nil {
				_ = conn.Close() // it was only a question
			}
			dialled <- err
		}
		go dial()
		Consistently(dialled, "50ms").ShouldNot(Receive())
		listener, err := net.Listen("unix", o.Socket)
		Expect(err).NotTo(HaveOccurred())
		Eventually(dialled).Should(Receive(BeNil()))

		Expect(listener.Close()).To(Succeed())
		go dial()
		Eventually(dialled, "10s").Should(Receive(MatchError(fs.ErrNotExist)))
	})

	It("has no line break in it", func() {
		Expect(oneLine(errors.Join(errors.New("one\n"), errors.New(" two"), io.EOF))).To(Equal("one; two; EOF"))
	})
})

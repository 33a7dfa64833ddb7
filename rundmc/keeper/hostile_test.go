package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// An impostor says to the server whatever it likes.
type impostor struct {
	fd   int
	conn *Conn
}

func newImpostor() *impostor {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), "init.sock")
	listener, err := Listen(path)
	Expect(err).NotTo(HaveOccurred())
	conn, err := Dial(path)
	Expect(err).NotTo(HaveOccurred())
	fd, _, err := unix.Accept4(int(listener.Fd()), unix.SOCK_CLOEXEC)
	Expect(err).NotTo(HaveOccurred())
	Expect(listener.Close()).To(Succeed())
	i := &impostor{fd: fd, conn: conn}
	DeferCleanup(func() {
		closed := make(chan struct{})
		go func() {
			_ = conn.Close() // the impostor may have had it closed
			close(closed)
		}()
		Eventually(closed).Should(BeClosed())
		Expect(unix.Close(fd)).To(Succeed())
	})
	return i
}

func (i *impostor) say(r reply, fds ...int) {
	GinkgoHelper()
	raw := (*[unsafe.Sizeof(reply{})]byte)(unsafe.Pointer(&r))[:replyHead+int(r.idLen)]
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	err := unix.Sendmsg(i.fd, raw, rights, nil, unix.MSG_NOSIGNAL)
	if err != unix.EPIPE && err != unix.ECONNRESET { // the server has had enough
		Expect(err).NotTo(HaveOccurred())
	}
}

func pidfdOf(pid int) int {
	GinkgoHelper()
	fd, err := unix.PidfdOpen(pid, 0)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(unix.Close, fd)
	return fd
}

var _ = Describe("an init that lies", func() {
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		Expect(err).NotTo(HaveOccurred())
		return len(entries)
	}

	DescribeTable("loses its connection, and nobody waits for it",
		func(replies ...reply) {
			i := newImpostor()
			for _, r := range replies {
				i.say(r)
			}
			Eventually(i.conn.Done()).Should(BeClosed())
			_, err := i.conn.Start(Start{Args: []string{"true"}, Dir: "/"})
			Expect(err).To(MatchError(ErrGone))
		},
		Entry("welcoming twice", reply{kind: msgWelcome, state: version}, reply{kind: msgWelcome, state: version}),
		Entry("welcoming thrice, with processes", reply{kind: msgWelcome, state: version, status: 2}, reply{kind: msgWelcome, state: version}, reply{kind: msgWelcome, state: version}),
		Entry("telling of more processes than there can be", reply{kind: msgWelcome, state: version, status: ^uint32(0)}),
		Entry("telling of a process before its welcome", reply{kind: msgProcess, token: 1}),
		Entry("telling of more processes than it announced", reply{kind: msgWelcome, state: version}, reply{kind: msgProcess, token: 1, state: stateEnded}),
		Entry("speaking another version", reply{kind: msgWelcome, state: version + 1}),
	)

	It("cannot keep the server from closing by what is sent on", func() {
		i := newImpostor()
		for range 100 {
			i.say(reply{kind: msgWelcome, state: version})
		}
		Eventually(i.conn.Done()).Should(BeClosed())
	})

	It("does not fill the server with descriptors that nobody asked for", func() {
		i := newImpostor()
		i.say(reply{kind: msgWelcome, state: version})
		_, err := i.conn.Hello()
		Expect(err).NotTo(HaveOccurred())
		before := descriptors()
		null, err := os.Open(os.DevNull)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(null.Close)
		for n := range 50 {
			for _, kind := range []uint32{msgHeld, msgStarted, msgExited, 200} {
				i.say(reply{kind: kind, token: uint64(n)}, int(null.Fd()), int(null.Fd()), int(null.Fd()))
			}
		}
		Eventually(descriptors).Should(BeNumerically("<=", before+1))
		Expect(i.conn.Done()).NotTo(BeClosed())
	})

	DescribeTable("gets nobody outside the container signalled or limited",
		func(pid func() int) {
			i := newImpostor()
			i.say(reply{kind: msgWelcome, state: version})
			limited := make(chan int, 1)
			failed := make(chan error, 1)
			go func() {
				_, err := i.conn.Start(Start{Args: []string{"true"}, Dir: "/", PipeUID: os.Getuid(), PipeGID: os.Getgid(), Limit: func(pid int) error {
					limited <- pid
					return nil
				}})
				failed <- err
			}()
			i.say(reply{kind: msgHeld, token: i.token()}, pidfdOf(pid()))
			Eventually(failed, 5*time.Second).Should(Receive(MatchError(ContainSubstring("outside the container"))))
			Expect(limited).NotTo(Receive())
		},
		Entry("not the server", os.Getpid),
		Entry("not its parent", os.Getppid),
	)

	It("gets no other file taken for a pidfd", func() {
		var pipe [2]int
		Expect(unix.Pipe2(pipe[:], unix.O_CLOEXEC)).To(Succeed())
		DeferCleanup(unix.Close, pipe[0])
		DeferCleanup(unix.Close, pipe[1])
		Expect(checkFDs(pipe[:1], true, false, 0)).To(MatchError(ContainSubstring("instead of a pidfd")))
		Expect(checkFDs(pipe[:1], false, false, 1)).To(Succeed())
		Expect(checkFDs(pipe[:1], false, true, 1)).NotTo(Succeed())
		Expect(checkFDs(pipe[:], false, false, 1)).To(MatchError("init sent 2 descriptors instead of 1"))
	})
})

// token reads requests up to the next START and returns its token.
func (i *impostor) token() uint64 {
	GinkgoHelper()
	for {
		var q request
		oob := make([]byte, unix.CmsgSpace(4*maxFDs))
		_, n, _, _, err := unix.Recvmsg(i.fd, q.bytes(), oob, unix.MSG_CMSG_CLOEXEC)
		Expect(err).NotTo(HaveOccurred())
		fds, err := rights(oob[:n])
		Expect(err).NotTo(HaveOccurred())
		closeAll(fds)
		if q.kind == msgStart {
			return q.token
		}
	}
}

var _ = DescribeTable("parsing what init says", func(size int, idLen uint32, ok bool) {
	r := reply{idLen: idLen}
	raw := append((*[unsafe.Sizeof(reply{})]byte)(unsafe.Pointer(&r))[:], make([]byte, 100)...)
	_, err := parseReply(raw[:size])
	Expect(err == nil).To(Equal(ok), fmt.Sprint(err))
},
	Entry("no id", replyHead, uint32(0), true),
	Entry("the longest id", replyHead+maxID, uint32(maxID), true),
	Entry("nothing", 0, uint32(0), false),
	Entry("cut short", replyHead-1, uint32(0), false),
	Entry("an id that is not there", replyHead, uint32(1), false),
	Entry("more than it says", replyHead+2, uint32(1), false),
	Entry("an id too long", replyHead+maxID+1, uint32(maxID+1), false),
	Entry("a huge id", replyHead, ^uint32(0), false),
	Entry("too long", int(unsafe.Sizeof(reply{}))+1, uint32(0), false),
)

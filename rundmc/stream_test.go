package rundmc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/rundmc/replay"
)

// A client's writer: it takes what limit allows, then waits for hold, if
// there is one, and fails.
type client struct {
	limit  int
	hold   chan struct{}
	inside chan struct{} // has room for one; told when a write waits

	mu  sync.Mutex
	got strings.Builder
}

func (c *client) Write(p []byte) (int, error) {
	c.mu.Lock()
	n := min(len(p), c.limit-c.got.Len())
	c.got.Write(p[:n])
	c.mu.Unlock()
	if n == len(p) {
		return n, nil
	}
	if c.hold != nil {
		c.inside <- struct{}{}
		<-c.hold
	}
	return n, errors.New("connection lost")
}

func (c *client) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.String()
}

var _ = Describe("a stream", func() {
	const all = 1 << 20
	var (
		s    *stream
		w    *os.File
		stop chan struct{}
	)

	BeforeEach(func() {
		r, pipe, err := os.Pipe()
		Expect(err).NotTo(HaveOccurred())
		w, stop = pipe, make(chan struct{})
		s = newStream(r, replay.New(filepath.Join(GinkgoT().TempDir(), "p.out"), 1000), stop)
		go s.pump()
		DeferCleanup(func() {
			_ = w.Close() // some specs have
			Eventually(s.eof).Should(BeClosed())
			Expect(r.Close()).To(Succeed())
		})
	})

	say := func(text string) {
		GinkgoHelper()
		_, err := w.WriteString(text)
		Expect(err).NotTo(HaveOccurred())
	}
	kept := func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return string(s.replay.Take())
	}
	buffered := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.replay.Empty()
	}

	It("gives a client what nobody took, then the rest", func() {
		say("one ")
		Eventually(buffered).Should(BeTrue())
		c := &client{limit: all}
		s.attach(c)
		Expect(c.String()).To(Equal("one "))
		say("two")
		Eventually(c.String).Should(Equal("one two"))
	})

	It("keeps what a client that failed did not take, and no more than that", func() {
		s.attach(&client{limit: 3})
		say("one two")
		Eventually(buffered).Should(BeTrue())
		say(" three")
		c := &client{limit: all}
		s.attach(c)
		Eventually(c.String).Should(Equal(" two three"))
	})

	It("keeps what it replays to a client that is lost meanwhile", func() {
		say("one two")
		Eventually(buffered).Should(BeTrue())
		s.attach(&client{limit: 4})
		say(" three")
		c := &client{limit: all}
		s.attach(c)
		Eventually(c.String).Should(Equal("two three"))
	})

	It("gives what a lost client did not take to the one that came meanwhile", func() {
		lost := &client{limit: 4, hold: make(chan struct{}), inside: make(chan struct{}, 1)}
		s.attach(lost)
		say("one two")
		Eventually(lost.inside).Should(Receive())
		c := &client{limit: all}
		s.attach(c)
		close(lost.hold)
		Eventually(c.String).Should(Equal("two"))
		say(" three")
		Eventually(c.String).Should(Equal("two three"))
		Expect(kept()).To(BeEmpty())
	})

	It("does not repeat to others what one client did not take", func() {
		c := &client{limit: all}
		s.attach(&client{limit: 1})
		s.attach(c)
		say("one ")
		say("two")
		Eventually(c.String).Should(Equal("one two"))
		Expect(kept()).To(BeEmpty())
	})

	It("is drained once the process has ended and the pipe is empty, though it is open", func() {
		c := &client{limit: all}
		s.attach(c)
		say(strings.Repeat("x", 60000))
		s.drain()
		Eventually(s.drained).Should(BeClosed())
		Expect(c.String()).To(HaveLen(60000))
		Expect(s.eof).NotTo(BeClosed())
		say("a child's")
		Eventually(c.String).Should(HaveSuffix("a child's"))
	})

	It("ends with the container though a client takes nothing any more", func() {
		stuck := &client{hold: make(chan struct{}), inside: make(chan struct{}, 1)}
		DeferCleanup(func() { close(stuck.hold) })
		s.attach(stuck)
		say("one")
		Eventually(stuck.inside).Should(Receive())
		close(stop)
		Eventually(s.eof).Should(BeClosed())
		Expect(s.drained).To(BeClosed())
	})

	It("lets go of its clients at the end", func() {
		s.attach(&client{limit: all})
		Expect(w.Close()).To(Succeed())
		Eventually(s.eof).Should(BeClosed())
		Expect(s.sinks).To(BeEmpty())
		s.attach(&client{limit: all})
		Expect(s.sinks).To(BeEmpty())
	})
})

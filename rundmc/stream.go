package rundmc

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/rundmc/replay"
)

// chunk is the most that one read takes from a pipe; a pipe holds no more.
const chunk = 64 << 10

var chunks = sync.Pool{New: func() any { b := make([]byte, chunk); return &b }}

// A stream is one output of a process: it is read without pause, and each
// chunk goes to every sink, or, while there is none, into the replay buffer.
type stream struct {
	src     *os.File
	closing <-chan struct{} // clients are not waited for any more

	mu     sync.Mutex
	sinks  []*sink // replaced, never changed in place
	ended  bool    // nothing comes any more
	replay *replay.Buffer

	ending  atomic.Bool
	once    sync.Once
	drained chan struct{} // the process has ended and its last byte was handed on
	eof     chan struct{} // nobody can write any more
}

func newStream(src *os.File, buffer *replay.Buffer, closing <-chan struct{}) *stream {
	return &stream{src: src, closing: closing, replay: buffer, drained: make(chan struct{}), eof: make(chan struct{})}
}

// endedStream has nothing to read, only perhaps something to replay.
func endedStream(buffer *replay.Buffer) *stream {
	s := newStream(nil, buffer, nil)
	s.ended = true
	close(s.drained)
	close(s.eof)
	return s
}

// A sink is one client's end of a stream.
type sink struct {
	w io.Writer

	mu      sync.Mutex
	pending []byte // output that goes before all else: replayed, or not taken
	broken  bool
}

// write hands p on and tells whether the client took all it was given; rest
// has what it did not.
func (k *sink) write(p []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	replayed := k.pending
	k.pending = nil
	for _, part := range [][]byte{replayed, p} {
		if !k.broken && len(part) > 0 {
			n, err := k.w.Write(part)
			part, k.broken = part[min(max(0, n), len(part)):], err != nil
		}
		if k.broken {
			k.pending = append(k.pending, part...)
		}
	}
	return !k.broken
}

// rest returns, once, what a client that failed did not take.
func (k *sink) rest() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	rest := k.pending
	k.pending = nil
	return rest
}

// attach adds w, which first gets what nobody has taken yet. A nil w takes
// nothing and leaves the replay buffer alone.
func (s *stream) attach(w io.Writer) *sink {
	if w == nil {
		return nil
	}
	k := &sink{w: w}
	s.mu.Lock()
	k.pending = s.replay.Take()
	if !s.ended {
		s.sinks = append(slices.Clone(s.sinks), k)
	}
	s.mu.Unlock()
	if k.write(nil) {
		return k
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(k)
	if rest := k.rest(); len(s.sinks) == 0 {
		_ = s.replay.Put(rest) // no space: output that nobody reads is lost
	}
	return k
}

func (s *stream) detach(k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(k)
}

// remove takes k out; mu is held.
func (s *stream) remove(k *sink) {
	if i := slices.Index(s.sinks, k); k != nil && i >= 0 {
		s.sinks = slices.Delete(slices.Clone(s.sinks), i, i+1)
	}
}

// pump reads until end of file.
func (s *stream) pump() {
	defer s.finish()
	conn, err := s.src.SyscallConn()
	if err != nil {
		return // closed before we began
	}
	for {
		var buf *[]byte
		var n int
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			// The buffer is taken only while there is something to read:
			// thousands of quiet streams cost nothing.
			if buf == nil {
				buf = chunks.Get().(*[]byte)
			}
			for {
				n, failed = unix.Read(int(fd), *buf)
				if !errors.Is(failed, unix.EINTR) {
					break
				}
			}
			if !errors.Is(failed, unix.EAGAIN) {
				return true
			}
			chunks.Put(buf)
			buf = nil
			if s.ending.Load() {
				s.settle()
			}
			return false
		})
		if n > 0 && failed == nil && err == nil {
			if !s.deliver((*buf)[:n]) {
				return // the client has the buffer still
			}
		}
		if buf != nil {
			chunks.Put(buf)
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // drain wakes us
			_ = s.src.SetReadDeadline(time.Time{}) // closed: the next read says so
		case err != nil, failed != nil, n == 0:
			return
		}
	}
}

func (s *stream) settle() { s.once.Do(func() { close(s.drained) }) }

// finish tells that nothing comes any more, and lets go of the clients.
func (s *stream) finish() {
	s.settle()
	s.mu.Lock()
	s.ended, s.sinks = true, nil
	s.mu.Unlock()
	close(s.eof)
}

// deliver hands p to every client, and what the only one did not take to
// those that came meanwhile, or into the replay buffer. It returns false if
// it gave up on a client that holds p still.
func (s *stream) deliver(p []byte) bool {
	for len(p) > 0 {
		s.mu.Lock()
		sinks := s.sinks
		if len(sinks) == 0 {
			_ = s.replay.Put(p) // no space: output that nobody reads is lost
			s.mu.Unlock()
			return true
		}
		s.mu.Unlock()
		taken := false
		var rest []byte
		for _, k := range sinks {
			ok, done := s.handTo(k, p)
			switch {
			case !done:
				return false
			case ok:
				taken = true
			default:
				s.detach(k)
				rest = k.rest()
			}
		}
		if taken {
			return true
		}
		p = rest
	}
	return true
}

// handTo is k.write, waited for until the stream closes. The goroutine is the
// client's: it ends when its Write does.
func (s *stream) handTo(k *sink, p []byte) (ok, done bool) {
	result := make(chan bool, 1)
	go func() { result <- k.write(p) }()
	select {
	case ok = <-result:
		return ok, true
	case <-s.closing:
		return false, false
	}
}

// drain is called when the process has ended. What it wrote is in the pipe by
// then, so the stream is drained once a read finds nothing; children that the
// process left behind may hold the pipe open for ever.
func (s *stream) drain() {
	s.ending.Store(true)
	if s.src != nil {
		_ = s.src.SetReadDeadline(time.Unix(1, 0)) // closed: pump has ended
	}
}

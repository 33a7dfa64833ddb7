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
	src *os.File

	mu     sync.Mutex
	sinks  []*sink // replaced, never changed in place
	replay *replay.Buffer

	ending  atomic.Bool
	once    sync.Once
	drained chan struct{} // the process has ended and its last byte was handed on
	eof     chan struct{} // nobody can write any more
}

func newStream(src *os.File, buffer *replay.Buffer) *stream {
	return &stream{src: src, replay: buffer, drained: make(chan struct{}), eof: make(chan struct{})}
}

// endedStream has nothing to read, only perhaps something to replay.
func endedStream(buffer *replay.Buffer) *stream {
	s := newStream(nil, buffer)
	close(s.drained)
	close(s.eof)
	return s
}

// A sink is one client's end of a stream.
type sink struct {
	w io.Writer

	mu      sync.Mutex
	pending []byte // replayed output that goes before all else
	broken  bool
}

// write hands p on and tells whether the client took it.
func (k *sink) write(p []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, part := range [][]byte{k.pending, p} {
		if k.broken || len(part) == 0 {
			continue
		}
		_, err := k.w.Write(part)
		k.broken = err != nil
	}
	k.pending = nil
	return !k.broken
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
	s.sinks = append(slices.Clone(s.sinks), k)
	s.mu.Unlock()
	k.write(nil)
	return k
}

func (s *stream) detach(k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.sinks, k); k != nil && i >= 0 {
		s.sinks = slices.Delete(slices.Clone(s.sinks), i, i+1)
	}
}

// pump reads until end of file.
func (s *stream) pump() {
	defer close(s.eof)
	defer s.settle()
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
			s.deliver((*buf)[:n])
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

func (s *stream) deliver(p []byte) {
	s.mu.Lock()
	sinks := s.sinks
	if len(sinks) == 0 {
		_ = s.replay.Put(p) // no space: output that nobody reads is lost
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	taken := false
	for _, k := range sinks {
		if k.write(p) {
			taken = true
		} else {
			s.detach(k)
		}
	}
	if !taken {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = s.replay.Put(p) // as above
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

package replay_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/verger-garden/verger/rundmc/replay"
)

// FuzzBuffer compares a buffer with a slice that is cut at its front. Each
// byte of steps is an operation: its length is put in, or, at the ends of the
// range, everything is taken or the buffer is opened again.
func FuzzBuffer(f *testing.F) {
	f.Add(uint16(4), []byte{1, 2, 3, 255, 9, 254, 4, 255})
	f.Add(uint16(1), []byte{1, 254, 1, 255})
	f.Add(uint16(300), []byte{200, 200, 254, 200, 255, 1})
	f.Add(uint16(0), []byte{3, 254, 255})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, size uint16, steps []byte) {
		path := filepath.Join(dir, "ring")
		b := replay.New(path, int(size))
		defer func() {
			if err := b.Remove(); err != nil {
				t.Error(err)
			}
		}()
		var want []byte
		next := byte(0)
		for _, step := range steps {
			switch step {
			case 255:
				if got := b.Take(); !bytes.Equal(got, want) {
					t.Fatalf("took %q instead of %q", got, want)
				}
				want = nil
			case 254:
				old := b // as after a kill: nobody closes it before
				var err error
				if b, err = replay.Open(path, int(size)); err != nil {
					t.Fatal(err)
				}
				if err := old.Close(); err != nil {
					t.Fatal(err)
				}
			default:
				p := make([]byte, step)
				for i := range p {
					next++
					p[i] = next
				}
				if err := b.Put(p); err != nil {
					t.Fatal(err)
				}
				want = append(want, p...)
				want = want[max(0, len(want)-int(size)):]
			}
			if b.Empty() != (len(want) == 0) {
				t.Fatalf("empty: %v with %d bytes in it", b.Empty(), len(want))
			}
		}
	})
}

package volplugin

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"code.cloudfoundry.org/lager/v3"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/atomicfile"
)

// A tarFile is the record of a rootfs archive on the host: which layer it was
// when it looked like this. Kept in files/<digest of the path>.json.
type tarFile struct {
	Path   string `json:"path"`
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Size   int64  `json:"size"`
	Mtime  int64  `json:"mtime"` // nanoseconds
	Ctime  int64  `json:"ctime"`
	Layer  string `json:"layer,omitempty"`
}

// tick is longer than the clock that file systems stamp files by stands still.
const tick = 20 * time.Millisecond

func describeFile(path string, f *os.File) (tarFile, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return tarFile{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return tarFile{
		Path: path, Device: st.Dev, Inode: st.Ino, Size: st.Size,
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}, nil
}

// prepareFile returns the layer that the archive at path is, unpacking it if
// it is new or was changed.
func (s *Store) prepareFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", errors.Unwrap(err) // the caller names the path
	}
	defer func() { _ = f.Close() }() // read only
	now, err := describeFile(path, f)
	if err != nil {
		return "", err
	}
	if id, ok := s.layers.ofFile(now); ok {
		return id, nil
	}
	id, err, _ := s.layers.flight.Do(fmt.Sprintf("file %v", now), func() (any, error) {
		if id, ok := s.layers.ofFile(now); ok {
			return id, nil // came in between
		}
		return s.layers.unpackFile(path, now, s.filesDir())
	})
	if err != nil {
		return "", err
	}
	return id.(string), nil
}

func (l *layers) unpackFile(path string, now tarFile, records string) (string, error) {
	// From here on every change of the file shows in its time.
	if age := time.Since(time.Unix(0, now.Ctime)); age < tick {
		time.Sleep(min(tick, tick-age))
	}
	made, err := l.unpack(blob{
		open: func() (*os.File, error) { return os.Open(path) },
		check: func(f *os.File) error {
			then, err := describeFile(path, f)
			if err == nil && then != now {
				err = errors.New("changed while it was read")
			}
			return err
		},
	})
	if err != nil {
		return "", err
	}
	now.Layer = made.ID
	if err := atomicfile.WriteJSON(filepath.Join(records, fileKey(path)), now, 0o600); err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byFile[path] = now
	return made.ID, nil
}

// ofFile returns the layer of an archive that looks as it did.
func (l *layers) ofFile(now tarFile) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	then := l.byFile[now.Path]
	now.Layer = then.Layer
	if then != now {
		return "", false
	}
	_, ok := l.known[then.Layer]
	return then.Layer, ok
}

func fileKey(path string) string {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:]) + ".json"
}

// loadFiles reads the records in dir. One that does not parse is dropped with
// a word: its archive is unpacked again when it is needed.
func (l *layers) loadFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var then tarFile
		err := atomicfile.ReadJSON(path, &then)
		if err == nil && fileKey(then.Path) == e.Name() {
			l.byFile[then.Path] = then
			continue
		}
		l.log.Info("archive-record-dropped", lager.Data{"file": path, "error": fmt.Sprint(err)})
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

package volplugin

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"code.cloudfoundry.org/lager/v3"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/atomicfile"
	"github.com/verger-garden/verger/volplugin/tree"
	"github.com/verger-garden/verger/volplugin/unpack"
)

// A layer is the record of one unpacked layer: layers/<id>/layer.json, beside
// the files in layers/<id>/fs. A layer without a record does not exist.
type layer struct {
	// ID is the diff id of the layer, in hex; or, if Placed, the chain id.
	ID string `json:"id"`

	// Size is the disk space that its files take.
	Size uint64 `json:"size"`

	// Opaque layers hide all beneath them.
	Opaque bool `json:"opaque,omitempty"`

	// Partial layers use folders that they do not describe. Above others they
	// are unpacked again, with these folders as they are beneath.
	Partial bool `json:"partial,omitempty"`

	// Placed layers are made for one place in one chain of layers.
	Placed bool `json:"placed,omitempty"`
}

// layers keeps the unpacked layers in one folder.
type layers struct {
	dir     string
	scratch *scratch
	log     lager.Logger
	flight  singleflight.Group
	slots   chan struct{} // bounds the unpackings at a time

	mu     sync.Mutex
	known  map[string]layer
	byFile map[string]tarFile // by path
}

func newLayers(dir string, sc *scratch, log lager.Logger) *layers {
	return &layers{dir: dir, scratch: sc, log: log, slots: make(chan struct{}, max(4, runtime.NumCPU())), known: map[string]layer{}, byFile: map[string]tarFile{}}
}

// files is the folder with the files of layer id.
func (l *layers) files(id string) string { return filepath.Join(l.dir, id, "fs") }

func (l *layers) get(id string) (layer, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, ok := l.known[id]
	return have, ok
}

// load reads the records. Layers whose record is missing or does not parse
// are moved to aside, as a volume may still lie on them.
func (l *layers) load(aside string) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var have layer
		err := atomicfile.ReadJSON(filepath.Join(l.dir, e.Name(), "layer.json"), &have)
		if err == nil && have.ID != e.Name() {
			err = fmt.Errorf("layer %s: its record is for %q", e.Name(), have.ID)
		}
		if err == nil {
			l.known[have.ID] = have
			continue
		}
		l.log.Error("layer-set-aside", err, lager.Data{"layer": e.Name()})
		if err := setAside(filepath.Join(l.dir, e.Name()), aside, "layer-"); err != nil {
			return err
		}
	}
	return nil
}

// setAside moves path into the folder aside, under a new name.
func setAside(path, aside, prefix string) error {
	to, err := os.MkdirTemp(aside, prefix+"*")
	if err != nil {
		return err
	}
	return os.Rename(path, filepath.Join(to, filepath.Base(path)))
}

// A blob is the packed form of a layer, from outside.
type blob struct {
	// open opens it for reading.
	open func() (*os.File, error)

	// check is asked once all is read. nil: nothing to ask.
	check func(*os.File) error

	// digest and diffID are what it has to be, packed and unpacked, in hex.
	// Empty: whatever it is.
	digest, diffID string

	// chainID and below place the layer on others: the folders of their
	// files, the uppermost first. Empty: it stands alone.
	chainID string
	below   []string
}

// unpack makes b a layer. If that exists by now, the existing one stays.
func (l *layers) unpack(b blob) (_ layer, err error) {
	start := time.Now()
	l.slots <- struct{}{}
	defer func() { <-l.slots }()
	dir, release, err := l.scratch.folder("layer")
	if err != nil {
		return layer{}, err
	}
	defer func() { err = errors.Join(err, release()) }()
	files := filepath.Join(dir, "fs")
	if err := errors.Join(os.Mkdir(files, 0o755), os.Chmod(files, 0o755)); err != nil {
		return layer{}, err
	}
	made, err := l.fill(files, b)
	if err != nil {
		return layer{}, err
	}
	if made.Size, err = tree.Usage(files); err != nil {
		return layer{}, err
	}
	if err := l.publish(dir, made); err != nil {
		return layer{}, err
	}
	l.log.Info("layer-unpacked", lager.Data{"layer": made.ID, "size": made.Size, "took": time.Since(start).String()})
	return made, nil
}

// fill unpacks b into files and compares the digests.
func (l *layers) fill(files string, b blob) (layer, error) {
	f, err := b.open()
	if err != nil {
		return layer{}, err
	}
	defer func() { _ = f.Close() }() // read only
	room, err := room(files)
	if err != nil {
		return layer{}, err
	}
	packed := sha256.New()
	raw := io.TeeReader(f, packed)
	result, diffID, err := unpackStream(files, raw, unpack.Options{Below: b.below, Room: room})
	if b.digest != "" {
		// Also after an error: bytes that are not those asked for are the
		// better explanation of it.
		if _, rerr := io.Copy(io.Discard, raw); rerr != nil {
			return layer{}, errors.Join(err, rerr)
		}
		if got := hex.EncodeToString(packed.Sum(nil)); got != b.digest {
			return layer{}, fmt.Errorf("content is sha256:%s", got)
		}
	}
	if err != nil {
		return layer{}, err
	}
	if b.diffID != "" && diffID != b.diffID {
		return layer{}, fmt.Errorf("unpacked content is sha256:%s, the config says sha256:%s", diffID, b.diffID)
	}
	if b.check != nil {
		if err := b.check(f); err != nil {
			return layer{}, err
		}
	}
	made := layer{ID: diffID, Opaque: result.Opaque, Partial: len(result.Implicit) > 0}
	if b.chainID != "" {
		made.ID, made.Partial, made.Placed = b.chainID, false, true
	}
	return made, nil
}

// unpackStream unpacks the stream r, compressed or not, and returns the digest of
// what was in it.
func unpackStream(files string, r io.Reader, o unpack.Options) (unpack.Result, string, error) {
	plain, err := decompress(r)
	if err != nil {
		return unpack.Result{}, "", err
	}
	defer plain.Close()
	sum := sha256.New()
	tee := io.TeeReader(plain, sum)
	result, err := unpack.Layer(files, tee, o)
	if err != nil {
		return unpack.Result{}, "", err
	}
	// What follows the archive's end belongs to the digest.
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return unpack.Result{}, "", err
	}
	return result, hex.EncodeToString(sum.Sum(nil)), nil
}

// publish makes the layer in dir last and moves it to its place.
func (l *layers) publish(dir string, made layer) error {
	if err := atomicfile.WriteJSON(filepath.Join(dir, "layer.json"), made, 0o600); err != nil {
		return err
	}
	if err := syncTree(dir); err != nil {
		return err
	}
	to := filepath.Join(l.dir, made.ID)
	err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.LinkError{Op: "rename", Old: dir, New: to, Err: err}
	}
	if err == nil {
		if err := syncFolder(l.dir); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if have, ok := l.known[made.ID]; ok {
		made = have
	}
	l.known[made.ID] = made
	return nil
}

// syncTree writes to disk all that dir's file system holds: one call for
// however many files.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "sync", Path: dir, Err: err}
	}
	return nil
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// room tells how many bytes an unpacking may fill: what is free, but for a
// twentieth of the disk, at most 256 MiB, that the host keeps.
func room(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	free, all := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	return max(1, free-min(all/20, 256<<20)), nil
}

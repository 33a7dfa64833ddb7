package properties

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"

	"github.com/verger-garden/verger/internal/atomicfile"
	"github.com/verger-garden/verger/internal/handle"
)

const (
	recordSuffix = ".json"
	badSuffix    = ".bad"
	tempPrefix   = ".tmp-" // atomicfile's, left by a kill
	nameMax      = 255
)

// A record is the file of one handle.
type record struct {
	Handle     string            `json:"handle"`
	Properties garden.Properties `json:"properties"`
}

// A folder holds the records. A nil folder keeps nothing.
type folder struct {
	path string
}

// Load reads all records. One that cannot be read is logged by name and set
// aside with the suffix .bad, and Load goes on; only a folder that cannot be
// read is an error. It is called before the Manager is used.
func (m *Manager) Load(log lager.Logger) error {
	if m.files == nil {
		return nil
	}
	log = log.Session("load-properties", lager.Data{"dir": m.files.path})
	if err := os.MkdirAll(m.files.path, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(m.files.path)
	if err != nil {
		return err
	}
	loaded := 0
	for _, entry := range entries {
		path := filepath.Join(m.files.path, entry.Name())
		switch {
		case strings.HasPrefix(entry.Name(), tempPrefix):
			if err := os.Remove(path); err != nil {
				log.Error("remove-temporary-failed", err, lager.Data{"file": entry.Name()})
			}
		case strings.HasSuffix(entry.Name(), recordSuffix):
			r, err := read(path)
			if err != nil {
				log.Error("record-set-aside", errors.Join(err, os.Rename(path, path+badSuffix)), lager.Data{"file": entry.Name()})
				continue
			}
			s := &space{}
			s.current.Store(&r.Properties)
			m.spaces.Store(r.Handle, s)
			loaded++
		}
	}
	log.Info("loaded", lager.Data{"records": loaded})
	return nil
}

// read answers the record in the file, if the name is the handle's.
func read(path string) (record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	r, err := parse(data)
	if err != nil {
		return record{}, fmt.Errorf("parse %s: %w", path, err)
	}
	if filepath.Base(path) != fileName(r.Handle) {
		return record{}, fmt.Errorf("parse %s: it is the record of handle %q", path, r.Handle)
	}
	return r, nil
}

func parse(data []byte) (record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, err
	}
	if err := handle.Validate(r.Handle); err != nil {
		return record{}, err
	}
	if r.Properties == nil {
		return record{}, errors.New("no properties")
	}
	return r, nil
}

// write replaces the record of the handle.
func (f *folder) write(h string, props garden.Properties) error {
	if f == nil {
		return nil
	}
	if err := handle.Validate(h); err != nil {
		return err
	}
	path := filepath.Join(f.path, fileName(h))
	r := record{Handle: h, Properties: props}
	err := atomicfile.WriteJSON(path, r, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // not loaded, or the folder was removed
		if err := os.MkdirAll(f.path, 0o700); err != nil {
			return err
		}
		err = atomicfile.WriteJSON(path, r, 0o600)
	}
	return err
}

// remove removes the record of the handle, if there is one.
func (f *folder) remove(h string) error {
	if f == nil || handle.Validate(h) != nil {
		return nil // nothing was ever written
	}
	err := os.Remove(filepath.Join(f.path, fileName(h)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// fileName is the handle's with a suffix. Where that is longer than a file
// name may be, part of a hash stands for the rest, after a '+', which no
// handle contains.
func fileName(h string) string {
	if len(h)+len(recordSuffix)+len(badSuffix) <= nameMax {
		return h + recordSuffix
	}
	sum := sha256.Sum256([]byte(h))
	return h[:160] + "+" + hex.EncodeToString(sum[:]) + recordSuffix
}

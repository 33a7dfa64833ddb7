package rundmc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/verger-garden/verger/internal/atomicfile"
)

// maxExits is how many ended processes a container remembers; older ones are
// forgotten, and their ids may be used again.
const maxExits = 1024

// An exit is one line of a container's record of ended processes.
type exit struct {
	ID     string `json:"id"`
	Status int    `json:"status"`
}

// An exitLog is the record of one container's ended processes, a file.
type exitLog struct {
	path string

	mu    sync.Mutex
	lines int
}

// load reads the record. One that does not parse is set aside, with an error
// that names it.
func (l *exitLog) load() ([]exit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	exits, err := loadExits(l.path)
	if err != nil {
		aside := l.path + ".unreadable"
		if moved := os.Rename(l.path, aside); moved != nil {
			return nil, errors.Join(err, moved)
		}
		return nil, fmt.Errorf("%w: kept as %s", err, aside)
	}
	l.lines = len(exits)
	return exits, nil
}

// add records e before it returns, and shortens the record now and then.
func (l *exitLog) add(e exit) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := appendExit(l.path, e); err != nil {
		return err
	}
	l.lines++
	if l.lines >= 2*maxExits {
		if kept, err := loadExits(l.path); err == nil { // else the next add tries again
			l.lines = len(kept)
		}
	}
	return nil
}

// remove takes the process id out of the record, so that no restart finds it.
func (l *exitLog) remove(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	exits, err := loadExits(l.path)
	if err != nil {
		return err
	}
	exits = slices.DeleteFunc(exits, func(e exit) bool { return e.ID == id })
	l.lines = len(exits)
	return writeExits(l.path, exits)
}

// loadExits reads the record at path and shortens it to maxExits. The last
// line may be torn by a kill during its write; such a line was never
// acknowledged and is dropped.
func loadExits(path string) ([]exit, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var exits []exit
	whole := true
	for line := range bytes.Lines(raw) {
		if !whole {
			return nil, fmt.Errorf("parse %s: a line that is no exit", path)
		}
		var e exit
		if err := json.Unmarshal(line, &e); err != nil || e.ID == "" {
			whole = false
			continue
		}
		exits = append(exits, e)
		whole = bytes.HasSuffix(line, []byte("\n"))
	}
	over := max(0, len(exits)-maxExits)
	if whole && over == 0 {
		return exits, nil
	}
	exits = exits[over:]
	return exits, writeExits(path, exits)
}

// appendExit adds one line in one write, or nothing.
func appendExit(path string, e exit) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(append(line, '\n'))
		if err != nil {
			// Without space a part may be there: nothing must follow it.
			err = errors.Join(err, f.Truncate(info.Size()))
		}
	}
	return errors.Join(err, f.Close())
}

// writeExits replaces the record.
func writeExits(path string, exits []exit) error {
	var all []byte
	for _, e := range exits {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		all = append(append(all, line...), '\n')
	}
	return atomicfile.Write(path, all, 0o600)
}

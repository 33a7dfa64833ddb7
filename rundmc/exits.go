package rundmc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

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

// loadExits reads the record at path and shortens it to maxExits. The last
// line may be torn by a kill during its write; such a line was never
// acknowledged and is dropped.
func loadExits(path string) ([]exit, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var exits []exit
	s := bufio.NewScanner(f)
	var torn error
	for s.Scan() {
		if torn != nil {
			return nil, fmt.Errorf("parse %s: %w", path, torn)
		}
		var e exit
		if err := json.Unmarshal(s.Bytes(), &e); err != nil || e.ID == "" {
			torn = errors.Join(err, errors.New("a line that is no exit"))
			continue
		}
		exits = append(exits, e)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	over := max(0, len(exits)-maxExits)
	if torn == nil && over == 0 {
		return exits, nil
	}
	exits = exits[over:]
	return exits, writeExits(path, exits)
}

// appendExit adds one line in one write.
func appendExit(path string, e exit) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
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

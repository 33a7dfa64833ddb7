package sysinfo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// MaxUID is the highest user id that exists in this process's user
// namespace; 4294967294 in the first one.
func MaxUID() (uint32, error) { return maxID("/proc/self/uid_map") }

// MaxGID is the highest group id, which may differ from MaxUID.
func MaxGID() (uint32, error) { return maxID("/proc/self/gid_map") }

func maxID(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // read only
	highest, err := highestID(f)
	if err != nil {
		return 0, fmt.Errorf("parse %s: %w", path, err)
	}
	return highest, nil
}

// highestID reads an id map: lines of first id inside, first id outside,
// length.
func highestID(r io.Reader) (uint32, error) {
	highest, found := uint64(0), false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var inside, outside, length uint32
		if _, err := fmt.Sscan(lines.Text(), &inside, &outside, &length); err != nil {
			return 0, err
		}
		if length == 0 {
			return 0, errors.New("an empty range")
		}
		last := uint64(inside) + uint64(length) - 1
		if last > math.MaxUint32 {
			return 0, errors.New("a range beyond 32 bits")
		}
		highest, found = max(highest, last), true
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	if !found {
		return 0, errors.New("no id is mapped")
	}
	return uint32(highest), nil
}

package cgroups

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Stats are a cgroup's figures. Memory is memory.stat as the kernel prints it.
type Stats struct {
	Usage, User, System time.Duration
	Memory              map[string]uint64
	Pids, PidsMax       uint64 // PidsMax 0: no limit
}

// Stats reads the figures. A controller that the host lacks leaves zeros.
func (p Paths) Stats() (Stats, error) {
	var s Stats
	var errs []error
	keep := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	var err error
	if at, ok := p["memory"]; ok {
		s.Memory, err = keyed(filepath.Join(at, "memory.stat"))
	} else if at, ok := p[""]; ok {
		s.Memory, err = keyed(filepath.Join(at, "memory.stat"))
	}
	keep(err)
	if at, ok := p["cpuacct"]; ok {
		var usage uint64
		usage, err = number(filepath.Join(at, "cpuacct.usage"))
		keep(err)
		s.Usage = time.Duration(usage)
		var ticks map[string]uint64
		ticks, err = keyed(filepath.Join(at, "cpuacct.stat"))
		keep(err)
		const tick = time.Second / 100 // USER_HZ is 100 on every architecture we run on
		s.User, s.System = time.Duration(ticks["user"])*tick, time.Duration(ticks["system"])*tick
	} else if at, ok := p[""]; ok {
		var cpu map[string]uint64
		cpu, err = keyed(filepath.Join(at, "cpu.stat"))
		keep(err)
		s.Usage = time.Duration(cpu["usage_usec"]) * time.Microsecond
		s.User = time.Duration(cpu["user_usec"]) * time.Microsecond
		s.System = time.Duration(cpu["system_usec"]) * time.Microsecond
	}
	at, ok := p["pids"]
	if !ok {
		at, ok = p[""]
	}
	if ok {
		s.Pids, err = number(filepath.Join(at, "pids.current"))
		keep(err)
		s.PidsMax, err = number(filepath.Join(at, "pids.max"))
		keep(err)
	}
	return s, errors.Join(errs...)
}

// number reads a file that holds one number; "max" is 0.
func number(path string) (uint64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(raw))
	if text == "max" {
		return 0, nil
	}
	return strconv.ParseUint(text, 10, 64)
}

// keyed reads a file of "key value" lines.
func keyed(path string) (map[string]uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	values := map[string]uint64{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		key, text, _ := strings.Cut(s.Text(), " ")
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			values[key] = n
		}
	}
	return values, s.Err()
}

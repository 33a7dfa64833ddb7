package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// encode lays s out as init reads it: group ids, then the directory, the
// arguments and the environment, each ended by a NUL.
func encode(s Start) (*request, []byte, error) {
	switch {
	case len(s.ID) > maxID:
		return nil, nil, fmt.Errorf("process id of %d bytes: at most %d", len(s.ID), maxID)
	case len(s.Args) == 0:
		return nil, nil, errors.New("no program to execute")
	case len(s.Groups) > maxGroups:
		return nil, nil, fmt.Errorf("%d groups: at most %d", len(s.Groups), maxGroups)
	case !path.IsAbs(s.Dir):
		return nil, nil, fmt.Errorf("working directory %q is not absolute", s.Dir)
	}
	size := 4*len(s.Groups) + len(s.Dir) + 1
	for _, list := range [][]string{{s.Dir}, s.Args, s.Env} {
		for _, str := range list {
			if strings.IndexByte(str, 0) >= 0 {
				return nil, nil, errors.New("a NUL byte in the directory, an argument or the environment")
			}
			size += len(str) + 1
		}
	}
	if size > maxPayload {
		return nil, nil, fmt.Errorf("arguments and environment of %d bytes: at most %d", size, maxPayload)
	}
	payload := make([]byte, 0, size)
	for _, g := range s.Groups {
		payload = binary.NativeEndian.AppendUint32(payload, g)
	}
	payload = append(append(payload, s.Dir...), 0)
	for _, list := range [][]string{s.Args, s.Env} {
		for _, str := range list {
			payload = append(append(payload, str...), 0)
		}
	}
	q := &request{
		kind: msgStart, uid: s.UID, gid: s.GID,
		bounding: s.Bounding, inheritable: s.Inheritable, permitted: s.Permitted,
		groups: uint32(len(s.Groups)), argc: uint32(len(s.Args)), envc: uint32(len(s.Env)),
		payload: uint32(len(payload)), columns: s.Columns, rows: s.Rows, idLen: uint32(len(s.ID)),
	}
	copy(q.id[:], s.ID)
	if s.TTY {
		q.flags |= flagTTY
	}
	if s.Limit != nil {
		q.flags |= flagHold
	}
	return q, payload, nil
}

// parsePid finds the "Pid:" line of a pidfd's fdinfo.
func parsePid(fdinfo []byte) (int, error) {
	for line := range strings.Lines(string(fdinfo)) {
		rest, ok := strings.CutPrefix(line, "Pid:")
		if !ok {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(rest))
		if err != nil || pid <= 0 {
			return 0, fmt.Errorf("pid %q of a pidfd: the process has ended", strings.TrimSpace(rest))
		}
		return pid, nil
	}
	return 0, errors.New("a pidfd without a pid")
}

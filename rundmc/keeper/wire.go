package keeper

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The structs and numbers below are those of cmd/gdn-init/init.c; both sides
// run on one host, so they travel in host order and layout.

const (
	version = 1
	maxFDs  = 7
	maxID   = 255
	// maxPayload bounds groups, directory, arguments and environment of one
	// process. execve itself takes 2 MiB by default.
	maxPayload = 8 << 20
	maxGroups  = 65536
)

const (
	msgHello uint32 = iota + 1
	msgStart
	msgGo
	msgCloseStdin
	msgForget
)

const (
	msgWelcome uint32 = iota + 65
	msgProcess
	msgHeld
	msgStarted
	msgExited
)

const (
	flagTTY       uint32 = 1
	flagHold      uint32 = 2
	flagStdinOpen uint32 = 4
)

const stateEnded uint32 = 4

type request struct {
	kind, flags                      uint32
	token                            uint64
	uid, gid                         uint32
	bounding, inheritable, permitted uint64
	groups, argc, envc, payload      uint32
	columns, rows                    uint16
	idLen                            uint32
	id                               [maxID + 1]byte
}

func (r *request) bytes() []byte {
	return (*[unsafe.Sizeof(request{})]byte)(unsafe.Pointer(r))[:]
}

type reply struct {
	kind, flags   uint32
	token         uint64
	state, status uint32
	stage, errno  uint32
	pid, idLen    uint32
	id            [maxID + 1]byte
}

const replyHead = int(unsafe.Offsetof(reply{}.id))

// parseReply checks lengths: what init says is not trusted.
func parseReply(b []byte) (reply, error) {
	var r reply
	if len(b) < replyHead || len(b) > int(unsafe.Sizeof(r)) {
		return reply{}, fmt.Errorf("message of %d bytes", len(b))
	}
	copy((*[unsafe.Sizeof(reply{})]byte)(unsafe.Pointer(&r))[:], b)
	if int(r.idLen) > maxID || len(b) != replyHead+int(r.idLen) {
		return reply{}, fmt.Errorf("message of %d bytes with an id of %d", len(b), r.idLen)
	}
	return r, nil
}

func (r *reply) processID() string { return string(r.id[:r.idLen]) }

// A Stage says how far a process's start got.
type Stage uint32

// The stages, in the order of a start.
const (
	AtRequest Stage = iota + 1
	AtFork
	AtPTY
	AtIDs
	AtDir
	AtExec
)

func (s Stage) String() string {
	switch s {
	case AtRequest:
		return "read the request"
	case AtFork:
		return "fork"
	case AtPTY:
		return "open a terminal"
	case AtIDs:
		return "take on user, groups and capabilities"
	case AtDir:
		return "enter the working directory"
	case AtExec:
		return "execute"
	default:
		return fmt.Sprintf("stage %d", uint32(s))
	}
}

// A StartError is init's word on why a process did not come to be.
type StartError struct {
	Stage Stage
	Errno unix.Errno
}

func (e *StartError) Error() string { return e.Stage.String() + ": " + e.Errno.Error() }

// Unwrap gives the errno.
func (e *StartError) Unwrap() error { return e.Errno }

// Package users tells who a process shall run as, by the container's own
// /etc/passwd and /etc/group.
//
// The files belong to the container and are read afresh for every process:
// nothing is cached, nothing of the host's is consulted, and an id that is
// not a 32-bit number is an error and never becomes root.
package users

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/internal/rootfs"
)

// User is the identity of a process.
type User struct {
	UID, GID uint32

	// Groups are the supplementary groups, in the order of /etc/group; none
	// if the group was asked for by name or number.
	Groups []uint32

	// Home is never empty; "/" if the container does not say.
	Home string

	// Name as /etc/passwd has it; empty for a uid that it does not list.
	Name string
}

// Lookup finds userSpec in the container whose root folder is at rootPath,
// e.g. /proc/<pid>/root.
//
// userSpec is "" (root), "user" or "user:group", each by name or number; a
// number is never taken for a name. A uid that /etc/passwd does not list runs
// with gid 0. A container without /etc/passwd still has root.
func Lookup(rootPath, userSpec string) (User, error) {
	container, err := rootfs.OpenRoot(rootPath)
	if err != nil {
		return User{}, err
	}
	defer container.Close()

	return find(userSpec, func(name string) ([]byte, error) {
		content, err := container.ReadFile(name, rootfs.MaxFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return content, err
	})
}

// LookupMapped is Lookup for a container with a user namespace: an id that
// its maps leave out is an error, since the kernel would refuse it later with
// less to say. An empty map admits every id.
func LookupMapped(rootPath, userSpec string, uids, gids []specs.LinuxIDMapping) (User, error) {
	u, err := Lookup(rootPath, userSpec)
	if err != nil {
		return User{}, err
	}
	if !mapped(uids, u.UID) {
		return User{}, fmt.Errorf("user %q: uid %d is outside the container's id map", userSpec, u.UID)
	}
	for _, gid := range append([]uint32{u.GID}, u.Groups...) {
		if !mapped(gids, gid) {
			return User{}, fmt.Errorf("user %q: gid %d is outside the container's id map", userSpec, gid)
		}
	}
	return u, nil
}

func mapped(ids []specs.LinuxIDMapping, id uint32) bool {
	for _, m := range ids {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return true
		}
	}
	return len(ids) == 0
}

// find reads /etc/group only if a group is asked for or the user has a name
// that may be listed there.
func find(userSpec string, read func(name string) ([]byte, error)) (User, error) {
	userPart, groupPart, _ := strings.Cut(userSpec, ":")

	shown := cmp.Or(userPart, "root")

	passwd, err := read("/etc/passwd")
	if err != nil {
		return User{}, fmt.Errorf("unable to find user %s: %w", shown, err)
	}
	u, err := findUser(userPart, passwd)
	if err != nil {
		return User{}, err
	}
	if groupPart == "" && u.Name == "" {
		return u, nil
	}

	group, err := read("/etc/group")
	if err != nil {
		return User{}, fmt.Errorf("unable to find the groups of user %s: %w", shown, err)
	}
	if groupPart != "" {
		u.GID, err = findGroup(groupPart, group)
		return u, err
	}
	u.Groups, err = groupsOf(u.Name, group)
	return u, err
}

// findUser takes the first line that matches. passwd is nil if the container
// has none.
func findUser(want string, passwd []byte) (User, error) {
	u, numeric := User{Home: "/"}, want == ""
	if !numeric {
		var err error
		if u.UID, numeric, err = number(want); err != nil {
			return User{}, fmt.Errorf("unable to find user %s: %w", want, err)
		}
	}

	for line := range lines(passwd) {
		// name:password:uid:gid:gecos:home:shell
		name, rest := field(line)
		if !numeric && name != want {
			continue
		}
		_, rest = field(rest)
		uidField, rest := field(rest)
		gidField, rest := field(rest)
		uid, ok, err := number(uidField)
		if numeric && (!ok || err != nil || uid != u.UID) {
			continue
		}
		if !ok || err != nil {
			return User{}, fmt.Errorf("unable to find user %s: uid %q in /etc/passwd is not an id", want, uidField)
		}
		gid, ok, err := number(gidField)
		if !ok || err != nil {
			return User{}, fmt.Errorf("unable to find user %s: gid %q in /etc/passwd is not an id", want, gidField)
		}
		u.UID, u.GID, u.Name = uid, gid, name
		_, rest = field(rest)
		if home, _ := field(rest); home != "" {
			u.Home = home
		}
		return u, nil
	}

	switch {
	case numeric:
		return u, nil
	case want == "root" && passwd == nil:
		return User{Home: "/", Name: "root"}, nil
	default:
		return User{}, fmt.Errorf("unable to find user %s: not in the container's /etc/passwd", want)
	}
}

func findGroup(want string, group []byte) (uint32, error) {
	gid, numeric, err := number(want)
	if err != nil {
		return 0, fmt.Errorf("unable to find group %s: %w", want, err)
	}
	if numeric {
		return gid, nil
	}
	for line := range lines(group) {
		name, rest := field(line)
		if name != want {
			continue
		}
		_, rest = field(rest)
		gidField, _ := field(rest)
		gid, ok, err := number(gidField)
		if !ok || err != nil {
			return 0, fmt.Errorf("unable to find group %s: gid %q in /etc/group is not an id", want, gidField)
		}
		return gid, nil
	}
	return 0, fmt.Errorf("unable to find group %s: not in the container's /etc/group", want)
}

// groupsOf lists the groups that name user as a member.
func groupsOf(user string, group []byte) ([]uint32, error) {
	var gids []uint32
	for line := range lines(group) {
		// name:password:gid:members
		_, rest := field(line)
		_, rest = field(rest)
		gidField, rest := field(rest)
		members, _ := field(rest)
		if !listed(members, user) {
			continue
		}
		gid, ok, err := number(gidField)
		if !ok || err != nil {
			return nil, fmt.Errorf("unable to find the groups of user %s: gid %q in /etc/group is not an id", user, gidField)
		}
		gids = append(gids, gid)
	}
	return gids, nil
}

func listed(members, user string) bool {
	for m := range strings.SplitSeq(members, ",") {
		if m == user {
			return true
		}
	}
	return false
}

// number reads an id. Text that does not consist of digits is no number and
// no error: it is a name.
func number(s string) (id uint32, numeric bool, err error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == math.MaxUint32 {
		// The kernel reads the highest one as "leave as it is".
		return 0, true, fmt.Errorf("ids run from 0 to %d", uint32(math.MaxUint32-1))
	}
	return uint32(n), true, nil
}

// lines yields what is neither blank nor a comment.
func lines(content []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for line := range strings.Lines(string(content)) {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			if !yield(line) {
				return
			}
		}
	}
}

func field(line string) (value, rest string) {
	value, rest, _ = strings.Cut(line, ":")
	return value, rest
}

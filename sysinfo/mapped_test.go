package sysinfo

import "syscall"

// mapped starts a child in a user namespace with that many users and groups.
func mapped(users, groups int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: users}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: groups}},
	}
}

package kawasaki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"

	"github.com/verger-garden/verger/internal/atomicfile"
	"github.com/verger-garden/verger/kawasaki/dns"
)

// SetupBindMounts leases a subnet unless PrepareNetwork has, writes the
// container's hosts and resolv.conf, and returns the mounts that put them
// into /etc. They belong to the container's root.
func (n *Networker) SetupBindMounts(_ lager.Logger, handle string, privileged bool, _ string) ([]garden.BindMount, error) {
	a, err := n.attach(handle)
	if err != nil {
		return nil, err
	}
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	uid, gid := n.config.ContainerRootUID, n.config.ContainerRootGID
	if privileged {
		uid, gid = 0, 0
	}
	var mounts []garden.BindMount
	for _, f := range []struct{ name, content string }{
		{hostsFile, dns.Hosts(a.lease.Address, handle, n.config.AdditionalHostEntries)},
		{resolvFile, dns.Resolv(string(host), a.lease.Gateway, dns.Servers{
			Instead:    n.config.DNSServers,
			Additional: n.config.AdditionalDNSServers,
		})},
	} {
		path := n.records.file(handle, f.name)
		if err := atomicfile.Write(path, []byte(f.content), 0o644); err != nil {
			return nil, err
		}
		if err := os.Chown(path, uid, gid); err != nil {
			return nil, fmt.Errorf("give %s to the container's root: %w", f.name, err)
		}
		mounts = append(mounts, garden.BindMount{
			SrcPath: path,
			DstPath: "/etc/" + f.name,
			Mode:    garden.BindMountModeRW,
			Origin:  garden.BindMountOriginHost,
		})
	}
	return mounts, nil
}

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"code.cloudfoundry.org/garden/server"
	"code.cloudfoundry.org/lager/v3"
	"github.com/verger-garden/verger"
)

// serverCommand's fields are the flags of "gdn server". Their names are
// Guardian's where Guardian has the flag. What is not about serving goes into
// a verger.Config as it is.
type serverCommand struct {
	Log struct {
		Level string `long:"log-level" default:"info" choice:"debug" choice:"info" choice:"error" choice:"fatal" description:"Log only what is at least this grave"`
	} `group:"Log"`

	Places struct {
		StateDir       string `long:"state-dir" default:"/run/gdn" value-name:"DIR" description:"Where the state of containers lives. One server per directory"`
		StoreDir       string `long:"store-dir" default:"/var/lib/gdn" value-name:"DIR" description:"Where images live. One server per directory"`
		Depot          string `long:"depot" value-name:"DIR" description:"Where each container has a directory (default: STATE-DIR/depot)"`
		PropertiesPath string `long:"properties-path" value-name:"DIR" description:"Where properties of containers are kept (default: STATE-DIR/properties)"`
		Tag            string `long:"tag" value-name:"TAG" description:"One or two letters or digits in the names of all that this server makes on the host, to tell it from another server's"`
	} `group:"Places"`

	API struct {
		Socket            string        `long:"bind-socket" value-name:"PATH" description:"Serve on this unix socket (default: STATE-DIR/garden.sock)"`
		IP                address       `long:"bind-ip" value-name:"IP" description:"Serve on this address instead of a socket. Whoever reaches it is root on this host"`
		Port              uint16        `long:"bind-port" default:"7777" value-name:"PORT" description:"The port for --bind-ip"`
		ReadHeaderTimeout time.Duration `long:"read-header-timeout" default:"10s" value-name:"DURATION" description:"Give up on a client that takes longer to state its request"`
	} `group:"API"`

	Containers struct {
		Max                uint64        `long:"max-containers" value-name:"N" description:"Refuse to create more containers (default: as many as the network pool has room for)"`
		DefaultRootfs      string        `long:"default-rootfs" value-name:"URI" description:"Image of containers that name none (default: the one that gdn carries)"`
		DefaultGraceTime   time.Duration `long:"default-grace-time" value-name:"DURATION" description:"Destroy a container that nobody used for that long, unless it says otherwise (default: never)"`
		DestroyOnStartup   bool          `long:"destroy-containers-on-startup" description:"Do not take over the containers of the last server"`
		DisablePrivileged  bool          `long:"disable-privileged-containers" description:"Refuse to create privileged containers"`
		UIDMapStart        uint32        `long:"uid-map-start" default:"1" value-name:"ID" description:"First user id of the host that containers use, besides the highest one, which is their root"`
		UIDMapLength       uint32        `long:"uid-map-length" value-name:"N" description:"How many user ids they use (default: all up to the highest)"`
		GIDMapStart        uint32        `long:"gid-map-start" default:"1" value-name:"ID" description:"As --uid-map-start, for groups"`
		GIDMapLength       uint32        `long:"gid-map-length" value-name:"N" description:"As --uid-map-length, for groups"`
		CleanupProcessDirs bool          `long:"cleanup-process-dirs-on-wait" description:"Forget a process when its exit code is first collected, not when its container is destroyed"`
		ReplayBuffer       size          `long:"replay-buffer" default:"256k" value-name:"SIZE" description:"How much output of each stream to keep for a client that lost its connection"`
	} `group:"Containers"`

	Programs struct {
		Runtime         string   `long:"runtime-plugin" value-name:"PATH" description:"The OCI runtime (default: runc beside gdn, else runc or crun in PATH)"`
		RuntimeArgs     []string `long:"runtime-plugin-extra-arg" value-name:"ARG" description:"Pass this to the runtime, before its command. Can be given again"`
		Init            string   `long:"init-bin" value-name:"PATH" description:"PID 1 of containers (default: the one that gdn carries)"`
		Iptables        string   `long:"iptables-bin" value-name:"PATH" description:"The iptables program (default: the one in PATH)"`
		IptablesRestore string   `long:"iptables-restore-bin" value-name:"PATH" description:"The iptables-restore program (default: the one in PATH)"`
	} `group:"Programs"`

	Network struct {
		Pool                  prefix    `long:"network-pool" value-name:"CIDR" description:"Addresses for containers; each takes four (default: 10.254.0.0/22, or with a tag another /22 of 10.254.0.0/16)"`
		AllowHostAccess       bool      `long:"allow-host-access" description:"Let containers connect to this host"`
		DenyNetworks          []prefix  `long:"deny-network" value-name:"CIDR" description:"Keep containers from this network. Can be given again"`
		DNSServers            []address `long:"dns-server" value-name:"IP" description:"Name server for containers, instead of the host's. Can be given again"`
		AdditionalDNSServers  []address `long:"additional-dns-server" value-name:"IP" description:"Name server for containers, besides the others. Can be given again"`
		AdditionalHostEntries []string  `long:"additional-host-entry" value-name:"LINE" description:"Line for the hosts file of containers. Can be given again"`
		ExternalIP            address   `long:"external-ip" value-name:"IP" description:"The address of this host that containers are reached by (default: that of the default route)"`
		MTU                   uint16    `long:"mtu" value-name:"BYTES" description:"MTU of container links (default: that of the interface with the external address)"`
	} `group:"Network"`
}

// stopPatience bounds the wait for calls that are under way when the server
// is told to stop.
const stopPatience = 10 * time.Second

// Execute implements flags.Commander.
func (c *serverCommand) Execute([]string) error {
	if os.Geteuid() != 0 {
		return errors.New("the server makes containers and needs to be root")
	}
	level, err := lager.LogLevelFromString(c.Log.Level)
	if err != nil {
		return err
	}
	log := lager.NewLogger("gdn")
	log.RegisterSink(lager.NewPrettySink(os.Stdout, level))

	config, err := c.config()
	if err != nil {
		return err
	}
	config.Log = log
	backend, err := verger.New(config)
	if err != nil {
		return err
	}
	if err := backend.Lock(); err != nil {
		return err
	}
	if err := unpackAssets(c.binDir()); err != nil {
		return err
	}
	listener, err := c.listen()
	if err != nil {
		return errors.Join(err, backend.Stop())
	}
	return serve(c.api(backend, log), listener, backend, log)
}

func (c *serverCommand) binDir() string { return filepath.Join(c.Places.StateDir, "bin") }

func (c *serverCommand) api(backend *verger.Backend, log lager.Logger) *server.GardenServer {
	// Network and address are only for Listen, which would open the socket to everybody.
	return server.New("", "", c.Containers.DefaultGraceTime, c.API.ReadHeaderTimeout, backend, log.Session("api"))
}

func (c *serverCommand) listen() (net.Listener, error) {
	if c.API.IP.IsValid() {
		return listenTCP(c.API.IP.String(), c.API.Port)
	}
	return listenUnix(c.socket())
}

func (c *serverCommand) socket() string {
	if c.API.Socket != "" {
		return c.API.Socket
	}
	return filepath.Join(c.Places.StateDir, "garden.sock")
}

// serve starts the backend and answers clients until a signal comes. Clients
// can connect from the first moment on; they wait while the backend starts.
func serve(api *server.GardenServer, listener net.Listener, backend *verger.Backend, log lager.Logger) error {
	began := time.Now()
	if err := backend.Start(); err != nil {
		return errors.Join(err, listener.Close(), backend.Stop())
	}
	if err := api.SetupBomberman(); err != nil {
		return errors.Join(err, listener.Close(), backend.Stop())
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ended := make(chan error, 1)
	go func() { ended <- api.Serve(listener) }()
	log.Info("serving", lager.Data{"version": version, "address": listener.Addr().String(), "took": time.Since(began).String()})

	select {
	case err := <-ended:
		return errors.Join(err, backend.Stop())
	case sig := <-signals:
		return stop(api, backend, log.Session("stop", lager.Data{"signal": sig.String()}), signals)
	}
}

// stop lets calls under way come to their end, but not for ever. Containers
// and their processes stay.
func stop(api *server.GardenServer, backend *verger.Backend, log lager.Logger, signals <-chan os.Signal) error {
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- api.Stop() }() // stops the backend at last
	select {
	case err := <-stopped:
		log.Info("stopped", lager.Data{"took": time.Since(began).String()})
		return err
	case <-time.After(stopPatience):
	case <-signals:
	}
	log.Info("stopped-with-calls-under-way", lager.Data{"took": time.Since(began).String()})
	return backend.Stop()
}

// config is what the flags ask of the backend.
func (c *serverCommand) config() (verger.Config, error) {
	runtime, err := findRuntime(c.Programs.Runtime)
	if err != nil {
		return verger.Config{}, err
	}
	initBin, rootfs := c.Programs.Init, c.Containers.DefaultRootfs
	if initBin == "" {
		if !carries(initAsset) {
			return verger.Config{}, errors.New("this gdn was built without its init: build it with \"make build\" or name one with --init-bin")
		}
		initBin = filepath.Join(c.binDir(), initAsset)
	}
	if rootfs == "" && carries(rootfsAsset) {
		rootfs = filepath.Join(c.binDir(), rootfsAsset)
	}
	return verger.Config{
		StateDir:       c.Places.StateDir,
		StoreDir:       c.Places.StoreDir,
		Depot:          c.Places.Depot,
		PropertiesPath: c.Places.PropertiesPath,
		Tag:            c.Places.Tag,

		Runtime:          runtime,
		RuntimeExtraArgs: c.Programs.RuntimeArgs,
		InitBin:          initBin,
		Iptables:         c.Programs.Iptables,
		IptablesRestore:  c.Programs.IptablesRestore,

		DefaultRootfs:               rootfs,
		MaxContainers:               c.Containers.Max,
		DestroyContainersOnStartup:  c.Containers.DestroyOnStartup,
		DisablePrivilegedContainers: c.Containers.DisablePrivileged,
		UIDMapStart:                 c.Containers.UIDMapStart,
		UIDMapLength:                c.Containers.UIDMapLength,
		GIDMapStart:                 c.Containers.GIDMapStart,
		GIDMapLength:                c.Containers.GIDMapLength,
		CleanupProcessDirsOnWait:    c.Containers.CleanupProcessDirs,
		ReplayBuffer:                int(c.Containers.ReplayBuffer),

		NetworkPool:           c.Network.Pool.Prefix,
		AllowHostAccess:       c.Network.AllowHostAccess,
		DenyNetworks:          prefixes(c.Network.DenyNetworks),
		DNSServers:            addresses(c.Network.DNSServers),
		AdditionalDNSServers:  addresses(c.Network.AdditionalDNSServers),
		AdditionalHostEntries: c.Network.AdditionalHostEntries,
		ExternalIP:            c.Network.ExternalIP.Addr,
		MTU:                   int(c.Network.MTU),
	}, nil
}

// findRuntime is the OCI runtime that name names, or the one at hand.
func findRuntime(name string) (string, error) {
	if name != "" {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("runtime %s: %w: name a runc or crun with --runtime-plugin", name, errors.Unwrap(err))
		}
		return filepath.Abs(path)
	}
	candidates := []string{"runc", "crun"}
	if self, err := os.Executable(); err == nil {
		candidates = append([]string{filepath.Join(filepath.Dir(self), "runc")}, candidates...)
	}
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", errors.New("no OCI runtime: put runc beside gdn, install runc or crun, or name one with --runtime-plugin")
}

// address is an IP address on the command line.
type address struct{ netip.Addr }

// UnmarshalFlag implements flags.Unmarshaler.
func (a *address) UnmarshalFlag(value string) (err error) {
	if a.Addr, err = netip.ParseAddr(value); err != nil {
		return fmt.Errorf("%q is not an IP address", value)
	}
	return nil
}

func addresses(in []address) []netip.Addr {
	var out []netip.Addr
	for _, a := range in {
		out = append(out, a.Addr)
	}
	return out
}

// prefix is a network on the command line; an address stands for itself.
type prefix struct{ netip.Prefix }

// UnmarshalFlag implements flags.Unmarshaler.
func (p *prefix) UnmarshalFlag(value string) (err error) {
	if !strings.Contains(value, "/") {
		if addr, err := netip.ParseAddr(value); err == nil {
			p.Prefix = netip.PrefixFrom(addr, addr.BitLen())
			return nil
		}
	}
	if p.Prefix, err = netip.ParsePrefix(value); err != nil {
		return fmt.Errorf("%q is not a network such as 10.254.0.0/22", value)
	}
	p.Prefix = p.Masked()
	return nil
}

func prefixes(in []prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		out = append(out, p.Prefix)
	}
	return out
}

package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"code.cloudfoundry.org/garden"
	"github.com/jessevdk/go-flags"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// parsed is the command that a command line makes.
func parsed(args ...string) (flags.Commander, error) {
	var got flags.Commander
	err := parse(args, func(c flags.Commander) error {
		got = c
		return nil
	})
	return got, err
}

func configFile(text string) string {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), "gdn.ini")
	Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
	return path
}

var _ = Describe("the command line", func() {
	It("makes a container and a process of gdn run", func() {
		got, err := parsed("run", "--rm", "--handle", "web", "--rootfs", "oci:///x", "--privileged", "--env", "A=1", "-e", "B=",
			"--mount", "/a:/b:ro", "--mount", "/c:/d", "--memory", "64m", "--property", "owner=me=you", "--user", "me", "--dir", "/w",
			"--", "ls", "-l", "--all")
		Expect(err).NotTo(HaveOccurred())
		run := got.(*runCommand)
		Expect(run.Remove).To(BeTrue())
		Expect(run.containerOptions.spec()).To(Equal(garden.ContainerSpec{
			Handle: "web", Image: garden.ImageRef{URI: "oci:///x"}, Privileged: true, Env: []string{"A=1", "B="},
			BindMounts: []garden.BindMount{
				{SrcPath: "/a", DstPath: "/b", Mode: garden.BindMountModeRO},
				{SrcPath: "/c", DstPath: "/d", Mode: garden.BindMountModeRW},
			},
			Limits:     garden.Limits{Memory: garden.MemoryLimits{LimitInBytes: 64 << 20}},
			Properties: garden.Properties{"owner": "me=you"},
		}))
		Expect(run.processOptions.spec(run.Args.Command, nil)).To(Equal(garden.ProcessSpec{
			Path: "ls", Args: []string{"-l", "--all"}, User: "me", Dir: "/w",
		}))
	})

	It("takes the options of the command in the container as they are, with or without --", func() {
		got, err := parsed("run", "-it", "ls", "-l", "--rm")
		Expect(err).NotTo(HaveOccurred())
		run := got.(*runCommand)
		Expect(run.Interactive).To(BeTrue())
		Expect(run.TTY).To(BeTrue())
		Expect(run.Remove).To(BeFalse())
		Expect(run.Args.Command).To(Equal([]string{"ls", "-l", "--rm"}))

		got, err = parsed("exec", "--user", "me", "web", "ls", "--user")
		Expect(err).NotTo(HaveOccurred())
		exec := got.(*execCommand)
		Expect(exec.Args.Handle).To(Equal("web"))
		Expect(exec.command()).To(Equal([]string{"ls", "--user"}))

		got, err = parsed("exec", "web", "--", "ls", "--user")
		Expect(err).NotTo(HaveOccurred())
		Expect(got.(*execCommand).command()).To(Equal([]string{"ls", "--user"}))
	})

	It("takes the socket from the environment, and rather from the option", func() {
		GinkgoT().Setenv("GDN_SOCKET", "/env.sock")
		got, err := parsed("ps")
		Expect(err).NotTo(HaveOccurred())
		Expect(got.(*psCommand).Socket).To(Equal("/env.sock"))
		got, err = parsed("ps", "--socket", "/option.sock")
		Expect(err).NotTo(HaveOccurred())
		Expect(got.(*psCommand).Socket).To(Equal("/option.sock"))
	})

	DescribeTable("is refused with one line that says where help is",
		func(expected string, code int, args ...string) {
			_, err := parsed(args...)
			Expect(err).To(MatchError(expected))
			f, _ := errors.AsType[failure](err)
			Expect(f.code).To(Equal(code))
		},
		Entry("no command", `no command: see "gdn --help"`, 1),
		Entry("unknown command", "unknown command `frob': see \"gdn --help\"", 1, "frob"),
		Entry("unknown option", "unknown flag `frob': see \"gdn ps --help\"", 1, "ps", "--frob"),
		Entry("nothing to run", "the required argument `COMMAND` was not provided: see \"gdn run --help\"", exitTrouble, "run"),
		Entry("nothing to remove", "the required argument `HANDLE` was not provided: see \"gdn rm --help\"", 1, "rm"),
		Entry("bad size", "invalid argument for flag `--memory': \"5x\" is not a size such as 64m: see \"gdn create --help\"", 1, "create", "--memory", "5x"),
		Entry("huge size", "invalid argument for flag `--memory': \"99999999999g\" is not a size such as 64m: see \"gdn create --help\"", 1, "create", "--memory", "99999999999g"),
		Entry("huge number", "invalid argument for flag `--mtu': \"70000\": value out of range: see \"gdn server --help\"", 1, "server", "--mtu", "70000"),
		Entry("bad mount", "invalid argument for flag `--mount': \"/x\" is not SRC:DST or SRC:DST:ro: see \"gdn create --help\"", 1, "create", "--mount", "/x"),
		Entry("bad mount mode", "invalid argument for flag `--mount': \"no\" is neither ro nor rw: see \"gdn create --help\"", 1, "create", "--mount", "/x:/y:no"),
		Entry("relative mount", "invalid argument for flag `--mount': \"y\" in the container is not absolute: see \"gdn create --help\"", 1, "create", "--mount", "/x:y"),
		Entry("bad property", "invalid argument for flag `--property': \"x\" is not NAME=VALUE: see \"gdn ps --help\"", 1, "ps", "--property", "x"),
		Entry("bad variable", "invalid argument for flag `-e, --env': \"=x\" is not NAME=VALUE: see \"gdn create --help\"", 1, "create", "--env", "=x"),
		Entry("bad network", "invalid argument for flag `--network-pool': \"10.0.0.0/33\" is not a network such as 10.254.0.0/22: see \"gdn server --help\"", 1, "server", "--network-pool", "10.0.0.0/33"),
		Entry("bad address", "invalid argument for flag `--dns-server': \"x\" is not an IP address: see \"gdn server --help\"", 1, "server", "--dns-server", "x"),
		Entry("bad log level", "invalid value `loud' for option `--log-level'. Allowed values are: debug, info, error or fatal: see \"gdn server --help\"", 1, "server", "--log-level", "loud"),
	)

	It("refuses arguments that nobody asked for", func() {
		_, err := parsed("ps", "web")
		Expect(err).To(MatchError(`"web" is one argument too many: see "gdn ps --help"`))
	})

	It("has a manual for every command", func() {
		parser := flags.NewParser(&options{}, 0)
		for _, command := range parser.Commands() {
			Expect(manual).To(HaveKeyWithValue(command.Name, ContainSubstring("Example")))
		}
		Expect(manual).To(HaveLen(len(parser.Commands())))
	})
})

var _ = Describe("the config file", func() {
	const text = `
; a comment
[server]
tag = t1
log-level = "error"
allow-host-access = true
max-containers = 7
default-grace-time = 5m
dns-server = 1.1.1.1
dns-server = 1.0.0.1
network-pool = 10.1.0.0/16

[ps]
quiet = true
`

	It("sets options, lists and switches", func() {
		got, err := parsed("--config", configFile(text), "server")
		Expect(err).NotTo(HaveOccurred())
		server := got.(*serverCommand)
		Expect(server.Places.Tag).To(Equal("t1"))
		Expect(server.Log.Level).To(Equal("error"))
		Expect(server.Network.AllowHostAccess).To(BeTrue())
		Expect(server.Containers.Max).To(Equal(uint64(7)))
		Expect(server.Containers.DefaultGraceTime).To(Equal(5 * time.Minute))
		Expect(addresses(server.Network.DNSServers)).To(Equal([]netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("1.0.0.1")}))
		Expect(server.Network.Pool.String()).To(Equal("10.1.0.0/16"))
		Expect(server.Places.StateDir).To(Equal("/run/gdn"))
	})

	DescribeTable("yields to the command line, wherever it stands",
		func(args func(config string) []string) {
			got, err := parsed(args(configFile(text))...)
			Expect(err).NotTo(HaveOccurred())
			server := got.(*serverCommand)
			Expect(server.Places.Tag).To(Equal("t2"))
			Expect(addresses(server.Network.DNSServers)).To(Equal([]netip.Addr{netip.MustParseAddr("9.9.9.9")}))
			Expect(server.Network.Pool.String()).To(Equal("10.2.0.0/16"))
			Expect(server.Containers.Max).To(Equal(uint64(7)))
		},
		Entry("before", func(config string) []string {
			return []string{"--config", config, "server", "--tag", "t2", "--dns-server", "9.9.9.9", "--network-pool", "10.2.0.0/16"}
		}),
		Entry("after", func(config string) []string {
			return []string{"server", "--tag", "t2", "--dns-server", "9.9.9.9", "--network-pool", "10.2.0.0/16", "--config", config}
		}),
	)

	It("serves every command", func() {
		got, err := parsed("--config", configFile(text), "ps")
		Expect(err).NotTo(HaveOccurred())
		Expect(got.(*psCommand).Quiet).To(BeTrue())
	})

	DescribeTable("is refused with its name and line",
		func(text, expected string) {
			path := configFile(text)
			_, err := parsed("--config", path, "server")
			Expect(err).To(MatchError(path + expected))
		},
		Entry("unknown key", "[server]\nfrob = 1\n", ":2: unknown option: frob"),
		Entry("unknown section", "[frob]\nx = 1\n", ": could not find option group `frob'"),
		Entry("bad value", "[server]\n\nmtu = huge\n", ":3: \"huge\": invalid syntax"),
		Entry("bad level", "[server]\nlog-level = loud\n", ":2: Invalid value `loud' for option `--log-level'. Allowed values are: debug, info, error or fatal"),
		Entry("not an ini file", "{}\n", ":1: malformed key=value ({})"),
	)

	It("is refused if it is missing", func() {
		_, err := parsed("--config", "/nonexistent", "server")
		Expect(err).To(MatchError("read the config file: open /nonexistent: no such file or directory"))
	})
})

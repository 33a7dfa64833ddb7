package verger_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3/lagertest"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger"
	"github.com/verger-garden/verger/internal/testhost"
)

var _ = Describe("an embedded backend", Label("root"), func() {
	var (
		config  verger.Config
		dir     string
		before  testhost.Host
		log     *lagertest.TestLogger
		running int
	)
	tag := fmt.Sprintf("%02d", os.Getpid()%100) // cgroups are one thing that test binaries share
	BeforeEach(func() {
		testhost.Need(GinkgoT(), "root", "iptables", "musl-gcc", "busybox")
		running = runtime.NumGoroutine()
		before = testhost.Take("garden-" + tag)
		var err error
		dir, err = os.MkdirTemp("", "verger")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(os.RemoveAll, dir)
		Expect(os.Chmod(dir, 0o755)).To(Succeed()) // the containers' root passes through
		init, err := testhost.BuildInit(dir)
		Expect(err).NotTo(HaveOccurred())
		rootfs := filepath.Join(dir, "rootfs")
		Expect(os.Mkdir(rootfs, 0o755)).To(Succeed())
		Expect(testhost.Busybox(rootfs, 0)).To(Succeed())
		log = lagertest.NewTestLogger("verger")
		config = verger.Config{
			StateDir: filepath.Join(dir, "state"), StoreDir: filepath.Join(dir, "store"), Tag: tag,
			Runtime: testhost.Runtimes()["runc"], InitBin: init, DefaultRootfs: rootfs, Log: log,
		}
		DeferCleanup(func() { sweep(config) })
	})

	start := func() *verger.Backend {
		GinkgoHelper()
		backend, err := verger.New(config)
		Expect(err).NotTo(HaveOccurred())
		Expect(backend.Start()).To(Succeed())
		return backend
	}

	run := func(container garden.Container, argv ...string) (string, int) {
		GinkgoHelper()
		var out bytes.Buffer
		process, err := container.Run(garden.ProcessSpec{Path: argv[0], Args: argv[1:]}, garden.ProcessIO{Stdout: &out, Stderr: &out})
		Expect(err).NotTo(HaveOccurred())
		code, err := process.Wait()
		Expect(err).NotTo(HaveOccurred())
		return out.String(), code
	}

	It("runs containers that outlive it, and leaves nothing in the end", func() {
		first := start()
		container, err := first.Create(garden.ContainerSpec{Handle: "web", Properties: garden.Properties{"owner": "me"}})
		Expect(err).NotTo(HaveOccurred())
		out, code := run(container, "sh", "-c", "hostname; echo secret > /tmp/file; exit 3")
		Expect(out).To(Equal("web\n"))
		Expect(code).To(Equal(3))
		Expect(first.Stop()).To(Succeed())
		Expect(first.Stop()).To(Succeed(), "a second stop does nothing")

		second := start()
		container, err = second.Lookup("web")
		Expect(err).NotTo(HaveOccurred())
		Expect(container.Property("owner")).To(Equal("me"))
		out, _ = run(container, "cat", "/tmp/file")
		Expect(out).To(Equal("secret\n"))
		Expect(second.Destroy("web")).To(Succeed())
		Expect(second.Stop()).To(Succeed())

		Eventually(func() []string { return testhost.Diff(before, testhost.Take("garden-"+tag)) }).Should(BeEmpty())
		Eventually(runtime.NumGoroutine).Should(BeNumerically("<=", running))
		Expect(filepath.Glob(filepath.Join(dir, "state", "depot", "*"))).To(BeEmpty())
		Expect(filepath.Glob(filepath.Join(dir, "store", "volumes", "*"))).To(BeEmpty())
		Expect(filepath.Glob(filepath.Join(dir, "state", "properties", "*"))).To(BeEmpty())
		Expect(filepath.Glob(filepath.Join(dir, "state", "network", "*"))).To(BeEmpty())
	})

	It("touches nothing before Start", func() {
		_, err := verger.New(config)
		Expect(err).NotTo(HaveOccurred())
		Expect(config.StateDir).NotTo(BeADirectory())
		Expect(config.StoreDir).NotTo(BeADirectory())
	})

	It("has its directory to itself", func() {
		first := start()
		DeferCleanup(first.Stop)
		second, err := verger.New(config)
		Expect(err).NotTo(HaveOccurred())
		Expect(second.Start()).To(MatchError(&verger.LockedError{Dir: config.StateDir, Holder: os.Getpid()}))
		Expect(second.Stop()).To(Succeed())
		Expect(first.Ping()).To(Succeed())
	})

	DescribeTable("undoes a start that fails, and says why in one line",
		func(spoil func(), expected string) {
			spoil()
			backend, err := verger.New(config)
			if err == nil {
				err = backend.Start()
				Expect(backend.Stop()).To(Succeed())
			}
			Expect(err).To(MatchError(ContainSubstring(expected)))
			Expect(strings.Count(err.Error(), "\n")).To(BeZero())
			Expect(testhost.Diff(before, testhost.Take("garden-"+tag))).To(BeEmpty())
		},
		Entry("no runtime", func() { config.Runtime = "/no/such/runtime" }, "/no/such/runtime"),
		Entry("not a runtime", func() { config.Runtime = "/bin/true" }, "/bin/true is no OCI runtime"),
		Entry("no init", func() { config.InitBin = "/no/such/init" }, "/no/such/init"),
		Entry("no iptables", func() { config.Iptables = "/no/such/iptables" }, "/no/such/iptables"),
		Entry("tag too long", func() { config.Tag = "long" }, "tag long: use at most two letters or digits"),
		Entry("ids that the host lacks", func() { config.UIDMapStart = 4294967295 }, "uid map from 4294967295: ids of this host end at 4294967294"),
		Entry("a store that is something else", func() {
			Expect(os.MkdirAll(filepath.Join(config.StoreDir, "precious"), 0o755)).To(Succeed())
		}, "the folder is neither empty nor an image store"),
	)

	It("writes no argument, variable or property into its log", func() {
		backend := start()
		DeferCleanup(backend.Stop)
		container, err := backend.Create(garden.ContainerSpec{
			Handle: "quiet", Env: []string{"A=hidden-env"}, Properties: garden.Properties{"p": "hidden-property"},
		})
		Expect(err).NotTo(HaveOccurred())
		run(container, "echo", "hidden-argument")
		Expect(container.SetProperty("q", "hidden-too")).To(Succeed())
		Expect(backend.Destroy("quiet")).To(Succeed())
		Expect(log.LogMessages()).NotTo(BeEmpty())
		for _, entry := range log.Logs() {
			Expect(string(entry.ToJSON())).NotTo(ContainSubstring("hidden"))
		}
	})
})

// sweep destroys the containers that a test which failed has left.
func sweep(config verger.Config) {
	left, err := filepath.Glob(filepath.Join(config.StateDir, "depot", "*"))
	if err != nil || len(left) == 0 {
		return
	}
	config.DestroyContainersOnStartup = true
	backend, err := verger.New(config)
	Expect(err).NotTo(HaveOccurred())
	Expect(backend.Start()).To(Succeed())
	Expect(backend.Stop()).To(Succeed())
}

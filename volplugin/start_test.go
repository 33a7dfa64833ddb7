package volplugin_test

import (
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/volplugin"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("New", func() {
	DescribeTable("refuses", func(c volplugin.Config, want string) {
		_, err := volplugin.New(c)
		Expect(err).To(MatchError(ContainSubstring(want)))
	},
		Entry("no folder", volplugin.Config{}, "--store-dir"),
		Entry("half a mapping", volplugin.Config{Dir: "/x", UIDMappings: mapping}, "go together"),
		Entry("a mapping without root", volplugin.Config{
			Dir: "/x", UIDMappings: mapping, GIDMappings: []specs.LinuxIDMapping{{ContainerID: 1, HostID: 1, Size: 1}},
		}, "gid mapping: has no id for the container's root"),
	)

	It("touches nothing", func() {
		dir := filepath.Join(GinkgoT().TempDir(), "store")
		_, err := volplugin.New(volplugin.Config{Dir: dir})
		Expect(err).NotTo(HaveOccurred())
		Expect(dir).NotTo(BeAnExistingFile())
	})
})

var _ = Describe("Start", func() {
	var w *world

	BeforeEach(func() { w = newWorld() })

	failure := func() error {
		GinkgoHelper()
		store, err := volplugin.New(w.config)
		Expect(err).NotTo(HaveOccurred())
		err = store.Start()
		Expect(err).To(HaveOccurred())
		return err
	}
	mounts := func() []string { return testhost.Take("verger-volplugin-test").Mounts }

	It("refuses the folder of somebody else, and changes nothing there", func() {
		Expect(os.Mkdir(w.dir, 0o755)).To(Succeed())
		write(filepath.Join(w.dir, "data"), nil)
		Expect(failure()).To(MatchError(ContainSubstring("neither empty nor an image store")))
		info, err := os.Stat(w.dir)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(BeEquivalentTo(0o755))
		Expect(os.ReadDir(w.dir)).To(HaveLen(1))
	})

	It("refuses a store that another server has", func() {
		w.start()
		Expect(failure()).To(MatchError(ContainSubstring("in use by another server")))
		By("and takes it once that is gone")
		w.restart()
	})

	It("names the folder that the containers' root cannot pass", func() {
		Expect(os.Chmod(w.top, 0o700)).To(Succeed())
		Expect(failure()).To(MatchError(And(ContainSubstring("cannot pass through "+w.top), ContainSubstring("chmod o+x "+w.top))))
		By("unless it is its group's")
		Expect(os.Chmod(w.top, 0o710)).To(Succeed())
		Expect(os.Chown(w.top, 0, maximus)).To(Succeed())
		w.start()
	})

	It("makes missing folders passable whatever the umask is", func() {
		DeferCleanup(unix.Umask, unix.Umask(0o077))
		w.dir = w.path("a", "b", "store")
		w.config.Dir = w.dir
		w.start()
		out, err := inContainer(w.create("one", write(w.path("rootfs.tar"), busyboxRootfs()), true), "stat", "-c", "%a", "/", "/tmp", "/etc/passwd")
		Expect(err).NotTo(HaveOccurred(), out)
		Expect(out).To(Equal("755\n1777\n644"))
	})

	It("finds a store through a symlink", func() {
		Expect(os.Mkdir(w.path("real"), 0o711)).To(Succeed())
		Expect(os.Symlink(w.path("real"), w.path("way"))).To(Succeed())
		w.config.Dir = w.path("way", "store")
		w.dir = w.path("real", "store")
		w.start()
		w.create("one", write(w.path("rootfs.tar"), archive(file("f", ""))), true)
		w.restart()
		Expect(w.store.Handles()).To(Equal([]string{"one"}))
	})

	It("keeps the volumes of living containers, and their layers", func() {
		w.start()
		tar := write(w.path("rootfs.tar"), archive(file("f", "x")))
		root := w.create("one", tar, true)
		w.create("two", "raw://"+w.top, true)
		write(filepath.Join(root, "new"), []byte("written"))
		before := mounts()
		w.restart()
		Expect(mounts()).To(Equal(before))
		Expect(w.store.Handles()).To(Equal([]string{"one", "two"}))
		Expect(read(root, "new")).To(Equal("written"))
		w.create("three", tar, true)
		Expect(w.logged("layer-unpacked")).To(Equal(1))
		Expect(w.store.Destroy(w.log, "one")).To(Succeed())
		Expect(root).NotTo(BeAnExistingFile())
	})

	It("removes the volumes of before a reboot", func() {
		w.start()
		tar := write(w.path("rootfs.tar"), archive(file("f", "x")))
		w.create("one", tar, true)
		w.create("two", "raw://"+w.top, true)
		for _, h := range []string{"one", "two"} {
			record := filepath.Join(w.dir, "volumes", h, "volume.json")
			boot := strings.TrimSpace(read("/proc/sys/kernel/random/boot_id"))
			write(record, []byte(strings.Replace(read(record), boot, "another boot", 1)))
		}
		w.restart()
		Expect(w.store.Handles()).To(BeEmpty())
		Expect(w.leftOvers()).To(BeEmpty())
		Expect(w.layers()).To(HaveLen(1))
		Expect(w.top).To(BeADirectory())
	})

	// Each leaves what a server leaves that is killed at that step.
	DescribeTable("undoes what a kill left:", func(harm func(volume string), logged string) {
		w.start()
		tar := write(w.path("rootfs.tar"), archive(file("f", "x")))
		root := w.create("alive", tar, true)
		before := mounts()
		w.create("dead", tar, true)
		harm(filepath.Join(w.dir, "volumes", "dead"))
		w.restart()
		Expect(mounts()).To(Equal(before))
		Expect(w.store.Handles()).To(Equal([]string{"alive"}))
		Expect(read(root, "f")).To(Equal("x"))
		Expect(filepath.Glob(filepath.Join(w.dir, "volumes/*"))).To(HaveLen(1))
		Expect(filepath.Glob(filepath.Join(w.dir, "tmp/*"))).To(BeEmpty())
		if logged != "" {
			Expect(w.logged(logged)).To(BeNumerically(">=", 1))
		}
		By("so that the handle is free again")
		Expect(read(w.create("dead", tar, true), "f")).To(Equal("x"))
	},
		Entry("a volume's folder alone", func(v string) {
			Expect(unix.Unmount(v+"/rootfs", 0)).To(Succeed())
			Expect(os.RemoveAll(v)).To(Succeed())
			Expect(os.Mkdir(v, 0o700)).To(Succeed())
		}, "volume-undone"),
		Entry("a half-written record", func(v string) {
			Expect(unix.Unmount(v+"/rootfs", 0)).To(Succeed())
			Expect(os.RemoveAll(v)).To(Succeed())
			Expect(os.Mkdir(v, 0o700)).To(Succeed())
			write(v+"/.tmp-123", []byte(`{"hand`))
		}, "volume-undone"),
		Entry("a record without a mount", func(v string) {
			Expect(unix.Unmount(v+"/rootfs", 0)).To(Succeed())
		}, "volume-undone"),
		Entry("a mount without a record", func(v string) {
			Expect(os.Remove(v + "/volume.json")).To(Succeed())
		}, "volume-undone"),
		Entry("a volume half removed", func(v string) {
			Expect(unix.Unmount(v+"/rootfs", 0)).To(Succeed())
			Expect(os.RemoveAll(v + "/upper")).To(Succeed())
			Expect(os.RemoveAll(v + "/rootfs")).To(Succeed())
		}, "volume-undone"),
		Entry("a layer half unpacked, and a volume", func(v string) {
			Expect(os.MkdirAll(w.dir+"/tmp/layer-1/fs/usr", 0o755)).To(Succeed())
			Expect(unix.Unmount(v+"/rootfs", 0)).To(Succeed())
		}, ""),
		Entry("a view still attached, and a volume", func(v string) {
			at := w.dir + "/tmp/view-1"
			Expect(os.Mkdir(at, 0o700)).To(Succeed())
			Expect(unix.Mount(w.dir+"/layers", at, "", unix.MS_BIND, "")).To(Succeed())
			Expect(unix.Unmount(v+"/rootfs", 0)).To(Succeed())
		}, ""),
		Entry("a probe of the kernel, and a volume", func(v string) {
			at := w.dir + "/tmp/probe-1/merged"
			Expect(os.MkdirAll(at, 0o700)).To(Succeed())
			Expect(unix.Mount("tmpfs", at, "tmpfs", 0, "")).To(Succeed())
			Expect(unix.Unmount(v+"/rootfs", 0)).To(Succeed())
		}, ""),
		Entry("a file where no file belongs", func(v string) {
			Expect(unix.Unmount(v+"/rootfs", 0)).To(Succeed())
			write(w.dir+"/volumes/.stray", nil)
		}, ""),
	)

	DescribeTable("sets a record aside that it cannot read, and cleans up:", func(content string) {
		w.start()
		tar := write(w.path("rootfs.tar"), archive(file("f", "x")))
		before := mounts()
		w.create("one", tar, true)
		write(filepath.Join(w.dir, "volumes/one/volume.json"), []byte(content))
		w.restart()
		Expect(mounts()).To(Equal(before))
		Expect(w.store.Handles()).To(BeEmpty())
		aside, err := filepath.Glob(filepath.Join(w.dir, "aside/volume-one-*/volume.json"))
		Expect(err).NotTo(HaveOccurred())
		Expect(aside).To(HaveLen(1))
		Expect(read(aside[0])).To(Equal(content))
		Expect(w.logged("volume-undone")).To(Equal(1))
	},
		Entry("garbage", "garbage"),
		Entry("empty", ""),
		Entry("of another handle", `{"handle":"two"}`),
	)

	Describe("a layer whose record cannot be read", func() {
		It("is set aside while a volume lies on it, unpacked again when asked for, and deleted later", func() {
			w.start()
			tar := write(w.path("rootfs.tar"), archive(file("f", "x")))
			root := w.create("one", tar, true)
			write(filepath.Join(w.layers()[0], "layer.json"), []byte("garbage"))
			w.restart()
			Expect(w.logged("layer-set-aside")).To(Equal(1))
			Expect(w.layers()).To(BeEmpty())
			Expect(read(root, "f")).To(Equal("x"))
			Expect(read(w.create("two", tar, true), "f")).To(Equal("x"))
			Expect(w.logged("layer-unpacked")).To(Equal(2))

			Expect(w.store.Destroy(w.log, "one")).To(Succeed())
			Expect(w.store.Destroy(w.log, "two")).To(Succeed())
			w.restart()
			Expect(filepath.Glob(filepath.Join(w.dir, "aside/*"))).To(BeEmpty())
		})
	})

	It("drops the record of an archive that cannot be read", func() {
		w.start()
		tar := write(w.path("rootfs.tar"), archive(file("f", "x")))
		w.create("one", tar, true)
		records, err := filepath.Glob(filepath.Join(w.dir, "files/*"))
		Expect(err).NotTo(HaveOccurred())
		write(records[0], []byte("garbage"))
		w.restart()
		Expect(w.logged("archive-record-dropped")).To(Equal(1))
		Expect(read(w.create("two", tar, true), "f")).To(Equal("x"))
	})
})

package overlay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/volplugin/overlay"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// maximus is a host id that nobody has.
const maximus = 4294967294

var mapping = []specs.LinuxIDMapping{
	{ContainerID: 0, HostID: maximus, Size: 1},
	{ContainerID: 1, HostID: 1, Size: maximus - 1},
}

var _ = Describe("overlay", Ordered, func() {
	var before testhost.Host

	BeforeAll(func() {
		testhost.Need(GinkgoT(), "root")
		before = testhost.Take("verger-overlay-test")
	})

	AfterAll(func() {
		Eventually(func() []string { return testhost.Diff(before, testhost.Take("verger-overlay-test")) }).
			WithTimeout(5 * time.Second).Should(BeEmpty())
	})

	// layers makes n folders, the uppermost first; each has a file "name" of
	// its own and says its number in the file "top".
	layers := func(top string, n int) (dirs []string) {
		GinkgoHelper()
		for i := range n {
			dir := filepath.Join(top, fmt.Sprint("layer", i))
			Expect(os.Mkdir(dir, 0o755)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(dir, "top"), fmt.Append(nil, i), 0o644)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(dir, fmt.Sprint("name", i)), nil, 0o644)).To(Succeed())
			dirs = append(dirs, dir)
		}
		return dirs
	}
	newMount := func(top string, dirs []string) overlay.Mount {
		GinkgoHelper()
		m := overlay.Mount{Layers: dirs, Upper: filepath.Join(top, "upper"), Work: filepath.Join(top, "work"), Target: filepath.Join(top, "merged")}
		for _, d := range []string{m.Upper, m.Work, m.Target} {
			Expect(os.Mkdir(d, 0o755)).To(Succeed())
		}
		DeferCleanup(func() { _, _ = overlay.Unmount(m.Target) })
		return m
	}

	It("finds what the kernel of this host can do", func() {
		ids, err := overlay.NewIDs(mapping, mapping)
		Expect(err).NotTo(HaveOccurred())
		defer ids.Close()
		dir := GinkgoT().TempDir()
		k, err := overlay.Probe(dir, ids)
		Expect(err).NotTo(HaveOccurred())
		GinkgoWriter.Printf("%+v\n", k)
		Expect(os.ReadDir(dir)).To(BeEmpty())
	})

	It("says why a file system will not do", func() {
		_, err := overlay.Probe("/proc/self/fdinfo", nil)
		Expect(err).To(HaveOccurred())

		// overlayfs takes no overlay as the writable layer.
		top := GinkgoT().TempDir()
		m := newMount(top, layers(top, 1))
		Expect(overlay.Kernel{}.Mount(m)).To(Succeed())
		_, err = overlay.Probe(m.Target, nil)
		Expect(err).To(MatchError(ContainSubstring("cannot hold overlays")))
	})

	for _, k := range []overlay.Kernel{
		{AppendLayers: true, Volatile: true, DetachedViews: true},
		{AppendLayers: true},
		{Volatile: true},
		{},
	} {
		Describe(fmt.Sprintf("with %+v", k), func() {
			It("shows the uppermost layer that has a name", func() {
				top := GinkgoT().TempDir()
				m := newMount(top, layers(top, 3))
				Expect(k.Mount(m)).To(Succeed())
				Expect(os.ReadFile(filepath.Join(m.Target, "top"))).To(BeEquivalentTo("0"))
				Expect(filepath.Join(m.Target, "name2")).To(BeARegularFile())
				Expect(os.WriteFile(filepath.Join(m.Target, "top"), []byte("new"), 0o644)).To(Succeed())
				Expect(os.ReadFile(filepath.Join(m.Layers[0], "top"))).To(BeEquivalentTo("0"))
				Expect(os.ReadFile(filepath.Join(m.Upper, "top"))).To(BeEquivalentTo("new"))
				Expect(overlay.Unmount(m.Target)).To(BeFalse())
				Expect(os.ReadDir(m.Target)).To(BeEmpty())
			})

			It("mounts 150 layers with long names full of odd characters", func() {
				top := filepath.Join(GinkgoT().TempDir(), strings.Repeat("long:", 40), `a,b\c "d`+strings.Repeat("e", 200))
				Expect(os.MkdirAll(top, 0o755)).To(Succeed())
				m := newMount(top, layers(top, 150))
				Expect(k.Mount(m)).To(Succeed())
				Expect(os.ReadFile(filepath.Join(m.Target, "top"))).To(BeEquivalentTo("0"))
				Expect(filepath.Join(m.Target, "name149")).To(BeARegularFile())
			})

			It("shifts owners by a view", func() {
				ids, err := overlay.NewIDs(mapping, mapping)
				Expect(err).NotTo(HaveOccurred())
				defer ids.Close()
				top := GinkgoT().TempDir()
				dirs := layers(top, 2)
				Expect(os.Lchown(filepath.Join(dirs[0], "name0"), 1000, 4)).To(Succeed())
				m := newMount(top, nil)
				view, err := ids.View(top)
				Expect(err).NotTo(HaveOccurred())
				if !k.DetachedViews {
					at := filepath.Join(top, "view")
					Expect(os.Mkdir(at, 0o700)).To(Succeed())
					Expect(view.Attach(at)).To(Succeed())
				}
				for _, d := range dirs {
					m.Layers = append(m.Layers, filepath.Join(view.Path(), filepath.Base(d)))
				}
				Expect(k.Mount(m)).To(Succeed())
				Expect(view.Close()).To(Succeed())

				Expect(owner(m.Target, "top")).To(Equal([]uint32{maximus, maximus}))
				Expect(owner(m.Target, "name0")).To(Equal([]uint32{1000, 4}))
				Expect(os.Chmod(filepath.Join(m.Target, "top"), 0o600)).To(Succeed())
				Expect(owner(m.Upper, "top")).To(Equal([]uint32{maximus, maximus}), "a copied file keeps the shifted owner")
				Expect(owner(dirs[0], "top")).To(Equal([]uint32{0, 0}))
			})

			It("is private also below a shared mount", func() {
				top := GinkgoT().TempDir()
				Expect(unix.Mount("tmpfs", top, "tmpfs", 0, "")).To(Succeed())
				DeferCleanup(unix.Unmount, top, unix.MNT_DETACH)
				Expect(unix.Mount("", top, "", unix.MS_SHARED, "")).To(Succeed())
				m := newMount(top, layers(top, 1))
				Expect(k.Mount(m)).To(Succeed())
				Expect(mountLine(m.Target)).NotTo(ContainSubstring("shared:"))
			})

			It("opens no devices if told so", func() {
				top := GinkgoT().TempDir()
				m := newMount(top, layers(top, 1))
				m.NoDevices = true
				Expect(unix.Mknod(filepath.Join(m.Layers[0], "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))).To(Succeed())
				Expect(k.Mount(m)).To(Succeed())
				_, err := os.Open(filepath.Join(m.Target, "null"))
				Expect(err).To(MatchError(os.ErrPermission))
			})

			It("says which layer is missing", func() {
				top := GinkgoT().TempDir()
				m := newMount(top, []string{filepath.Join(top, "gone")})
				Expect(k.Mount(m)).To(And(MatchError(ContainSubstring("gone")), MatchError(os.ErrNotExist)))
			})
		})
	}

	It("uses volatile only where it may", func() {
		top := GinkgoT().TempDir()
		m := newMount(top, layers(top, 1))
		Expect(overlay.Kernel{AppendLayers: true, Volatile: true}.Mount(m)).To(Succeed())
		Expect(mountLine(m.Target)).To(ContainSubstring("volatile"))
		top = GinkgoT().TempDir()
		m = newMount(top, layers(top, 1))
		Expect(overlay.Kernel{AppendLayers: true}.Mount(m)).To(Succeed())
		Expect(mountLine(m.Target)).NotTo(ContainSubstring("volatile"))
	})

	It("says that there are too many layers for an old kernel", func() {
		top := GinkgoT().TempDir()
		m := newMount(top, layers(top, 230))
		Expect(overlay.Kernel{}.Mount(m)).To(MatchError(ContainSubstring("230 layers are more than a kernel before Linux 6.5 can mount")))
		Expect(overlay.Kernel{AppendLayers: true}.Mount(m)).To(Succeed())
	})

	Describe("Unmount", func() {
		It("takes a missing target and a plain folder as unmounted", func() {
			dir := GinkgoT().TempDir()
			Expect(overlay.Unmount(filepath.Join(dir, "gone"))).To(BeFalse())
			Expect(overlay.Unmount(dir)).To(BeFalse())
			Expect(dir).To(BeADirectory())
		})

		It("does not follow a symlink to somebody else's mount", func() {
			top := GinkgoT().TempDir()
			m := newMount(top, layers(top, 1))
			Expect(overlay.Kernel{}.Mount(m)).To(Succeed())
			link := filepath.Join(top, "link")
			Expect(os.Symlink(m.Target, link)).To(Succeed())
			_, _ = overlay.Unmount(link)
			Expect(mountLine(m.Target)).NotTo(BeEmpty())
		})

		It("takes away all that are stacked", func() {
			dir := GinkgoT().TempDir()
			for range 3 {
				Expect(unix.Mount("tmpfs", dir, "tmpfs", 0, "")).To(Succeed())
			}
			Expect(overlay.Unmount(dir)).To(BeFalse())
			Expect(mountLine(dir)).To(BeEmpty())
		})

		It("detaches what stays busy, and tells", func() {
			top := GinkgoT().TempDir()
			m := newMount(top, layers(top, 1))
			Expect(overlay.Kernel{}.Mount(m)).To(Succeed())
			f, err := os.Open(filepath.Join(m.Target, "top"))
			Expect(err).NotTo(HaveOccurred())
			defer f.Close()
			Expect(overlay.Unmount(m.Target)).To(BeTrue())
			Expect(mountLine(m.Target)).To(BeEmpty())
		})

		It("waits for what is busy for a moment", func() {
			top := GinkgoT().TempDir()
			m := newMount(top, layers(top, 1))
			Expect(overlay.Kernel{}.Mount(m)).To(Succeed())
			f, err := os.Open(filepath.Join(m.Target, "top"))
			Expect(err).NotTo(HaveOccurred())
			time.AfterFunc(20*time.Millisecond, func() { _ = f.Close() })
			Expect(overlay.Unmount(m.Target)).To(BeFalse())
		})
	})

	It("refuses views of a file system that cannot have them", func() {
		ids, err := overlay.NewIDs(mapping, mapping)
		Expect(err).NotTo(HaveOccurred())
		defer ids.Close()
		_, err = ids.View("/proc")
		Expect(err).To(MatchError(ContainSubstring("the file system of /proc cannot be id-mapped")))
	})

	It("refuses maps that overlap", func() {
		_, err := overlay.NewIDs(append(slices.Clone(mapping), mapping[0]), mapping)
		Expect(err).To(MatchError(ContainSubstring("make user namespace")))
	})
})

func owner(dir, name string) []uint32 {
	GinkgoHelper()
	var st unix.Stat_t
	Expect(unix.Lstat(filepath.Join(dir, name), &st)).To(Succeed())
	return []uint32{st.Uid, st.Gid}
}

func mountLine(target string) string {
	GinkgoHelper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(string(raw)) {
		if strings.Fields(line)[4] == target {
			return line
		}
	}
	return ""
}

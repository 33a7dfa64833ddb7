package volplugin_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"code.cloudfoundry.org/lager/v3/lagertest"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/volplugin"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestMain(m *testing.M) {
	testhost.Isolate()
	if top := os.Getenv(crasherEnv); top != "" {
		crash(top)
	}
	os.Exit(m.Run())
}

func TestVolplugin(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "volplugin")
}

// maximus is a host id that nobody has, for the containers' root.
const maximus = 4294967294

var mapping = []specs.LinuxIDMapping{
	{ContainerID: 0, HostID: maximus, Size: 1},
	{ContainerID: 1, HostID: 1, Size: maximus - 1},
}

var before testhost.Host

var _ = BeforeSuite(func() {
	testhost.Need(GinkgoT(), "root")
	before = testhost.Take("verger-volplugin-test")
})

var _ = AfterSuite(func() {
	if os.Geteuid() == 0 {
		Eventually(func() []string { return testhost.Diff(before, testhost.Take("verger-volplugin-test")) }).
			WithTimeout(5 * time.Second).Should(BeEmpty())
	}
})

// world is one test's store and what lies beside it.
type world struct {
	top, dir string
	log      *lagertest.TestLogger
	config   volplugin.Config
	store    *volplugin.Store
}

// newWorld makes a place for a store, which all may pass through.
func newWorld() *world {
	GinkgoHelper()
	top, err := os.MkdirTemp("", "volplugin-")
	Expect(err).NotTo(HaveOccurred())
	Expect(os.Chmod(top, 0o711)).To(Succeed())
	DeferCleanup(os.RemoveAll, top)
	w := &world{top: top, dir: filepath.Join(top, "store"), log: lagertest.NewTestLogger("volplugin")}
	w.config = volplugin.Config{Dir: w.dir, UIDMappings: mapping, GIDMappings: mapping, Log: w.log}
	return w
}

// start starts a store that is emptied and closed in the end.
func (w *world) start() {
	GinkgoHelper()
	store, err := volplugin.New(w.config)
	Expect(err).NotTo(HaveOccurred())
	Expect(store.Start()).To(Succeed())
	w.store = store
	DeferCleanup(func() {
		handles, err := store.Handles()
		Expect(err).NotTo(HaveOccurred())
		if w.store == store {
			for _, h := range handles {
				Expect(store.Destroy(w.log, h)).To(Succeed())
			}
		}
		Expect(store.Close()).To(Succeed())
	})
}

// restart is what a new server finds.
func (w *world) restart() {
	GinkgoHelper()
	Expect(w.store.Close()).To(Succeed())
	w.start()
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.top}, parts...)...)
}

// create makes a volume and returns its root.
func (w *world) create(handle, uri string, namespaced bool) string {
	GinkgoHelper()
	s, err := w.try(handle, uri, namespaced)
	Expect(err).NotTo(HaveOccurred())
	return s.Root.Path
}

func (w *world) try(handle, uri string, namespaced bool) (specs.Spec, error) {
	GinkgoHelper()
	u, err := url.Parse(uri)
	Expect(err).NotTo(HaveOccurred())
	return w.store.Create(w.log, handle, spec.RootfsSpec{RootFS: u, Namespaced: namespaced})
}

// logged counts the log lines with this message.
func (w *world) logged(message string) (n int) {
	for _, m := range w.log.LogMessages() {
		if m == "volplugin."+message {
			n++
		}
	}
	return n
}

// leftOvers lists what is in the store besides whole layers.
func (w *world) leftOvers() (left []string) {
	GinkgoHelper()
	for _, pattern := range []string{"tmp/*", "volumes/*", "aside/*"} {
		found, err := filepath.Glob(filepath.Join(w.dir, pattern))
		Expect(err).NotTo(HaveOccurred())
		left = append(left, found...)
	}
	return left
}

func (w *world) layers() []string {
	GinkgoHelper()
	found, err := filepath.Glob(filepath.Join(w.dir, "layers", "*"))
	Expect(err).NotTo(HaveOccurred())
	return found
}

// An item is one entry of a test archive.
type item struct {
	tar.Header
	data string
}

func file(name, data string) item {
	return item{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}, data}
}

func dir(name string, mode int64) item {
	return item{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}}
}

func archive(items ...item) []byte {
	GinkgoHelper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, i := range items {
		Expect(w.WriteHeader(&i.Header)).To(Succeed())
		_, err := io.WriteString(w, i.data)
		Expect(err).NotTo(HaveOccurred())
	}
	Expect(w.Close()).To(Succeed())
	return buf.Bytes()
}

func gzipped(data []byte) []byte {
	GinkgoHelper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	Expect(err).NotTo(HaveOccurred())
	Expect(w.Close()).To(Succeed())
	return buf.Bytes()
}

func zstandard(data []byte) []byte {
	GinkgoHelper()
	w, err := zstd.NewWriter(nil)
	Expect(err).NotTo(HaveOccurred())
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func write(path string, data []byte) string {
	GinkgoHelper()
	Expect(os.WriteFile(path, data, 0o644)).To(Succeed())
	return path
}

// writeLayout writes an image of these archives, the lowest first.
func writeLayout(path string, env []string, archives ...[]byte) (image v1.Image) {
	GinkgoHelper()
	image = empty.Image
	for _, a := range archives {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(a)), nil })
		Expect(err).NotTo(HaveOccurred())
		image, err = mutate.AppendLayers(image, l)
		Expect(err).NotTo(HaveOccurred())
	}
	image, err := mutate.Config(image, v1.Config{Env: env, User: "nobody", WorkingDir: "/nowhere"})
	Expect(err).NotTo(HaveOccurred())
	l, err := layout.Write(path, empty.Index)
	Expect(err).NotTo(HaveOccurred())
	Expect(l.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"}))).To(Succeed())
	return image
}

// busyboxRootfs is an archive with a shell, and files of several owners.
func busyboxRootfs() []byte {
	GinkgoHelper()
	testhost.Need(GinkgoT(), "/bin/busybox")
	box, err := os.ReadFile("/bin/busybox")
	Expect(err).NotTo(HaveOccurred())
	bin := file("bin/busybox", string(box))
	bin.Mode = 0o755
	chowner := file("bin/chowner", string(box))
	chowner.Mode = 0o755
	// cap_chown, permitted and effective
	chowner.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	users := file("home/me/file", "mine")
	users.Uid, users.Gid = 1000, 1001
	return archive(dir("bin", 0o755), bin, chowner, dir("home", 0o755), dir("home/me", 0o755), users, dir("tmp", 0o1777), file("etc/passwd", "root"))
}

// inContainer runs a busybox command as a container with our id maps and root
// would, having walked to root as that user.
func inContainer(root string, args ...string) (string, error) {
	cmd := exec.Command("/bin/busybox", append([]string{"chroot", root, "/bin/busybox"}, args...)...)
	cmd.SysProcAttr = userNamespace(0)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func userNamespace(uid uint32) *syscall.SysProcAttr {
	var maps []syscall.SysProcIDMap
	for _, m := range mapping {
		maps = append(maps, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps, GidMappings: maps,
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{Uid: uid, Gid: uid},
	}
}

func owner(path string) []uint32 {
	GinkgoHelper()
	var st unix.Stat_t
	Expect(unix.Lstat(path, &st)).To(Succeed())
	return []uint32{st.Uid, st.Gid}
}

func read(parts ...string) string {
	GinkgoHelper()
	raw, err := os.ReadFile(filepath.Join(parts...))
	Expect(err).NotTo(HaveOccurred())
	return string(raw)
}

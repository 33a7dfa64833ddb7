package volplugin_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"code.cloudfoundry.org/lager/v3"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/volplugin"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

const crasherEnv = "GDN_TEST_VOLPLUGIN_CRASHER"

// crash is a server that makes and destroys volumes, four at a time, on ever
// new images until it is killed. It says so whenever it has made one.
func crash(top string) {
	store, err := volplugin.New(volplugin.Config{Dir: filepath.Join(top, "store"), UIDMappings: mapping, GIDMappings: mapping})
	if err == nil {
		err = store.Start()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	log := lager.NewLogger("crasher")
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := 0; ; i++ {
				archive := filepath.Join(top, fmt.Sprintf("%d-%d-%d.tar", os.Getpid(), worker, i/3))
				handle := fmt.Sprintf("w%d-%d", worker, i)
				var err error
				if i%3 == 0 {
					err = os.WriteFile(archive, numbered(archive), 0o644)
				}
				if err == nil {
					_, err = store.Create(log, handle, spec.RootfsSpec{RootFS: &url.URL{Path: archive}, Namespaced: i%4 < 2})
				}
				if err == nil {
					fmt.Println("created")
				}
				if err == nil && i%2 == 0 {
					err = store.Destroy(log, handle)
				}
				if err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
			}
		})
	}
	group.Wait()
}

// numbered is an archive like no other, of a few hundred files.
func numbered(name string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range 300 {
		data := fmt.Sprint(name, i)
		_ = w.WriteHeader(&tar.Header{Name: fmt.Sprint("f", i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}) // to memory
		_, _ = w.Write([]byte(data))
	}
	_ = w.Close()
	return buf.Bytes()
}

var _ = Describe("a server that is killed", func() {
	It("leaves nothing that the next one does not finish or undo", func() {
		w := newWorld()
		// In memory, as on a disk most of the time goes by in sync.
		Expect(unix.Mount("tmpfs", w.top, "tmpfs", 0, "mode=711")).To(Succeed())
		DeferCleanup(unix.Unmount, w.top, unix.MNT_DETACH)
		mounts := testhost.Take("verger-volplugin-test").Mounts
		survivors := 0
		for round := range 20 {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), crasherEnv+"="+w.top)
			cmd.Stderr = GinkgoWriter
			out, err := cmd.StdoutPipe()
			Expect(err).NotTo(HaveOccurred())
			Expect(cmd.Start()).To(Succeed())
			lines := bufio.NewScanner(out)
			for range 1 + 3*round {
				Expect(lines.Scan()).To(BeTrue())
				Expect(lines.Text()).To(Equal("created"))
			}
			Expect(cmd.Process.Kill()).To(Succeed())
			_ = cmd.Wait() // killed

			store, err := volplugin.New(w.config)
			Expect(err).NotTo(HaveOccurred())
			Expect(store.Start()).To(Succeed())
			handles, err := store.Handles()
			Expect(err).NotTo(HaveOccurred())
			survivors += len(handles)
			for _, h := range handles {
				Expect(read(w.dir, "volumes", h, "rootfs", "f299")).To(HaveSuffix("299"))
			}
			Expect(filepath.Glob(filepath.Join(w.dir, "volumes/*"))).To(HaveLen(len(handles)))
			Expect(filepath.Glob(filepath.Join(w.dir, "tmp/*"))).To(BeEmpty())
			for _, l := range w.layers() {
				Expect(filepath.Glob(filepath.Join(l, "fs/f*"))).To(HaveLen(300))
			}
			for _, h := range handles {
				Expect(store.Destroy(w.log, h)).To(Succeed())
			}
			Expect(store.Close()).To(Succeed())
			Expect(w.leftOvers()).To(BeEmpty())
			Expect(testhost.Take("verger-volplugin-test").Mounts).To(Equal(mounts))
		}
		Expect(survivors).To(BeNumerically(">", 0), "the kills came too early to test anything")
		Expect(w.logged("volume-undone")+w.logged("layer-set-aside")).To(BeNumerically(">", 0), "the kills hit nothing")
		Expect(w.logged("layer-set-aside")).To(BeZero())
	})
})

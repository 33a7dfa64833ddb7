package volplugin_test

import (
	"archive/tar"
	"bytes"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"code.cloudfoundry.org/lager/v3"

	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/volplugin"
)

// BenchmarkVolume creates and destroys one volume on an image that is there.
func BenchmarkVolume(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	top := b.TempDir()
	for dir := top; dir != "/"; dir = filepath.Dir(dir) {
		if dir != os.TempDir() {
			_ = os.Chmod(dir, 0o711) // Start says which one is not passable
		}
		if filepath.Dir(dir) == os.TempDir() {
			break
		}
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "etc", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	archive := filepath.Join(top, "rootfs.tar")
	if err := os.WriteFile(archive, buf.Bytes(), 0o644); err != nil {
		b.Fatal(err)
	}
	store, err := volplugin.New(volplugin.Config{Dir: filepath.Join(top, "store"), UIDMappings: mapping, GIDMappings: mapping})
	if err != nil {
		b.Fatal(err)
	}
	if err := store.Start(); err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	log := lager.NewLogger("bench")
	create := func(b *testing.B) {
		if _, err := store.Create(log, "bench", spec.RootfsSpec{RootFS: &url.URL{Path: archive}, Namespaced: true}); err != nil {
			b.Fatal(err)
		}
	}
	destroy := func(b *testing.B) {
		if err := store.Destroy(log, "bench"); err != nil {
			b.Fatal(err)
		}
	}
	create(b)
	destroy(b)
	b.Run("Create", func(b *testing.B) {
		for b.Loop() {
			create(b)
			b.StopTimer()
			destroy(b)
			b.StartTimer()
		}
	})
	b.Run("Destroy", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			create(b)
			b.StartTimer()
			destroy(b)
		}
	})
}

package volplugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"code.cloudfoundry.org/lager/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/handle"
	"github.com/verger-garden/verger/volplugin/overlay"
)

// Create makes the volume of handle from the image that rootfs names, and
// tells the folder to be the container's root and the image's environment.
// After an error nothing of the volume is left; the image's layers stay.
func (s *Store) Create(log lager.Logger, h string, rootfs spec.RootfsSpec) (specs.Spec, error) {
	start := time.Now()
	if err := handle.Validate(h); err != nil {
		return specs.Spec{}, err
	}
	src, err := parseSource(rootfs.RootFS, s.defaultRootfs)
	if err != nil {
		return specs.Spec{}, err
	}
	defer s.busy.Lock(h)()
	if _, ok := s.lookup(h); ok {
		return specs.Spec{}, fmt.Errorf("volume %s exists", h)
	}
	img, err := s.prepare(src)
	if err != nil {
		return specs.Spec{}, fmt.Errorf("rootfs %s: %w", src.path, err)
	}
	v := volume{
		Handle: h, Boot: s.boot, Namespaced: rootfs.Namespaced,
		Raw: img.raw, Folder: img.folder, Layers: img.layers,
	}
	root, err := s.make(v)
	if err != nil {
		return specs.Spec{}, errors.Join(fmt.Errorf("volume %s: %w", h, err), s.remove(log, h))
	}
	log.Info("volume-created", lager.Data{"handle": h, "layers": len(v.Layers), "took": time.Since(start).String()})
	result := specs.Spec{Root: &specs.Root{Path: root}}
	if len(img.env) > 0 {
		result.Process = &specs.Process{Env: slices.Clone(img.env)}
	}
	return result, nil
}

// make records v, then mounts it.
func (s *Store) make(v volume) (root string, err error) {
	uid, gid := 0, 0
	if v.Namespaced {
		if s.ids == nil && v.Raw == "" {
			return "", errors.New("no id mappings for containers with a user namespace are configured")
		}
		uid, gid = s.rootUID, s.rootGID
	}
	dir := s.volumeDir(v.Handle)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := s.record(v); err != nil {
		return "", err
	}
	if err := errors.Join(os.Lchown(dir, 0, s.rootGID), os.Chmod(dir, 0o710)); err != nil {
		return "", err
	}
	if v.Raw != "" {
		return v.Raw, nil
	}
	m := overlay.Mount{
		Upper: s.upperDir(v.Handle), Work: filepath.Join(dir, "work"), Target: s.mountPoint(v.Handle),
		NoDevices: v.Namespaced, // and cannot be made by such containers either
	}
	for _, d := range []string{m.Upper, m.Work, m.Target} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return "", err
		}
	}
	// The root of the overlay is as the upper folder is.
	if err := errors.Join(os.Lchown(m.Upper, uid, gid), os.Chmod(m.Upper, 0o755)); err != nil {
		return "", err
	}
	layers, release, err := s.below(v)
	if err != nil {
		return "", err
	}
	m.Layers = layers
	return m.Target, errors.Join(s.kernel.Mount(m), release())
}

// below tells the folders that v lies on, the uppermost first, valid until
// release. For v with a user namespace their owners are shifted.
func (s *Store) below(v volume) (folders []string, release func() error, err error) {
	nothing := func() error { return nil }
	base := s.layersDir()
	switch {
	case v.Folder != "":
		base = v.Folder
	case len(v.Layers) == 0:
		return []string{s.emptyDir()}, nothing, nil
	}
	release = nothing
	switch {
	case !v.Namespaced:
	case v.Folder == "" && s.view != nil:
		base = s.view.Path()
	default:
		if base, release, err = s.shifted(base); err != nil {
			return nil, nil, err
		}
	}
	if v.Folder != "" {
		return []string{base}, release, nil
	}
	for _, id := range slices.Backward(v.Layers) {
		folders = append(folders, filepath.Join(base, id, "fs"))
	}
	return folders, release, nil
}

// shifted is a view of dir, attached for as long as it is needed where the
// kernel wants that.
func (s *Store) shifted(dir string) (path string, release func() error, err error) {
	view, err := s.ids.View(dir)
	if err != nil {
		return "", nil, err
	}
	if s.kernel.DetachedViews {
		return view.Path(), view.Close, nil
	}
	at, remove, err := s.scratch.folder("view")
	if err != nil {
		return "", nil, errors.Join(err, view.Close())
	}
	if err := view.Attach(at); err != nil {
		return "", nil, errors.Join(err, view.Close(), remove())
	}
	return at, func() error {
		if err := view.Close(); err != nil {
			return err // it may still be there, and with it what must not be deleted
		}
		return remove()
	}, nil
}

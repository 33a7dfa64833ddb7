package volplugin

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/verger-garden/verger/volplugin/ocilayout"
)

// An image is what a source became: a folder of the host or layers of the
// store.
type image struct {
	raw    string   // folder to be used as it is
	folder string   // folder to be a layer
	layers []string // ids, the lowest first
	env    []string
}

// prepare makes sure that all of src is in the store.
func (s *Store) prepare(src source) (image, error) {
	switch src.kind {
	case rawSource:
		return image{raw: src.path}, isFolder(src.path)
	case layoutSource:
		return s.prepareLayout(ocilayout.Layout(src.path), src.tag)
	}
	info, err := os.Stat(src.path)
	switch {
	case err != nil:
		return image{}, errors.Unwrap(err) // the caller names the path
	case info.IsDir():
		return image{folder: src.path}, s.apart(src.path)
	case !info.Mode().IsRegular():
		return image{}, errors.New("neither a folder nor a regular file")
	}
	id, err := s.prepareFile(src.path)
	return image{layers: []string{id}}, err
}

// apart refuses a folder that holds the store or lies in it: a container would
// see the volumes of others through it.
func (s *Store) apart(folder string) error {
	real, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return err
	}
	if within(s.dir, real) || within(real, s.dir) {
		return fmt.Errorf("the folder and the image store %s lie within one another", s.dir)
	}
	return nil
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func isFolder(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return errors.Unwrap(err) // the caller names the path
	case !info.IsDir():
		return errors.New("not a folder")
	}
	return nil
}

// maxImages bounds the images whose manifests are remembered.
const maxImages = 1024

// prepareLayout unpacks the layers of an image that are not in the store yet,
// side by side.
func (s *Store) prepareLayout(l ocilayout.Layout, tag string) (image, error) {
	desc, err := l.Find(tag)
	if err != nil {
		return image{}, err
	}
	s.mu.Lock()
	found, ok := s.images[desc.Digest]
	s.mu.Unlock()
	if !ok {
		if found, err = l.Image(desc); err != nil {
			return image{}, err
		}
		s.mu.Lock()
		if len(s.images) >= maxImages {
			clear(s.images)
		}
		s.images[desc.Digest] = found
		s.mu.Unlock()
	}
	have := make([]layer, len(found.Layers))
	var group errgroup.Group
	for i, packed := range found.Layers {
		if known, ok := s.layers.get(packed.DiffID.Hex); ok {
			have[i] = known
			continue
		}
		group.Go(func() (err error) {
			have[i], err = s.unpackLayer(l, packed, packed.DiffID.Hex, blob{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return image{}, err
	}
	ids, err := s.place(l, found.Layers, have)
	return image{layers: ids, env: found.Env}, err
}

// unpackLayer unpacks a layer of l as id, once for all who ask meanwhile.
func (s *Store) unpackLayer(l ocilayout.Layout, packed ocilayout.Layer, id string, b blob) (layer, error) {
	b.open = func() (*os.File, error) { return l.Open(packed) }
	b.digest, b.diffID = packed.Digest.Hex, packed.DiffID.Hex
	made, err, _ := s.layers.flight.Do(id, func() (any, error) {
		if have, ok := s.layers.get(id); ok {
			return have, nil // came in between
		}
		return s.layers.unpack(b)
	})
	if err != nil {
		return layer{}, fmt.Errorf("layer %s: %w", packed.Digest, err)
	}
	return made.(layer), nil
}

// place chooses the layers to mount, the lowest first. Partial ones are
// replaced by such as fit what lies beneath; what an opaque one hides goes.
func (s *Store) place(l ocilayout.Layout, packed []ocilayout.Layer, have []layer) ([]string, error) {
	var ids []string
	chain := ""
	for i, one := range have {
		chain = chainID(chain, packed[i].DiffID)
		if one.Partial && len(ids) > 0 {
			placed, ok := s.layers.get(chain)
			if !ok {
				b := blob{chainID: chain}
				for _, id := range slices.Backward(ids) {
					b.below = append(b.below, s.layers.files(id))
				}
				var err error
				if placed, err = s.unpackLayer(l, packed[i], chain, b); err != nil {
					return nil, err
				}
			}
			one = placed
		}
		if one.Opaque {
			ids = nil
		}
		// A layer above itself, as builders leave for steps without effect:
		// the upper one hides all of the lower, and overlayfs takes no layer
		// twice.
		ids = slices.DeleteFunc(ids, func(id string) bool { return id == one.ID })
		ids = append(ids, one.ID)
	}
	return ids, nil
}

// chainID names the stack of a layer on those with the chain id below, as the
// OCI image specification does.
func chainID(below string, diffID v1.Hash) string {
	if below == "" {
		return diffID.Hex
	}
	sum := sha256.Sum256([]byte("sha256:" + below + " " + diffID.String()))
	return hex.EncodeToString(sum[:])
}
